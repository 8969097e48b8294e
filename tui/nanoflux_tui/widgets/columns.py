"""Fits the cells of a row into the columns of a table of any width."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text

from nanoflux_local.experiments.tables import TableColumn
from nanoflux_tui.text import format_line


@dataclass(frozen=True, slots=True)
class SortableCell:
    """A cell, such as a duration, that is sorted by the value `order` instead of its text. Cells with the order None
    come last.
    """

    text: str | Text
    order: float | str | None


TableCell = str | Text | SortableCell
"""A cell of a table: plain text, styled text, or a text with the value by which it is sorted."""
Cells = Sequence[TableCell]
"""The cells of a row: one for each column, or a single message such as "deleted"."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table. All widths are in cells of the terminal.

    The column is at least `width` wide. The rest of the table's width is divided among the columns in proportion to
    `share`. The column is shown if the table is at least `from_width` wide. `right` aligns its cells to the right.
    """

    title: str
    width: int
    share: int = 0
    from_width: int = 0
    right: bool = False


def format_row(columns: Sequence[Column], cells: Cells, width: int, mark: str = "") -> Text:
    """A row of a table: its `mark`, and its cells, each truncated or padded to the width of its column. A row with one
    message instead of a cell for each column starts in the first visible column.
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
    """Convert the columns of a table that the command line and the report also show to columns of this application."""
    return [Column(column.title, column.width, column.share, column.from_width, column.right) for column in columns]


def compute_widths(columns: Sequence[Column], width: int, mark_width: int) -> list[tuple[Column, int]]:
    """The columns that a table of `width` cells shows, each with its width. `mark_width` cells are needed for the marks
    of the rows.
    """
    visible_columns = [column for column in columns if width >= column.from_width]
    spare_width = max(0, width - mark_width - sum(column.width + 2 for column in visible_columns))
    total_share = max(1, sum(column.share for column in visible_columns))
    return [(column, column.width + spare_width * column.share // total_share) for column in visible_columns]


def _select_visible_cells(columns: Sequence[Column], cells: Cells, width: int) -> list[TableCell]:
    """The cells that a table of this width shows: those of its visible columns, or all cells of a message."""
    if len(cells) != len(columns):
        return list(cells)
    return [cell for cell, column in zip(cells, columns, strict=True) if width >= column.from_width]
