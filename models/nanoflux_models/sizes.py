"""Determines a model's sizes from its folder. The number of parameters and the bytes of the weights come from the
tensors; the context and the bytes of the KV cache come from the configuration.

A published configuration may omit the defaults of its class, and in a multimodal wrapper, the language model's values
are under `text_config`. So the configuration is read through its class in transformers, or as plain JSON if
transformers has no such class.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanoflux_models.errors import ManifestError
from nanoflux_models.offline import go_offline

BYTES_PER_NUMBER = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2}
"""The bytes of a number, by its type in a safetensors file; other types take one byte."""
KV_BYTES_PER_NUMBER = 2
"""The bytes of a number in the KV cache: vLLM stores keys and values in 16 bits."""
SCALE_SUFFIXES = ("scale", "scales", "zeros", "zero_point", "absmax", "quant_map", "g_idx", "_shape", "quant_state")
"""Suffixes of the names of tensors that belong to a quantised weight and are not parameters."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a safetensors file: its type, as the file names it, and the number of its elements."""

    dtype: str
    count: int

    @property
    def bytes(self) -> int:
        return self.count * BYTES_PER_NUMBER.get(self.dtype, 1)


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes of a model. `context` is in tokens; `weights_gib` is the size of the stored weights.

    Of `kv_bytes_per_token`, `sliding_bytes_per_token` belong to layers that attend only to the last `sliding_window`
    tokens.
    """

    parameters: int
    weights_gib: float
    context: int
    kv_bytes_per_token: int
    sliding_bytes_per_token: int = 0
    sliding_window: int = 0


def read_json(path: Path) -> dict[str, Any]:
    """Read a file that contains a JSON object.

    Raises:
        ManifestError: the file does not contain a JSON object.
    """
    try:
        return dict(json.loads(path.read_text("utf-8-sig")))
    except (ValueError, TypeError, RecursionError) as error:
        raise ManifestError(f"{path.name}: not JSON: {error}", "copy the file again") from error


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder, by name, read from the headers of the files.

    Raises:
        ManifestError: a file is not a complete safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    tensors: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(str(path), "np") as file:
                for name in file.keys():  # noqa: SIM118 - not a mapping
                    tensor_slice = file.get_slice(name)
                    tensors[name] = Tensor(tensor_slice.get_dtype(), math.prod(tensor_slice.get_shape()))
        except SafetensorError as error:
            message = f"{path.name}: not a complete safetensors file: {error}"
            raise ManifestError(message, "copy the file again") from error
    return tensors


def read_text_config(folder: Path) -> dict[str, Any]:
    """The configuration of the language model in a folder, including the defaults of its class."""
    published_config = read_json(folder / "config.json")
    go_offline()
    try:
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        return dict(config.get_text_config().to_dict())
    except Exception:  # noqa: BLE001 - for an unknown architecture, each class raises a different error
        return dict(published_config.get("text_config") or published_config)


def compute_sizes(tensors: Mapping[str, Tensor], text_config: Mapping[str, Any], bits: int | None = None) -> Sizes:
    """Compute the sizes from the tensors and the language model's configuration. `bits` is the number of bits of a
    packed weight, None if no weights are packed.
    """
    stored_bytes = sum(tensor.bytes for tensor in tensors.values())
    sliding_bytes = _compute_sliding_bytes(text_config)
    return Sizes(
        parameters=sum(_count_parameters(name, tensor, bits) for name, tensor in tensors.items()),
        weights_gib=math.ceil(stored_bytes / 2**30 * 100) / 100,  # rounded up to a hundredth
        context=int(text_config.get("max_position_embeddings") or 2048),
        kv_bytes_per_token=sum(_compute_kv_bytes(text_config).values()),
        sliding_bytes_per_token=sliding_bytes,
        sliding_window=int(text_config["sliding_window"]) if sliding_bytes else 0,
    )


def find_packed_bits(config: Mapping[str, Any]) -> int | None:
    """The number of bits of a quantised weight if the files pack several weights into one number; None otherwise."""
    quantization = config.get("quantization_config") or {}
    method = str(quantization.get("quant_method", ""))
    if method in ("mxfp4", "bitsandbytes") or quantization.get("load_in_4bit"):
        return 4
    bits = quantization.get("bits", quantization.get("w_bit"))
    if not bits:  # compressed-tensors states the bits of each group of layers
        groups = (quantization.get("config_groups") or {}).values()
        bits_of_groups = [group["weights"]["num_bits"] for group in groups if group.get("weights")]
        bits = bits_of_groups[0] if bits_of_groups else None
    return int(bits) if bits and int(bits) < 8 else None


def _count_parameters(name: str, tensor: Tensor, bits: int | None) -> int:
    """The number of parameters in a tensor; `bits` is the number of bits of a packed weight (None: none is packed)."""
    if bits is None:
        return 0 if name.endswith(("_scale", "_scale_inv")) else tensor.count
    if name.endswith(SCALE_SUFFIXES):
        return 0
    is_packed = tensor.dtype in ("I32", "U8", "I8")
    return tensor.bytes * 8 // bits if is_packed else tensor.count


def _compute_sliding_bytes(text_config: Mapping[str, Any]) -> int:
    """The bytes of one token's keys and values in layers that attend only to a sliding window."""
    return _compute_kv_bytes(text_config).get("sliding_attention", 0) if text_config.get("sliding_window") else 0


def _compute_kv_bytes(text_config: Mapping[str, Any]) -> dict[str, int]:
    """The bytes of one token's keys and values in the cache, by kind of attention."""
    layers = int(text_config.get("num_hidden_layers") or 0)
    kv_rank = text_config.get("kv_lora_rank")
    if kv_rank:  # multi-head latent attention: keys and values share one compressed vector
        vector_size = int(kv_rank) + int(text_config.get("qk_rope_head_dim") or 0)
        return {"full_attention": layers * vector_size * KV_BYTES_PER_NUMBER}
    layer_kinds = list(text_config.get("layer_types") or ["full_attention"] * layers)
    caching_layers = layers - int(text_config.get("num_kv_shared_layers") or 0)  # the last layers share earlier caches
    # Layers may differ: Gemma 4 has wider heads in the layers that attend to the whole context.
    overrides = {int(layer): values for layer, values in (text_config.get("per_layer_config") or {}).items()}
    bytes_by_kind: dict[str, int] = {}
    for layer, kind in enumerate(layer_kinds[:caching_layers]):
        if kind.endswith("attention") and "linear" not in kind:
            layer_bytes = _compute_layer_bytes({**text_config, **overrides.get(layer, {})})
            bytes_by_kind[kind] = bytes_by_kind.get(kind, 0) + layer_bytes
    return bytes_by_kind


def _compute_layer_bytes(layer: Mapping[str, Any]) -> int:
    """The bytes of one token's keys and values in a layer; `layer` is the layer's configuration."""
    heads = int(layer.get("num_attention_heads") or 1)
    default_head_size = int(layer.get("hidden_size") or 0) // heads
    head_size = int(layer.get("head_dim") or default_head_size)
    kv_heads = int(layer.get("num_key_value_heads") or heads)
    return 2 * kv_heads * head_size * KV_BYTES_PER_NUMBER  # one key and one value per head
