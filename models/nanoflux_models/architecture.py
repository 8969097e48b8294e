"""Reads from the config.json of installed weights whether the model is a multimodal wrapper or has experts."""

import json
from pathlib import Path
from typing import Any

ENCODER_KEYS = ("vision_config", "audio_config", "video_config")
"""Keys of the configurations of a wrapper's encoders."""
EXPERT_COUNT_KEYS = ("num_local_experts", "num_experts", "n_routed_experts")
"""The names that different architectures use for the number of experts."""


def is_wrapper(weights: Path) -> bool:
    """Whether the model is a wrapper: a language model with encoders for images, sound or video."""
    config = _read_config(weights)
    return any(config.get(key) for key in ENCODER_KEYS)


def has_experts(weights: Path) -> bool:
    """Whether the language model is a mixture of experts."""
    config = _read_config(weights)
    text_config = config.get("text_config") or {}
    expert_counts: list[int] = []
    for table in (config, text_config):
        expert_counts += [table.get(key) or 0 for key in EXPERT_COUNT_KEYS]
    return any(count > 1 for count in expert_counts)


def _read_config(weights: Path) -> dict[str, Any]:
    """The contents of config.json; {} if it cannot be read or is not a JSON object."""
    try:
        config = json.loads((weights / "config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}
