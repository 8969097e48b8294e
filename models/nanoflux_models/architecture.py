"""Reads from the config.json of installed weights whether the model has towers besides its text model, or experts."""

import json
from pathlib import Path
from typing import Any

TOWERS = ("vision_config", "audio_config", "video_config")
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")


def is_wrapper(weights: Path) -> bool:
    """Whether the model is a wrapper: a language model with towers for images, sound or video."""
    return any(_read_config(weights).get(key) for key in TOWERS)


def has_experts(weights: Path) -> bool:
    """Whether the language model is a mixture of experts."""
    config = _read_config(weights)
    text = config.get("text_config") or {}
    return any((part.get(key) or 0) > 1 for part in (config, text) for key in EXPERTS)


def _read_config(weights: Path) -> dict[str, Any]:
    try:
        config = json.loads((weights / "config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}
