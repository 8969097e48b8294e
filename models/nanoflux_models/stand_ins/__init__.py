"""Stand-ins: tiny models with random weights and the architecture of a real model.

A stand-in has the architecture class, configuration keys, tensor names and chat format of the model that it replaces.
Software that would refuse the real weights therefore also refuses the stand-in, within seconds and without a download.
A stand-in's replies are meaningless. Each family of models is one `Family` in a file of this package.
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
"""All families, by architecture class."""


def find_family(architecture: str, model: str = "") -> Family:
    """The family of an architecture class.

    Raises:
        ManifestError: no family has this architecture. The message names `model`.
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
    vocabulary: Sequence[bytes] | None = None,
    seed: int = 0,
    overrides: dict[str, Any] | None = None,
    device: str = "cpu",
    phrases: Sequence[str] = (),
    weight_std: float = 0.0,
) -> Path:
    """Write a stand-in of `family` into `folder` in the hub's layout: config, tokenizer, sharded safetensors in bf16.

    The tokenizer is trained on `texts` (without texts, it encodes bytes), and each of `phrases` is one token. A
    complete `vocabulary` replaces both (see `gpt_oss.read_harmony_vocabulary`). `overrides` replace values of the
    configuration; they may be a model's full sizes; its weights are then drawn faster on a GPU (`device`). `weight_std`
    is the standard deviation of the weights (0: the family's). The same arguments give identical files.
    """
    import torch
    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    published_config = {**family.build_config(), **(overrides or {})}
    config = transformers.AutoConfig.for_model(**_drop_keys(published_config, "architectures", "torch_dtype"))
    _set_weight_std(config, weight_std or family.weight_std)
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(seed)
        model: Any = getattr(transformers, family.architecture)(config).to(torch.bfloat16)
    _scale_weights(model, family.weight_scales)
    save_weights(model, folder)
    write_tokenizer(family, folder, texts, vocabulary, phrases)
    _write_config_files(family, folder, published_config)
    return folder


def write_without_weights(family: Family, folder: Path, model: str, texts: Sequence[str] = ()) -> Path:
    """Write the tokenizer and configuration of a full-size model, but no weights: vLLM draws random weights with
    `--load-format dummy`.

    Raises:
        ManifestError: the family does not state the sizes of `model`.
    """
    if model not in family.full_configs:
        known_models = ", ".join(family.full_configs) if family.full_configs else "none"
        message = f"the full sizes of {model} are not stated"
        raise ManifestError(message, f"choose a model with stated sizes: {known_models}")
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(family, folder, texts, None)
    _write_config_files(family, folder, family.build_config(model))
    return folder


def save_weights(model: Any, folder: Path) -> None:
    """Save a model's weights as publishers do: in several shards with an index, under the published tensor names."""
    from transformers.utils import logging

    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    weight_bytes = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    try:
        model.save_pretrained(str(folder), max_shard_size=int(weight_bytes * 0.6))  # at least two shards
    finally:
        if was_enabled:
            logging.enable_progress_bar()
    for path in folder.glob("*.safetensors"):
        path.chmod(0o644)


def _write_config_files(family: Family, folder: Path, config: dict[str, Any]) -> None:
    """Write the configuration files in their published form. They replace the files that transformers wrote, which
    state every default.
    """
    end_ids = [family.control_tokens[token] for token in family.end_tokens]
    files = {
        "config.json": config,
        "generation_config.json": {"eos_token_id": end_ids, "pad_token_id": family.control_tokens[family.pad]},
        **family.extra_files,
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def _scale_weights(model: Any, scales: Mapping[str, float]) -> None:
    """Multiply the weights whose names end in a key of `scales` by that key's value."""
    import torch

    with torch.no_grad():
        for name, weight in model.named_parameters():
            for ending, factor in scales.items():
                if name.endswith(ending):
                    weight.mul_(factor)


def _set_weight_std(config: Any, weight_std: float) -> None:
    """Set the standard deviation of the initial weights, also in the inner configurations of a wrapper."""
    inner_configs = [getattr(config, "text_config", None), getattr(config, "vision_config", None)]
    for each_config in [config, *inner_configs]:
        if hasattr(each_config, "initializer_range"):
            each_config.initializer_range = weight_std


def _drop_keys(values: dict[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in names}
