"""Reads the files of a benchmark as items with their splits. A bad row is an error that names the row.

`importing` then runs the items' programs and stores the items.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

from nanoflux_local.answers import float_or_none, is_below_tolerance, same_number
from nanoflux_local.errors import DataError, UsageError
from nanoflux_local.seeds.benchmarks.base import Format, list_importable_benchmarks
from nanoflux_local.seeds.own_data import NAME, OWN_FORMAT
from nanoflux_local.seeds.rows import BadRowError, BlankRowError, ParsedRow
from nanoflux_local.seeds.splits import CARVED_SHARES, hash_into_split, read_file_split
from nanoflux_local.seeds.tables import fail, read_rows
from nanoflux_local.transcript import Seed


class PlacedItem(NamedTuple):
    """An item with the place where it was read ("FILE, line 3") and its split."""

    place: str
    seed: Seed
    split: str


class PlacedRow(NamedTuple):
    """A parsed row with its place in the files and its number in its file, counted from 1."""

    place: str
    number: int
    row: ParsedRow


@dataclass(slots=True)
class BenchmarkContent:
    """The content of a benchmark's files. `skipped` are the bad rows, each with its place and the reason; `blank` is
    the number of rows without content.

    `contradictory` are rows that repeat an earlier question with another answer. `below_tolerance` are the places of
    answers that are so close to 0 that they are compared by relative difference (SPEC §6).
    """

    items: list[PlacedItem] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    blank: int = 0
    contradictory: list[str] = field(default_factory=list)
    below_tolerance: list[str] = field(default_factory=list)


def read_benchmark(
    dataset: str, paths: Sequence[Path], skip_bad: bool = False, hashed: bool = False, name: str = ""
) -> BenchmarkContent:
    """All items of a benchmark's files, in the order of `paths`; nothing is stored.

    `hashed` splits the items by the words of their questions even if the files are official splits. `name` is the name
    under which the items are imported, if it differs from `dataset`.

    Raises:
        UsageError: `dataset` cannot be imported, or two items have the same id.
        DataError: a file cannot be read, or it has a bad row and `skip_bad` is not set.
    """
    file_format, name = find_format(dataset), check_name(dataset, name)
    reading, numbers = BenchmarkContent(), Counter[str]()
    labels: dict[str, PlacedRow] = {}
    for path in _split_paths(paths):
        placed_rows = _read_file(file_format, path, reading, skip_bad)
        labels |= {placed.row.id: placed for placed in placed_rows if not placed.row.question}
        official = read_file_split(path) if file_format.official_splits else ""
        for place, number, row in placed_rows:
            if row.question:
                seed = _build_item(name, row, official, number, numbers)
                split = hash_into_split(row.question) if hashed else _choose_split(file_format, row, official)
                reading.items.append(PlacedItem(place, seed, split))
    _apply_labels(name, reading, {} if hashed else labels)
    _refuse_repeated_ids(reading.items)
    _settle_contradictions(reading, file_format is OWN_FORMAT, skip_bad)
    reading.below_tolerance = [place for place, seed, _ in reading.items if _is_below_tolerance(seed)]
    return reading


def find_format(dataset: str) -> Format:
    """The format of a benchmark's files, or that of own data.

    Raises:
        UsageError: own data cannot have this name, or the name is probably a misspelt benchmark.
    """
    benchmarks = list_importable_benchmarks()
    if dataset in benchmarks:
        return benchmarks[dataset].format
    similar = get_close_matches(dataset, benchmarks, 1, cutoff=0.75)
    if similar or not NAME.fullmatch(dataset) or dataset.startswith("starter"):
        suggestion = f"; did you mean {similar[0]!r}?" if similar else ""
        raise UsageError(
            f"no data can be imported as {dataset!r}{suggestion}",
            f"choose a benchmark ({', '.join(benchmarks)}), or choose another name for your own data, of lower-case "
            "letters, digits and '-'",
        )
    return OWN_FORMAT


def check_name(dataset: str, name: str) -> str:
    """The name under which a dataset's items are imported: `name`, or `dataset` if `name` is "".

    Raises:
        UsageError: own data cannot have this name, or the name is that of another benchmark.
    """
    if name in ("", dataset):
        return dataset
    return check_own_name(name)


def check_own_name(name: str) -> str:
    """The name of a user's own dataset.

    Raises:
        UsageError: own data cannot have this name, or the name is that of a benchmark.
    """
    if name in list_importable_benchmarks() or name.startswith("starter") or not NAME.fullmatch(name):
        raise UsageError(
            f"no data can be imported as {name!r}",
            "choose a name of lower-case letters, digits and '-' that is not a benchmark's",
        )
    return name


def _split_paths(paths: Sequence[Path]) -> Iterator[Path]:
    """The paths; a folder that contains one folder for each saved split is replaced by those folders."""
    for path in paths:
        splits = sorted(entry for entry in path.iterdir() if entry.is_dir()) if path.is_dir() else []
        yield from splits or [path]


def _read_file(file_format: Format, path: Path, reading: BenchmarkContent, skip_bad: bool) -> list[PlacedRow]:
    """The parsed rows of one file; bad rows and blank ones are counted in `reading`."""
    placed_rows = []
    for row in read_rows(path, file_format.columns, file_format.row_element):
        place = f"{path}, {row.place}"
        try:
            if row.problem:
                raise BadRowError(row.problem)
            placed_rows.append(PlacedRow(place, row.number, file_format.parse_row(row.values, path.name)))
        except BlankRowError:
            reading.blank += 1
        except BadRowError as error:
            if not skip_bad:
                raise make_row_error(place, str(error)) from error
            reading.skipped.append(f"{place}: {error}")
    if file_format.finish_file is None:
        return placed_rows
    try:
        finished_rows = file_format.finish_file([placed.row for placed in placed_rows], path.name)
    except BadRowError as error:
        fail(path, str(error))
    return [placed._replace(row=row) for placed, row in zip(placed_rows, finished_rows, strict=True)]


def _build_item(dataset: str, row: ParsedRow, official: str, number: int, numbers: Counter[str]) -> Seed:
    """Build an item. Its id is made from the row's id, or its number in the split, so that it does not depend on the
    layout of the file.
    """
    prefix = "-".join(filter(None, (dataset, row.group, official)))
    if row.group:  # several subjects share a file on the hub, but have separate official files
        numbers[prefix] += 1
        number = numbers[prefix]
    name = f"{dataset}-{row.id}" if row.id else f"{prefix}-{number}"
    return Seed(name, dataset, row.question, row.answer, row.solution, row.program, row.options)


def _choose_split(file_format: Format, row: ParsedRow, official: str) -> str:
    if official == "train" and file_format.carves_dev:
        return hash_into_split(row.question, CARVED_SHARES)
    return row.split or official or hash_into_split(row.question)


def _apply_labels(dataset: str, reading: BenchmarkContent, labels: dict[str, PlacedRow]) -> None:
    """Put labelled items into the split that their label names, and all others into train and dev."""
    if not labels:
        return
    by_id = {placed.seed.id: number for number, placed in enumerate(reading.items)}
    for name, label in labels.items():
        number = by_id.get(f"{dataset}-{name}")
        if number is None:
            raise make_row_error(label.place, f"no item has the id {name!r}", "pass the file with the questions too")
        if reading.items[number].seed.answer != label.row.answer:
            raise make_row_error(label.place, "the label differs from the answer of its question")
    for number, (place, seed, _) in enumerate(reading.items):
        label_of_item = labels.get(seed.id.removeprefix(f"{dataset}-"))
        split = label_of_item.row.split if label_of_item else hash_into_split(seed.question, CARVED_SHARES)
        reading.items[number] = PlacedItem(place, seed, split)


def _settle_contradictions(reading: BenchmarkContent, refuses: bool, skip_bad: bool) -> None:
    """Find questions that are repeated with another answer. In own data such rows are bad (`refuses`). In benchmarks,
    some of which are published with such rows, they are only reported.
    """
    first: dict[tuple[str, ...], PlacedItem] = {}
    consistent: list[PlacedItem] = []
    for placed in reading.items:
        seed = placed.seed
        key = (" ".join(seed.question.casefold().split()), *sorted(seed.options.values()))
        earlier = first.setdefault(key, placed)
        if _answers_agree(seed, earlier.seed):
            consistent.append(placed)
            continue
        answers = f"the answer {seed.answer[:40]!r}, not {earlier.seed.answer[:40]!r}"
        reason = f"the question of {earlier.place} again, with {answers}"
        if refuses and not skip_bad:
            raise make_row_error(placed.place, reason)
        (reading.skipped if refuses else reading.contradictory).append(f"{placed.place}: {reason}")
    if refuses:
        reading.items = consistent


def _answers_agree(one: Seed, other: Seed) -> bool:
    """Whether grading would treat two answers as equal. Free texts always agree."""
    if one.options or other.options:
        return one.options.get(one.answer) == other.options.get(other.answer)
    numbers = [float_or_none(seed.answer) for seed in (one, other)]
    return None in numbers or same_number(one.answer, other.answer)


def _is_below_tolerance(seed: Seed) -> bool:
    return not seed.options and is_below_tolerance(float_or_none(seed.answer) or 0)


def _refuse_repeated_ids(items: Sequence[PlacedItem]) -> None:
    places: dict[str, str] = {}
    for place, seed, _ in items:
        if seed.id in places:
            raise UsageError(f"{place}: the item {seed.id!r} is in {places[seed.id]} too", "pass each file once")
        places[seed.id] = place


def make_row_error(place: str, reason: str, fix: str = "correct the row; nothing was imported") -> DataError:
    """The error for a bad row, which stops the whole import."""
    return DataError(f"{place}: {reason}", fix)
