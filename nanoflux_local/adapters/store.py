"""Adapters: a folder in PEFT's format with its training record, named by the hash of its content.

Owns the folder's layout, its hash and the manifest. Never overwrites: a folder appears by one rename,
and its name proves what is in it.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from nanoflux_local.adapters.hash import CONFIG, WEIGHTS, adapter_hash
from nanoflux_local.errors import DataError, NothingMatchedError, RefusedError, UsageError
from nanoflux_local.files import new_folder, sync, write_atomically
from nanoflux_models.probe_record import read_probe

MANIFEST, CARD = "nanoflux.json", "README.md"
_PACKAGES = ("nanoflux-local", "torch", "transformers", "peft")


def write_weights(folder: Path, weights: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """PEFT's two files, byte for byte the same for the same weights and config (PEFT's own order is not fixed)."""
    from safetensors.torch import save

    folder.mkdir(parents=True, exist_ok=True)
    ordered = {name: weights[name].contiguous() for name in sorted(weights)}
    write_atomically(folder / WEIGHTS, save(ordered, {"format": "pt"}))
    plain = {key: _plain(value) for key, value in config.items()} | {"inference_mode": True}
    write_atomically(folder / CONFIG, pretty(plain).encode())


def _plain(value: Any) -> Any:
    """JSON of a PEFT config value: sets in order, enums by their value."""
    if isinstance(value, set | frozenset):
        return sorted(value)
    return getattr(value, "value", value)


def seal(
    folder: Path, adapters_dir: Path, record: Mapping[str, Any], write_card: Callable[[Mapping[str, Any]], str]
) -> Path:
    """Move PEFT's two files in `folder` to `adapters_dir/<hash>` with their record and card, and return that folder."""
    manifest = {**record, "adapter": adapter_hash(folder)}
    write_atomically(folder / MANIFEST, pretty(manifest).encode())
    write_atomically(folder / CARD, write_card(manifest).encode())
    return _place(folder, adapters_dir / manifest["adapter"])


def load_manifest(folder: Path) -> dict[str, Any]:
    """The training record of a sealed adapter. Raises DataError where there is none or the content does not match."""
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{folder} has no readable {MANIFEST}: {error}", "name a folder that `train` made") from error
    if manifest.get("adapter") != adapter_hash(folder):
        fix = "its files were changed: train or copy it again"
        raise DataError(f"adapter {folder} is not what its manifest says", fix)
    return manifest


def described(folder: Path) -> dict[str, Any]:
    """The manifest of a sealed adapter with the outcome of its last probe ("probe", None before the first). Raises
    DataError as `load_manifest` does."""
    return load_manifest(folder) | {"probe": read_probe(folder)}


def list_adapters(adapters_dir: Path) -> list[dict[str, Any]]:
    """Every sealed adapter as `described`, by name; a damaged one stands as its name and its "problem"."""
    folders = sorted(path.parent for path in adapters_dir.glob(f"*/{MANIFEST}") if not path.parent.name.startswith("."))
    return [_listed(folder) for folder in folders]


def _listed(folder: Path) -> dict[str, Any]:
    try:
        return described(folder)
    except DataError as error:
        return {"adapter": folder.name, "problem": error.message}


def find_adapter(adapters_dir: Path, prefix: str) -> Path:
    """The folder whose hash starts with `prefix`, or the imported adapter of that name.

    Raises:
        UsageError: `prefix` is a path.
        NothingMatchedError: there is no such adapter.
        DataError: there are several.
    """
    if os.sep in prefix or prefix.startswith((".", "~")):
        raise UsageError(
            f"{prefix!r} is a path, and an adapter is named by its hash",
            f"take it in first: nanoflux adapters import {prefix} --base MODEL; then use the hash that this prints",
        )
    folders = [path.parent for path in sorted(adapters_dir.glob(f"*/{MANIFEST}")) if path.parent.name[0] != "."]
    matches = [folder for folder in folders if prefix and folder.name.startswith(prefix)]
    matches = matches or [folder for folder in folders if prefix and _imported_name(folder) == prefix]
    if not matches:
        raise NothingMatchedError(f"no adapter {prefix!r} in {adapters_dir}", "`nanoflux adapters list` names them")
    if len(matches) > 1:
        raise DataError(f"{prefix!r} names {len(matches)} adapters", "give more of the hash")
    return matches[0]


def _imported_name(folder: Path) -> str:
    try:
        return str(load_manifest(folder).get("imported", {}).get("name", ""))
    except DataError:
        return ""


def export_peft(adapter: Path, target: Path) -> dict[str, Any]:
    """Copy a sealed adapter to `target`, a new folder that plain PEFT loads; returns its manifest.

    Raises DataError where the adapter is damaged, UsageError where `target` exists.
    """
    manifest = load_manifest(adapter)
    with new_folder(target) as folder:
        for name in (WEIGHTS, CONFIG, MANIFEST, CARD):
            shutil.copyfile(adapter / name, folder / name)
        load_manifest(folder)
    return manifest


def _place(folder: Path, target: Path) -> Path:
    """Rename `folder` to `target`; where the same content is there already, only what it lacks is added to it."""
    if target.exists():
        if adapter_hash(target) != target.name:
            raise RefusedError(f"{target} exists and its content was changed", "move it away, then publish again")
        for name in (MANIFEST, CARD):
            if not (target / name).exists():
                write_atomically(target / name, (folder / name).read_bytes())
        load_manifest(target)
        return target
    folder.rename(target)
    sync(target.parent)
    return target


def package_versions() -> dict[str, str]:
    """What wrote a record: this program and the libraries that decide its weights."""
    return {package: _version(package) for package in _PACKAGES}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def pretty(value: Any) -> str:
    """JSON for a file that people read."""
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
