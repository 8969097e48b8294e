"""Stand-ins: tiny random models with the architecture of a real one.

A stand-in has the architecture class, configuration keys, tensor names and chat format of the model that it replaces,
so that software which refuses the real weights refuses it too, in seconds and without a download. Its replies are
meaningless. Owns how stand-ins are made; each family of models is one `Family` in a file of this package.
"""

import json
from collections.abc import Mapping, Sequence
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


def family_of(architecture: str, model: str = "") -> Family:
    """The family of an architecture class; the error names `model`.

    Raises:
        ManifestError: no family has this architecture.
    """
    if architecture in FAMILIES:
        return FAMILIES[architecture]
    subject = f"no stand-in can be made for {model or architecture}"
    reason = f"its architecture is {architecture}" if architecture else "its manifest states no architecture"
    raise ManifestError(f"{subject}: {reason}", f"set `architecture` in the manifest to one of {', '.join(FAMILIES)}")


def make_stand_in(
    family: Family,
    folder: Path,
    texts: Sequence[str] = (),
    words: Sequence[bytes] | None = None,
    seed: int = 0,
    tiny: dict[str, Any] | None = None,
    device: str = "cpu",
    phrases: Sequence[str] = (),
    spread: float = 0.0,
) -> Path:
    """Write a stand-in of `family` into `folder` in the hub's layout: config, tokenizer, sharded safetensors in bf16.

    The tokenizer learns its words from `texts` (without any it encodes bytes), and each of `phrases` is one token;
    `words` is a complete vocabulary instead of both (see `gpt_oss.read_harmony_words`). `tiny` changes keys of the
    configuration, up to a model's real size, whose weights are drawn faster on a GPU (`device`); `spread` is the
    standard deviation of the weights (0: the family's). The same arguments give the same bytes.
    """
    import torch
    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    published = {**family.configuration(), **(tiny or {})}
    config = transformers.AutoConfig.for_model(**_without(published, "architectures", "torch_dtype"))
    _set_range(config, spread or family.spread)
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(seed)
        model: Any = getattr(transformers, family.architecture)(config).to(torch.bfloat16)
    _scale_weights(model, family.scales)
    save_weights(model, folder)
    write_tokenizer(family, folder, texts, words, phrases)
    _write_config_files(family, folder, published)
    return folder


def write_without_weights(family: Family, folder: Path, model: str, texts: Sequence[str] = ()) -> Path:
    """Write a full-size model without its weights, which vLLM's `--load-format dummy` draws at random.

    Raises:
        ManifestError: the family does not have the sizes of `model`.
    """
    if model not in family.full:
        sized = ", ".join(family.full) or "none"
        raise ManifestError(f"the full sizes of {model} are not stated", f"choose a model with stated sizes: {sized}")
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(family, folder, texts, None)
    _write_config_files(family, folder, family.configuration(model))
    return folder


def save_weights(model: Any, folder: Path) -> None:
    """Save a model's weights as publishers do: several shards and an index, under the published tensor names."""
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
    """Write the configuration files as published; they replace those of transformers, which state every default."""
    ends = [family.control[end] for end in family.ends]
    files = {
        "config.json": config,
        "generation_config.json": {"eos_token_id": ends, "pad_token_id": family.control[family.pad]},
        **family.files,
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def _scale_weights(model: Any, scales: Mapping[str, float]) -> None:
    import torch

    with torch.no_grad():
        for name, weight in model.named_parameters():
            for ending, factor in scales.items():
                if name.endswith(ending):
                    weight.mul_(factor)


def _set_range(config: Any, spread: float) -> None:
    for each in (config, *(getattr(config, name, None) for name in ("text_config", "vision_config"))):
        if each is not None and hasattr(each, "initializer_range"):
            each.initializer_range = spread


def _without(values: dict[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in names}
