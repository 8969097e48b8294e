"""Fits the cells of a row into the columns of a table of any width."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text

from nanoflux_local.experiments.tables import TableColumn
from nanoflux_tui.text import format_line


@dataclass(frozen=True, slots=True)
class SortableCell:
    """A cell that is sorted by `order` instead of its text, such as a duration; cells with the order None come last."""

    text: str | Text
    order: float | str | None


TableCell = str | Text | SortableCell
Cells = Sequence[TableCell]


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its title, its minimum `width`, its share of the spare width, and `from_width`, the width of the table
    from which the column is shown. With `right`, its cells are aligned to the right.
    """

    title: str
    width: int
    share: int = 0
    from_width: int = 0
    right: bool = False


def format_row(columns: Sequence[Column], cells: Cells, width: int, mark: str = "") -> Text:
    """The mark of a row and its cells, each cut or padded to the width of its column. If there are more or fewer cells
    than columns, no cell is hidden.
    """
    row = Text(mark, end="")
    visible_cells = _select_visible_cells(columns, cells, width)
    visible_columns = compute_widths(columns, width, len(mark))
    for cell, (column, column_width) in zip(visible_cells, visible_columns, strict=False):
        content = cell.text if isinstance(cell, SortableCell) else cell
        text = content.copy() if isinstance(content, Text) else Text(format_line(content))
        text.truncate(column_width, overflow="ellipsis")
        text.align("right" if column.right else "left", column_width)
        row.append_text(text)
        row.append("  ")
    return row


def format_table(columns: Sequence[Column], rows: Sequence[Cells], width: int, title_style: str) -> Text:
    """A small table as one text, with the titles of its columns in `title_style`."""
    text = format_row(columns, [column.title for column in columns], width)
    text.stylize(title_style)
    for cells in rows:
        text.rstrip()
        text.append("\n")
        text.append_text(format_row(columns, cells, width))
    text.rstrip()
    return text


def format_rows(rows: Sequence[Sequence[object]]) -> list[Cells]:
    """The rows as cells: each value in one line of text."""
    return [[format_line(value) for value in row] for row in rows]


def convert_columns(columns: Sequence[TableColumn]) -> list[Column]:
    """The columns for a table that the command line and the report also show."""
    return [Column(column.title, column.width, column.share, column.from_width, column.right) for column in columns]


def compute_widths(columns: Sequence[Column], width: int, mark_width: int) -> list[tuple[Column, int]]:
    """The columns that a table of this width shows, each with its width."""
    visible_columns = [column for column in columns if width >= column.from_width]
    spare_width = max(0, width - mark_width - sum(column.width + 2 for column in visible_columns))
    total_share = max(1, sum(column.share for column in visible_columns))
    return [(column, column.width + spare_width * column.share // total_share) for column in visible_columns]


def _select_visible_cells(columns: Sequence[Column], cells: Cells, width: int) -> list[TableCell]:
    if len(cells) != len(columns):
        return list(cells)
    return [cell for cell, column in zip(cells, columns, strict=True) if width >= column.from_width]
