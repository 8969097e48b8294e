"""The hash that identifies an adapter, and the names of the two files in PEFT's format."""

import hashlib
import json
from pathlib import Path

from nanoflux_local.errors import DataError
from nanoflux_local.records import canonical_json

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
"""The names of the two files of an adapter in PEFT's format."""


def adapter_hash(folder: Path) -> str:
    """The SHA-256, in hex, of an adapter's weights and canonical PEFT config. Manifest and card do not affect it.

    Raises:
        DataError: `folder` does not contain an adapter.
    """
    try:
        weights_hash = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{folder} is not an adapter: {error}", f"pass a folder with {WEIGHTS} and {CONFIG}") from error
    return hashlib.sha256(f"{weights_hash}\n{canonical_json(config)}".encode()).hexdigest()
