"""Pulls, imports, verifies and finds weights. The weights of each installed model are in a folder,
`<home>/weights/NAME`, with a record of the files.

A folder is installed atomically: it is written under a temporary name next to its final path, and then renamed. If a
pull or import is killed, the next pull or import removes the files that it left. Pickled weights are refused, since
they could run code when they are loaded.
"""

import codecs
import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from nanoflux_models.chat_template import TEMPLATE_FILE, read_template
from nanoflux_models.convert import STEPS, convert_gguf
from nanoflux_models.errors import DigestMismatchError, ManifestError, ModelNotFoundError, ModelsError
from nanoflux_models.fetch import Progress, Transfer, fetch
from nanoflux_models.imported import load_or_derive_manifest, save_manifest, summarize_manifest
from nanoflux_models.manifest import NAME, Manifest, find_manifest_path, load_manifest
from nanoflux_models.model_copy import copy_model_files
from nanoflux_models.record import (
    RECORD,
    WeightsRecord,
    compute_revision,
    find_problems,
    read_record,
    record_files,
    sha256_file,
    write_record,
)
from nanoflux_models.sizes import read_tensors


def pull(name: str, home: Path, progress: Progress = lambda _: None, transfer: Transfer = lambda *_: None) -> Path:
    """Download, check, convert and install the weights of the model `name`, unless they are installed and intact.

    If a download from a hub is interrupted, the next pull resumes it at the byte where it stopped.

    Raises:
        ModelsError: a step failed; nothing is installed.
    """
    manifest = load_manifest(name, home)
    with _open_scratch_folder(home, name) as scratch:
        target = home / "weights" / name
        if target.is_dir() and not find_problems(target):
            progress(f"{name} is installed and intact")
            return target
        partial_folder = home / "weights" / f".{name}.partial"
        try:
            download = fetch(manifest, scratch, progress, transfer, partial_folder)
        except DigestMismatchError:  # the downloaded files are wrong, so the next pull must not resume them
            shutil.rmtree(partial_folder, ignore_errors=True)
            raise
        source = manifest.source.model_dump(exclude={"sha256"})
        if download.commit:  # a revision may be a branch; the commit identifies the files
            source["commit"] = download.commit
        files, origin = _convert_gguf_files(download.folder, scratch, progress)
        return _install(manifest, files, origin, source, target, scratch, progress)


def _copy_template(source: Path, target: Path) -> None:
    """Copy a chat template without its byte order mark, which would otherwise be the first character of every prompt.

    Raises:
        ManifestError: the template is not UTF-8.
    """
    content = source.read_bytes().removeprefix(codecs.BOM_UTF8)
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        raise ManifestError(f"{source}: not UTF-8", "convert the template to UTF-8") from None
    target.write_bytes(content)


def import_path(
    path: Path, name: str, home: Path, progress: Progress = lambda _: None, template: Path | None = None
) -> Path:
    """Install weights that are already on this machine: a folder of safetensors, or one GGUF file.

    `template` is a file with a chat template that replaces the model's. If `name` has no manifest, a manifest is
    derived from the files and saved under `<home>/models/`.

    Raises:
        ManifestError: the name or the files cannot be used; nothing is installed.
    """
    if not NAME.fullmatch(name):
        raise ManifestError(f"{name!r} cannot be a model's name", "use lower-case letters, digits, '.', '_' and '-'")
    with _open_scratch_folder(home, name) as scratch:
        copied_folder = scratch / "files"
        copy_model_files(path, copied_folder)
        files, origin = _convert_gguf_files(copied_folder, scratch, progress)
        if template:
            _copy_template(template, files / TEMPLATE_FILE)
        read_tensors(files)  # refuses truncated files, even if `name` has a manifest
        manifest, manifest_text = load_or_derive_manifest(name, files, home)
        target = _install(manifest, files, origin, {"kind": "file"}, home / "weights" / name, scratch, progress)
        if manifest_text:
            save_manifest(name, manifest_text, home)
        progress(f"manifest of {name}: {summarize_manifest(manifest)}")
        if manifest.kind == "chat" and not read_template(target):
            progress(f"{name} has no chat template: chat, training and evaluation need one (--chat-template FILE)")
        return target


def verify(name: str, home: Path) -> list[str]:
    """One line for each installed file that is missing or changed."""
    return find_problems(weights_dir(name, home))


def list_installed(home: Path) -> list[WeightsRecord]:
    """The records of all installed weights, sorted by name; folders without a valid record are skipped."""
    models = []
    for path in sorted((home / "weights").glob(f"[!.]*/{RECORD}")):
        with contextlib.suppress(DigestMismatchError):
            models.append(read_record(path.parent))
    return models


def require_installed(names: Iterable[str], home: Path) -> None:
    """Refuse missing weights with one error that names all of them.

    Raises:
        ModelNotFoundError: weights are not installed, or there is no model with one of the names.
    """
    missing = [name for name in dict.fromkeys(names) if not _is_installed(name, home)]
    for name in missing:
        find_manifest_path(name, home)  # raises an error with a suggestion if the name is misspelled
    if missing:
        raise _build_missing_error(missing, home)


def weights_dir(name: str, home: Path) -> Path:
    """The folder of a model's installed weights.

    Raises:
        ModelNotFoundError: the weights are not installed.
    """
    if not _is_installed(name, home):
        raise _build_missing_error([name], home)
    return home / "weights" / name


def _is_installed(name: str, home: Path) -> bool:
    return NAME.fullmatch(name) is not None and (home / "weights" / name / RECORD).is_file()


def _build_missing_error(names: Sequence[str], home: Path) -> ModelNotFoundError:
    """The error for models whose weights are not installed."""
    fix = f"nanoflux models pull {' '.join(names)}"
    return ModelNotFoundError(f"the weights of {', '.join(names)} are not installed in {home}", fix)


@contextlib.contextmanager
def _open_scratch_folder(home: Path, name: str) -> Iterator[Path]:
    """Create a scratch folder next to the weights, and remove it when the context ends. The context holds a lock, so
    only one pull or import runs at a time.
    """
    weights = home / "weights"
    try:
        weights.mkdir(parents=True, exist_ok=True)
        lock = os.open(weights, os.O_RDONLY)
    except OSError as error:
        raise ModelsError(f"{weights}: cannot be used: {error.strerror}", "choose another NANOFLUX_HOME") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the kernel releases the lock if this process dies
        for abandoned_folder in weights.glob(".*.tmp-*"):
            shutil.rmtree(abandoned_folder, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=f".{name}.tmp-", dir=weights) as scratch:
            yield Path(scratch)
    except OSError as error:
        fix = "free some space or correct the permissions, then try again; nothing was installed"
        raise ModelsError(f"{error.filename or weights}: {error.strerror or error}", fix) from error
    finally:
        os.close(lock)


def _install(
    manifest: Manifest,
    files: Path,
    origin: dict[str, str],
    source: dict[str, Any],
    target: Path,
    scratch: Path,
    progress: Progress,
) -> Path:
    """Write the record of the folder `files`, and move the folder to `target`, replacing an earlier installation."""
    file_records = record_files(files)
    record = WeightsRecord(
        name=manifest.name,
        kind=manifest.kind,
        licence=manifest.licence,
        source=source,
        origin=origin,
        files=file_records,
        revision=compute_revision(file_records),
    )
    write_record(files, record)
    _replace_folder(files, target, scratch / "old")
    progress(f"installed {manifest.name}, revision {record.revision[:12]}")
    return target


def _convert_gguf_files(files: Path, scratch: Path, progress: Progress) -> tuple[Path, dict[str, str]]:
    """If the folder `files` contains a GGUF file, convert it to safetensors in a new folder under `scratch`.

    Returns the folder to install, and the SHA-256 of each converted GGUF file by name; `files` and {} if there is none.
    """
    gguf_files = sorted(files.glob("*.gguf"))
    if not gguf_files:
        return files, {}
    progress(f"converting {gguf_files[0].name} to bf16 safetensors")
    target = scratch / "converted"
    convert_gguf(gguf_files[0], target, lambda step, name: progress(f"converting {step}/{STEPS} {name}"))
    return target, {path.name: sha256_file(path) for path in gguf_files}


def _replace_folder(files: Path, target: Path, old_folder: Path) -> None:
    """Rename `files` to `target`; a folder that is already at `target` is first renamed to `old_folder`."""
    if target.exists():
        target.rename(old_folder)
    files.rename(target)
