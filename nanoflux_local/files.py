"""Writes files and directories atomically: next to their target, flushed to disk, and then renamed to it."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nanoflux_local.errors import NanofluxError, UsageError


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` to `path` so that a crash leaves either the old file or the new one. Raises OSError."""
    temporary_path = path.with_name(f".{path.name}.part")
    try:
        with temporary_path.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary_path.replace(path)
        sync(path.parent)
    except OSError:
        temporary_path.unlink(missing_ok=True)
        raise


def sync(path: Path) -> None:
    """Flush a file or a directory to disk. A rename is durable only after the directory has been flushed."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """An empty directory that is renamed to `target` when the block succeeds, and deleted when it fails.

    Raises UsageError if `target` exists, NanofluxError if it cannot be written.
    """
    _refuse_existing(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.new-") as scratch:
            folder = Path(scratch) / "folder"
            folder.mkdir()
            yield folder
            for path in folder.rglob("*"):
                sync(path)
            _refuse_existing(target)  # another process may have created the directory meanwhile
            folder.rename(target)
            sync(target.parent)
    except OSError as error:
        raise _make_write_error(target, error) from error


def write_new(files: dict[Path, bytes]) -> None:
    """Write new files that belong together; the last one is the file that the user named. All files are written under
    temporary names, then renamed in order. After an error, none of them remains; only a kill between two renames can
    leave some.

    Raises UsageError if one of the files exists, and NanofluxError if one cannot be written; the latter names only the
    last file.
    """
    renamed_paths: list[Path] = []
    user_path = list(files)[-1]
    for path in reversed(files):  # if several files exist, the error names the user's file
        _refuse_existing(path)
    try:
        for path, content in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(_temporary_path(path), content)
        for path in files:
            _refuse_existing(path)  # another process may have created the file meanwhile
            _temporary_path(path).rename(path)
            renamed_paths.append(path)
        for folder in {path.parent for path in files}:
            sync(folder)
    except BaseException as error:
        for path in (*map(_temporary_path, files), *renamed_paths):
            with suppress(OSError):
                path.unlink()
        if isinstance(error, OSError):
            raise _make_write_error(user_path, error) from error
        raise


def _temporary_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.new")


def _make_write_error(path: Path, error: OSError) -> NanofluxError:
    """The error for a file or directory that cannot be written."""
    message = f"{path} cannot be written: {error.strerror or error}"
    return NanofluxError(message, "free some disk space, or choose another path with -o; no partial output is left")


def _refuse_existing(target: Path) -> None:
    """Raise UsageError if the target exists."""
    if target.exists() or target.is_symlink():
        raise UsageError(f"{target} already exists and will not be overwritten", "choose another path with -o")
