"""The directory of adapters: each adapter is a folder in PEFT's format with a record, named by the hash of its content.

This module reads and writes these folders and their manifests. An adapter is never overwritten: its folder is created
by one rename, and its content can be checked against the folder's name.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from nanoflux_local.adapters.hash import CONFIG, WEIGHTS, adapter_hash
from nanoflux_local.adapters.record import Adapter, DamagedAdapter
from nanoflux_local.errors import DataError, NothingMatchedError, RefusedError, UsageError
from nanoflux_local.files import new_folder, sync, write_atomically
from nanoflux_local.suggestions import make_ambiguity_error
from nanoflux_models.probe_record import read_probe

MANIFEST, CARD = "nanoflux.json", "README.md"
"""The two files that this program adds to an adapter's folder: the record and a description."""
_PACKAGES = ("nanoflux-local", "torch", "transformers", "peft")
"""The packages whose versions are recorded with an adapter."""


def write_weights(folder: Path, weights: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Write an adapter's weights and config in PEFT's format. Equal weights and configs yield identical files; PEFT
    does not ensure this, since its order of tensors and keys varies.
    """
    from safetensors.torch import save

    folder.mkdir(parents=True, exist_ok=True)
    sorted_weights = {name: weights[name].contiguous() for name in sorted(weights)}
    write_atomically(folder / WEIGHTS, save(sorted_weights, {"format": "pt"}))
    json_config = {key: _to_json(value) for key, value in config.items()} | {"inference_mode": True}
    write_atomically(folder / CONFIG, format_json(json_config).encode())


def _to_json(value: Any) -> Any:
    """A value of PEFT's config as JSON: a set as a sorted list, an enum as its value."""
    if isinstance(value, set | frozenset):
        return sorted(value)
    return getattr(value, "value", value)


def store_new_adapter(
    folder: Path, adapters_dir: Path, record: Mapping[str, Any], write_card: Callable[[Mapping[str, Any]], str]
) -> Path:
    """Add a manifest (`record` and the hash) and a card to PEFT's two files in `folder`, and rename the folder to
    `adapters_dir/<hash>`. Return the new path.
    """
    manifest = {**record, "adapter": adapter_hash(folder)}
    write_atomically(folder / MANIFEST, format_json(manifest).encode())
    write_atomically(folder / CARD, write_card(manifest).encode())
    return store_folder(folder, adapters_dir / manifest["adapter"])


def read_adapter(folder: Path) -> Adapter:
    """Read the adapter stored in `folder`, with the outcome of its last probe.

    Raises:
        DataError: the folder has no manifest, or its content does not match the manifest.
    """
    return Adapter.from_manifest(folder, _read_manifest(folder), read_probe(folder))


def _read_manifest(folder: Path) -> dict[str, Any]:
    """Read an adapter's manifest. Raises DataError if it is missing, or the adapter's files do not match it."""
    path = folder / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        fix = "choose an adapter that `nanoflux adapters list` shows"
        raise DataError(f"{path} cannot be read: {error}", fix) from error
    if manifest.get("adapter") != adapter_hash(folder):
        fix = "copy the adapter again, or train it again"
        raise DataError(f"the files of adapter {folder} do not match its manifest", fix)
    return manifest


def list_adapters(adapters_dir: Path) -> list[Adapter | DamagedAdapter]:
    """All stored adapters, in the order of their hashes; a damaged adapter is listed with its problem."""
    return [_read_adapter_or_problem(folder) for folder in _list_sealed_folders(adapters_dir)]


def _list_sealed_folders(adapters_dir: Path) -> list[Path]:
    """The folders of stored adapters, in the order of their hashes, without those that are still being written."""
    folders = sorted(path.parent for path in adapters_dir.glob(f"*/{MANIFEST}"))
    return [folder for folder in folders if not folder.name.startswith(".")]


def _read_adapter_or_problem(folder: Path) -> Adapter | DamagedAdapter:
    """The adapter in `folder`; if its content does not match its manifest, the problem."""
    try:
        return read_adapter(folder)
    except DataError as error:
        return DamagedAdapter(folder.name, error.message)


def find_adapter(adapters_dir: Path, prefix: str) -> Path:
    """The folder of the adapter whose hash starts with `prefix`, else of the imported adapter whose name is `prefix`.

    Raises:
        UsageError: `prefix` is a path.
        NothingMatchedError: no adapter matches, or several do.
    """
    if os.sep in prefix or prefix.startswith((".", "~")):
        raise UsageError(
            f"{prefix!r} is a path, but adapters are named by their hash",
            f"import it first: `nanoflux adapters import {prefix} --base MODEL` prints its hash",
        )
    folders = _list_sealed_folders(adapters_dir)
    matches = [folder for folder in folders if prefix and folder.name.startswith(prefix)]
    if len(matches) > 1:
        raise make_ambiguity_error(prefix, "adapter", [folder.name for folder in matches])
    if not matches:
        matches = [folder for folder in folders if prefix and _read_imported_name(folder) == prefix]
    if not matches:
        raise NothingMatchedError(
            f"no adapter {prefix!r} in {adapters_dir}", "choose one that `nanoflux adapters list` shows"
        )
    if len(matches) > 1:
        hashes = ", ".join(folder.name for folder in matches)
        raise NothingMatchedError(f"several imported adapters have the name {prefix!r}", f"give one hash of: {hashes}")
    return matches[0]


def _read_imported_name(folder: Path) -> str:
    """The name of an imported adapter; "" if the adapter was trained here or cannot be read."""
    try:
        return str(_read_manifest(folder).get("imported", {}).get("name", ""))
    except DataError:
        return ""


def export_peft(adapter: Adapter, target: Path) -> None:
    """Copy a stored adapter to `target`, a new folder that PEFT can load without NanoFlux.

    Raises:
        DataError: the adapter changed while it was copied.
        UsageError: `target` exists.
    """
    with new_folder(target) as folder:
        for name in (WEIGHTS, CONFIG, MANIFEST, CARD):
            shutil.copyfile(adapter.folder / name, folder / name)
        read_adapter(folder)


def store_folder(folder: Path, target: Path) -> Path:
    """Rename `folder` to `target`, whose name is the adapter's hash, and return `target`. If `target` already exists
    with the same content, add only the manifest or card that it lacks.

    Raises:
        RefusedError: `target` exists with other content.
    """
    if target.exists():
        if adapter_hash(target) != target.name:
            raise RefusedError(
                f"{target} exists and its content was changed", "move the folder away, then run the command again"
            )
        for name in (MANIFEST, CARD):
            if not (target / name).exists():
                write_atomically(target / name, (folder / name).read_bytes())
        read_adapter(target)
        return target
    folder.rename(target)
    sync(target.parent)
    return target


def package_versions() -> dict[str, str]:
    """The versions of this program and of the libraries that affect an adapter's weights."""
    return {package: _find_version(package) for package in _PACKAGES}


def _find_version(package: str) -> str:
    """The installed version of a package; "unknown" if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def format_json(value: Any) -> str:
    """Format JSON for a file that people read: indented, with sorted keys and a final line break."""
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
