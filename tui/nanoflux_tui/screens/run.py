"""A run: what it is doing now, what came of it so far, and the keys that steer it."""

import json
import time
from dataclasses import dataclass
from typing import Any, ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll

from nanoflux_local.jobs import RUN, Work, with_worker
from nanoflux_local.ledger.tally import Tally
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.run.forecast import forecast
from nanoflux_tui.look import bar
from nanoflux_tui.room import Room
from nanoflux_tui.screens.dialogs import Confirm, Field, Fill, Told
from nanoflux_tui.screens.examples import ExamplesRoom
from nanoflux_tui.screens.train_form import TrainForm
from nanoflux_tui.text import command, count, duration, line
from nanoflux_tui.widgets import charts
from nanoflux_tui.widgets.panel import Panel

FORECAST_S = 15.0
"""How often the forecast is made anew: its draws are dearer than all the rest together."""
SHOWN_AT_WORK = 8
FORMATS = ("chat", "prompt-completion", "alpaca", "parquet")


@dataclass(frozen=True, slots=True)
class Now:
    """A run as it stands at this moment, beside its tally."""

    row: dict[str, Any]
    config: dict[str, Any]
    status: str
    message: str
    seconds: float
    worker: dict[str, Any] | None

    @property
    def shown(self) -> str:
        draining = self.worker and self.worker["wish"] and self.status == "running"
        return "draining" if draining else self.status


class RunRoom(Room):
    """One run, watched."""

    mode = "home"
    HELP = """A run, live. Above: how far it is, how fast, and when it will probably have enough. Then the turns
under way, how every attempt ended, how like earlier questions the new ones are (the line is the threshold),
how sure the judge was, and what happened last. Pause and stop drain: turns under way are finished and kept;
a second stop ends at once."""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "back", "Back"),
        Binding("space", "pause", "Pause"),
        Binding("s", "stop", "Stop"),
        Binding("c", "change", "Change"),
        Binding("e", "examples", "Examples"),
        Binding("t", "train", "Train"),
        Binding("x", "export", "Export", show=False),
        Binding("r", "report", "Report", show=False),
        Binding("v", "verify", "Verify", show=False),
        Binding("y", "copy", "Copy the command", show=False),
    ]
    DEFAULT_CSS = """
    RunRoom #parts { height: 1fr; overflow-y: auto; scrollbar-size-vertical: 1; }
    RunRoom #left, RunRoom #right { width: 1fr; height: auto; }
    RunRoom #both { height: auto; layout: vertical; }
    RunRoom.-wide #both { layout: horizontal; }
    """

    def __init__(self, run: str) -> None:
        super().__init__()
        self.run_id = run
        self._tally = Tally(run)
        self._now: Now | None = None
        self._forecast: dict[str, Any] = {}
        self._forecast_at, self._forecast_kept = 0.0, -1

    def body(self) -> ComposeResult:
        yield Panel(id="head", classes="plain")
        with VerticalScroll(id="parts"), Horizontal(id="both"):
            with Vertical(id="left"):
                yield Panel("Under way", id="way")
                yield Panel("How attempts ended", id="funnel")
                yield Panel("Calls", id="usage")
            with Vertical(id="right"):
                yield Panel("Similarity", id="similar")
                yield Panel("Confidence of the judge", id="sure")
                yield Panel("Quality", id="quality")
                yield Panel("What happened last", id="events")

    async def load(self) -> None:
        more = True
        while more:
            self._now, more = await self.reader.ask(self._read_run)
            if more:
                self._show_head()
        self._show_head()
        self._show_parts()

    def _read_run(self, view: LedgerView) -> tuple[Now, bool]:
        row = dict(view.find_run(self.run_id))
        config = json.loads(row["config"])
        self._tally.seed = int(config.get("seed", 0))
        self._tally.attempts = 1 + int(config["retries"]["validation"])
        more = self._tally.update(view)
        summary = {"status": row["status"], "message": row["message"], "seconds": row["seconds"]}
        current = with_worker(self.place, view, Work(RUN, row["id"]), summary)
        now = Now(row, config, current["status"], current["message"], current["seconds"], current["worker"])
        if not more:
            self._foresee(view, now)
        return now, more

    def _foresee(self, view: LedgerView, now: Now) -> None:
        """The forecast, where the last one is old and something was kept since."""
        if self._tally.turns == self._forecast_kept or time.monotonic() - self._forecast_at < FORECAST_S:
            return
        fresh = view.row("SELECT coalesce(sum(fresh), 0) AS n FROM turns WHERE run = ?", self.run_id)
        made = sum(used.calls for used in self._tally.usage.values())
        self._forecast = forecast(view, {
            "run": self.run_id, "kept": self._tally.kept, "target": now.row["target"], "turns": self._tally.turns,
            "max_turns": now.row["max_turns"], "seconds": now.seconds,
            "calls": {"made": made, "wasted": made - (fresh["n"] if fresh else 0)},
        })  # fmt: skip
        self._forecast_at, self._forecast_kept = time.monotonic(), self._tally.turns

    def _show_head(self) -> None:
        if self._now is not None:
            now = self._now
            self.query_one("#head", Panel).show(lambda width: self._head(now, width))

    def _head(self, now: Now, width: int) -> Text:
        ink, tally = self.ink, self._tally
        text = ink.sign(now.shown)
        text.append(f"  {line(now.row['name'], 60)}", style="bold")
        text.append(f"  {now.row['domain']} · {now.config.get('profile', '')}\n", style=ink["muted"])
        target, room = now.row["target"], max(10, min(60, width - 44))
        text.append(f"kept {tally.kept:>4} of {target}  ")
        text.append(bar(tally.kept, target, room), style=ink["primary"])
        text.append(f"  {tally.kept / target:.0%} in {tally.turns} of {now.row['max_turns']} turns\n")
        hours = now.seconds / 3600
        figures = [f"{tally.kept / hours:,.0f} kept an hour"] if hours and tally.kept else []
        figures += [f"{tally.tokens_per_s:,.0f} tokens/s"] if now.worker else []
        figures += [f"{count(tally.tokens)} tokens", f"${tally.usd:,.2f}", f"worked {duration(now.seconds)}"]
        text.append("  ".join(figures) + "\n")
        text.append(self._forecast_line(now), style=ink["secondary"])
        if now.message:
            text.append(f"\n{line(now.message, 300)}", style=ink["error" if now.status in ("failed",) else "warning"])
        return text

    def _forecast_line(self, now: Now) -> str:
        """The forecast in a line."""
        if now.status == "done":
            return "it has come to its end"
        forecast = self._forecast
        if not forecast or forecast.get("turns") is None:
            return "forecast: " + str(forecast.get("reason", "too early") if forecast else "too early")
        turns, seconds = forecast["turns"], forecast["seconds"]
        return (
            f"the target in about {turns['expected']:,.0f} more turns ({turns['low']:,.0f}–{turns['high']:,.0f}), "
            f"{duration(seconds['expected'])} ({duration(seconds['low'])}–{duration(seconds['high'])}); "
            f"{forecast['reaches_target']:.0%} likely"
        )

    def _show_parts(self) -> None:
        assert self._now is not None
        now, tally, ink = self._now, self._tally, self.ink
        wide = now.config["concurrency"] if now.worker else 0
        at_work = list(tally.under_way(min(wide, max(0, now.row["max_turns"] - tally.turns)))) if wide else []
        roles = now.config["roles"]
        names = (roles["attacker"]["endpoint"], roles["defender"]["endpoint"])
        more = f"; {SHOWN_AT_WORK} of {len(at_work)} turns" if len(at_work) > SHOWN_AT_WORK else ""
        shown = at_work[:SHOWN_AT_WORK]
        nobody = Text("No process works on it. Space resumes it." if now.status != "done" else "It is done.")
        self.query_one("#way", Panel).show(
            (lambda width: charts.under_way(shown, tally, names, ink, width)) if shown else nobody,
            f"Under way, up to {wide} requests at once{more}" if wide else "Under way",
        )
        self.query_one("#funnel", Panel).show(lambda width: charts.funnel(tally.outcomes, ink, width))
        self.query_one("#usage", Panel).show(charts.usage(tally, ink))
        bound = now.config["novelty"]["question"]
        self.query_one("#similar", Panel).show(
            lambda width: charts.histogram(tally.similarities, 0.0, 1.0, ink, width, bound),
            f"Likeness to earlier questions; rejected above {bound:g}",
        )
        sure = now.config["judge"]["confidence"]
        self.query_one("#sure", Panel).show(
            lambda width: charts.histogram(tally.confidences, 0.0, 1.0, ink, width, sure, 3, True),
            f"How sure the judge was; asked again below {sure:g}",
        )
        self.query_one("#quality", Panel).show(lambda width: charts.levels(tally.levels, ink, width))
        self.query_one("#events", Panel).show(lambda width: charts.events(list(tally.events), ink, width, 12))

    def action_pause(self) -> None:
        shown = self._now.shown if self._now else ""
        if shown in ("running", "stalled"):
            self.do("run", "pause", self.run_id)
        elif shown == "draining":
            self.notify("It drains already: turns under way are finished first. s ends it at once.")
        elif shown == "done":
            self.notify("It has come to its end. c moves the target, then space goes on.", severity="warning")
        elif shown:
            self.do("run", "resume", self.run_id, "--detach", "--json", said="It goes on.")

    def action_stop(self) -> None:
        worker = self._now.worker if self._now else None
        ending = worker is not None and worker["wish"] in ("stop", "end")
        question = (
            "End it at once? Calls in flight are lost; everything that was answered stays."
            if ending
            else "Stop this run? Turns under way are finished and kept. It can be resumed."
        )
        self.app.push_screen(Confirm(question, "Stop"), self._stop)

    def _stop(self, yes: bool | None) -> None:
        if yes:
            self.do("run", "stop", self.run_id)

    def action_change(self) -> None:
        if self._now is None:
            return
        now, budget = self._now, self._now.config.get("budget", {})
        fields = (
            Field("concurrency", "requests at once", str(now.config["concurrency"])),
            Field("target", "examples to keep", str(now.row["target"])),
            Field("max_turns", "turns at most", str(now.row["max_turns"])),
            Field("budget.usd", "dollars at most", "" if budget.get("usd") is None else str(budget["usd"]), "no limit"),
        )
        note = "A worker takes it up within a second. What decides the turns themselves is fixed."
        self.app.push_screen(
            Fill("Change this run", fields, "Change", note), lambda values: self._change(fields, values)
        )

    def _change(self, fields: tuple[Field, ...], values: dict[str, str] | None) -> None:
        before = {field.key: field.value for field in fields}
        changes = [f"{key}={value}" for key, value in (values or {}).items() if value and value != before[key]]
        if changes:
            self.do("run", "set", self.run_id, *changes)

    def action_examples(self) -> None:
        self.app.push_screen(ExamplesRoom(self.run_id))

    def action_train(self) -> None:
        self.app.push_screen(TrainForm(self.run_id))

    def action_export(self) -> None:
        path = str(self.place.root / "exports" / f"{self.run_id}.jsonl")
        fields = (Field("format", "format", "chat", options=FORMATS), Field("path", "file", path))
        self.app.push_screen(Fill("Export the kept examples", fields, "Export"), self._export)

    def _export(self, values: dict[str, str] | None) -> None:
        if values:
            path = self.place.root / "exports"
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.do("export", self.run_id, "--format", values["format"], "-o", values["path"],
                    said=f"written: {values['path']}")  # fmt: skip

    def action_report(self) -> None:
        self.report(self.run_id)

    def action_verify(self) -> None:
        self.notify("Every hash is derived again; a moment.")
        self.do("run", "verify", self.run_id, said="Every hash matches.")

    def action_copy(self) -> None:
        words = command(("run", "show", self.run_id))
        self.app.copy_to_clipboard(words)
        self.app.push_screen(Told("The commands of this run", f"{words}\n\n(copied)"))
