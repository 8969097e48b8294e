"""Converts a GGUF file to a folder of bf16 safetensors, reproducibly, and checks that the folder loads.

Converting the same GGUF file always gives identical bytes, since library versions and paths of this machine are removed
from the saved files. Torch and transformers are imported when a conversion runs.
"""

import json
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nanoflux_models.errors import DigestMismatchError, ManifestError
from nanoflux_models.offline import go_offline

PROBE_TEXT = "Add 12345 and 6.5:\n\n 3  apples, it's 50% – naïve.\n"
"""A string that different tokenizers split in different ways: digits, spaces, line ends, accents."""
STEPS = 3
"""The number of steps of a conversion: reading, writing, checking."""
VOLATILE_KEYS = ("transformers_version", "_name_or_path", "_model_name_or_path", "is_local", "local_files_only")
"""Keys of a configuration in which libraries store their version, a path, or how the files were loaded."""


def convert_gguf(gguf: Path, target: Path, on_step: Callable[[int, str], None] = lambda _step, _name: None) -> None:
    """Convert the file `gguf` to the new folder `target`: model.safetensors in bf16, config, tokenizer, chat template.

    `on_step` is called at the start of each of the `STEPS` steps, with its number from 1 and its name.

    Raises:
        ManifestError: transformers cannot read the file.
        DigestMismatchError: the saved files do not load as they were converted.
    """
    go_offline()
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    on_step(1, "reading")
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
        model = AutoModelForCausalLM.from_pretrained(
            str(gguf.parent),
            gguf_file=gguf.name,
            dtype=torch.bfloat16,
            quantization_config=GgufConfig(dequantize=True),
        )
    except (ValueError, KeyError, NotImplementedError, OSError, struct.error) as error:
        fix = "import the safetensors folder of the same model instead"
        raise ManifestError(f"{gguf.name}: transformers cannot read this GGUF: {error}", fix) from error
    _fix_pre_tokenizer(tokenizer, gguf)
    on_step(2, "writing")
    model.save_pretrained(str(target))
    tokenizer.save_pretrained(str(target))
    for path in target.iterdir():
        path.chmod(0o644)
    for path in target.glob("*config.json"):
        _drop_volatile_keys(path)
    on_step(3, "checking")
    _check_saved_model(target, model, tokenizer)


def _fix_pre_tokenizer(tokenizer: Any, gguf: Path) -> None:
    """Give SmolLM's tokenizer the step that splits numbers into digits. Transformers omits this step, since it ignores
    the key `tokenizer.ggml.pre` of a GGUF file. Without the step, white space before a number is tokenized differently
    than in training.
    """
    if _read_text_field(gguf, "tokenizer.ggml.pre") != "smollm":
        return
    from tokenizers import pre_tokenizers

    digit_splitter = pre_tokenizers.Digits(individual_digits=True)
    word_splitter = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digit_splitter, word_splitter])


def _read_text_field(gguf: Path, key: str) -> str:
    """The value of a metadata key of a GGUF file; "" if the file does not have the key."""
    from gguf import GGUFReader

    field = GGUFReader(gguf).get_field(key)
    return str(field.contents()) if field else ""


def _drop_volatile_keys(path: Path) -> None:
    """Remove `VOLATILE_KEYS` from a JSON file, and write the other keys in sorted order."""
    saved_config = json.loads(path.read_text("utf-8"))
    kept_config = {key: value for key, value in saved_config.items() if key not in VOLATILE_KEYS}
    path.write_text(json.dumps(kept_config, indent=2, sort_keys=True, ensure_ascii=False) + "\n", "utf-8")


def _survives_round_trip(tokenizer: Any, text: str) -> bool:
    """Whether encoding and then decoding the text returns it unchanged, apart from white space and special tokens."""
    decoded = tokenizer.decode(tokenizer.encode(text, add_special_tokens=False), skip_special_tokens=True)
    return re.sub(r"\s", "", decoded) == re.sub(r"\s", "", text)


def _check_saved_model(target: Path, model: Any, tokenizer: Any) -> None:
    """Load the saved weights and tokenizer, and require that they equal those in memory.

    Raises:
        DigestMismatchError: the saved weights or tokenizer differ.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    saved_weights = AutoModelForCausalLM.from_pretrained(str(target), dtype=torch.bfloat16).state_dict()
    converted_weights = model.state_dict()
    has_equal_weights = saved_weights.keys() == converted_weights.keys() and all(
        torch.equal(saved_weights[name], converted_weights[name]) for name in saved_weights
    )
    saved_tokenizer = AutoTokenizer.from_pretrained(str(target))
    has_equal_tokens = saved_tokenizer.encode(PROBE_TEXT) == tokenizer.encode(PROBE_TEXT)
    if not has_equal_weights or not has_equal_tokens or not _survives_round_trip(saved_tokenizer, PROBE_TEXT):
        fix = "install the pinned version of transformers: the installed one does not load what it saved"
        raise DigestMismatchError(f"{target.name}: the saved weights or tokenizer differ from the converted ones", fix)
