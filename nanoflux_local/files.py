"""Files that are either there in full or not at all.

Owns the one way this room writes: beside the target, flushed to the disk, then renamed.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nanoflux_local.errors import NanofluxError, UsageError


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` so that `path` is the old file or the new one, whatever happens. Raises OSError."""
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        sync(path.parent)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def sync(path: Path) -> None:
    """Flush a file, or a folder: a rename is durable once its folder is."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """An empty folder that becomes `target` by one rename where the block ends well, and leaves nothing otherwise.

    Raises UsageError where `target` exists, NanofluxError where nothing can be written there.
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
            _refuse_existing(target)  # it may have come meanwhile
            folder.rename(target)
            sync(target.parent)
    except OSError as error:
        what = f"{target} cannot be written: {error.strerror or error}"
        raise NanofluxError(what, "free space or name another place with -o; nothing was left behind") from error


def write_new(files: dict[Path, bytes]) -> None:
    """Write files that belong together, none over another: first all of them beside their places, then each renamed,
    the last in order last. What fails leaves none of them; only a kill between two renames can leave the first.

    Raises UsageError where one exists, NanofluxError where one cannot be written.
    """
    placed: list[Path] = []
    *_, last = files
    for path in reversed(files):
        _refuse_existing(path)
    try:
        for path, content in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(_beside(path), content)
        for path in files:
            _refuse_existing(path)  # it may have come meanwhile
            _beside(path).rename(path)
            placed.append(path)
        for folder in {path.parent for path in files}:
            sync(folder)
    except BaseException as error:
        for path in (*map(_beside, files), *placed):
            with suppress(OSError):
                path.unlink()
        if not isinstance(error, OSError):
            raise
        what = f"{last} cannot be written: {error.strerror or error}"
        raise NanofluxError(what, "free space or name another place with -o; nothing was left behind") from error


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.new")


def _refuse_existing(target: Path) -> None:
    if target.exists() or target.is_symlink():
        raise UsageError(f"{target} exists", "name a new place with -o; nothing is ever overwritten")
