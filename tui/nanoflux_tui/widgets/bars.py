"""The bars around every screen: where one can go, what is wrong, and what a guide has to say."""

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.widgets import Static

from nanoflux_local.errors import NanofluxError
from nanoflux_tui.text import harmless

PLACES = (("home", "Home"), ("examples", "Examples"), ("training", "Training"), ("evaluation", "Evaluation"),
         ("models", "Models"), ("experiments", "Experiments"))  # fmt: skip


class Tab(Static):
    """One place to go to, with the digit that leads there."""

    def __init__(self, digit: int, mode: str, title: str, here: bool) -> None:
        super().__init__(f"{digit} {title}", markup=False, classes="here" if here else "", id=f"tab-{mode}")
        self._mode = mode

    async def on_click(self) -> None:
        await self.app.run_action(f"app.go('{self._mode}')")


class TopBar(Horizontal):
    """The name, the places, and the home whose ledger is shown."""

    DEFAULT_CSS = """
    TopBar { height: 1; background: $surface; dock: top; }
    TopBar > Static { width: auto; padding: 0 1; }
    TopBar > .brand { color: $primary; text-style: bold; }
    TopBar > .here { background: $primary; color: $background; text-style: bold; }
    TopBar > .name { padding: 0 1 0 0; display: none; }
    TopBar > .place { width: 1fr; text-align: right; color: $muted; display: none; }
    """

    def __init__(self, mode: str, place: str) -> None:
        super().__init__()
        self._mode, self._place = mode, place

    def compose(self) -> ComposeResult:
        yield Static("▞", classes="brand", markup=False)
        yield Static("NanoFlux", classes="brand name", markup=False)
        for digit, (mode, title) in enumerate(PLACES, 1):
            yield Tab(digit, mode, title, mode == self._mode)
        yield Static(harmless(self._place, 200), classes="place", markup=False)


class Guide(Static):
    """What the guide of the tour says, above the keys."""

    DEFAULT_CSS = """
    Guide { dock: bottom; height: auto; margin-bottom: 1; padding: 0 1; background: $accent 25%; color: $foreground; }
    """

    def __init__(self, text: str) -> None:
        super().__init__(text, markup=False)


class Trouble(Static):
    """What is wrong and what to do about it; takes no room where nothing is."""

    DEFAULT_CSS = """
    Trouble { dock: top; height: auto; max-height: 6; padding: 0 1; background: $error 20%; color: $foreground;
              display: none; margin-top: 1; }
    Trouble.shown { display: block; }
    """

    def tell(self, error: NanofluxError | None) -> None:
        """Show it, or nothing any more."""
        self.set_class(error is not None, "shown")
        if error is not None:
            text = Text.assemble(("✗ ", "bold"), harmless(error.message, 600))
            if error.fix:
                text.append(f"\n  → {harmless(error.fix, 600)}")
            self.update(text)
