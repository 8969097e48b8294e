"""The faults and warnings of a run, each with its fix."""

from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll

from nanoflux_local.jobs import RUN, Job, load_job_state
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.run.problems import Problem, list_problems
from nanoflux_tui.base import BaseScreen
from nanoflux_tui.screens.attempts import AttemptsScreen
from nanoflux_tui.text import format_clock, sanitize
from nanoflux_tui.widgets.panel import Panel


class ProblemsScreen(BaseScreen):
    """The faults and warnings of one run, updated while it runs."""

    AUTO_FOCUS = "#parts"
    mode = "home"
    HELP = """The faults and warnings of a run. A fault is a failed request, which is retried, or the reason why the run
ended; a warning is a reply that could not be used. Equal problems are counted together, and each has its fix."""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "back", "Back"),
        Binding("a", "attempts", "Attempts"),
    ]

    def __init__(self, run: str) -> None:
        super().__init__()
        self._run = run

    def compose_body(self) -> ComposeResult:
        with VerticalScroll(id="parts"):
            yield Panel(f"Faults and warnings of {self._run}", id="problems")

    async def load(self) -> None:
        problems = await self.read_ledger(self._read_problems) or []
        self.query_one("#problems", Panel).show(self._format_problems(problems))

    def _read_problems(self, view: LedgerView) -> list[Problem]:
        row = dict(view.find_run(self._run))
        return list_problems(view, row["id"], load_job_state(self.home, view, Job(RUN, row["id"]), row))

    def _format_problems(self, problems: list[Problem]) -> Text:
        text = Text()
        for problem in problems:
            mark, colour = ("✗ fault", "error") if problem.severity == "fault" else ("! warning", "warning")
            text.append(mark, style=self.colours[colour])
            count_note = f", {problem.count:,} times" if problem.count > 1 else ""
            time_note = f", last at {format_clock(problem.last_at)}" if problem.last_at else ""
            text.append(f"  {sanitize(problem.where, 200)}{count_note}{time_note}\n", style="bold")
            text.append(f"{sanitize(problem.message, 600)}\n")
            text.append(f"→ {sanitize(problem.fix, 600)}\n\n", style=self.colours["secondary"])
        if not problems:
            return Text("This run has no faults and no warnings.", style=self.colours["muted"])
        return text[:-2]  # without the empty line after the last problem

    def action_attempts(self) -> None:
        self.app.push_screen(AttemptsScreen(self._run))
