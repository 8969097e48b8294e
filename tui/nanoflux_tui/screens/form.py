"""The base class of the forms, whose rows of words and input fields read like sentences."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.widgets import Input, Select

from nanoflux_tui.base import BaseScreen


class FormScreen(BaseScreen):
    """A screen with input fields, each of which has an id. If `open_form` opened the form, its fields keep their values
    until the user submits or clears the form.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "back", "Back"),
        Binding("f5", "clear", "Clear"),
    ]
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

    def __init__(self) -> None:
        super().__init__()
        self._initial_values: dict[str, object] = {}  # by the ids of the fields

    def on_mount(self) -> None:
        super().on_mount()
        self._initial_values = self._read_fields()

    def value(self, name: str) -> str:
        """The value of the field with this id, without leading and trailing spaces."""
        widget = self.query_one(f"#{name}")
        assert isinstance(widget, Input | Select)
        return widget.value.strip() if isinstance(widget.value, str) else ""

    @property
    def has_draft(self) -> bool:
        """Whether a field differs from its initial value."""
        return self._is_mounted and self._read_fields() != self._initial_values

    def _read_fields(self) -> dict[str, object]:
        fields = [*self.query(Input), *self.query(Select)]
        return {str(field.id): field.value for field in fields if field.id}

    def action_clear(self) -> None:
        """Set every field to its initial value."""
        for name, value in self._initial_values.items():
            widget = self.query_one(f"#{name}")
            assert isinstance(widget, Input | Select)
            widget.value = value


def call_after_typing(screen: Screen[Any], action: Callable[[], None]) -> None:
    """Call `action` once the focused field has handled all keys that the user has typed. Without this delay, the action
    of a key with priority could run before the field has handled the characters that were typed before that key.
    """
    (screen.focused or screen).call_later(action)


def build_select(options: Sequence[str], value: str, name: str, prompt: str = "") -> Select[str]:
    """Create a list of options to choose from, with the id `name`. At first, `value` is selected. If `value` is not an
    option, nothing is selected and the list shows `prompt`; if there is no prompt, the first option is selected.
    """
    selected: Any  # an option, or Textual's mark for no selection
    if value in options:
        selected = value
    elif prompt:
        selected = Select.NULL
    else:
        selected = options[0]
    return Select(
        [(option, option) for option in options], prompt=prompt, value=selected, allow_blank=selected is Select.NULL,
        compact=True, id=name,
    )  # fmt: skip
