"""The rows that a table shows, and their order: the filter and the sorted column that the user chose."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from rich.text import Text

from nanoflux_tui.widgets.columns import Cells, SortableCell, TableCell

EMPTY_CELLS = ("", "–", "-")
"""The texts of cells without a value."""
SortKey = tuple[int, float, str]


@dataclass(frozen=True, slots=True)
class Arrangement:
    """Which rows are shown and in which order: the rows that contain all `words`, sorted by the column with the index
    `column`, or in the table's own order if `column` is None.
    """

    words: str = ""
    column: int | None = None
    descending: bool = False


def arrange_keys(keys: Sequence[Hashable], rows: Sequence[Cells], arrangement: Arrangement) -> list[Hashable]:
    """The keys of the rows that contain all words, in the chosen order. Rows without a value in the sorted column come
    last.
    """
    matching_rows = [(key, row) for key, row in zip(keys, rows, strict=True) if row_matches(row, arrangement.words)]
    column = arrangement.column
    if column is None:
        return [key for key, _ in matching_rows]
    with_value: list[tuple[SortKey, Hashable]] = []
    without_value: list[Hashable] = []
    for key, row in matching_rows:
        sort_key = _compute_sort_key(row[column]) if column < len(row) else None
        if sort_key is None:
            without_value.append(key)
        else:
            with_value.append((sort_key, key))
    with_value.sort(key=lambda pair: pair[0], reverse=arrangement.descending)
    return [*(key for _, key in with_value), *without_value]


def row_matches(row: Cells, words: str) -> bool:
    """Whether every word occurs in a cell of the row; upper and lower case are equal."""
    content = " ".join(read_text(cell) for cell in row).casefold()
    return all(word in content for word in words.casefold().split())


def read_text(cell: TableCell) -> str:
    """The text of a cell without its style."""
    content = cell.text if isinstance(cell, SortableCell) else cell
    return content.plain if isinstance(content, Text) else content


def _compute_sort_key(cell: TableCell) -> SortKey | None:
    """The key that sorts numbers before texts; None for an empty cell."""
    value = cell.order if isinstance(cell, SortableCell) else read_text(cell).strip()
    if value is None or value in EMPTY_CELLS:
        return None
    if isinstance(value, str):
        try:
            return 0, float(value.replace(",", "").rstrip("%")), ""
        except ValueError:
            return 1, 0.0, value.casefold()
    return 0, float(value), ""
