"""The base classes of the application and of its screens, which show the current content of the ledger."""

import asyncio
import re
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, ClassVar, TypeVar

from rich.text import Text
from textual import work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import Screen
from textual.widget import Widget

from nanoflux_local.errors import NanofluxError, NothingMatchedError
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_tui.commands import CommandResult, CommandRunner
from nanoflux_tui.keymap import name_bindings
from nanoflux_tui.reader import LedgerReader
from nanoflux_tui.text import sanitize
from nanoflux_tui.theme import Colours
from nanoflux_tui.widgets.bars import AgeBar, ErrorBar, TopBar
from nanoflux_tui.widgets.key_bar import KeyBar
from nanoflux_tui.widgets.window_table import WindowTable

T = TypeVar("T")
STALE_S = 5.0
"""A screen whose content last agreed with the ledger more than this many seconds ago shows the time of the content."""


class BaseApp(App[None]):
    """The attributes and methods of the application that its screens use."""

    def __init__(self, home: Home) -> None:
        super().__init__()
        self.home = home
        self.reader = LedgerReader(home)
        self.commands = CommandRunner(home)
        self.requested_key_by_tab: dict[str, str] = {}
        """The key of the row that a tab selects the next time it is shown, by the tab's mode."""

    def open_form(self, name: str, build: Callable[[], Screen[None]]) -> None:
        """Show the form `name`. A form that the user left without submitting it still contains the user's input; any
        other form is created by `build`.
        """
        raise NotImplementedError

    def close_form(self, form: Screen[None], successor: Screen[None] | None = None) -> None:
        """Close a form and discard its values; `successor`, if there is one, takes its place on the screen."""
        raise NotImplementedError

    def action_go(self, mode: str) -> None:
        """Switch to a tab, and close all screens that are open above the tab's first screen."""
        raise NotImplementedError

    def build_guide(self) -> Sequence[Widget]:
        """Create the widgets that every screen shows above its footer; only the tour has such widgets."""
        return ()

    def show_failure(self, failure: CommandResult | NanofluxError) -> None:
        """Show a failure and its fix as a notification."""
        if isinstance(failure, NanofluxError):
            text = f"{failure.message}\n→ {failure.fix}" if failure.fix else failure.message
        else:
            text = failure.stderr or f"The command exited with code {failure.code}."
        self.notify(sanitize(text, 800), title="Failed", severity="error", timeout=12, markup=False)


class BaseScreen(Screen[None]):
    """The base class of the screens. A subclass sets `mode` to the mode of its tab, composes its body in
    `compose_body`, and reads the ledger in `load`.

    `HELP` is the text that `?` shows above the screen's keys.
    """

    AUTO_FOCUS = "WindowTable"
    mode: ClassVar[str] = "home"
    HELP: ClassVar[str] = ""
    SHOWS_ONLY_LEDGER: ClassVar[bool] = True
    """Whether the content stays current until the ledger or the set of running workers changes."""
    RARE_ACTIONS: ClassVar[tuple[str, ...]] = ("reverse",)
    """The actions that the footer leaves out one by one, in this order, until the remaining actions fit in three lines.
    The menu and the help always list them.
    """
    HORIZONTAL_BREAKPOINTS = [(0, "-tiny"), (60, "-narrow"), (100, "-wide")]  # noqa: RUF012 - the base class declares it
    VERTICAL_BREAKPOINTS = [(0, "-flat"), (16, "-low"), (34, "-tall")]  # noqa: RUF012
    KEYMAP_SECTION: ClassVar[str] = ""
    """The section of `keymap.toml` with the keys of this class [default: derived from the name of the class]."""
    BINDINGS: ClassVar[list[BindingType]] = name_bindings(
        "every-screen",
        [
            Binding("question_mark", "app.help", "Help", key_display="?"),
            Binding("escape", "back", "Back", show=False),
        ],
    )

    def __init_subclass__(cls, **options: Any) -> None:
        """Give each binding of the class the id by which the user's keymap can assign other keys to it."""
        if "BINDINGS" in cls.__dict__:
            name_parts = re.findall(r"[A-Z][a-z]*", cls.__name__.removesuffix("Screen"))
            section = cls.__dict__.get("KEYMAP_SECTION") or "-".join(name_parts).lower()
            cls.BINDINGS = name_bindings(section, cls.BINDINGS)
        super().__init_subclass__(**options)

    def __init__(self) -> None:
        super().__init__()
        self._refresh_lock = asyncio.Lock()
        self._is_mounted = False
        self._verified_s, self._verified_at = time.monotonic(), datetime.now()
        """When the screen's content last agreed with the ledger: on the monotonic clock, and as local time."""
        self.has_loaded = False
        """Whether the last refresh succeeded."""

    def compose(self) -> ComposeResult:
        yield TopBar(self.mode, str(self.home.root))
        with Vertical(classes="notices"):
            yield ErrorBar()
            yield AgeBar()
        yield from self.compose_body()
        with Vertical(classes="bottom"):
            yield from self.application.build_guide()
            yield KeyBar()

    def compose_body(self) -> ComposeResult:
        """Create the widgets between the top bar and the footer."""
        raise NotImplementedError

    async def load(self) -> None:
        """Read the ledger and update the widgets; called again after each change of the ledger."""

    @property
    def application(self) -> BaseApp:
        """The application, with its home, its reader and its commands."""
        assert isinstance(self.app, BaseApp)
        return self.app

    @property
    def home(self) -> Home:
        return self.application.home

    @property
    def reader(self) -> LedgerReader:
        return self.application.reader

    @property
    def commands(self) -> CommandRunner:
        return self.application.commands

    @property
    def colours(self) -> Colours:
        """The current theme's colours."""
        return Colours(self.app.theme_variables)

    @property
    def content_age_s(self) -> float:
        """Seconds since the screen's content last agreed with the ledger."""
        return time.monotonic() - self._verified_s

    async def read_ledger(self, query: Callable[[LedgerView], T]) -> T | None:
        """The result of `query`, or None if there is no ledger yet or `query` raises a NothingMatchedError."""
        try:
            return await self.reader.read(query)
        except NothingMatchedError:
            return None

    def on_mount(self) -> None:
        self._is_mounted = True
        self.reload()

    def on_screen_resume(self) -> None:
        self.reload()

    @work(group="reload", exclusive=True, exit_on_error=False)
    async def reload(self) -> None:
        """Refresh the screen now, in a worker."""
        await self.refresh_content()

    async def refresh_content(self) -> None:
        """Call `load`; if it raises a NanofluxError, show the error. Does nothing until the screen is mounted."""
        if not self._is_mounted:
            return
        async with self._refresh_lock:  # `watch_ledger` and a key press can both request a refresh
            started_s, started_at = time.monotonic(), datetime.now()
            try:
                await self.load()
            except NanofluxError as error:
                self.has_loaded = False
                self.show_error(error)
            else:
                self.has_loaded = True
                self.show_error(None)
                self._verified_s, self._verified_at = started_s, started_at

    def mark_current(self) -> None:
        """Record that the screen's content is current, since neither the ledger nor its workers have changed."""
        if self.SHOWS_ONLY_LEDGER and self.has_loaded and not self._refresh_lock.locked():
            self._verified_s, self._verified_at = time.monotonic(), datetime.now()

    def show_age(self) -> None:
        """Show when the screen's content last agreed with the ledger, if that is more than `STALE_S` ago."""
        is_old = self._is_mounted and self.content_age_s > STALE_S
        for bar in self.query(AgeBar):
            bar.show_time(f"{self._verified_at:%H:%M:%S}" if is_old else "")

    def show_error(self, error: NanofluxError | None) -> None:
        """Show an error above the body until the next refresh; None hides it."""
        for bar in self.query(ErrorBar):
            bar.show_error(error)

    def action_back(self) -> None:
        """Remove a table's filter; if no table has a filter, close the screen."""
        for table in self.query(WindowTable):
            if table.clear_filter():
                return
        if len(self.app.screen_stack) > 1:
            self.app.pop_screen()

    def write_report(self, name: str) -> None:
        """Write the report of the run or experiment `name`, and open it in a browser."""
        page = self.home.reports / name / "index.html"

        def open_page(result: CommandResult) -> None:
            if result.ok:
                self.app.open_url(f"file://{page}")

        self.notify("Writing the report …")
        self.run_command("report", name, "-o", str(page.parent), success=f"Wrote {page}", on_result=open_page)

    @work(group="commands", exit_on_error=False)
    async def run_command(
        self, *arguments: str, success: str = "", on_result: Callable[[CommandResult], None] | None = None
    ) -> None:
        """Run the `nanoflux` command with these arguments, show its outcome as a notification, and refresh the
        screen. If the command succeeds, the notification shows the text `success`, or else the command's messages.
        `on_result` is called in either case.
        """
        result = await self.commands.run(*arguments)
        if result.ok:
            message = success or result.stderr or "The command succeeded."
            self.notify(Text(sanitize(message, 400)).plain, title="Done", markup=False)
        else:
            self.application.show_failure(result)
        if on_result is not None:
            on_result(result)
        await self.refresh_content()
