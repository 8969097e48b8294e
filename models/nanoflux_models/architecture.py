"""What config.json says about installed weights: whether they have other towers than the text model's, and experts."""

import json
from pathlib import Path
from typing import Any

TOWERS = ("vision_config", "audio_config", "video_config")
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")


def is_wrapper(weights: Path) -> bool:
    """Whether the model also takes images or sound: a language model in a wrapper with other towers."""
    return any(_config(weights).get(key) for key in TOWERS)


def has_experts(weights: Path) -> bool:
    """Whether the language model is a mixture of experts."""
    config = _config(weights)
    text = config.get("text_config") or {}
    return any((part.get(key) or 0) > 1 for part in (config, text) for key in EXPERTS)


def _config(weights: Path) -> dict[str, Any]:
    try:
        config = json.loads((weights / "config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}
