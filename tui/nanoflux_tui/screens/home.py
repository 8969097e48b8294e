"""Home: everything that runs, waits or went wrong, what needs somebody first."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Static

from nanoflux_local.jobs import EVALUATION, EXPERIMENT, RUN, TRAINING, Kind, Work, is_worked_on, with_worker
from nanoflux_local.ledger import board
from nanoflux_local.ledger.views import LedgerView
from nanoflux_models.server_record import ServerRecord, records
from nanoflux_tui.look import BROKEN, bar
from nanoflux_tui.room import Room
from nanoflux_tui.text import ago, count, duration, line
from nanoflux_tui.widgets.columns import Cells, Column
from nanoflux_tui.widgets.panel import Panel
from nanoflux_tui.widgets.window_table import WindowTable

EMPTY = """Nothing has been made here yet.

  n   starts a run: attacker, defender and judge make a small training set
  ?   says what can be done on each screen

A run plays in a process of its own: close this, open it again, and it is there.
`nanoflux-tui --tour` shows it all on made-up models, with nothing installed.
"""
KINDS: dict[str, Kind] = {"run": RUN, "training": TRAINING, "evaluation": EVALUATION, "experiment": EXPERIMENT}
"""What a process works on, by what it is called here."""


@dataclass(frozen=True, slots=True)
class Served:
    """A server's key among the others."""

    name: str
    sort: str = "server"
    status: str = "ready"


class HomeRoom(Room):
    """The board."""

    mode = "home"
    HELP = """Everything that this home holds, what needs somebody first: what failed or was interrupted in the
last day, then what runs, what waits, and the rest by its time. Enter opens a line."""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "pause", "Pause/resume"),
        Binding("s", "stop", "Stop"),
        Binding("n", "app.new_run", "New run"),
    ]
    DEFAULT_CSS = """
    HomeRoom #empty { display: none; }
    HomeRoom.nothing #empty { display: block; }
    HomeRoom.nothing #board, HomeRoom.nothing #about { display: none; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._lines: dict[object, board.Line] = {}

    def body(self) -> ComposeResult:
        columns = (
            Column("state", 13),
            Column("what", 10, from_width=80),
            Column("name", 16, share=3),
            Column("with", 14, share=2, from_width=106),
            Column("progress", 22, from_width=60),
            Column("an hour", 7, right=True, from_width=90),
            Column("left", 7, right=True, from_width=68),
            Column("changed", 8, right=True, from_width=116),
        )
        yield Static(EMPTY, id="empty", classes="empty", markup=False)
        yield WindowTable(columns, self._rows, id="board")
        yield Panel(id="about", classes="plain foot")

    async def load(self) -> None:
        board_keys = await self.ask(self._keys) or list[board.Key]()
        keys: list[board.Key | Served] = list(board_keys)
        servers = records(self.place.root)
        position = sum(key.status in (*BROKEN, "running") for key in board_keys)
        keys[position:position] = [Served(server.name) for server in servers]
        self.set_class(not keys, "nothing")
        await self.query_one(WindowTable).show(keys)
        self._about()

    def _keys(self, view: LedgerView) -> list[board.Key]:
        """The board's keys; work that no process does any more is interrupted, and comes first."""
        keys = list[board.Key]()
        for key in board.keys(view):
            if key.status == "running" and key.sort in KINDS:
                kind = KINDS[key.sort]
                row = view.row(f"SELECT id, updated_at FROM {kind.table} WHERE rowid = ?", key.row)
                if row is not None and not is_worked_on(self.place, Work(kind, row["id"])):
                    key = replace(key, status="interrupted")
                    if board.is_fresh(row["updated_at"]):
                        keys.insert(0, key)
                        continue
            keys.append(key)
        return keys

    async def _rows(self, keys: Sequence[board.Key | Served]) -> list[Cells]:
        servers = {server.name: server for server in records(self.place.root)}
        wanted = [key for key in keys if isinstance(key, board.Key)]
        lines = dict[object, board.Line](await self.ask(lambda view: self._read_lines(view, wanted)) or [])
        for key in keys:
            if isinstance(key, Served) and key.name in servers:
                lines[key] = _server_line(servers[key.name])
        self._lines.update(lines)
        return [self._cells(lines[key]) if key in lines else ["gone"] for key in keys]

    def _read_lines(self, view: LedgerView, keys: Sequence[board.Key]) -> list[tuple[object, board.Line]]:
        lines: list[tuple[object, board.Line]] = []
        for key in keys:
            for board_line in board.lines(view, [key]):
                lines.append((key, self._live(view, board_line)))
        return lines

    def _live(self, view: LedgerView, recorded: board.Line) -> board.Line:
        """A line with what its process is doing now."""
        if recorded.status != "running":
            return recorded
        summary = {"status": recorded.status, "message": recorded.message, "seconds": recorded.seconds}
        now = with_worker(self.place, view, Work(KINDS[recorded.sort], recorded.id), summary)
        wish = now["worker"]["wish"] if now["worker"] else ""
        status = "draining" if wish and now["status"] == "running" else now["status"]
        return replace(recorded, status=status, message=now["message"], seconds=now["seconds"])

    def _cells(self, entry: board.Line) -> Cells:
        ink = self.ink
        done = Text()
        if entry.total:
            done = Text.assemble(
                (bar(entry.done, entry.total, 10), ink["primary"]), f" {count(entry.done)}/{count(entry.total)}"
            )
        rate = entry.done / entry.seconds * 3600 if entry.seconds and entry.sort == "run" else 0.0
        left = duration((entry.total - entry.done) / rate * 3600) if rate and entry.status == "running" else ""
        return [
            ink.sign(entry.status),
            entry.sort,
            line(entry.name, 80),
            Text(line(entry.about, 80), style=ink["muted"]),
            done,
            f"{rate:,.0f}" if rate else "",
            left,
            ago(entry.updated_at),
        ]

    @on(WindowTable.Pointed)
    def _about(self) -> None:
        entry = self._here()
        if entry is None:
            self.query_one("#about", Panel).show("")
            return
        text = Text.assemble((f"{entry.sort} {line(entry.id, 60)}", "bold"), f"  {line(entry.about, 100)}")
        advice = {
            "interrupted": "its process ended; space resumes it, nothing is lost",
            "failed": "space tries to go on",
            "stalled": "its process has said nothing for a while",
            "paused": "space resumes it",
            "running": "space pauses it, Enter watches it",
        }
        said = line(entry.message, 300) or advice.get(entry.status, "Enter opens it")
        text.append(f"\n{said}", style=self.ink["error"] if entry.status in BROKEN else "")
        self.query_one("#about", Panel).show(text)

    def _here(self) -> board.Line | None:
        return self._lines.get(self.query_one(WindowTable).key)

    @on(WindowTable.Chosen)
    def _open(self) -> None:
        entry = self._here()
        if entry is None:
            return
        if entry.sort == "run":
            from nanoflux_tui.screens.run import RunRoom  # deferred: the first frame does not wait for it

            self.app.push_screen(RunRoom(entry.id))
        elif entry.sort == "experiment":
            from nanoflux_tui.screens.experiment import ExperimentRoom  # deferred likewise

            self.app.push_screen(ExperimentRoom(entry.id))
        else:
            self.control.action_go({"training": "training", "evaluation": "evaluation"}.get(entry.sort, "models"))

    def action_pause(self) -> None:
        entry = self._here()
        if entry is not None and entry.sort == "evaluation":
            self.notify("An evaluation goes on by the same command: 4, then e. What it asked is remembered.")
            return
        if entry is None or entry.sort not in KINDS:
            self.notify("Only what a process of its own works on is paused here.", severity="warning")
            return
        noun = KINDS[entry.sort].command
        if entry.status in ("running", "stalled"):
            self.do(noun, "stop" if entry.sort == "experiment" else "pause", entry.id)
        elif entry.sort == "experiment" and entry.status == "done":
            self.notify("It is done: Enter shows what it found.")
        elif entry.status == "draining":
            self.notify("It drains already: what is under way is finished first.")
        else:
            self.do(noun, "resume", entry.id, "--detach", "--json", said=f"{entry.name} goes on")

    def action_stop(self) -> None:
        entry = self._here()
        if entry is None or entry.sort == "evaluation":
            self.notify("An evaluation ends by itself; what it asked is remembered.", severity="warning")
            return
        self.do(KINDS[entry.sort].command if entry.sort in KINDS else "models", "stop", entry.id)


def _server_line(server: ServerRecord) -> board.Line:
    status = "ready" if server.alive else "ended"
    return board.Line("server", server.name, server.name, f"{server.model} at {server.url}", status, "", 0, 0, 0.0, "")  # type: ignore[arg-type]
