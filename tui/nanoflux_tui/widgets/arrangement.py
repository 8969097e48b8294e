"""The rows that a table shows, and their order: the filter and the sorted column that the user chose."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from rich.text import Text

from nanoflux_tui.widgets.columns import Cells, SortableCell, TableCell

EMPTY_CELLS = ("", "–", "-")


@dataclass(frozen=True, slots=True)
class Arrangement:
    """Shows the rows that contain all `words`, sorted by a column (its index), or in the table's own order."""

    words: str = ""
    column: int | None = None
    descending: bool = False


def arrange_keys(keys: Sequence[Hashable], rows: Sequence[Cells], arrangement: Arrangement) -> list[Hashable]:
    """The keys of the rows that match, in their new order. Rows without a value in the sorted column come last."""
    pairs = [(key, row) for key, row in zip(keys, rows, strict=True) if row_matches(row, arrangement.words)]
    column = arrangement.column
    if column is None:
        return [key for key, _ in pairs]
    orders = [(_find_order(row[column]) if column < len(row) else None, key) for key, row in pairs]
    filled = [(order, key) for order, key in orders if order is not None]
    filled.sort(key=lambda pair: pair[0], reverse=arrangement.descending)
    return [*(key for _, key in filled), *(key for order, key in orders if order is None)]


def row_matches(row: Cells, words: str) -> bool:
    """Whether every word occurs in a cell of the row, in any case."""
    content = " ".join(read_text(cell) for cell in row).casefold()
    return all(word in content for word in words.casefold().split())


def read_text(cell: TableCell) -> str:
    """The text of a cell without its style."""
    content = cell.text if isinstance(cell, SortableCell) else cell
    return content.plain if isinstance(content, Text) else content


def _find_order(cell: TableCell) -> tuple[int, float, str] | None:
    """The value by which a cell is sorted: numbers before texts; None for an empty cell."""
    value = cell.order if isinstance(cell, SortableCell) else read_text(cell).strip()
    if value is None or value in EMPTY_CELLS:
        return None
    if isinstance(value, str):
        try:
            return 0, float(value.replace(",", "").rstrip("%")), ""
        except ValueError:
            return 1, 0.0, value.casefold()
    return 0, float(value), ""
