"""The application: its rooms, its keys, and the watch that brings the room in sight up to date.

Looks a few times a second whether the ledger has changed, and reads again only then, and the more seldom the more a
reading costs: whoever is watched is not slowed down.
"""

import asyncio
import time
import traceback
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from functools import partial
from importlib import import_module
from typing import Any, ClassVar

from textual import work
from textual.app import SystemCommand
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.worker import Worker, WorkerState

from nanoflux_local.errors import NanofluxError
from nanoflux_local.paths import Home
from nanoflux_local.redaction import redact
from nanoflux_tui.bridge import Ended
from nanoflux_tui.look import DARK, LIGHT, THEMES
from nanoflux_tui.room import Control, Room
from nanoflux_tui.screens.dialogs import Help
from nanoflux_tui.screens.home import HomeRoom
from nanoflux_tui.text import harmless
from nanoflux_tui.widgets.bars import PLACES

POLL_S, PAUSE_S, STEADY_S, SHARE = 0.25, 0.5, 3.0, 0.015
"""How often to look, the shortest time between two readings, the longest, and the share of one core that they get."""


def _room(mode: str) -> Room:
    """A place that is imported when somebody goes there: the first frame waits for none but Home."""
    module = import_module(f"nanoflux_tui.screens.{mode}")
    room: Room = getattr(module, f"{mode.title()}Room")()
    return room


class NanofluxApp(Control):
    """The control room over one home."""

    TITLE = "NanoFlux"
    CSS_PATH = "nanoflux.tcss"
    MODES = {  # noqa: RUF012 - typed by the base
        "home": HomeRoom,
        **{mode: partial(_room, mode) for mode, _ in PLACES[1:]},
    }
    DEFAULT_MODE = "home"
    BINDINGS: ClassVar[list[BindingType]] = [
        *(Binding(str(digit), f"go('{mode}')", title, show=False) for digit, (mode, title) in enumerate(PLACES, 1)),
        Binding("n", "new_run", "New run", show=False),  # home tells of it: other rooms need the line
        Binding("f2", "light", "Light or dark", show=False),
        Binding("ctrl+p", "command_palette", "Menu", key_display="^p"),
        Binding("q", "quit", "Quit"),
    ]

    def __init__(self, place: Home, light: bool = False) -> None:
        super().__init__(place)
        self.animation_level = "none"  # nothing moves that nobody moved
        for theme in THEMES:
            self.register_theme(theme)
        self.theme = LIGHT.name if light else DARK.name

    def on_mount(self) -> None:
        self.watch_ledger()

    def on_unmount(self) -> None:
        self.reader.close()

    @property
    def room(self) -> Room | None:
        """The room in sight, below whatever is asked above it."""
        with suppress(LookupError):
            return next((screen for screen in reversed(self.screen_stack) if isinstance(screen, Room)), None)
        return None

    @work(group="watch", exit_on_error=False)
    async def watch_ledger(self) -> None:
        seen: tuple[object, ...] = ()
        read_at = cost = 0.0
        while True:
            await asyncio.sleep(POLL_S)
            self._tell_errands()
            since = time.monotonic() - read_at
            if since < max(PAUSE_S, cost / SHARE):
                continue
            version = await self.reader.version()
            if version == seen and since < STEADY_S:
                continue
            seen, read_at, began = version, time.monotonic(), time.process_time()
            if self.room is not None:
                await self.room.refreshed()
                cost = time.process_time() - began

    def _tell_errands(self) -> None:
        """What was left to itself and failed is told once, wherever one is by then."""
        for errand in self.bridge.errands:
            if not errand.told and errand.code:
                errand.told = True
                self.complain(Ended(errand.code, "", f"{errand.label}: {errand.last(2)}"))

    def action_go(self, mode: str) -> None:
        if self.current_mode != mode:
            self.switch_mode(mode)
        while len(self.screen_stack) > 1 and self.current_mode == mode:
            self.pop_screen()

    def action_new_run(self) -> None:
        from nanoflux_tui.screens.new_run import NewRun  # deferred, like the rooms

        if not isinstance(self.screen, NewRun):
            self.push_screen(NewRun())

    def action_help(self) -> None:
        if self.room is not None:
            self.push_screen(Help(self.room))

    def action_light(self) -> None:
        self.theme = DARK.name if self.theme == LIGHT.name else LIGHT.name

    def watch_theme(self) -> None:
        for screen in self.screen_stack:
            if isinstance(screen, Room):
                screen.reload()

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        yield SystemCommand("New run", "Generate a dataset", self.action_new_run)
        for mode, title in PLACES:
            yield SystemCommand(title, f"Go to {title}", lambda mode=mode: self.action_go(mode))
        yield SystemCommand("Light or dark", "Change between the light theme and the dark one", self.action_light)
        yield SystemCommand("Help", "What this screen shows, and its keys", self.action_help)
        yield SystemCommand("Quit", "Close the application; whatever runs goes on", self.action_quit_now)
        for binding in screen.active_bindings.values():
            shown = binding.binding
            if shown.show and binding.node is screen and shown.description:
                yield SystemCommand(shown.description, f"Here: {shown.key}", self._acting(shown.action, screen))

    def _acting(self, action: str, screen: Screen[Any]) -> Callable[[], Awaitable[None]]:
        async def act() -> None:
            await self.run_action(action, default_namespace=screen)

        return act

    async def action_quit_now(self) -> None:
        await self.action_quit()

    def on_worker_state_changed(self, event: Worker.StateChanged) -> None:
        if event.state == WorkerState.ERROR and event.worker.error is not None:
            error = event.worker.error
            if isinstance(error, NanofluxError):
                self.complain(error)
            elif isinstance(error, Exception):
                self._write_down(error)
                self.notify(
                    harmless(f"{type(error).__name__}: {error}"[:300]) + "\n→ what happened is in logs/tui.log",
                    title="An error of the application", severity="error", markup=False,
                )  # fmt: skip

    def _handle_exception(self, error: Exception) -> None:
        """An error of the application itself ends it with a message; what it was goes to a file, not to the screen."""
        self._write_down(error)
        if self.is_headless:  # under test it is raised
            super()._handle_exception(error)
            return
        self.exit(
            return_code=1,
            message=f"nanoflux-tui: stopped by an error of its own ({type(error).__name__}); nothing that runs was "
            f"touched\n  → what happened is in {self.place.root / 'logs' / 'tui.log'}",
        )

    def _write_down(self, error: Exception) -> None:
        with suppress(OSError):
            log = self.place.root / "logs" / "tui.log"
            log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with log.open("a") as file:
                log.chmod(0o600)
                file.write(redact("".join(traceback.format_exception(error))))
