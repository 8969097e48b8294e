"""The bars of the screens: the tabs, the current error, the age of the content, a run's problems, the tour's text."""

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.widgets import Static

from nanoflux_local.errors import NanofluxError
from nanoflux_tui.text import format_quantity, sanitize

TABS = (("home", "Home"), ("examples", "Examples"), ("training", "Training"), ("evaluation", "Evaluation"),
         ("models", "Models"), ("experiments", "Experiments"))  # fmt: skip
"""The mode and the title of each tab. The digits from 1 open the tabs in this order."""


class Tab(Static):
    """One tab with the digit that opens it."""

    def __init__(self, digit: int, mode: str, title: str, active: bool) -> None:
        super().__init__(f"{digit} {title}", markup=False, classes="active" if active else "", id=f"tab-{mode}")
        self._mode = mode

    async def on_click(self) -> None:
        await self.app.run_action(f"app.go('{self._mode}')")


class TopBar(Horizontal):
    """The application's name, the tabs, and the home directory whose ledger is shown."""

    DEFAULT_CSS = """
    TopBar { height: 1; background: $surface; dock: top; }
    TopBar > Static { width: auto; padding: 0 1; }
    TopBar > .brand { color: $primary; text-style: bold; }
    TopBar > .active { background: $primary; color: $background; text-style: bold; }
    TopBar > .name { padding: 0 1 0 0; display: none; }
    TopBar > .home { width: 1fr; text-align: right; color: $muted; display: none; }
    """

    def __init__(self, mode: str, home: str) -> None:
        super().__init__()
        self._mode, self._home = mode, home

    def compose(self) -> ComposeResult:
        yield Static("▞", classes="brand", markup=False)
        yield Static("NanoFlux", classes="brand name", markup=False)
        for digit, (mode, title) in enumerate(TABS, 1):
            yield Tab(digit, mode, title, mode == self._mode)
        yield Static(sanitize(self._home, 200), classes="home", markup=False)


class TourBar(Static):
    """The text of the tour, above the footer."""

    DEFAULT_CSS = """
    TourBar { height: auto; padding: 0 1; background: $accent 25%; color: $foreground; }
    """

    def __init__(self, text: str) -> None:
        super().__init__(text, markup=False)


class ErrorBar(Static):
    """Shows the current error and its fix, and is hidden if there is no error."""

    DEFAULT_CSS = """
    ErrorBar { height: auto; max-height: 6; padding: 0 1; background: $error 20%; color: $foreground; display: none; }
    ErrorBar.shown { display: block; }
    """

    def show_error(self, error: NanofluxError | None) -> None:
        """Show an error; None hides the bar."""
        self.set_class(error is not None, "shown")
        if error is not None:
            text = Text.assemble(("✗ ", "bold"), sanitize(error.message, 600))
            if error.fix:
                text.append(f"\n  → {sanitize(error.fix, 600)}")
            self.update(text)


class AgeBar(Static):
    """Shows the time of the screen's content while the content is out of date, and is hidden otherwise."""

    DEFAULT_CSS = """
    AgeBar { height: 1; padding: 0 1; background: $warning 20%; color: $foreground; display: none; }
    AgeBar.shown { display: block; }
    """

    def show_time(self, clock_time: str) -> None:
        """Show `clock_time` (hh:mm:ss) as the time of the screen's content; "" hides the bar."""
        self.set_class(bool(clock_time), "shown")
        if clock_time:
            self.update(f"◷ As of {clock_time}: the next refresh is late, for instance because the machine is busy.")


class ProblemBar(Static):
    """Shows the number of a run's faults and warnings, and the key that lists them; hidden if there are none."""

    DEFAULT_CSS = """
    ProblemBar { height: 1; padding: 0 1; background: $warning 20%; color: $foreground; display: none; }
    ProblemBar.shown { display: block; }
    """

    def show_counts(self, faults: int, warnings: int) -> None:
        """Show the number of faults and warnings; if both are 0, hide the bar."""
        self.set_class(bool(faults or warnings), "shown")
        counts = ((faults, "fault"), (warnings, "warning"))
        text = " and ".join(format_quantity(count, noun) for count, noun in counts if count)
        fix_words = "its fix" if faults + warnings == 1 else "their fixes"
        self.update(f"! {text}: press {self._find_key_display('problems')} to see {fix_words}")

    def _find_key_display(self, action: str) -> str:
        """The displayed name of the key that runs `action` on this screen, which the user's keymap may have changed; ""
        if no key runs the action.
        """
        bindings = (active.binding for active in self.screen.active_bindings.values())
        return next((self.app.get_key_display(binding) for binding in bindings if binding.action == action), "")

    async def on_click(self) -> None:
        await self.screen.run_action("problems")
