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
from nanoflux_local.seeds.benchmarks.base import Format, list_built_in_benchmarks, list_importable_benchmarks
from nanoflux_local.seeds.own_data import NAME, OWN_FORMAT
from nanoflux_local.seeds.rows import BadRowError, BlankRowError, ParsedRow
from nanoflux_local.seeds.splits import CARVED_SHARES, hash_into_split, read_file_split
from nanoflux_local.seeds.tables import fail, read_rows
from nanoflux_local.transcript import Seed

OWN_NAME_RULE = "of lower-case letters, digits and '-', that does not begin with 'starter'"
"""What a name for own data must look like, as the end of a sentence."""


class LocatedItem(NamedTuple):
    """An item with its split and the location where it was read ("FILE, line 3")."""

    location: str
    seed: Seed
    split: str


class LocatedRow(NamedTuple):
    """A parsed row with its location and its number in the file, counted from 1."""

    location: str
    number: int
    row: ParsedRow


@dataclass(slots=True)
class BenchmarkContent:
    """The content of a benchmark's files. `skipped` lists the bad rows that were left out, each with its location and
    the reason; `blank` is the number of rows without content.

    `contradictory` lists the rows that repeat an earlier question with a different answer, each with its location and
    the two answers. `below_tolerance` lists the locations of answers so close to 0 that they are compared by relative
    difference.
    """

    items: list[LocatedItem] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    blank: int = 0
    contradictory: list[str] = field(default_factory=list)
    below_tolerance: list[str] = field(default_factory=list)


def read_benchmark(
    dataset: str, paths: Sequence[Path], skip_bad: bool = False, hashed: bool = False, name: str = ""
) -> BenchmarkContent:
    """Read all items of a benchmark's files, in the order of `paths`. Nothing is stored.

    `hashed` assigns splits by a hash of the words of each question, even if the files are official splits. `name` is
    the name under which the items are imported, if it differs from `dataset`.

    Raises:
        UsageError: `dataset` cannot be imported, or two items have the same id.
        DataError: a file cannot be read, or it has a bad row and `skip_bad` is not set.
    """
    file_format = find_format(dataset)
    name = choose_name(dataset, name)
    content = BenchmarkContent()
    item_counts: Counter[str] = Counter()
    labels: dict[str, LocatedRow] = {}  # rows without a question, by item id
    for path in _expand_split_folders(paths):
        located_rows = _read_file(file_format, path, content, skip_bad)
        official_split = read_file_split(path) if file_format.official_splits else ""
        for located_row in located_rows:
            location, number, row = located_row
            if not row.question:
                labels[row.id] = located_row
                continue
            seed = _build_item(name, row, official_split, number, item_counts)
            split = hash_into_split(row.question) if hashed else _choose_split(file_format, row, official_split)
            content.items.append(LocatedItem(location, seed, split))
    if labels and not hashed:
        _apply_labels(name, content, labels)
    _refuse_repeated_ids(content.items)
    _handle_contradictions(content, file_format is OWN_FORMAT, skip_bad)
    content.below_tolerance = [location for location, seed, _ in content.items if _is_below_tolerance(seed)]
    return content


def find_format(dataset: str) -> Format:
    """The format of a benchmark's files, or that of a user's own data.

    Raises:
        UsageError: own data cannot have this name, or the name is probably a misspelt benchmark.
    """
    if dataset in list_built_in_benchmarks():
        raise UsageError(
            f"{dataset!r} is a built-in benchmark, which needs no import",
            f"to import your own data, choose another name {OWN_NAME_RULE}",
        )
    benchmarks = list_importable_benchmarks()
    if dataset in benchmarks:
        return benchmarks[dataset].format
    similar_names = get_close_matches(dataset, benchmarks, 1, cutoff=0.75)
    if similar_names or not NAME.fullmatch(dataset) or dataset.startswith("starter"):
        suggestion = f"; did you mean {similar_names[0]!r}?" if similar_names else ""
        raise UsageError(
            f"{dataset!r} is neither a benchmark nor a valid name for your own data{suggestion}",
            f"choose a benchmark ({', '.join(benchmarks)}), or choose another name for your own data, {OWN_NAME_RULE}",
        )
    return OWN_FORMAT


def choose_name(dataset: str, name: str) -> str:
    """The name under which a dataset's items are imported: `name`, or `dataset` if `name` is "".

    Raises:
        UsageError: own data cannot have this name, or the name is that of another benchmark.
    """
    if name in ("", dataset):
        return dataset
    return check_own_name(name)


def check_own_name(name: str) -> str:
    """Check the name of a user's own dataset, and return it.

    Raises:
        UsageError: own data cannot have this name, or the name is that of a benchmark.
    """
    if name in list_importable_benchmarks() or name.startswith("starter") or not NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is not a valid name for your own data",
            f"choose a name {OWN_NAME_RULE} and is not a benchmark's",
        )
    return name


def _expand_split_folders(paths: Sequence[Path]) -> Iterator[Path]:
    """The paths; a folder that contains one folder for each saved split is replaced by those folders."""
    for path in paths:
        split_folders = sorted(entry for entry in path.iterdir() if entry.is_dir()) if path.is_dir() else []
        if split_folders:
            yield from split_folders
        else:
            yield path


def _read_file(file_format: Format, path: Path, content: BenchmarkContent, skip_bad: bool) -> list[LocatedRow]:
    """The parsed rows of one file; bad and blank rows are recorded in `content`."""
    located_rows = []
    for row in read_rows(path, file_format.columns, file_format.row_element):
        location = f"{path}, {row.location}"
        try:
            if row.problem:
                raise BadRowError(row.problem)
            located_rows.append(LocatedRow(location, row.number, file_format.parse_row(row.values, path.name)))
        except BlankRowError:
            content.blank += 1
        except BadRowError as error:
            if not skip_bad:
                raise make_row_error(location, str(error)) from error
            content.skipped.append(f"{location}: {error}")
    if file_format.finish_file is None:
        return located_rows
    try:
        finished_rows = file_format.finish_file([located.row for located in located_rows], path.name)
    except BadRowError as error:
        fail(path, str(error))
    return [located._replace(row=row) for located, row in zip(located_rows, finished_rows, strict=True)]


def _build_item(dataset: str, row: ParsedRow, official_split: str, number: int, item_counts: Counter[str]) -> Seed:
    """Build an item. Its id contains the row's id, or else the row's number in its split, so that the id does not
    depend on the file format. `item_counts` counts the items of each group and split.
    """
    prefix = "-".join(text for text in (dataset, row.group, official_split) if text)
    if row.group:  # several subjects share a file on the hub, but have separate official files
        item_counts[prefix] += 1
        number = item_counts[prefix]
    item_id = f"{dataset}-{row.id}" if row.id else f"{prefix}-{number}"
    return Seed(item_id, dataset, row.question, row.answer, row.solution, row.program, row.options)


def _choose_split(file_format: Format, row: ParsedRow, official_split: str) -> str:
    """The split of an item without a label: the split that its row or file names, otherwise a split chosen by a hash of
    its question.
    """
    if official_split == "train" and file_format.carves_dev:
        return hash_into_split(row.question, CARVED_SHARES)
    return row.split or official_split or hash_into_split(row.question)


def _apply_labels(dataset: str, content: BenchmarkContent, labels: dict[str, LocatedRow]) -> None:
    """Put each labelled item into the split that its label names, and divide the others between train and dev.

    Raises:
        DataError: a label has no item, or its answer differs from that of its item.
    """
    index_by_id = {located.seed.id: index for index, located in enumerate(content.items)}
    for label_id, label in labels.items():
        index = index_by_id.get(f"{dataset}-{label_id}")
        if index is None:
            raise make_row_error(
                label.location, f"no item has the id {label_id!r}", "pass the file with the questions too"
            )
        if content.items[index].seed.answer != label.row.answer:
            raise make_row_error(label.location, "the label differs from the answer of the item with this id")
    for index, (location, seed, _) in enumerate(content.items):
        item_label = labels.get(seed.id.removeprefix(f"{dataset}-"))
        split = item_label.row.split if item_label else hash_into_split(seed.question, CARVED_SHARES)
        content.items[index] = LocatedItem(location, seed, split)


def _handle_contradictions(content: BenchmarkContent, is_own_data: bool, skip_bad: bool) -> None:
    """Find rows that repeat a question with a different answer. In own data, these rows are treated like other bad
    rows. Published benchmarks may contain such rows, so for a benchmark they are only listed in
    `content.contradictory`.

    Raises:
        DataError: own data has such a row, and `skip_bad` is not set.
    """
    first_item_by_question: dict[tuple[str, ...], LocatedItem] = {}
    consistent_items: list[LocatedItem] = []
    for located in content.items:
        seed = located.seed
        normalized_question = " ".join(seed.question.casefold().split())
        question_with_options = (normalized_question, *sorted(seed.options.values()))
        earlier_item = first_item_by_question.setdefault(question_with_options, located)
        if _answers_agree(seed, earlier_item.seed):
            consistent_items.append(located)
            continue
        both_answers = f"the answer {seed.answer[:40]!r}, not {earlier_item.seed.answer[:40]!r}"
        reason = f"repeats the question of {earlier_item.location} with {both_answers}"
        if is_own_data and not skip_bad:
            raise make_row_error(located.location, reason)
        row_list = content.skipped if is_own_data else content.contradictory
        row_list.append(f"{located.location}: {reason}")
    if is_own_data:
        content.items = consistent_items


def _answers_agree(first_seed: Seed, second_seed: Seed) -> bool:
    """Whether grading would treat the answers of two seeds as equal. Free texts always agree."""
    if first_seed.options or second_seed.options:
        return first_seed.options.get(first_seed.answer) == second_seed.options.get(second_seed.answer)
    are_numbers = float_or_none(first_seed.answer) is not None and float_or_none(second_seed.answer) is not None
    return not are_numbers or same_number(first_seed.answer, second_seed.answer)


def _is_below_tolerance(seed: Seed) -> bool:
    """Whether the answer is a number so close to 0 that it is compared by relative difference."""
    number = float_or_none(seed.answer)
    return not seed.options and number is not None and is_below_tolerance(number)


def _refuse_repeated_ids(items: Sequence[LocatedItem]) -> None:
    """Raise UsageError if two items have the same id."""
    location_by_id: dict[str, str] = {}
    for location, seed, _ in items:
        if seed.id in location_by_id:
            raise UsageError(
                f"{location}: the item {seed.id!r} is in {location_by_id[seed.id]} too", "pass each file once"
            )
        location_by_id[seed.id] = location


def make_row_error(location: str, reason: str, fix: str = "correct the row; nothing was imported") -> DataError:
    """The error for a bad row, which stops the whole import."""
    return DataError(f"{location}: {reason}", fix)
