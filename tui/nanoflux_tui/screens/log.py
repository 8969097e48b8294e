"""The last lines of a detached worker's log, updated while the worker writes."""

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll

from nanoflux_local.jobs import Job, read_log
from nanoflux_tui.base import BaseScreen
from nanoflux_tui.text import MAX_CHARACTERS, sanitize
from nanoflux_tui.widgets.panel import Panel

MAX_LINES = 500
"""Maximum number of lines that are shown, from the end of the log."""


class LogScreen(BaseScreen):
    """The log of one run or training run."""

    AUTO_FOCUS = "#parts"
    SHOWS_ONLY_LEDGER = False
    HELP = """The messages of the worker process, the newest last, without secrets. Only a worker that was started in
the background writes a log; otherwise its terminal shows its messages."""
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "back", "Back")]

    def __init__(self, job: Job, mode: str = "home") -> None:
        self.mode = mode  # type: ignore[misc]  # the tab from which the log was opened
        super().__init__()
        self._job = job
        self._lines: list[str] = []

    def compose_body(self) -> ComposeResult:
        with VerticalScroll(id="parts"):
            yield Panel(f"Log of {self._job}", id="log")

    async def load(self) -> None:
        lines = read_log(self.home, self._job, MAX_LINES)
        if lines == self._lines and lines:
            return
        self._lines = lines
        empty_text = f"{self._job} has no log: no worker was started in the background."
        self.query_one("#log", Panel).show(sanitize("\n".join(lines)[-MAX_CHARACTERS:]) or empty_text)
        self.query_one("#parts").scroll_end(animate=False)
