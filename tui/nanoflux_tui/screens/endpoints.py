"""The form that edits the endpoints of a profile: the model, the address and the key variable of each server.

The profiles that NanoFlux Local ships are not changed: the form saves a copy under a name that the user chooses.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.widgets import Button, Input, Label, Static

from nanoflux_local.config import format_settings
from nanoflux_local.endpoints.kinds.base import find_kind
from nanoflux_local.errors import NanofluxError
from nanoflux_local.paths import Home
from nanoflux_local.run.configs import find_profile, load_profile
from nanoflux_tui.base import BaseScreen
from nanoflux_tui.screens.dialogs import ConfirmDialog
from nanoflux_tui.screens.form import FormScreen, call_after_typing
from nanoflux_tui.text import format_command, format_line, sanitize

LABELS = {"model": "model", "url": "address", "key_env": "key variable"}
"""The keys of an endpoint that the form edits, with their labels; only a server has an address and a key variable."""
HINTS = {"model": "", "url": "the provider's own address", "key_env": "none: the server needs no key"}
"""The text that an empty field shows, by key: what an empty value means."""


@dataclass(frozen=True, slots=True)
class EndpointFields:
    """An endpoint of the profile: its name, its interface, and the values that the form edits, by their keys in
    `LABELS`.
    """

    name: str
    interface: str
    values: Mapping[str, str]

    @classmethod
    def read(cls, name: str, table: Mapping[str, Any]) -> "EndpointFields":
        """Read the values to edit from the table of an endpoint in the profile. Every endpoint has a model; a server
        also has a key variable and, unless its table lists several `urls`, an address.
        """
        interface = str(table.get("interface", ""))
        is_server = find_kind(interface).charges
        keys = tuple(LABELS) if is_server else ("model",)
        if table.get("urls"):
            keys = tuple(key for key in keys if key != "url")
        return cls(name, interface, {key: str(table.get(key, "")) for key in keys})


def open_endpoints(
    screen: BaseScreen, profile: str, domain: str, on_saved: Callable[[str], None] = lambda _name: None
) -> None:
    """Open the form for the endpoints of `profile` above a screen. If the profile cannot be read, show the error
    instead. `on_saved` is called with the name of the saved profile.
    """
    try:
        fields = read_fields(profile, screen.home)
    except NanofluxError as error:
        screen.application.show_failure(error)
    else:
        screen.app.push_screen(EndpointsScreen(profile, domain, fields, on_saved))


def read_fields(profile: str, home: Home) -> list[EndpointFields]:
    """The endpoints of a profile.

    Raises:
        ConfigError: the profile is not TOML, or an interface is unknown.
    """
    tables = load_profile(profile, home).get("endpoints", {})
    return [EndpointFields.read(name, table) for name, table in tables.items() if isinstance(table, Mapping)]


class EndpointsScreen(FormScreen):
    """The form for the endpoints of one profile."""

    AUTO_FOCUS = "#save-as"
    HELP = """The endpoints of a profile: which model answers at which address, and which environment variable holds
its key. Ctrl+S saves the profile and checks it. A packaged profile is saved as a copy under the name at
the top. F3 also asks each server whether it serves its model."""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+s", "save", "Save", priority=True),
        Binding("f3", "connect", "Check the servers"),
    ]
    DEFAULT_CSS = """
    EndpointsScreen .endpoint { color: $secondary; text-style: bold; height: 1; }
    EndpointsScreen .values { height: auto; width: 100%; }
    EndpointsScreen .values Label { width: 14; color: $muted; }
    EndpointsScreen .values Input { width: 1fr; }
    EndpointsScreen #save-as { width: 30; }
    EndpointsScreen #checks { height: auto; margin-top: 1; }
    """

    def __init__(
        self, profile: str, domain: str, endpoints: list[EndpointFields], on_saved: Callable[[str], None]
    ) -> None:
        super().__init__()
        self._profile, self._domain, self._endpoints, self._on_saved = profile, domain, endpoints, on_saved
        self._is_saving = False

    def compose_body(self) -> ComposeResult:
        with VerticalScroll(id="form", can_focus=False):
            with Horizontal(classes="words"):
                yield Label("Save the profile as")
                yield Input(self._profile if self._is_in_home else f"my-{self._profile}", compact=True, id="save-as")
            for position, endpoint in enumerate(self._endpoints):
                yield Static(f"{endpoint.name} ({endpoint.interface})", classes="endpoint", markup=False)
                for key, value in endpoint.values.items():
                    with Horizontal(classes="values"):
                        yield Label(LABELS[key])
                        yield Input(value, placeholder=HINTS[key], compact=True, id=_field_id(position, key))
            with Horizontal(classes="words"):
                yield Button("Save and check (^s)", variant="primary", compact=True, id="save")
                yield Button("Check the servers (F3)", compact=True, id="connect")
            yield Static("", id="line", markup=False)
            yield Static("", id="checks", markup=False)

    @property
    def _is_in_home(self) -> bool:
        """Whether the profile is a file in this home, which the form may change, and not a packaged profile."""
        return find_profile(self._profile, self.home).is_relative_to(self.home.profiles)

    def _build_commands(self) -> list[list[str]]:
        """The arguments of the commands that save the form, in the order of their execution: if the name is new, a
        command that copies the profile; if values have changed, a command that sets them.
        """
        commands: list[list[str]] = []
        name = self.value("save-as")
        if name != self._profile:
            commands.append(["profiles", "new", name, "--copy", self._profile])
        changes = self._read_changes()
        if changes:
            settings = format_settings({"endpoints": changes})
            commands.append(["profiles", "set", name, *settings, "--domain", self._domain])
        return commands

    def _read_changes(self) -> dict[str, dict[str, str]]:
        """The values that differ from those of the profile, by endpoint and key."""
        changes: dict[str, dict[str, str]] = {}
        for position, endpoint in enumerate(self._endpoints):
            for key, saved_value in endpoint.values.items():
                value = self.value(_field_id(position, key))
                if value != saved_value:
                    changes.setdefault(endpoint.name, {})[key] = value
        return changes

    @on(Input.Changed)
    def _show_commands(self) -> None:
        command_lines = [format_command(arguments) for arguments in self._build_commands()]
        lines = [f"$ {sanitize(command_line, 1_000)}" for command_line in command_lines]
        self.query_one("#line", Static).update("\n".join(lines))

    def on_button_pressed(self, event: Button.Pressed) -> None:
        if event.button.id == "save":
            self.action_save()
        else:
            self.action_connect()

    def action_save(self) -> None:
        call_after_typing(self, self._start_saving)

    def _start_saving(self) -> None:
        if not self._is_saving:
            self._is_saving = True
            self._save()

    @work(group="save", exit_on_error=False)
    async def _save(self) -> None:
        """Save the form, then check the saved profile. If a command fails, show its message and stop."""
        try:
            name = self.value("save-as")
            for arguments in self._build_commands():
                result = await self.commands.run(*arguments)
                if not result.ok:
                    self._show_checks(Text(f"✗ {sanitize(result.stderr, 1_500)}", style=self.colours["error"]))
                    return
                if arguments[1] == "new":  # the command has copied the profile; from here on, the form edits the copy
                    self._profile = name
            self._endpoints = read_fields(name, self.home)
            self._show_commands()
            self._on_saved(name)
            await self._check_profile()
        finally:
            self._is_saving = False

    @work(group="connect", exclusive=True, exit_on_error=False)
    async def action_connect(self) -> None:
        """Check the saved profile, and ask each server for its models."""
        if self._build_commands():
            self.notify("Save the changes first (Ctrl+S).", severity="warning")
            return
        await self._check_profile("--connect")

    async def _check_profile(self, *options: str) -> None:
        """Run `nanoflux profiles check` with these options, and show the result of each check."""
        self._show_checks(Text("Checking …"))
        arguments = ("profiles", "check", self._profile, "--domain", self._domain, "--json", *options)
        result = await self.commands.run(*arguments, read_only=True)
        report = result.json()
        if report is None:
            self._show_checks(Text(f"✗ {sanitize(result.stderr, 1_500)}", style=self.colours["error"]))
            return
        text = Text()
        for check in report["checks"]:
            mark, colour = ("✓", "success") if check["ok"] else ("✗", "error")
            if check["ok"] and check["fix"]:
                mark, colour = "!", "warning"
            text.append(f"{mark} {format_line(check['subject'], 40)}: ", style=self.colours[colour])
            text.append(format_line(check["state"], 300))
            text.append(f"\n  → {format_line(check['fix'], 300)}\n" if check["fix"] else "\n")
        self._show_checks(text)

    def _show_checks(self, text: Text) -> None:
        text.rstrip()
        self.query_one("#checks", Static).update(text)
        self.call_after_refresh(self.query_one("#form", VerticalScroll).scroll_end, animate=False)

    def action_back(self) -> None:
        """Leave the form; if values were changed and not saved, ask for a confirmation first."""
        if self._read_changes():
            question = "Leave without saving the changes?"
            self.app.push_screen(ConfirmDialog(question, "Leave"), lambda yes: self._leave() if yes else None)
        else:
            self._leave()

    def _leave(self) -> None:
        self.app.pop_screen()


def _field_id(position: int, key: str) -> str:
    """The id of the field for `key` of the endpoint at `position` in the form."""
    return f"{key.replace('_', '-')}-{position}"
