"""Small questions and answers above a room: yes or no, a few values, a longer text, the help."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Button, Input, Label, Select, Static

from nanoflux_tui.room import Room
from nanoflux_tui.screens.form import choice
from nanoflux_tui.text import harmless
from nanoflux_tui.widgets.bars import PLACES


class Confirm(ModalScreen[bool]):
    """Yes or no; No and Escape change nothing."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "answer(True)", "Yes"),
        Binding("n,escape", "answer(False)", "No"),
    ]

    def __init__(self, question: str, yes: str) -> None:
        super().__init__()
        self._question, self._yes = question, yes

    def compose(self) -> ComposeResult:
        with Vertical(classes="box"):
            yield Static(harmless(self._question), markup=False)
            with Horizontal(classes="row"):
                yield Button(f"{self._yes} (y)", variant="primary", compact=True, id="yes")
                yield Button("No (n)", compact=True, id="no")

    def on_button_pressed(self, event: Button.Pressed) -> None:
        self.dismiss(event.button.id == "yes")

    def action_answer(self, yes: bool) -> None:
        self.dismiss(yes)


@dataclass(frozen=True, slots=True)
class Field:
    """One value that is asked for; with `options`, one of these."""

    key: str
    label: str
    value: str = ""
    hint: str = ""
    options: Sequence[str] = ()

    @property
    def place(self) -> str:
        """The id of its widget."""
        return f"f-{self.key.replace('.', '-')}"


class Fill(ModalScreen[dict[str, str] | None]):
    """A few values; Enter gives them, Escape gives nothing. It begins where Enter does so: a list would open by it."""

    AUTO_FOCUS = "Input"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "leave", "Cancel")]
    DEFAULT_CSS = """
    Fill .field { height: auto; width: 100%; }
    Fill .field Label { width: 22; color: $secondary; }
    Fill .field Input, Fill .field Select { width: 1fr; }
    """

    def __init__(self, title: str, fields: Sequence[Field], yes: str = "Do it", note: str = "") -> None:
        super().__init__()
        self._title, self._fields, self._yes, self._note = title, fields, yes, note

    def compose(self) -> ComposeResult:
        box = VerticalScroll(classes="box")
        box.border_title = self._title
        box.can_focus = False
        with box:
            if self._note:
                yield Static(harmless(self._note), classes="hint", markup=False)
            for field in self._fields:
                with Horizontal(classes="field"):
                    yield Label(field.label, markup=False)
                    if field.options:
                        yield choice(field.options, field.value, field.place)
                    else:
                        yield Input(field.value, placeholder=field.hint, compact=True, id=field.place)
            with Horizontal(classes="row"):
                yield Button(f"{self._yes} (Enter)", variant="primary", compact=True, id="yes")
                yield Button("Cancel (Esc)", compact=True, id="no")

    @on(Input.Submitted)
    def _submit(self) -> None:
        self.dismiss(self._values())

    def on_button_pressed(self, event: Button.Pressed) -> None:
        self.dismiss(self._values() if event.button.id == "yes" else None)

    def action_leave(self) -> None:
        self.dismiss(None)

    def _values(self) -> dict[str, str]:
        values = {}
        for field in self._fields:
            widget = self.query_one(f"#{field.place}")
            assert isinstance(widget, Input | Select)
            values[field.key] = str(widget.value).strip()
        return values


class Told(ModalScreen[None]):
    """A text that is too long for a note; any of the usual keys closes it."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,enter", "leave", "Close")]

    def __init__(self, title: str, text: str | Text) -> None:
        super().__init__()
        self._title, self._text = title, text

    def compose(self) -> ComposeResult:
        box = VerticalScroll(classes="box")
        box.border_title = self._title
        with box:
            yield Static(self._text if isinstance(self._text, Text) else harmless(self._text), markup=False)
            yield Static("Esc closes", classes="hint")

    def action_leave(self) -> None:
        self.dismiss(None)


class Help(Told):
    """What a room shows, and its keys."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("question_mark", "leave", "Close", show=False)]

    def __init__(self, room: Room) -> None:
        super().__init__("Help", _help(room))


def _help(room: Room) -> Text:
    text = Text(" ".join(room.HELP.split()) + "\n\n")
    here, everywhere = _keys(room, False), _keys(room, True)
    unshown = {f"1 to {len(PLACES)}": "The places above", "n": "New run", "f2": "Light or dark", "?": "This help"}
    everywhere |= {key: description for key, description in unshown.items() if key not in here}
    for title, keys in (("Here", here), ("Everywhere", everywhere)):
        text.append(f"{title}\n", style="bold")
        for key, description in keys.items():
            text.append(f"  {key:<10}", style="bold")
            text.append(f" {description}\n")
    return text


def _keys(room: Room, everywhere: bool) -> dict[str, str]:
    """Those of the application, or the room's own: these also where the footer has no place for them."""
    descriptions: dict[str, str] = {}
    own = {binding.key for binding in Binding.make_bindings(type(room).BINDINGS)}
    for active in room.active_bindings.values():
        binding = active.binding
        if (
            (binding.show or (active.node is room and binding.key in own))
            and binding.description
            and binding.action != "app.help"
            and (active.node is room.app) == everywhere
        ):
            descriptions.setdefault(room.app.get_key_display(binding), binding.description)
    return descriptions
