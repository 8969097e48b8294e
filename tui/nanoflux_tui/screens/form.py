"""The base of the forms, whose rows of words and input fields read like sentences."""

from collections.abc import Sequence
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.widgets import Input, Select

from nanoflux_tui.base import BaseScreen


class FormScreen(BaseScreen):
    """A screen with input fields, each with an id."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "back", "Back")]
    DEFAULT_CSS = """
    FormScreen #form { height: 1fr; padding: 1 2 0 2; scrollbar-size-vertical: 1; }
    FormScreen .words { height: auto; width: 100%; margin-bottom: 1; }
    FormScreen.-low .words { margin-bottom: 0; }
    FormScreen .words Label { width: auto; margin-right: 1; }
    FormScreen .words Input { width: 12; margin-right: 1; }
    FormScreen .words Select { margin-right: 1; }
    FormScreen #line { color: $accent; height: auto; }
    FormScreen Button { margin-right: 2; }
    """

    def value(self, name: str) -> str:
        """The value of the field with this id, without spaces around it."""
        widget = self.query_one(f"#{name}")
        assert isinstance(widget, Input | Select)
        return widget.value.strip() if isinstance(widget.value, str) else ""


def build_select(options: Sequence[str], value: str, name: str) -> Select[str]:
    """A list to choose from. At first, `value` is selected, or the first option if `value` is not an option."""
    selected = value if value in options else options[0]
    return Select([(option, option) for option in options], value=selected, allow_blank=False, compact=True, id=name)
