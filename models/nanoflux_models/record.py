"""The record of installed weights: their source, the SHA-256 of every file, and the revision derived from these hashes.

The record is the file `weights.json`. It contains neither a time nor a path of this machine, so equal weights have
equal records on every machine.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from nanoflux_models.errors import DigestMismatchError

RECORD = "weights.json"
"""The name of the record's file in a folder of weights."""


class FileRecord(BaseModel):
    """The SHA-256 and the size in bytes of one installed file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sha256: str
    bytes: int


class WeightsRecord(BaseModel):
    """The contents of `weights.json`.

    `revision` is the SHA-256 of the files' names and hashes. If the downloaded files were converted, `origin` contains
    their SHA-256, by name.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    kind: str
    licence: str
    source: dict[str, Any]
    origin: dict[str, str] = {}
    files: dict[str, FileRecord]
    revision: str

    @property
    def bytes(self) -> int:
        """The size of all files."""
        return sum(file.bytes for file in self.files.values())


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def compute_revision(files: dict[str, FileRecord]) -> str:
    """The revision of a folder: the SHA-256 of the output of `sha256sum` for its files, sorted by name."""
    sha256sum_output = "".join(f"{files[name].sha256}  {name}\n" for name in sorted(files))
    return hashlib.sha256(sha256sum_output.encode()).hexdigest()


def record_files(folder: Path) -> dict[str, FileRecord]:
    """The size and hash of every file of a folder except the record."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / RECORD)
    return {
        path.relative_to(folder).as_posix(): FileRecord(sha256=sha256_file(path), bytes=path.stat().st_size)
        for path in paths
    }


def write_record(folder: Path, record: WeightsRecord) -> None:
    """Write the record into the weights' folder."""
    text = json.dumps(record.model_dump(), indent=2, sort_keys=True, ensure_ascii=False)
    (folder / RECORD).write_text(text + "\n", "utf-8")


def read_record(folder: Path) -> WeightsRecord:
    """Read the record of installed weights.

    Raises:
        DigestMismatchError: the record is missing or invalid, so the weights cannot be identified.
    """
    try:
        return WeightsRecord.model_validate_json((folder / RECORD).read_bytes())
    except (OSError, ValidationError) as error:
        fix = "remove the folder, then pull or import the weights again"
        raise DigestMismatchError(f"{folder / RECORD}: no valid record of these weights", fix) from error


def find_size_problem(path: Path, expected: FileRecord) -> str:
    """Whether a file is missing or its size differs from the recorded size, in words; "" if neither. The file is not
    read.
    """
    if not path.is_file():
        return f"{path}: missing"
    size = path.stat().st_size
    noun = "byte" if size == 1 else "bytes"
    return "" if size == expected.bytes else f"{path}: has {size} {noun}, should have {expected.bytes}"


def find_problems(folder: Path) -> list[str]:
    """One line for each file that differs from the record; empty if no file differs."""
    try:
        record = read_record(folder)
    except DigestMismatchError as error:
        return [error.message]
    messages = []
    for name, expected in sorted(record.files.items()):
        path = folder / name
        size_problem = find_size_problem(path, expected)
        if size_problem:
            messages.append(size_problem)
        elif sha256_file(path) != expected.sha256:
            messages.append(f"{path}: changed (its SHA-256 is not the recorded one)")
    if compute_revision(record.files) != record.revision:
        messages.append(f"{folder / RECORD}: changed (its revision is not that of its files)")
    present_names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    unrecorded_names = present_names - {*record.files, RECORD}
    return messages + [f"{folder / name}: not part of the model" for name in sorted(unrecorded_names)]
