"""Importers: one reader for each benchmark format. A bad row refuses the whole file and names its line.

An importer reads and checks; running the programs that items carry is `check_programs`, storing is the ledger's.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from nanoflux_local.answers import numbers_agree, plain_number, read_number
from nanoflux_local.errors import DataError, RefusedError, UsageError
from nanoflux_local.ledger.calls import Answer
from nanoflux_local.records import Identity, PythonReply, PythonRequest, derive_seed
from nanoflux_local.transcript import Seed

Row = tuple[int, dict[str, Any]]
MAX_LINE_BYTES = 4 * 2**20
LARGEST_TARGET = 1e300
SPLIT_SHARES = (("train", 0.6), ("dev", 0.1), ("test", 0.3))


def read_jsonl(path: Path) -> Iterator[Row]:
    """The rows of a JSON Lines file with their line numbers, one line in memory at a time; blank lines are none.

    Raises:
        DataError: the file cannot be read, or a line is not UTF-8, not JSON, not an object or too long.
    """
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                if len(line) > MAX_LINE_BYTES:
                    raise _bad(path, number, f"the line is longer than {MAX_LINE_BYTES} bytes")
                if line.strip():
                    yield number, _object(path, number, line)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}", "name a file that exists and can be read") from error


def _object(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise _bad(path, number, f"not JSON in UTF-8: {error}") from error
    if not isinstance(value, dict):
        raise _bad(path, number, "not a JSON object")
    return value


def _bad(path: Path, number: int, reason: str) -> DataError:
    return DataError(f"{path}, line {number}: {reason}", "correct the row; nothing was imported")


def read_gsmhard(path: Path) -> Iterator[tuple[int, Seed]]:
    """GSM-Hard's official file: {input: text, code: a function solution(), target: number} a line."""
    for number, row in read_jsonl(path):
        for key, kind in (("input", str), ("code", str), ("target", (int, float))):
            if not isinstance(row.get(key), kind) or isinstance(row[key], bool):
                raise _bad(path, number, f"key {key!r} is missing or not of its kind")
        if not row["input"].strip():
            raise _bad(path, number, "key 'input' is empty")
        if abs(row["target"]) >= LARGEST_TARGET or row["target"] != row["target"]:
            raise _bad(path, number, "key 'target' is no number that can be compared")
        program = f"{row['code'].strip()}\n\nprint(repr(solution()))\n"
        answer = plain_number(float(row["target"]))
        yield number, Seed(f"gsmhard-{number}", "gsmhard", row["input"].strip(), answer, program=program)


READERS: dict[str, Callable[[Path], Iterator[tuple[int, Seed]]]] = {"gsmhard": read_gsmhard}


def reader(dataset: str) -> Callable[[Path], Iterator[tuple[int, Seed]]]:
    if dataset not in READERS:
        raise UsageError(f"no importer reads {dataset!r}", f"known: {', '.join(READERS)}")
    return READERS[dataset]


def hashed_split(question: str) -> str:
    """A split that depends on the question's words alone: numbers do not count, so restated stems stay together."""
    stem = "".join(character for character in question.casefold() if character.isalpha())
    place = derive_seed("split", stem) / 2**63
    for split, share in SPLIT_SHARES:
        if place < share:
            return split
        place -= share
    return SPLIT_SHARES[-1][0]


async def check_programs(path: Path, items: Iterable[tuple[int, Seed]], run: Answer, sandbox: Identity) -> None:
    """Run every item's program in the sandbox and hold its number against the item's answer.

    Raises:
        DataError: a program fails or disagrees; the message names its line.
        RefusedError: the sandbox cannot contain a program here.
    """
    for number, item in items:
        reply = await run(PythonRequest(sandbox, item.program))
        assert isinstance(reply, PythonReply)
        if reply.status == "unavailable":
            raise RefusedError(f"the sandbox is unavailable: {reply.stderr}", "see `nanoflux sandbox check`")
        printed = reply.stdout.strip().splitlines()[-1:] or [""]
        found, expected = read_number(printed[0]), read_number(item.answer)
        if reply.status != "ok" or found is None or expected is None or not numbers_agree(found, expected):
            raise _bad(path, number, f"its program gives {printed[0][:60]!r} ({reply.status}), not {item.answer}")


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
