"""Copies the files of a model that is imported, and checks that none is missing.

This module converts nothing, downloads nothing and writes no manifest.
"""

import shutil
from pathlib import Path

from nanoflux_models.errors import ManifestError
from nanoflux_models.hub import is_wanted
from nanoflux_models.sizes import read_json

INDEX_FILE = "model.safetensors.index.json"
"""The file that lists the shards of a model's weights."""


def copy_model_files(path: Path, target: Path) -> None:
    """Copy a model's files into the new folder `target`. `path` is a GGUF file, or a folder from which the safetensors,
    configs and tokenizer are copied.

    Raises:
        ManifestError: `path` is neither a folder nor a GGUF file, or files are missing.
    """
    target.mkdir()
    if path.is_file() and path.suffix == ".gguf":
        shutil.copyfile(path, target / path.name)
        return
    _check_folder(path)
    for source in sorted(path.rglob("*")):
        relative_path = source.relative_to(path)
        if source.is_file() and is_wanted(relative_path):
            (target / relative_path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target / relative_path)
    # A folder from another home contains the record of its installation there.
    (target / "weights.json").unlink(missing_ok=True)


def _check_folder(path: Path) -> None:
    """Require a folder with safetensors, all shards that its index lists, a config and a tokenizer."""
    if not path.is_dir():
        raise ManifestError(
            f"{path}: neither a folder nor a .gguf file", "pass a folder of safetensors or one GGUF file"
        )
    weight_files = list(path.glob("*.safetensors"))
    if not weight_files:
        has_pickled_weights = any(path.glob("*.bin")) or any(path.glob("*.pt"))
        reason = "no .safetensors file"
        if has_pickled_weights:
            reason = "only pickled weights, which can run code when loaded"
        raise ManifestError(f"{path}: {reason}", "get the model's safetensors files")
    for name in ("config.json", "tokenizer_config.json"):
        if not (path / name).is_file():
            raise ManifestError(f"{path}: no {name}", "pass the whole model folder, with its config and tokenizer")
    if (path / INDEX_FILE).is_file():
        shards = set(read_json(path / INDEX_FILE).get("weight_map", {}).values())
        missing_shards = sorted(shards - {file.name for file in weight_files})
        if missing_shards:
            raise ManifestError(f"{path}: weights missing: {', '.join(missing_shards)}", "copy the whole folder again")
