"""Columns: how the cells of a row are fitted into the width that there is."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text

from nanoflux_tui.text import line

Cells = Sequence[str | Text]


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its title, its width, its share of what is left over, and the table's width from which it is shown."""

    title: str
    width: int
    share: int = 0
    from_width: int = 0
    right: bool = False


def row(columns: Sequence[Column], cells: Cells, width: int, mark: str = "") -> Text:
    """One row after its mark, each cell cut or filled up to its column; a row of other cells than columns as it is."""
    whole = Text(mark, end="")
    for cell, (column, wide) in zip(
        _visible_cells(columns, cells, width), _widths(columns, width, len(mark)), strict=False
    ):
        text = cell.copy() if isinstance(cell, Text) else Text(line(cell))
        text.truncate(wide, overflow="ellipsis")
        text.pad_left(wide - text.cell_len) if column.right else text.pad_right(wide - text.cell_len)
        whole.append_text(text)
        whole.append("  ")
    return whole


def sheet(columns: Sequence[Column], rows: Sequence[Cells], width: int, head: str) -> Text:
    """A small table as a text; `head` is the style of its titles."""
    text = row(columns, [column.title for column in columns], width)
    text.stylize(head)
    for cells in rows:
        text.rstrip()
        text.append("\n")
        text.append_text(row(columns, cells, width))
    text.rstrip()
    return text


def _widths(columns: Sequence[Column], width: int, mark: int) -> list[tuple[Column, int]]:
    """The columns that are shown at this width, and how wide each is."""
    shown = [column for column in columns if width >= column.from_width]
    left = max(0, width - mark - sum(column.width + 2 for column in shown))
    shares = sum(column.share for column in shown)
    return [(column, column.width + (left * column.share // shares if shares else 0)) for column in shown]


def _visible_cells(columns: Sequence[Column], cells: Cells, width: int) -> list[str | Text]:
    if len(cells) != len(columns):
        return list(cells)
    return [cell for cell, column in zip(cells, columns, strict=True) if width >= column.from_width]
