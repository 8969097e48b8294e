"""Jump mode: shows a letter on each part of the screen that can have the focus, and moves the focus to a part."""

from typing import Any

from textual import events
from textual.app import ComposeResult
from textual.screen import ModalScreen, Screen
from textual.widget import Widget
from textual.widgets import Button, Label

LETTERS = "asdfghjklqwertyuiopzxcvbnm"
"""The letters in the order in which they are assigned: first those on the home row of the keyboard."""


class JumpDialog(ModalScreen[None]):
    """Moves the focus to the part of the screen whose letter the user types; if that part is a button, presses it."""

    DEFAULT_CSS = """
    JumpDialog { background: $background 30%; align: left top; }
    JumpDialog Label { position: absolute; width: 3; height: 1; text-align: center; text-style: bold;
                       background: $accent; color: $background; }
    """

    def __init__(self, screen: Screen[Any]) -> None:
        super().__init__()
        self.widget_by_letter: dict[str, Widget] = dict(zip(LETTERS, _list_visible_widgets(screen), strict=False))
        """The widget that each letter chooses."""

    def compose(self) -> ComposeResult:
        for letter, widget in self.widget_by_letter.items():
            label = Label(letter, markup=False)
            label.styles.offset = (widget.region.x, widget.region.y)
            yield label

    def on_key(self, event: events.Key) -> None:
        event.stop()
        widget = self.widget_by_letter.get(event.character or "")
        self.dismiss(None)
        if isinstance(widget, Button):
            widget.press()
        elif widget is not None:
            widget.focus()


def _list_visible_widgets(screen: Screen[Any]) -> list[Widget]:
    """The visible widgets of a screen that can have the focus, in the order of the Tab key."""
    return [widget for widget in screen.focus_chain if widget.region and screen.region.overlaps(widget.region)]
