"""Selects and orders the rows of a table by the filter and the sorted column that the user chose."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from rich.text import Text

from nanoflux_tui.widgets.columns import Cells, SortableCell, TableCell

EMPTY_CELLS = ("", "–", "-")
"""The content of cells that stand for a missing value."""
SortKey = tuple[int, float, str]
"""(0, number, "") for a number, or (1, 0.0, string) for any other string, so that numbers come first."""


@dataclass(frozen=True, slots=True)
class Arrangement:
    """Which rows of a table are shown, and in which order: the rows that contain all `words`, sorted by the column with
    the index `column`, the largest value first if `descending`. If `column` is None, they keep the order in which the
    screen listed them.
    """

    words: str = ""
    column: int | None = None
    descending: bool = False


def arrange_keys(keys: Sequence[Hashable], rows: Sequence[Cells], arrangement: Arrangement) -> list[Hashable]:
    """The keys of the rows that the arrangement selects, in its order. Rows without a value in the sorted column come
    last. `rows` has the cells of each key, in the order of `keys`.
    """
    matching_rows = [(key, row) for key, row in zip(keys, rows, strict=True) if row_matches(row, arrangement.words)]
    column = arrangement.column
    if column is None:
        return [key for key, _ in matching_rows]
    sortable_keys: list[tuple[SortKey, Hashable]] = []
    keys_without_value: list[Hashable] = []
    for key, row in matching_rows:
        sort_key = _compute_sort_key(row[column]) if column < len(row) else None
        if sort_key is None:
            keys_without_value.append(key)
        else:
            sortable_keys.append((sort_key, key))
    sortable_keys.sort(key=lambda pair: pair[0], reverse=arrangement.descending)
    return [*(key for _, key in sortable_keys), *keys_without_value]


def row_matches(row: Cells, words: str) -> bool:
    """Whether each of the words occurs in some cell of the row, ignoring case."""
    content = " ".join(read_text(cell) for cell in row).casefold()
    return all(word in content for word in words.casefold().split())


def read_text(cell: TableCell) -> str:
    """The text of a cell without its style."""
    content = cell.text if isinstance(cell, SortableCell) else cell
    return content.plain if isinstance(content, Text) else content


def _compute_sort_key(cell: TableCell) -> SortKey | None:
    """The sort key of a cell; None for a cell without a value."""
    value = cell.order if isinstance(cell, SortableCell) else read_text(cell).strip()
    if value is None or value in EMPTY_CELLS:
        return None
    if isinstance(value, str):
        try:
            return 0, float(value.replace(",", "").rstrip("%")), ""
        except ValueError:
            return 1, 0.0, value.casefold()
    return 0, float(value), ""
