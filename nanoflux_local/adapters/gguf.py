"""Writes a merged model as one GGUF file, for llama.cpp and programs built on it.

Models of the Llama architecture are written with the `gguf` package, which maps tensor names and reads the vocabulary
(PyPI has no maintained converter). Other architectures are refused, and so are scaled rotary positions, biases, and
tokenizers whose pre-tokenizer is not one of `_PRE_TOKENIZERS`. The file is kept only if transformers reads the same
weights and the same tokens back from it.
"""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nanoflux_local.adapters.merge import RECORD, MergeRecord, merge
from nanoflux_local.adapters.record import Adapter
from nanoflux_local.adapters.store import CARD
from nanoflux_local.errors import NanofluxError, UsageError
from nanoflux_local.files import new_folder
from nanoflux_models.convert import PROBE_TEXT, convert_gguf
from nanoflux_models.errors import ModelsError

_FIX = "export safetensors, or run `adapters merge` and convert its output with llama.cpp's convert_hf_to_gguf.py"
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
_PRE_TOKENIZERS = {
    "gpt-2": [_BYTE_LEVEL],
    "smollm": [{"type": "Digits", "individual_digits": True}, _BYTE_LEVEL],
}
"""The supported pre-tokenizers: llama.cpp's name of each, and its steps in tokenizer.json."""


def export_gguf(adapter: Adapter, base: Path, target: Path) -> tuple[MergeRecord, Path]:
    """Merge `adapter` into the model in `base`, and write the result to the new folder `target`: `NAME-HASH.gguf`, the
    record of the merge and a card. Return the record and the path of the GGUF file.

    Raises:
        UsageError: `target` exists, or this model cannot be written as GGUF.
        NanofluxError: the file, when read back, differs from the model that was written.
    """
    with new_folder(target) as folder, tempfile.TemporaryDirectory(dir=target.parent, prefix=".gguf-") as scratch:
        merged_folder = Path(scratch) / "merged"
        merge_record = merge(adapter, base, merged_folder)
        gguf_path = folder / f"{adapter.base.name}-{adapter.id}.gguf"
        write_gguf(merged_folder, gguf_path, gguf_path.stem)
        _check_round_trip(merged_folder, gguf_path, Path(scratch) / "read")
        (merged_folder / RECORD).rename(folder / RECORD)
        (merged_folder / CARD).rename(folder / CARD)
    return merge_record, target / gguf_path.name


def write_gguf(model_folder: Path, gguf_path: Path, name: str) -> None:
    """Write the Llama-architecture model in `model_folder` to a GGUF file, with one tensor in memory at a time. `name`
    is the model's name in the file.

    Raises:
        UsageError: the model cannot be written as GGUF.
    """
    from gguf import GGUFWriter

    config = json.loads((model_folder / "config.json").read_text(encoding="utf-8"))
    _refuse_unsupported(config)
    writer = GGUFWriter(gguf_path, "llama")
    _write_hyperparameters(writer, config, name)
    _write_vocabulary(writer, model_folder, int(config["vocab_size"]))
    tensors = _GgufTensors(model_folder, config)
    for tensor_name in tensors.names:
        writer.add_tensor_info(*tensors.describe(tensor_name))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor_name in tensors.names:
        writer.write_tensor_data(tensors.read_data(tensor_name))
    writer.close()


def _refuse_unsupported(config: dict[str, Any]) -> None:
    """Raise UsageError if the model's architecture cannot be written."""
    architectures = config.get("architectures")
    rope_settings = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if architectures != ["LlamaForCausalLM"]:
        reason = f"its architecture is {architectures}, and only LlamaForCausalLM can be written"
    elif rope_settings.get("rope_type", "default") != "default":
        reason = "its rotary positions are scaled"
    elif config.get("attention_bias") or config.get("mlp_bias"):
        reason = "its layers have biases"
    else:
        return
    raise UsageError(f"this model cannot be written as GGUF: {reason}", _FIX)


def _write_hyperparameters(writer: Any, config: dict[str, Any], name: str) -> None:
    """Write the model's sizes and constants, which llama.cpp reads from the file's metadata."""
    rope_settings = config.get("rope_parameters") or {}
    rope_theta = rope_settings.get("rope_theta") or config.get("rope_theta") or 10000.0
    head_count = int(config["num_attention_heads"])
    head_size = int(config.get("head_dim") or config["hidden_size"] // head_count)
    writer.add_type("model")
    writer.add_name(name)
    writer.add_vocab_size(int(config["vocab_size"]))
    writer.add_context_length(int(config["max_position_embeddings"]))
    writer.add_embedding_length(int(config["hidden_size"]))
    writer.add_block_count(int(config["num_hidden_layers"]))
    writer.add_feed_forward_length(int(config["intermediate_size"]))
    writer.add_head_count(head_count)
    writer.add_head_count_kv(int(config.get("num_key_value_heads") or head_count))
    writer.add_key_length(head_size)
    writer.add_value_length(head_size)
    writer.add_rope_dimension_count(head_size)
    writer.add_rope_freq_base(float(rope_theta))
    writer.add_layer_norm_rms_eps(float(config["rms_norm_eps"]))


def _write_vocabulary(writer: Any, model_folder: Path, size: int) -> None:
    """Write the model's tokens and their types. Ids below `size` without a token are filled with unused tokens."""
    from gguf import SpecialVocab, TokenType
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_folder, local_files_only=True)
    text_by_id = {token_id: text for text, token_id in tokenizer.get_vocab().items()}
    added_tokens = tokenizer.added_tokens_decoder
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_find_pre_tokenizer_name(model_folder))
    writer.add_token_list([text_by_id.get(token_id, f"[PAD{token_id}]") for token_id in range(size)])
    token_types = []
    for token_id in range(size):
        if token_id in added_tokens:
            token_types.append(TokenType.CONTROL if added_tokens[token_id].special else TokenType.USER_DEFINED)
        else:
            token_types.append(TokenType.NORMAL if token_id in text_by_id else TokenType.UNUSED)
    writer.add_token_types(token_types)
    adds_bos_token = tokenizer("").input_ids == [tokenizer.bos_token_id]
    writer.add_add_bos_token(adds_bos_token)
    SpecialVocab(model_folder, load_merges=True, n_vocab=size).add_to_gguf(writer, quiet=True)


def _find_pre_tokenizer_name(model_folder: Path) -> str:
    """llama.cpp's name of the model's pre-tokenizer. Raises UsageError if it is not one of `_PRE_TOKENIZERS`."""
    tokenizer_json = json.loads((model_folder / "tokenizer.json").read_text(encoding="utf-8"))
    pre_tokenizer = tokenizer_json.get("pre_tokenizer") or {}
    steps = [_drop_offsets(step) for step in pre_tokenizer.get("pretokenizers", [pre_tokenizer])]
    for name, supported_steps in _PRE_TOKENIZERS.items():
        if steps == supported_steps:
            return name
    problem = "this model cannot be written as GGUF: its pre-tokenizer is neither GPT-2's nor SmolLM's"
    raise UsageError(problem, _FIX)


def _drop_offsets(step: dict[str, Any]) -> dict[str, Any]:
    """A pre-tokenizer step without the key that affects only the offsets of the pieces."""
    return {key: value for key, value in step.items() if key != "trim_offsets"}


class _GgufTensors:
    """The tensors of a model folder under GGUF's names, read one at a time."""

    def __init__(self, model_folder: Path, config: dict[str, Any]) -> None:
        from gguf import MODEL_ARCH, get_tensor_name_map
        from safetensors import safe_open

        self._head_count = int(config["num_attention_heads"])
        self._key_head_count = int(config.get("num_key_value_heads") or self._head_count)
        self._file_by_name: dict[str, Any] = {}
        for path in sorted(model_folder.glob("*.safetensors")):
            file: Any = safe_open(str(path), "pt")
            self._file_by_name |= dict.fromkeys(file.keys(), file)
        self._gguf_names = get_tensor_name_map(MODEL_ARCH.LLAMA, int(config["num_hidden_layers"]))
        self.names = sorted(self._file_by_name)

    def describe(self, name: str) -> tuple[str, list[int], Any, int, Any]:
        """A tensor's name in GGUF, its shape, numpy type, size in bytes and stored type."""
        import numpy as np

        stored_type = self._stored_type(name)
        gguf_name = self._gguf_names.get_name(name, try_suffixes=(".weight",))
        if gguf_name is None:
            raise UsageError(f"this model cannot be written as GGUF: GGUF has no name for its tensor {name!r}", _FIX)
        shape = list(self._file_by_name[name].get_slice(name).get_shape())
        bytes_per_value = 4 if stored_type.name == "F32" else 2
        size_bytes = int(np.prod(shape)) * bytes_per_value
        return gguf_name, shape, np.dtype(np.float32), size_bytes, stored_type

    def read_data(self, name: str) -> Any:
        """A tensor's stored values. Query and key rows are interleaved in the order of llama.cpp's rotary embedding."""
        from gguf import quants

        weight = self._file_by_name[name].get_tensor(name).float().numpy()
        if name.endswith("q_proj.weight"):
            weight = _interleave_halves(weight, self._head_count)
        if name.endswith("k_proj.weight"):
            weight = _interleave_halves(weight, self._key_head_count)
        return quants.quantize(weight, self._stored_type(name))

    def _stored_type(self, name: str) -> Any:
        """The type of the tensor's values in the GGUF file: that of the model's file, or F32 for a vector."""
        from gguf import GGMLQuantizationType

        tensor_slice = self._file_by_name[name].get_slice(name)
        is_matrix = len(tensor_slice.get_shape()) > 1  # llama.cpp stores norms, which are vectors, in 32 bits
        return GGMLQuantizationType[tensor_slice.get_dtype() if is_matrix else "F32"]


def _interleave_halves(weight: Any, head_count: int) -> Any:
    """Reorder the rows of each head so that rows of its first and its second half alternate."""
    rows_per_half = weight.shape[0] // head_count // 2
    halves = weight.reshape(head_count, 2, rows_per_half, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def _check_round_trip(model_folder: Path, gguf_path: Path, read_folder: Path) -> None:
    """Convert the GGUF file back to safetensors in `read_folder`, as `models import` does, and require the same weights
    in bf16 and the same tokens as in `model_folder`.

    Raises:
        NanofluxError: the file cannot be read, or the weights or tokens differ.
    """
    import torch

    try:
        convert_gguf(gguf_path, read_folder)
    except ModelsError as error:
        raise NanofluxError(f"the GGUF file cannot be read back: {error.message}", _FIX) from error
    written_weights = dict(_read_weights(model_folder))
    read_weights = dict(_read_weights(read_folder))
    weights_match = written_weights.keys() == read_weights.keys() and all(
        torch.equal(weight, read_weights[name]) for name, weight in written_weights.items()
    )
    if not weights_match or _encode_probe_text(model_folder) != _encode_probe_text(read_folder):
        raise NanofluxError("the GGUF file, when read back, differs from the model that was written", _FIX)


def _encode_probe_text(model_folder: Path) -> list[int]:
    """The ids of the tokens into which the model's tokenizer splits `PROBE_TEXT`."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_folder, local_files_only=True)
    token_ids: list[int] = tokenizer.encode(PROBE_TEXT)
    return token_ids


def _read_weights(folder: Path) -> Iterator[tuple[str, Any]]:
    """Yield the name and the values, in bf16, of each tensor of a model folder."""
    import torch
    from safetensors.torch import load_file

    for path in sorted(folder.glob("*.safetensors")):
        for name, weight in load_file(path).items():
            yield name, weight.to(torch.bfloat16)
