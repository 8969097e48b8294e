"""The dialogs that open above a screen: a confirmation, a form, a list to choose from, a longer text, and the help."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Button, Input, Label, OptionList, Select, Static
from textual.widgets.option_list import Option

from nanoflux_local.errors import NanofluxError
from nanoflux_tui.base import BaseScreen
from nanoflux_tui.editor import edit_text
from nanoflux_tui.screens.form import build_select, call_after_typing
from nanoflux_tui.text import sanitize
from nanoflux_tui.widgets.bars import TABS

if TYPE_CHECKING:
    from textual.widgets import TextArea


class ConfirmDialog(ModalScreen[bool]):
    """Asks a question and returns whether the user said yes."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "answer(True)", "Yes"),
        Binding("n,escape", "answer(False)", "No"),
    ]

    def __init__(self, question: str, yes_label: str) -> None:
        super().__init__()
        self._question, self._yes_label = question, yes_label

    def compose(self) -> ComposeResult:
        with Vertical(classes="box"):
            yield Static(sanitize(self._question), markup=False)
            with Horizontal(classes="row"):
                yield Button(f"{self._yes_label} (y)", variant="primary", compact=True, id="yes")
                yield Button("No (n)", compact=True, id="no")

    def on_button_pressed(self, event: Button.Pressed) -> None:
        self.dismiss(event.button.id == "yes")

    def action_answer(self, yes: bool) -> None:
        self.dismiss(yes)


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a form: an input, or a list of `options` to choose from. A `multiline` input can also be edited in
    the user's editor.

    The form returns the field's value under `key`. `value` is the initial value. An empty input shows `hint`. A list
    shows `hint` if `value` is not one of its options; the user must then choose an option.
    """

    key: str
    label: str
    value: str = ""
    hint: str = ""
    options: Sequence[str] = ()
    multiline: bool = False

    @property
    def widget_id(self) -> str:
        """The id of the field's widget."""
        return f"f-{self.key.replace('.', '-')}"


class FormDialog(ModalScreen[dict[str, str] | None]):
    """Asks for a few values. Returns the values by the keys of their fields, or None if the user cancels.

    The focus starts on an input, so that Enter submits the form. If the focus is on a list, Enter opens the list.
    """

    AUTO_FOCUS = "Input, TextArea"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "cancel", "Cancel"),
        Binding("ctrl+s", "submit", "Submit", priority=True),
        Binding("ctrl+e", "edit", "Editor", priority=True),
    ]
    DEFAULT_CSS = """
    FormDialog .field { height: auto; width: 100%; }
    FormDialog .field Label { width: 22; color: $secondary; }
    FormDialog .field Input, FormDialog .field Select, FormDialog .field TextArea { width: 1fr; }
    FormDialog .field TextArea { height: 6; }
    """

    def __init__(self, title: str, fields: Sequence[Field], submit_label: str = "OK", note: str = "") -> None:
        super().__init__()
        self._title, self._fields, self._submit_label, self._note = title, fields, submit_label, note
        self._initial_values: dict[str, str] = {}

    def on_mount(self) -> None:
        self._initial_values = self._read_values()

    def compose(self) -> ComposeResult:
        box = VerticalScroll(classes="box")
        box.border_title = self._title
        box.can_focus = False
        has_multiline = any(field.multiline for field in self._fields)
        with box:
            if self._note:
                yield Static(sanitize(self._note), classes="hint", markup=False)
            for field in self._fields:
                with Horizontal(classes="field"):
                    yield Label(field.label, markup=False)
                    if field.options:
                        yield build_select(field.options, field.value, field.widget_id, field.hint)
                    elif field.multiline:
                        from textual.widgets import TextArea  # deferred: only notes need it

                        text_area = TextArea(
                            field.value, placeholder=field.hint, compact=True, tab_behavior="focus", id=field.widget_id
                        )
                        text_area.cursor_blink = False  # nothing in this application is animated
                        yield text_area
                    else:
                        yield Input(field.value, placeholder=field.hint, compact=True, id=field.widget_id)
            with Horizontal(classes="row"):
                submit_key = "^s" if has_multiline else "Enter"
                yield Button(f"{self._submit_label} ({submit_key})", variant="primary", compact=True, id="yes")
                yield Button("Cancel (Esc)", compact=True, id="no")
                if has_multiline:
                    yield Button("Editor (^e)", compact=True, id="edit")

    def action_submit(self) -> None:
        call_after_typing(self, self._submit)

    @on(Input.Submitted)
    def _submit(self) -> None:
        """Close the form with its values. If a list still has no chosen option, move the focus to that list instead."""
        values = self._read_values()
        for field in self._fields:
            if field.options and not values[field.key]:
                self.notify(f"Choose the {field.label} first: {', '.join(field.options)}.", severity="warning")
                self.query_one(f"#{field.widget_id}").focus()
                return
        self.dismiss(values)

    def action_edit(self) -> None:
        call_after_typing(self, self._edit)

    def _edit(self) -> None:
        """Open the user's editor on each multi-line text."""
        for field in self._fields:
            if field.multiline:
                text_area = self._find_text_area(field)
                try:
                    text_area.text = edit_text(self.app, text_area.text)
                except NanofluxError as error:
                    self.notify(f"{error.message}\n→ {error.fix}", title="Failed", severity="error", markup=False)

    def on_button_pressed(self, event: Button.Pressed) -> None:
        if event.button.id == "edit":
            self._edit()
        elif event.button.id == "yes":
            self._submit()
        else:
            self.dismiss(None)

    def _find_text_area(self, field: Field) -> "TextArea":
        from textual.widgets import TextArea

        return self.query_one(f"#{field.widget_id}", TextArea)

    def action_cancel(self) -> None:
        """Close the form; if a value was changed, ask for a confirmation first."""
        if self._read_values() == self._initial_values:
            self.dismiss(None)
            return
        question = "Discard what you entered?"
        self.app.push_screen(ConfirmDialog(question, "Discard"), self._discard)

    def _discard(self, yes: bool | None) -> None:
        if yes:
            self.dismiss(None)

    def _read_values(self) -> dict[str, str]:
        """The current value of each field, by the field's key, without leading and trailing spaces."""
        values = {}
        for field in self._fields:
            if field.multiline:
                values[field.key] = self._find_text_area(field).text.strip()
                continue
            widget = self.query_one(f"#{field.widget_id}")
            assert isinstance(widget, Input | Select)
            values[field.key] = widget.value.strip() if isinstance(widget.value, str) else ""
        return values


class ChoiceDialog(ModalScreen[str | None]):
    """Offers a list to choose from. Returns the key of the chosen entry, or None if the user cancels."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "cancel", "Cancel")]
    DEFAULT_CSS = """
    ChoiceDialog OptionList, ChoiceDialog OptionList:focus {
        height: auto; max-height: 16; background: $surface; border: none; padding: 0; }
    """

    def __init__(self, title: str, label_by_key: Mapping[str, str]) -> None:
        super().__init__()
        self._title, self._label_by_key = title, label_by_key

    def compose(self) -> ComposeResult:
        with Vertical(classes="box") as box:
            box.border_title = self._title
            options = [Option(Text(sanitize(label, 200)), key) for key, label in self._label_by_key.items()]
            yield OptionList(*options)
            yield Static("Enter chooses, Esc cancels", classes="hint")

    @on(OptionList.OptionSelected)
    def _choose(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(event.option_id)

    def action_cancel(self) -> None:
        self.dismiss(None)


class TextDialog(ModalScreen[None]):
    """Shows a text that is too long for a notification. A `wide` dialog has room for a table that a command prints."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,enter", "close", "Close"),
        Binding("f6", "app.copy_text", "Copy mode"),
    ]

    def __init__(self, title: str, text: str | Text, wide: bool = False) -> None:
        super().__init__()
        self._title, self._text, self._wide = title, text, wide

    def compose(self) -> ComposeResult:
        box = VerticalScroll(classes="box wide" if self._wide else "box")
        box.border_title = self._title
        with box:
            yield Static(self._text if isinstance(self._text, Text) else sanitize(self._text), markup=False)
            yield Static("Esc closes the dialog, F6 opens copy mode", classes="hint")

    def action_close(self) -> None:
        self.dismiss(None)


class HelpDialog(TextDialog):
    """Shows the help of a screen: its explanation and its keys."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("question_mark", "close", "Close", show=False)]

    def __init__(self, screen: BaseScreen) -> None:
        super().__init__("Help", _build_help(screen))


def _build_help(screen: BaseScreen) -> Text:
    """The help of a screen: its `HELP`, then its own keys, then the keys that work on every screen."""
    text = Text(" ".join(screen.HELP.split()) + "\n\n")
    screen_keys = _list_keys(screen, everywhere=False)
    application_keys = {f"1 to {len(TABS)}": "Tabs", **_list_keys(screen, everywhere=True)}
    for title, keys in (("On this screen", screen_keys), ("Everywhere", application_keys)):
        text.append(f"{title}\n", style="bold")
        for key, description in keys.items():
            text.append(f"  {key:<10}", style="bold")
            text.append(f" {description}\n")
    return text


def _list_keys(screen: BaseScreen, everywhere: bool) -> dict[str, str]:
    """Map each key to its description: the keys that work on every screen if `everywhere` is true, otherwise the
    screen's own keys. Includes keys that the footer hides.
    """
    description_by_key: dict[str, str] = {}
    own_binding_ids = {binding.id for binding in Binding.make_bindings(type(screen).BINDINGS)}
    for active_binding in screen.active_bindings.values():
        binding, node = active_binding.binding, active_binding.node
        is_everywhere = node is screen.app or binding.action.startswith("app.")
        is_own = node is screen and binding.id in own_binding_ids
        is_listed = binding.show or (is_everywhere and binding.id) or is_own
        is_tab = binding.action.startswith("show_tab(")  # `_build_help` lists the tabs in one line
        if is_listed and not is_tab and binding.description and is_everywhere == everywhere:
            description_by_key.setdefault(screen.app.get_key_display(binding), binding.description)
    return description_by_key
