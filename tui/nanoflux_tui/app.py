"""The application: its tabs, its keys, and the loop that refreshes the visible screen.

The loop checks a few times a second whether the ledger or the set of running job processes has changed. It refreshes
the screen after each change, and every few seconds if nothing has changed. The more CPU time a refresh takes, the
longer the loop waits before the next refresh, so that the application does not slow down a run. But it waits at most a
few seconds. A screen whose content is out of date shows the time of that content.
"""

import asyncio
import time
import traceback
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from functools import partial
from importlib import import_module
from typing import Any, ClassVar

from textual import events, work
from textual.app import SystemCommand
from textual.binding import Binding, BindingType
from textual.dom import DOMNode
from textual.screen import Screen
from textual.widgets import Input
from textual.worker import Worker, WorkerState

from nanoflux_local.errors import NanofluxError
from nanoflux_local.paths import Home
from nanoflux_local.redaction import redact
from nanoflux_tui.base import BaseApp, BaseScreen
from nanoflux_tui.commands import CommandResult
from nanoflux_tui.keymap import load_keymap, name_bindings
from nanoflux_tui.screens.dialogs import HelpDialog
from nanoflux_tui.screens.form import FormScreen
from nanoflux_tui.screens.home import HomeScreen
from nanoflux_tui.text import sanitize
from nanoflux_tui.theme import DARK, LIGHT, THEMES
from nanoflux_tui.widgets.bars import TABS

POLL_S = 0.25
"""Seconds between two checks of the ledger for changes."""
MIN_REFRESH_PAUSE_S = 0.5
"""Minimum seconds between two refreshes."""
REFRESH_CPU_SHARE = 0.015
"""The share of one core that refreshes may use; an expensive refresh is followed by a longer pause."""
MAX_REFRESH_PAUSE_S = 3.0
"""Maximum pause after an expensive refresh, in seconds, even if refreshes then exceed their share of a core."""
UNCHANGED_REFRESH_S = 3.0
"""Seconds after which the screen is refreshed even if the ledger has not changed."""
AGE_CHECK_S = 1.0
"""Seconds between two checks whether the visible content is out of date."""
IMPORT_DELAY_S = 1.0
"""Seconds after the start at which the modules of more screens are imported; by then Home shows its rows."""
LEAVING_ACTIONS = ("show_tab", "new_run", "quit_now")
"""The actions that leave the current screen and are bound to single characters, which a form needs for its fields."""


def _build_screen(mode: str) -> BaseScreen:
    """Create the screen of the tab `mode`, which is defined in the module `screens.MODE` as the class `ModeScreen`. The
    module is imported on the first visit to the tab, since the first frame needs only Home.
    """
    module = import_module(f"nanoflux_tui.screens.{mode}")
    screen: BaseScreen = getattr(module, f"{mode.title()}Screen")()
    return screen


class NanofluxApp(BaseApp):
    """The terminal application for one home directory."""

    TITLE = "NanoFlux"
    CSS_PATH = "nanoflux.tcss"
    MODES = {  # noqa: RUF012 - the base class declares the type
        "home": HomeScreen,
        **{mode: partial(_build_screen, mode) for mode, _ in TABS[1:]},
    }
    DEFAULT_MODE = "home"
    BINDINGS: ClassVar[list[BindingType]] = name_bindings(
        "everywhere",
        [
            *(
                Binding(str(digit), f"show_tab('{mode}')", title, show=False)
                for digit, (mode, title) in enumerate(TABS, 1)
            ),
            Binding("n", "new_run", "New run", show=False),  # only Home's footer has room for it
            Binding("f2", "toggle_theme", "Light or dark", show=False),
            Binding("ctrl+o", "jump", "Jump", priority=True),
            Binding("f6", "copy_text", "Copy mode"),
            Binding("ctrl+p", "command_palette", "Menu", key_display="^p"),
            Binding("q", "quit_now", "Quit"),
        ],
    )

    def __init__(self, home: Home, light: bool = False) -> None:
        super().__init__(home)
        self._user_keys = load_keymap(home.keymap)
        self.animation_level = "none"
        for theme in THEMES:
            self.register_theme(theme)
        self.theme = LIGHT.name if light else DARK.name

    def on_load(self) -> None:
        self.set_keymap(self._user_keys)  # before the first screen shows its keys

    def on_mount(self) -> None:
        self.watch_ledger()
        self.set_interval(AGE_CHECK_S, self._show_age)
        self.set_timer(IMPORT_DELAY_S, self.import_screens)

    @work(group="imports", thread=True, exit_on_error=False)
    def import_screens(self) -> None:
        """Import the run screen, which imports most other screens, in a thread, so that the first key press does not
        have to wait for these imports.
        """
        import_module("nanoflux_tui.screens.run")

    def _show_age(self) -> None:
        """Make the visible screen show the time of its content, if the content is out of date."""
        if self.visible_screen is not None:
            self.visible_screen.show_age()

    def on_unmount(self) -> None:
        """Close the ledger when the application ends."""
        self.reader.close()

    @property
    def visible_screen(self) -> BaseScreen | None:
        """The topmost screen that is not a dialog; None until the first tab is shown."""
        with suppress(LookupError):  # there is no screen stack until the first tab is shown
            return next((screen for screen in reversed(self.screen_stack) if isinstance(screen, BaseScreen)), None)
        return None

    @work(group="watch", exit_on_error=False)
    async def watch_ledger(self) -> None:
        """Refresh the visible screen when the ledger or the set of running job processes has changed, and otherwise
        every `UNCHANGED_REFRESH_S`, until the application ends.
        """
        seen_version: tuple[object, ...] = ()
        last_refresh_s = refresh_cpu_s = 0.0
        while True:
            await asyncio.sleep(POLL_S)
            self._report_background_failures()
            refresh_age_s = time.monotonic() - last_refresh_s
            pause_s = max(MIN_REFRESH_PAUSE_S, refresh_cpu_s / REFRESH_CPU_SHARE)
            if refresh_age_s < min(pause_s, MAX_REFRESH_PAUSE_S):
                continue
            version = await self.reader.read_version()
            if version == seen_version and refresh_age_s < UNCHANGED_REFRESH_S:
                if self.visible_screen is not None:
                    self.visible_screen.mark_current()
                continue
            seen_version, last_refresh_s = version, time.monotonic()
            if self.visible_screen is not None:
                cpu_s_before = time.process_time()
                await self.visible_screen.refresh_content()
                refresh_cpu_s = time.process_time() - cpu_s_before

    def _report_background_failures(self) -> None:
        """Show the failure of each background command once, on whichever screen is visible."""
        for command in self.commands.background:
            if not command.reported and command.code:
                command.reported = True
                self.show_failure(CommandResult(command.code, "", f"{command.label}: {command.read_last_lines(2)}"))

    def open_form(self, name: str, build: Callable[[], Screen[None]]) -> None:
        existing_form = self.get_screen(name) if self.is_screen_installed(name) else None
        if existing_form is not None and existing_form is self.screen:
            return
        if existing_form is not None and not (isinstance(existing_form, FormScreen) and existing_form.has_draft):
            self.uninstall_screen(name)
            existing_form.remove()  # a form without input is built again, so that its lists are up to date
        if not self.is_screen_installed(name):
            self.install_screen(build(), name)
        form = self.get_screen(name)
        self.push_screen(form)
        if isinstance(form, FormScreen) and form.has_draft:
            self.notify("This is your earlier input. Press F5 to clear it.")

    def close_form(self, form: Screen[None], successor: Screen[None] | None = None) -> None:
        if successor is not None:
            self.switch_screen(successor)
        else:
            self.pop_screen()
        self.uninstall_screen(form)  # so that Textual deletes the form and its values

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Disable the `LEAVING_ACTIONS` while a form is open: the characters to which they are bound belong in its
        fields.
        """
        is_form = bool(self.screen_stack) and isinstance(self.screen, FormScreen)
        if is_form and action in LEAVING_ACTIONS:
            return False
        return super().check_action(action, parameters)

    def action_show_tab(self, mode: str) -> None:
        """Do what `action_go` does, as a separate action that `check_action` disables while a form is open."""
        self.action_go(mode)

    def action_go(self, mode: str) -> None:
        if self.current_mode != mode:
            while any(isinstance(screen, FormScreen) for screen in self.screen_stack):
                self.pop_screen()  # a form cannot be open in two tabs
            self.switch_mode(mode)
        while len(self.screen_stack) > 1 and self.current_mode == mode:
            self.pop_screen()

    def action_new_run(self) -> None:
        from nanoflux_tui.screens.new_run import NewRunScreen  # deferred like the tabs' screens

        self.open_form("new run", NewRunScreen)

    def action_help(self) -> None:
        if self.visible_screen is not None:
            self.push_screen(HelpDialog(self.visible_screen))

    def action_jump(self) -> None:
        """Show a letter on each part of the screen that can have the focus; the letter's key moves the focus there."""
        from nanoflux_tui.screens.jump import JumpDialog  # deferred like the tabs' screens

        if not isinstance(self.screen, JumpDialog):
            self.push_screen(JumpDialog(self.screen))

    def action_copy_text(self) -> None:
        """Show the text of the screen, so that keys can select and copy parts of it."""
        from nanoflux_tui.screens.copy_mode import CopyDialog

        if not isinstance(self.screen, CopyDialog):
            self.push_screen(CopyDialog(self.screen))

    def action_toggle_theme(self) -> None:
        self.theme = DARK.name if self.theme == LIGHT.name else LIGHT.name

    def watch_theme(self) -> None:
        """Draw the open screens again in the colours of the new theme."""
        for screen in self.screen_stack:
            if isinstance(screen, BaseScreen):
                screen.reload()

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """The entries of the menu: the application's own actions, then those of the screen."""
        yield SystemCommand("New run", "Generate a dataset", self.action_new_run)
        for mode, title in TABS:
            yield SystemCommand(title, f"Go to {title}", partial(self.action_go, mode))
        yield SystemCommand("Light or dark", "Switch between the light and the dark theme", self.action_toggle_theme)
        yield SystemCommand("Jump", "Move the focus to a part of the screen by its letter", self.action_jump)
        yield SystemCommand("Copy mode", "Select and copy text of this screen with the keyboard", self.action_copy_text)
        yield SystemCommand("Help", "Explain this screen and its keys", self.action_help)
        yield SystemCommand("Quit", "Close the application; running work continues", self.action_quit_now)
        # The keys of the screen and its widgets. The screen's own keys are listed even if its footer hides them.
        own_binding_ids = {binding.id for binding in Binding.make_bindings(type(screen).BINDINGS)}
        for active_binding in screen.active_bindings.values():
            binding, node = active_binding.binding, active_binding.node
            is_listed = binding.show or (node is screen and binding.id in own_binding_ids)
            if node is not self and binding.description and is_listed:
                yield SystemCommand(
                    binding.description,
                    f"On this screen: {self.get_key_display(binding)}",
                    self._bind_action(binding.action, node),
                )

    def _bind_action(self, action: str, node: DOMNode) -> Callable[[], Awaitable[None]]:
        """A function without arguments that runs `action` as an action of `node`."""

        async def run_on_node() -> None:
            await self.run_action(action, default_namespace=node)

        return run_on_node

    async def action_quit_now(self) -> None:
        """Quit, as a separate action that `check_action` disables while a form is open."""
        await self.action_quit()

    def on_worker_state_changed(self, event: Worker.StateChanged) -> None:
        """Show the error of a failed worker as a notification; an unexpected exception is also logged."""
        if event.state == WorkerState.ERROR and event.worker.error is not None:
            error = event.worker.error
            if isinstance(error, NanofluxError):
                self.show_failure(error)
            elif isinstance(error, Exception):
                self._log_traceback(error)
                self.notify(
                    sanitize(f"{type(error).__name__}: {error}"[:300]) + "\n→ See the traceback in logs/tui.log.",
                    title="Internal error", severity="error", markup=False,
                )  # fmt: skip

    async def on_key(self, event: events.Key) -> None:
        """Pass a character that no widget has handled to the focused input field: the user typed the character before
        the field had the focus, so it must not trigger an action.
        """
        field = self.screen.focused if self.screen_stack else None
        if event.is_printable and isinstance(field, Input):
            event.prevent_default()  # otherwise the action of this key would run
            field.post_message(events.Key(event.key, event.character))

    def _handle_exception(self, error: Exception) -> None:
        """End the application after an internal error: the user sees a message, the traceback goes to the log."""
        self._log_traceback(error)
        if self.is_headless:  # the application runs in a test, which should fail with this exception
            super()._handle_exception(error)
            return
        self.exit(
            return_code=1,
            message=f"nanoflux-tui: stopped after an internal error ({type(error).__name__}); running work continues\n"
            f"  → See the traceback in {self.home.root / 'logs' / 'tui.log'}.",
        )

    def _log_traceback(self, error: Exception) -> None:
        """Append the traceback to the file logs/tui.log in the home directory, without secrets."""
        with suppress(OSError):
            log = self.home.root / "logs" / "tui.log"
            log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with log.open("a") as file:
                log.chmod(0o600)
                file.write(redact("".join(traceback.format_exception(error))))
