"""Importers: benchmark files become seeds with their splits. A bad row refuses the whole import and names its line.

An importer reads and checks; running the programs that items carry is `check_programs`, storing is the ledger's.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

from nanoflux_local.answers import is_below_tolerance, same_number
from nanoflux_local.errors import DataError, RefusedError, UsageError
from nanoflux_local.ledger.calls import Answer
from nanoflux_local.records import Identity, PythonReply, PythonRequest, derive_seed, digest
from nanoflux_local.seeds.formats import FORMATS, OWN, BadRowError, BlankRowError, Format, Item, as_number
from nanoflux_local.seeds.tables import fail, read_rows
from nanoflux_local.transcript import Seed

SPLIT_SHARES = (("train", 0.6), ("dev", 0.1), ("test", 0.3))
OWN_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
CARVED_SHARES = (("train", 0.9), ("dev", 0.1))
"""For a benchmark whose official files are train and test alone: its dev split is taken from train."""
_SPLIT_WORDS = {"train": "train", "dev": "dev", "validation": "dev", "valid": "dev", "val": "dev", "test": "test"}


class Placed(NamedTuple):
    """An item with where it stood ("FILE, line 3") and its split."""

    place: str
    seed: Seed
    split: str


@dataclass(slots=True)
class Reading:
    """What the files of a benchmark hold. `skipped` are bad rows, each with its place and reason.

    `contradictory` are rows that repeat an earlier question with another answer, `below_tolerance` the places of
    answers that are nearer to 0 than numbers are told apart (SPEC §6), and therefore compared relatively.
    """

    items: list[Placed] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    blank: int = 0
    contradictory: list[str] = field(default_factory=list)
    below_tolerance: list[str] = field(default_factory=list)


def read_benchmark(
    dataset: str, paths: Sequence[Path], skip_bad: bool = False, hashed: bool = False, name: str = ""
) -> Reading:
    """All items of a benchmark's files, in the order given; nothing is stored.

    `hashed` splits by the questions' words even if the files are official splits. `name` is what the items are called
    by, where that is not `dataset`.

    Raises:
        UsageError: no importer reads `dataset`, or two items are the same one.
        DataError: a file cannot be read, or holds a bad row and `skip_bad` is not set.
    """
    form, name = format_of(dataset), dataset_name(dataset, name)
    reading, numbers = Reading(), Counter[str]()
    marks: dict[str, tuple[str, Item]] = {}
    for path in _files(paths):
        found = _read_file(form, path, reading, skip_bad)
        marks |= {item.id: (place, item) for place, _, item in found if not item.question}
        official = file_split(path) if form.official else ""
        for place, number, item in found:
            if item.question:
                seed = _seed(name, item, official, number, numbers)
                split = hashed_split(item.question) if hashed else _split(form, item, official)
                reading.items.append(Placed(place, seed, split))
    _mark(name, reading, {} if hashed else marks)
    _refuse_twins(reading.items)
    _settle_contradictions(reading, form is OWN, skip_bad)
    reading.below_tolerance = [place for place, seed, _ in reading.items if _is_below_tolerance(seed)]
    return reading


def format_of(dataset: str) -> Format:
    """How a benchmark's rows are read: as this project knows it, or as a user's own data.

    Raises:
        UsageError: the name is no name for own data, or so near to a benchmark's that it is probably meant.
    """
    if dataset in FORMATS:
        return FORMATS[dataset]
    meant = get_close_matches(dataset, FORMATS, 1, cutoff=0.75)
    if meant or not OWN_NAME.fullmatch(dataset) or dataset.startswith("starter"):
        known = f"benchmarks: {', '.join(FORMATS)}; own data: a name of its own, of lower-case letters, digits, '-'"
        told = f"; {meant[0]!r}?" if meant else ""
        raise UsageError(f"no data can be imported as {dataset!r}{told}", known)
    return OWN


def dataset_name(dataset: str, name: str) -> str:
    """The name that a dataset's items are imported under.

    Raises:
        UsageError: `name` is no name for own data, or that of another benchmark.
    """
    if name in ("", dataset):
        return dataset
    if name in FORMATS or name.startswith("starter") or not OWN_NAME.fullmatch(name):
        raise UsageError(
            f"no data can be imported as {name!r}",
            "choose a name of lower-case letters, digits, '-' that is not a benchmark's",
        )
    return name


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    """Folders that hold saved splits, one each in a folder of its own, are taken apart."""
    for path in paths:
        splits = sorted(entry for entry in path.iterdir() if entry.is_dir()) if path.is_dir() else []
        yield from splits or [path]


def _read_file(form: Format, path: Path, reading: Reading, skip_bad: bool) -> list[tuple[str, int, Item]]:
    """The items of one file with their places and numbers; bad rows and blank ones are counted in `reading`."""
    found = []
    for row in read_rows(path, form.columns, form.element):
        try:
            if row.problem:
                raise BadRowError(row.problem)
            found.append((f"{path}, {row.place}", row.number, form.convert(row.values, path.name)))
        except BlankRowError:
            reading.blank += 1
        except BadRowError as error:
            if not skip_bad:
                raise _bad(f"{path}, {row.place}", str(error)) from error
            reading.skipped.append(f"{path}, {row.place}: {error}")
    if form.settle is None:
        return found
    try:
        items = form.settle([item for _, _, item in found], path.name)
    except BadRowError as error:
        fail(path, str(error))
    return [(place, number, item) for (place, number, _), item in zip(found, items, strict=True)]


def _seed(dataset: str, item: Item, official: str, number: int, numbers: Counter[str]) -> Seed:
    """An item under an id that does not depend on the layout of its file: its own, or its number in its split."""
    prefix = "-".join(filter(None, (dataset, item.group, official)))
    if item.group:  # rows of several subjects share a file on the hub, and have one each officially
        numbers[prefix] += 1
        number = numbers[prefix]
    name = f"{dataset}-{item.id}" if item.id else f"{prefix}-{number}"
    return Seed(name, dataset, item.question, item.answer, item.solution, item.program, item.options)


def _split(form: Format, item: Item, official: str) -> str:
    if official == "train" and form.carves:
        return hashed_split(item.question, CARVED_SHARES)
    return item.split or official or hashed_split(item.question)


def _mark(dataset: str, reading: Reading, marks: dict[str, tuple[str, Item]]) -> None:
    """Put marked items into the split that their mark names; the others of an official test set are no test items."""
    if not marks:
        return
    by_id = {placed.seed.id: number for number, placed in enumerate(reading.items)}
    for name, (place, mark) in marks.items():
        number = by_id.get(f"{dataset}-{name}")
        if number is None:
            raise _bad(place, f"no item has the id {name!r}", "name the file with the questions too")
        if reading.items[number].seed.answer != mark.answer:
            raise _bad(place, "the label is not that of the question")
    for number, (place, seed, _) in enumerate(reading.items):
        marked = marks.get(seed.id.removeprefix(f"{dataset}-"))
        split = marked[1].split if marked else hashed_split(seed.question, CARVED_SHARES)
        reading.items[number] = Placed(place, seed, split)


def _settle_contradictions(reading: Reading, refused: bool, skip_bad: bool) -> None:
    """Find questions that stand again with another answer. In own data that is a fault of the row; benchmarks are
    published with them, and they are only reported."""
    first: dict[tuple[str, ...], Placed] = {}
    rest: list[Placed] = []
    for placed in reading.items:
        seed = placed.seed
        key = (" ".join(seed.question.casefold().split()), *sorted(seed.options.values()))
        earlier = first.setdefault(key, placed)
        if _answers_agree(seed, earlier.seed):
            rest.append(placed)
            continue
        answers = f"the answer {seed.answer[:40]!r}, not {earlier.seed.answer[:40]!r}"
        reason = f"the question of {earlier.place} again, with {answers}"
        if refused and not skip_bad:
            raise _bad(placed.place, reason)
        (reading.skipped if refused else reading.contradictory).append(f"{placed.place}: {reason}")
    if refused:
        reading.items = rest


def _answers_agree(one: Seed, other: Seed) -> bool:
    """Whether a machine would take two answers for the same. Free texts may say one thing in several ways."""
    if one.options or other.options:
        return one.options.get(one.answer) == other.options.get(other.answer)
    numbers = [as_number(seed.answer) for seed in (one, other)]
    return None in numbers or same_number(one.answer, other.answer)


def _is_below_tolerance(seed: Seed) -> bool:
    return not seed.options and is_below_tolerance(as_number(seed.answer) or 0)


def _refuse_twins(items: Sequence[Placed]) -> None:
    places: dict[str, str] = {}
    for place, seed, _ in items:
        if seed.id in places:
            raise UsageError(f"{place}: the item {seed.id!r} is in {places[seed.id]} too", "name each file once")
        places[seed.id] = place


def file_split(path: Path) -> str:
    """The official split that a file's name tells ("train-00000-of-00001.parquet"), or ""."""
    words = re.split(r"[^a-z]+", (path.name if path.is_dir() else path.stem).casefold())
    return next((_SPLIT_WORDS[word] for word in reversed(words) if word in _SPLIT_WORDS), "")


def _bad(place: str, reason: str, fix: str = "correct the row; nothing was imported") -> DataError:
    return DataError(f"{place}: {reason}", fix)


def hashed_split(question: str, shares: Sequence[tuple[str, float]] = SPLIT_SHARES) -> str:
    """A split that depends on the question's words alone: numbers do not count, so restated stems stay together."""
    place = derive_seed("split", stem(question)) / 2**63
    for split, share in shares:
        if place < share:
            return split
        place -= share
    return shares[-1][0]


def stem(question: str) -> str:
    """The letters of a question: what restated questions with other numbers have in common."""
    return "".join(character for character in question.casefold() if character.isalpha())


async def check_programs(items: Iterable[Placed], run: Answer, sandbox: Identity) -> None:
    """Run the programs that items carry in the sandbox and hold each number against its item's answer.

    Raises:
        DataError: a program fails or disagrees; the message names its file and line.
        RefusedError: the sandbox cannot contain a program here.
    """
    for place, item, _ in items:
        if not item.program:
            continue
        reply = await run(PythonRequest(sandbox, item.program))
        assert isinstance(reply, PythonReply)
        if reply.status == "unavailable":
            raise RefusedError(f"the sandbox is unavailable: {reply.stderr}", "see `nanoflux sandbox check`")
        printed = reply.stdout.strip().splitlines()[-1:] or [""]
        if reply.status != "ok" or not same_number(printed[0], item.answer):
            raise _bad(place, f"its program gives {printed[0][:60]!r} ({reply.status}), not {item.answer}")


def content_hash(paths: Iterable[Path]) -> str:
    """SHA-256 that stands for the bytes of several files, or of folders of them, whatever their order."""
    files = [file for path in paths for file in (sorted(path.glob("*.arrow")) if path.is_dir() else [path])]
    hashes = sorted(file_hash(file) for file in files)
    return hashes[0] if len(hashes) == 1 else digest(hashes)


def restated(stems: Iterable[str], others: Iterable[Seed]) -> int:
    """How many questions, given as stems, have the words of one of `others`: GSM-Hard restates GSM8K's test set."""
    known = {stem(other.question) for other in others}
    return sum(each in known for each in stems)


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
