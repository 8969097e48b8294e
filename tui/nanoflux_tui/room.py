"""A room: a screen that shows what the ledger holds, and is brought up to date while it is looked at."""

import asyncio
from collections.abc import Callable, Sequence
from typing import ClassVar, TypeVar

from rich.text import Text
from textual import work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Footer

from nanoflux_local.errors import NanofluxError, NothingMatchedError
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_tui.bridge import Bridge, Ended
from nanoflux_tui.look import Ink
from nanoflux_tui.reader import Reader
from nanoflux_tui.text import harmless
from nanoflux_tui.widgets.bars import TopBar, Trouble

T = TypeVar("T")


class Control(App[None]):
    """What rooms may ask of the application that they are in."""

    def __init__(self, place: Home) -> None:
        super().__init__()
        self.place = place
        self.reader = Reader(place.ledger)
        self.bridge = Bridge(place)

    def action_go(self, mode: str) -> None:
        """To the foot of a place, whatever is open above it there."""
        raise NotImplementedError

    def guide(self) -> Sequence[Widget]:
        """What every room shows above its keys; nothing, but in the tour."""
        return ()

    def complain(self, failure: Ended | NanofluxError) -> None:
        """A failure as a message that says what to do."""
        if isinstance(failure, NanofluxError):
            text = f"{failure.message}\n→ {failure.fix}" if failure.fix else failure.message
        else:
            text = failure.told or f"the command ended with {failure.code}"
        self.notify(harmless(text, 800), title="Not done", severity="error", timeout=12, markup=False)


class Room(Screen[None]):
    """Base of the screens. A room says which `mode` it belongs to, gives its `body`, and reads in `load`.

    `HELP` is what `?` shows beside the room's keys.
    """

    AUTO_FOCUS = "WindowTable"
    mode: ClassVar[str] = "home"
    HELP: ClassVar[str] = ""
    HORIZONTAL_BREAKPOINTS = [(0, "-tiny"), (60, "-narrow"), (100, "-wide")]  # noqa: RUF012 - typed by the base
    VERTICAL_BREAKPOINTS = [(0, "-flat"), (16, "-low"), (34, "-tall")]  # noqa: RUF012
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("question_mark", "app.help", "Help", key_display="?"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._one_at_a_time = asyncio.Lock()
        self._built = False

    def compose(self) -> ComposeResult:
        yield TopBar(self.mode, str(self.place.root))
        yield Trouble()
        yield from self.body()
        yield from self.control.guide()
        yield Footer(show_command_palette=False, compact=True)

    def body(self) -> ComposeResult:
        raise NotImplementedError

    async def load(self) -> None:
        """Read and show; called again when the ledger has changed."""

    @property
    def control(self) -> Control:
        assert isinstance(self.app, Control)
        return self.app

    @property
    def place(self) -> Home:
        return self.control.place

    @property
    def reader(self) -> Reader:
        return self.control.reader

    @property
    def bridge(self) -> Bridge:
        return self.control.bridge

    @property
    def ink(self) -> Ink:
        return Ink(self.app.theme_variables)

    async def ask(self, question: Callable[[LedgerView], T]) -> T | None:
        """What the ledger answers, or None where there is no ledger yet."""
        try:
            return await self.reader.ask(question)
        except NothingMatchedError:
            return None

    def on_mount(self) -> None:
        self._built = True
        self.reload()

    def on_screen_resume(self) -> None:
        self.reload()

    @work(group="reload", exclusive=True, exit_on_error=False)
    async def reload(self) -> None:
        """Bring the room up to date now."""
        await self.refreshed()

    async def refreshed(self) -> None:
        """`load`, with what fails told in the room. The watch may ask for it while the room is still being built."""
        if not self._built:
            return
        async with self._one_at_a_time:  # the watch and a key may both ask for it
            try:
                await self.load()
            except NanofluxError as error:
                self.tell(error)
            else:
                self.tell(None)

    def tell(self, error: NanofluxError | None) -> None:
        for trouble in self.query(Trouble):
            trouble.tell(error)

    def action_back(self) -> None:
        self.app.pop_screen()

    def report(self, name: str) -> None:
        """Write the report of a run or an experiment, and open it in a browser."""
        page = self.place.reports / name / "index.html"
        self.notify("The report is being written.")
        self.do("report", name, "-o", str(page.parent), said=f"written: {page}",
                then=lambda ended: self.app.open_url(f"file://{page}") if ended.ok else None)  # fmt: skip

    @work(group="deeds", exit_on_error=False)
    async def do(self, *words: str, said: str = "", then: Callable[[Ended], None] | None = None) -> None:
        """Run a command; say what came of it, and bring the room up to date."""
        ended = await self.bridge.do(*words)
        if ended.ok:
            message = said or ended.told or "done"
            self.notify(Text(harmless(message, 400)).plain, title="Done", markup=False)
        else:
            self.control.complain(ended)
        if then is not None:
            then(ended)
        await self.refreshed()
