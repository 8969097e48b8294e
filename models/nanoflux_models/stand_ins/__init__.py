"""Stand-ins: tiny random models that are, to every library, models of the true architecture.

A stand-in has the architecture class, the configuration's keys, the tensors' names and the chat format of the model
that it stands for, so that whatever refuses the real weights refuses it too, in seconds and without a download. What it
says means nothing. Owns how they are made; a family of models is one `Family` in a file here.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nanoflux_models.errors import ManifestError
from nanoflux_models.stand_ins.family import Family
from nanoflux_models.stand_ins.gemma3 import GEMMA3
from nanoflux_models.stand_ins.gemma4 import GEMMA4_UNIFIED
from nanoflux_models.stand_ins.gpt_oss import GPT_OSS
from nanoflux_models.stand_ins.qwen import QWEN3, QWEN3_MOE, R1_QWEN2
from nanoflux_models.stand_ins.tokenizer import write_tokenizer

FAMILIES = {family.architecture: family for family in (GEMMA3, GEMMA4_UNIFIED, QWEN3, QWEN3_MOE, R1_QWEN2, GPT_OSS)}
RANGE = 0.2
"""Standard deviation of a stand-in's weights: ten times the usual one, so that its logits differ clearly."""


def family_of(architecture: str, model: str = "") -> Family:
    """The family of an architecture class; `model` is named in the error.

    Raises:
        ManifestError: no stand-in can be made of it.
    """
    if architecture in FAMILIES:
        return FAMILIES[architecture]
    message = f"No stand-in can be made for {model or architecture}"
    why = f": its architecture {architecture} is not among {', '.join(FAMILIES)}." if architecture else "."
    raise ManifestError(message + why, "Set `architecture` in the manifest to one of them.")


def make_stand_in(
    family: Family,
    folder: Path,
    texts: Sequence[str] = (),
    words: Sequence[bytes] | None = None,
    seed: int = 0,
    tiny: dict[str, Any] | None = None,
    device: str = "cpu",
    phrases: Sequence[str] = (),
    spread: float = RANGE,
) -> Path:
    """Write a stand-in of `family` into `folder` in the hub's layout: config, tokenizer, sharded safetensors in bf16.

    `texts` teach the tokenizer words (without any it spells by bytes), `phrases` are one token each, and `words` is a
    whole vocabulary in place of both (see `gpt_oss.harmony_words`); `tiny` changes keys of the configuration, up to a
    model's true size, which a GPU draws faster (`device`); `spread` is the weights' standard deviation. Same arguments,
    same bytes.
    """
    import torch
    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    published = {**family.configuration(), **(tiny or {})}
    config = transformers.AutoConfig.for_model(**_without(published, "architectures", "torch_dtype"))
    _set_range(config, spread)
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(seed)
        model: Any = getattr(transformers, family.architecture)(config).to(torch.bfloat16)
    save_weights(model, folder)
    write_tokenizer(family, folder, texts, words, phrases)
    _write_config_files(family, folder, published)
    return folder


def write_form(family: Family, folder: Path, model: str, texts: Sequence[str] = ()) -> Path:
    """Write all of a full-size model but its weights: vLLM's `--load-format dummy` draws those at random.

    Raises:
        ManifestError: the true sizes of `model` are not known here.
    """
    if model not in family.full:
        raise ManifestError(f"The sizes of {model} are not known here.", f"Known: {', '.join(family.full) or 'none'}.")
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(family, folder, texts, None)
    _write_config_files(family, folder, family.configuration(model))
    return folder


def save_weights(model: Any, folder: Path) -> None:
    """Save tensors as the makers do: several shards and an index, under the published names."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    half = sum(weight.numel() * weight.element_size() for weight in model.parameters()) * 0.6
    try:
        model.save_pretrained(str(folder), max_shard_size=int(half))
    finally:
        if shown:
            logging.enable_progress_bar()
    for path in folder.glob("*.safetensors"):
        path.chmod(0o644)


def _write_config_files(family: Family, folder: Path, config: dict[str, Any]) -> None:
    """The files by which a server knows the model; transformers' own, with every default spelled out, is replaced."""
    ends = [family.control[end] for end in family.ends]
    files = {
        "config.json": config,
        "generation_config.json": {"eos_token_id": ends, "pad_token_id": family.control[family.pad]},
        **family.files,
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def _set_range(config: Any, spread: float) -> None:
    for each in (config, *(getattr(config, name, None) for name in ("text_config", "vision_config"))):
        if each is not None and hasattr(each, "initializer_range"):
            each.initializer_range = spread


def _without(values: dict[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in names}
