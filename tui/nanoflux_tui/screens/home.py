"""Home: the runs, training runs, evaluations, experiments and servers, starting with those that need attention."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Static

from nanoflux_local.jobs import EVALUATION, EXPERIMENT, RUN, TRAINING, Job, JobKind, has_worker, load_job_state
from nanoflux_local.ledger import board
from nanoflux_local.ledger.views import LedgerView
from nanoflux_models.server_record import ServerRecord, read_records
from nanoflux_tui.base import BaseScreen
from nanoflux_tui.text import compute_age_order, format_age, format_count, format_duration, format_line
from nanoflux_tui.theme import BROKEN, draw_bar
from nanoflux_tui.widgets.columns import Cells, Column, SortableCell
from nanoflux_tui.widgets.panel import Panel
from nanoflux_tui.widgets.window_table import WindowTable

EMPTY = """This home is empty.

  n   Start a run: attacker, defender and judge generate a small training set.
  ?   Show what this screen does, and its keys.

A run is a separate process: it continues when you close this application.
`nanoflux-tui --tour` shows everything with scripted models; nothing needs to be installed.
"""
"""The text that Home shows if there are neither jobs nor servers."""
JOB_KINDS: dict[str, JobKind] = {"run": RUN, "training": TRAINING, "evaluation": EVALUATION, "experiment": EXPERIMENT}
"""The kinds of jobs in the table, by the name that the column `kind` shows. The table's other lines are servers."""
ADVICE = {
    "interrupted": "Its process ended. Press space to resume it; nothing is lost.",
    "failed": "Press space to try again.",
    "stalled": "Its process has not reported for a while.",
    "paused": "Press space to resume it.",
    "running": "Press Enter to watch it, space to pause it, s to stop it.",
    "ready": "Press Enter to open the list of servers, s to stop it.",
}
"""What the user can do with a job or a server, by its status. `_advise` has different advice for some kinds of jobs."""
EVALUATION_END_NOTE = "It ends by itself, and its replies are kept."
EVALUATION_RESUME_NOTE = "To resume an evaluation, start the same one again (4, then e): its replies are kept."


@dataclass(frozen=True, slots=True)
class ServerKey:
    """The key of a server's line in the table. A job's line has a `board.LineKey` instead."""

    name: str
    status: str = "ready"


class HomeScreen(BaseScreen):
    """The board: a line for each job and each server of this home."""

    mode = "home"
    HELP = """All work of this home: first what failed or was interrupted in the last day, then what runs, what waits,
and the rest by time. Enter opens a line."""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "pause", "Pause/resume"),
        Binding("s", "stop", "Stop"),
        Binding("n", "app.new_run", "New run"),
    ]
    DEFAULT_CSS = """
    HomeScreen #empty { display: none; }
    HomeScreen.nothing #empty { display: block; }
    HomeScreen.nothing #board, HomeScreen.nothing #about { display: none; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._line_by_key: dict[object, board.BoardLine] = {}
        """The lines fetched so far. The key of a job's line is a `board.LineKey`, that of a server's a `ServerKey`."""

    def compose_body(self) -> ComposeResult:
        columns = (
            Column("state", 13),
            Column("kind", 10, from_width=80),
            Column("name", 16, share=3),
            Column("with", 14, share=2, from_width=106),
            Column("progress", 22, from_width=60),
            Column("per hour", 8, right=True, from_width=90),
            Column("left", 7, right=True, from_width=68),
            Column("changed", 8, right=True, from_width=116),
        )
        yield Static(EMPTY, id="empty", classes="empty", markup=False)
        yield WindowTable(columns, self._fetch_rows, id="board")
        yield Panel(id="about", classes="plain foot")

    async def load(self) -> None:
        board_keys = await self.read_ledger(self._list_board_keys) or list[board.LineKey]()
        server_keys = [ServerKey(server.name) for server in read_records(self.home.root)]
        # The servers follow the jobs that need attention or run, which come first on the board.
        server_position = sum(key.status in (*BROKEN, "running") for key in board_keys)
        keys: list[board.LineKey | ServerKey] = [
            *board_keys[:server_position], *server_keys, *board_keys[server_position:]
        ]  # fmt: skip
        self.set_class(not keys, "nothing")
        await self.query_one(WindowTable).show(keys)
        self._show_details()

    def _list_board_keys(self, view: LedgerView) -> list[board.LineKey]:
        """The keys of all jobs in the order of the board. A job that is recorded as running, but has no worker, gets
        the status `interrupted`; if it changed recently, it moves to the top.
        """
        keys = list[board.LineKey]()
        for key in board.list_line_keys(view):
            if key.status == "running" and key.kind in JOB_KINDS:
                kind = JOB_KINDS[key.kind]
                row = view.row(f"SELECT id, updated_at FROM {kind.table} WHERE rowid = ?", key.row)
                if row is not None and not has_worker(self.home, Job(kind, row["id"])):
                    key = replace(key, status="interrupted")
                    if board.is_recent(row["updated_at"]):
                        keys.insert(0, key)
                        continue
            keys.append(key)
        return keys

    async def _fetch_rows(self, keys: Sequence[board.LineKey | ServerKey]) -> list[Cells]:
        servers = {server.name: server for server in read_records(self.home.root)}
        board_keys = [key for key in keys if isinstance(key, board.LineKey)]
        lines = dict[object, board.BoardLine](
            await self.read_ledger(lambda view: self._read_lines(view, board_keys)) or []
        )
        for key in keys:
            if isinstance(key, ServerKey) and key.name in servers:
                lines[key] = _build_server_line(servers[key.name])
        self._line_by_key.update(lines)
        return [self._format_cells(lines[key]) if key in lines else ["deleted"] for key in keys]

    def _read_lines(self, view: LedgerView, keys: Sequence[board.LineKey]) -> list[tuple[object, board.BoardLine]]:
        """The keys with their lines, except those of jobs that are no longer in the ledger."""
        lines: list[tuple[object, board.BoardLine]] = []
        for key in keys:
            for line in board.load_lines(view, [key]):
                lines.append((key, self._add_worker_state(view, line)))
        return lines

    def _add_worker_state(self, view: LedgerView, line: board.BoardLine) -> board.BoardLine:
        """The line of a job with the current state of its worker in place of the recorded state."""
        if line.status != "running":
            return line
        recorded_state = {"status": line.status, "message": line.message, "seconds": line.seconds}
        state = load_job_state(self.home, view, Job(JOB_KINDS[line.kind], line.id), recorded_state)
        has_stop_request = state.worker is not None and bool(state.worker.wish)
        status = "draining" if state.status == "running" and has_stop_request else state.status
        return replace(line, status=status, message=state.message, seconds=state.seconds)

    def _format_cells(self, line: board.BoardLine) -> Cells:
        colours = self.colours
        progress = Text()
        if line.total:
            progress = Text.assemble(
                (draw_bar(line.done, line.total, 10), colours["primary"]),
                f" {format_count(line.done)}/{format_count(line.total)}",
            )
        rate_per_hour = line.done / line.seconds * 3600 if line.seconds else 0.0
        seconds_left: float | None = None
        if rate_per_hour and line.status == "running":
            seconds_left = (line.total - line.done) / rate_per_hour * 3600
        time_left = "" if seconds_left is None else format_duration(seconds_left)
        return [
            colours.format_status(line.status),
            line.kind,
            format_line(line.name, 80),
            Text(format_line(line.about, 80), style=colours["muted"]),
            SortableCell(progress, line.done / line.total if line.total else None),
            f"{rate_per_hour:,.0f}" if rate_per_hour else "",
            SortableCell(time_left, seconds_left),
            SortableCell(format_age(line.updated_at), compute_age_order(line.updated_at)),
        ]

    @on(WindowTable.RowHighlighted)
    def _show_details(self) -> None:
        """Show the selected line's model and data, and its message or what the user can do with it."""
        line = self._selected_line()
        if line is None:
            self.query_one("#about", Panel).show("")
            return
        text = Text.assemble((f"{line.kind} {format_line(line.id, 60)}", "bold"), f"  {format_line(line.about, 100)}")
        message = format_line(line.message, 300) or _advise(line)
        text.append(f"\n{message}", style=self.colours["error"] if line.status in BROKEN else "")
        self.query_one("#about", Panel).show(text)

    def _selected_line(self) -> board.BoardLine | None:
        return self._line_by_key.get(self.query_one(WindowTable).selected_key)

    @on(WindowTable.RowSelected)
    def _open_line(self) -> None:
        """Open the screen of the selected run or experiment, or the tab that lists the selected line."""
        line = self._selected_line()
        if line is None:
            return
        if line.kind == "run":
            from nanoflux_tui.screens.run import RunScreen  # deferred, since the first frame does not need it

            self.app.push_screen(RunScreen(line.id))
        elif line.kind == "experiment":
            from nanoflux_tui.screens.experiment import ExperimentScreen  # deferred like the run's screen

            self.app.push_screen(ExperimentScreen(line.id))
        elif line.kind in ("training", "evaluation"):
            self.application.requested_key_by_tab[line.kind] = line.id
            self.application.action_go(line.kind)
        else:
            self.application.action_go("models")

    def action_pause(self) -> None:
        """Pause the selected job if it runs, else resume it. An experiment is stopped instead of paused."""
        line = self._selected_line()
        if line is not None and line.kind == "evaluation":
            is_running = line.status in ("running", "stalled")
            self.notify(
                f"An evaluation cannot be paused. {EVALUATION_END_NOTE}" if is_running else EVALUATION_RESUME_NOTE
            )
            return
        if line is None or line.kind not in JOB_KINDS:
            self.notify("Only runs, training runs and experiments can be paused here.", severity="warning")
            return
        command = JOB_KINDS[line.kind].command
        if line.status in ("running", "stalled"):
            self.run_command(command, "stop" if line.kind == "experiment" else "pause", line.id)
        elif line.kind == "experiment" and line.status == "done":
            self.notify("This experiment is done. Press Enter to see its results.")
        elif line.status == "draining":
            self.notify("This job is already draining: it finishes its work in progress.")
        else:
            self.run_command(command, "resume", line.id, "--detach", "--json", success=f"Resumed {line.name}.")

    def action_stop(self) -> None:
        line = self._selected_line()
        if line is None or line.kind == "evaluation":
            self.notify(f"An evaluation cannot be stopped here. {EVALUATION_END_NOTE}", severity="warning")
            return
        is_server = line.kind not in JOB_KINDS
        self.run_command("models" if is_server else JOB_KINDS[line.kind].command, "stop", line.id)


def _advise(line: board.BoardLine) -> str:
    """What the user can do with the job or server of this line."""
    if line.kind == "experiment" and line.status == "running":
        return "Press Enter to watch it, space or s to stop it after its current cell."
    if line.kind == "evaluation" and line.status == "running":
        return f"Press Enter to watch it. {EVALUATION_END_NOTE}"
    if line.kind == "evaluation" and line.status in ("failed", "interrupted", "partial", "paused"):
        return EVALUATION_RESUME_NOTE
    return ADVICE.get(line.status, "Press Enter to open it.")


def _build_server_line(server: ServerRecord) -> board.BoardLine:
    """The line of a server, which has no progress and no time."""
    return board.BoardLine(
        kind="server",  # type: ignore[arg-type]  # the ledger's board has lines of jobs only
        id=server.name,
        name=server.name,
        about=f"{server.model} at {server.url}",
        status="ready" if server.alive else "ended",
        message="",
        done=0,
        total=0,
        seconds=0.0,
        updated_at="",
    )
