"""Reads the highest rank of a LoRA's layers from PEFT's config; a server must allow at least this rank."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nanoflux_local.adapters.hash import CONFIG
from nanoflux_local.errors import DataError


def highest_rank(config: Mapping[str, Any]) -> int:
    """The highest rank of any layer, from PEFT's config of a LoRA.

    Raises:
        KeyError, TypeError, ValueError: the config states no rank, or a rank is not a number.
    """
    rank_by_layer = config.get("rank_pattern") or {}  # layers whose rank differs from `r`
    ranks = [config["r"], *rank_by_layer.values()]
    return max(int(rank) for rank in ranks)


def read_rank(adapter: Path) -> int:
    """The highest rank of the adapter in the folder `adapter`.

    Raises:
        DataError: the config cannot be read, or states no rank.
    """
    path = adapter / CONFIG
    try:
        return highest_rank(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} states no rank: {error}", "pass an adapter in PEFT's format") from error
