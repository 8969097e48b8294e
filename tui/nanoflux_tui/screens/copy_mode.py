"""Copy mode: shows the text of a screen so that the user can select and copy parts of it with the keyboard."""

from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import ModalScreen, Screen
from textual.widget import Widget
from textual.widgets import Static, TextArea

from nanoflux_tui.text import format_quantity
from nanoflux_tui.widgets.bars import AgeBar, TopBar
from nanoflux_tui.widgets.key_bar import KeyBar
from nanoflux_tui.widgets.panel import Panel
from nanoflux_tui.widgets.window_table import WindowTable

HINT = "Shift with arrows selects; Enter copies it, a copies everything, Esc closes."


class CopyDialog(ModalScreen[None]):
    """Shows the text of a screen, including what is scrolled out of view in its panels."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter,y", "copy", "Copy", priority=True),
        Binding("a", "copy_all", "Copy everything", priority=True),
        Binding("escape,q", "close", "Close", priority=True),
    ]
    DEFAULT_CSS = """
    CopyDialog > TextArea { height: 1fr; width: 100%; }
    CopyDialog > Static { height: auto; width: 100%; padding: 0 1; background: $surface; color: $muted; }
    """

    def __init__(self, screen: Screen[Any]) -> None:
        super().__init__()
        self._text = collect_text(screen)

    def compose(self) -> ComposeResult:
        text_area = TextArea(self._text, read_only=True, soft_wrap=True, compact=True)
        text_area.cursor_blink = False  # nothing in this application is animated
        yield text_area
        yield Static(HINT, markup=False)

    def action_copy(self) -> None:
        """Copy the selected text, or the line of the cursor if nothing is selected."""
        text_area = self.query_one(TextArea)
        cursor_line, _ = text_area.cursor_location
        self._copy(text_area.selected_text or text_area.document.get_line(cursor_line))

    def action_copy_all(self) -> None:
        self._copy(self._text)

    def _copy(self, text: str) -> None:
        self.app.copy_to_clipboard(text)
        self.dismiss(None)
        self.app.notify(f"Copied {format_quantity(len(text), 'character')}.")

    def action_close(self) -> None:
        self.dismiss(None)


def collect_text(screen: Screen[Any]) -> str:
    """The text of a screen's panels, tables and dialogs, in the order in which they appear; bars are left out."""
    widgets = [widget for widget in screen.walk_children(Widget) if widget.display and not _is_in_bar(widget)]
    parts = [_read_text(widget) for widget in widgets]
    return "\n\n".join(part.strip("\n") for part in parts if part.strip())


def _read_text(widget: Widget) -> str:
    """The text of a panel, a table or a static text; "" for any other kind of widget."""
    if isinstance(widget, Panel):
        title = f"{widget.border_title}\n" if widget.border_title else ""
        return title + widget.render_text(widget.content_size.width).plain
    if isinstance(widget, WindowTable):
        return "\n".join(widget.read_visible_rows())
    return str(widget.visual) if isinstance(widget, Static) else ""


def _is_in_bar(widget: Widget) -> bool:
    return any(isinstance(ancestor, TopBar | KeyBar | AgeBar) for ancestor in widget.ancestors_with_self)
