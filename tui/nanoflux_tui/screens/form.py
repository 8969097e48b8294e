"""A form that reads like a sentence: words with gaps in them, in rows."""

from collections.abc import Sequence
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.widgets import Input, Select

from nanoflux_tui.room import Room


class Form(Room):
    """A room with gaps to fill; each is found by its id."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "back", "Back")]
    DEFAULT_CSS = """
    Form #form { height: 1fr; padding: 1 2 0 2; scrollbar-size-vertical: 1; }
    Form .words { height: auto; width: 100%; margin-bottom: 1; }
    Form.-low .words { margin-bottom: 0; }
    Form .words Label { width: auto; margin-right: 1; }
    Form .words Input { width: 12; margin-right: 1; }
    Form .words Select { margin-right: 1; }
    Form #line { color: $accent; height: auto; }
    Form Button { margin-right: 2; }
    """

    def value(self, name: str) -> str:
        """What stands in a gap."""
        widget = self.query_one(f"#{name}")
        assert isinstance(widget, Input | Select)
        return widget.value.strip() if isinstance(widget.value, str) else ""


def choice(options: Sequence[str], value: str, name: str) -> Select[str]:
    """A gap that takes one of these; the first, where `value` is none of them."""
    chosen = value if value in options else options[0]
    return Select([(option, option) for option in options], value=chosen, allow_blank=False, compact=True, id=name)
