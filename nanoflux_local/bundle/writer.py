"""Writes a bundle: files into a tar archive, the archive into parts, and last the head that makes them a bundle.

The same files give the same bytes. Until the head is there, there is no bundle.
"""

import hashlib
import io
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from nanoflux_local.bundle import carried
from nanoflux_local.bundle.carried import Sum
from nanoflux_local.errors import NanofluxError, RefusedError

Progress = Callable[[int, int], None]


def write_bundle(
    head: Path,
    files: Mapping[str, Path],
    about: dict[str, Any],
    part_bytes: int,
    on_progress: Progress = lambda _done, _total: None,
) -> carried.Head:
    """Write the parts and the head; `files` maps the name of each file in the bundle to where it lies.

    Raises:
        RefusedError: the head exists.
        NanofluxError: something cannot be read or written; no head is left behind.
    """
    refuse_taken(head)
    unsafe = [name for name in files if not carried.is_safe(name)]
    if unsafe:
        raise NanofluxError(f"a bundle cannot contain a file named {unsafe[0]!r}", "rename the file")
    scratch = head.with_name(f".{head.name}.new")
    _sweep(head)
    try:
        parts = _Parts(head, part_bytes)
        sums = _pack(files, parts, on_progress)
        scratch.write_bytes(carried.head_bytes(about, parts.finish(), sums))
        scratch.chmod(0o700)
        scratch.rename(head)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        _sweep(head)
        fix = "free disk space or fix the permissions, then run the command again; downloads are kept"
        raise NanofluxError(f"{error.filename or head}: {error.strerror or error}", fix) from error
    return carried.read_head(head)


def refuse_taken(head: Path) -> None:
    """Raises:
    RefusedError: something of that name exists.
    """
    if head.exists() or head.is_symlink():
        raise RefusedError(f"{head} already exists", "choose another file with -o, or move it away")


def _sweep(head: Path) -> None:
    """Remove the parts that a creation left which did not come to its head."""
    number = 1
    while (part := carried.part_path(head, number)).exists():
        part.unlink()
        number += 1


def _pack(files: Mapping[str, Path], parts: "_Parts", on_progress: Progress) -> dict[str, Sum]:
    sums, done = {}, 0
    total = sum(path.stat().st_size for path in files.values())
    with tarfile.open(fileobj=parts, mode="w|", format=tarfile.PAX_FORMAT, bufsize=carried.BLOCK) as archive:
        for name, path in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.size = path.stat().st_size
            with path.open("rb") as file:
                source = _Summed(file)
                archive.addfile(entry, source)
            sums[name] = Sum(entry.size, source.sha256.hexdigest())
            done += entry.size
            on_progress(done, total)
    return sums


class _Summed:
    """A file that is hashed while it is read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.sha256 = file, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        content = self._file.read(size)
        self.sha256.update(content)
        return content


class _Parts(io.RawIOBase):
    """A file to write to, which becomes parts of at most so many bytes."""

    def __init__(self, head: Path, part_bytes: int) -> None:
        self._head, self._limit = head, part_bytes
        self._sums: list[Sum] = []
        self._open()

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        rest = memoryview(content)
        while rest:
            room = self._limit - self._written
            if not room:
                self._close()
                self._open()
                continue
            self._file.write(rest[:room])
            self._sha256.update(rest[:room])
            self._written += len(rest[:room])
            rest = rest[room:]
        return len(content)

    def finish(self) -> list[Sum]:
        """The parts' sums, once all is written."""
        self._close()
        return self._sums

    def _open(self) -> None:
        self._written, self._sha256 = 0, hashlib.sha256()
        path = carried.part_path(self._head, len(self._sums) + 1)
        path.touch(mode=0o600)
        self._file = path.open("wb")

    def _close(self) -> None:
        self._file.close()
        self._sums.append(Sum(self._written, self._sha256.hexdigest()))
