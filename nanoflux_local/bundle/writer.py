"""Writes a bundle: packs files into a tar archive, splits the archive into parts, and finally writes the head.

Equal files give identical bundles. If the command is killed, it leaves parts without a head; the next `write_bundle`
removes them.
"""

import hashlib
import io
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from nanoflux_local.bundle import installer
from nanoflux_local.bundle.installer import Checksum
from nanoflux_local.errors import NanofluxError, RefusedError

OnProgress = Callable[[int, int], None]
"""Called after each file with the number of packed bytes and the total."""


def write_bundle(
    head: Path,
    files: Mapping[str, Path],
    description: dict[str, Any],
    part_bytes: int,
    on_progress: OnProgress = lambda _done, _total: None,
) -> installer.Head:
    """Write the parts, and then the head. `files` maps the path of each file in the bundle to the file on this machine.

    Raises:
        RefusedError: the head exists.
        NanofluxError: a file cannot be read or written; no head is left behind.
    """
    refuse_existing(head)
    unsafe_names = [name for name in files if not installer.is_safe_path(name)]
    if unsafe_names:
        raise NanofluxError(f"a bundle cannot contain a file named {unsafe_names[0]!r}", "rename the file")
    new_head = head.with_name(f".{head.name}.new")
    _remove_parts(head)
    try:
        parts_writer = _PartsWriter(head, part_bytes)
        checksums = _pack(files, parts_writer, on_progress)
        new_head.write_bytes(installer.build_head(description, parts_writer.finish(), checksums))
        new_head.chmod(0o700)
        new_head.rename(head)
    except OSError as error:
        new_head.unlink(missing_ok=True)
        _remove_parts(head)
        fix = "free disk space or fix the permissions, then run the command again; downloads are kept"
        raise NanofluxError(f"{error.filename or head}: {error.strerror or error}", fix) from error
    return installer.read_head(head)


def refuse_existing(head: Path) -> None:
    """Refuse to overwrite a bundle.

    Raises:
        RefusedError: the head exists.
    """
    if head.exists() or head.is_symlink():
        raise RefusedError(f"{head} already exists", "choose another file with -o, or move it away")


def _remove_parts(head: Path) -> None:
    """Remove the parts that an interrupted `write_bundle` left without a head."""
    number = 1
    while installer.part_path(head, number).exists():
        installer.part_path(head, number).unlink()
        number += 1


def _pack(files: Mapping[str, Path], parts_writer: "_PartsWriter", on_progress: OnProgress) -> dict[str, Checksum]:
    """Write the files into the parts as a tar archive. Returns their checksums by name."""
    checksums: dict[str, Checksum] = {}
    packed_bytes = 0
    total_bytes = sum(path.stat().st_size for path in files.values())
    with tarfile.open(fileobj=parts_writer, mode="w|", format=tarfile.PAX_FORMAT, bufsize=installer.BLOCK) as archive:
        for name, path in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.size = path.stat().st_size
            with path.open("rb") as file:
                hashed_file = _HashedFile(file)
                archive.addfile(entry, hashed_file)
            checksums[name] = Checksum(entry.size, hashed_file.sha256.hexdigest())
            packed_bytes += entry.size
            on_progress(packed_bytes, total_bytes)
    return checksums


class _HashedFile:
    """A file that is hashed while it is read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        content = self._file.read(size)
        self.sha256.update(content)
        return content


class _PartsWriter(io.RawIOBase):
    """A writable file that is split into parts of at most `part_bytes` bytes."""

    def __init__(self, head: Path, part_bytes: int) -> None:
        self._head = head
        self._part_bytes = part_bytes
        self._checksums: list[Checksum] = []
        self._open_part()

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        rest = memoryview(content)
        while rest:
            free_bytes = self._part_bytes - self._written
            if free_bytes == 0:
                self._close_part()
                self._open_part()
                continue
            block = rest[:free_bytes]
            self._file.write(block)
            self._sha256.update(block)
            self._written += len(block)
            rest = rest[free_bytes:]
        return len(content)

    def finish(self) -> list[Checksum]:
        """Close the last part and return the checksums of all parts."""
        self._close_part()
        return self._checksums

    def _open_part(self) -> None:
        """Open the next part."""
        self._written = 0
        self._sha256 = hashlib.sha256()
        path = installer.part_path(self._head, len(self._checksums) + 1)
        path.touch(mode=0o600)
        self._file = path.open("wb")

    def _close_part(self) -> None:
        """Close the current part, and store its checksum."""
        self._file.close()
        self._checksums.append(Checksum(self._written, self._sha256.hexdigest()))
