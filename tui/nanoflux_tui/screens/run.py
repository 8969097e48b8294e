"""A run: shows its progress and its results so far, and has the keys that steer it."""

import json
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll

from nanoflux_local.jobs import RUN, Job, Worker, load_job_state
from nanoflux_local.ledger.history import RunHistory, RunMoment
from nanoflux_local.ledger.tally import Tally
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.run.forecast import Forecast, RunPosition, forecast
from nanoflux_local.run.problems import ENDED_BADLY
from nanoflux_local.run.rule_sets import PAPER, format_rule_changes, list_rule_changes
from nanoflux_local.run.steps import load_steps
from nanoflux_local.run.trials.result import TrialResult, summarize_trial
from nanoflux_tui.base import STALE_S, BaseScreen
from nanoflux_tui.commands import CommandResult
from nanoflux_tui.screens.attempts import AttemptsScreen
from nanoflux_tui.screens.dialogs import ChoiceDialog, ConfirmDialog, Field, FormDialog, TextDialog
from nanoflux_tui.screens.examples import ExamplesScreen
from nanoflux_tui.screens.log import LogScreen
from nanoflux_tui.screens.new_training import NewTrainingScreen
from nanoflux_tui.screens.notes import edit_note
from nanoflux_tui.screens.problems import ProblemsScreen
from nanoflux_tui.text import format_clock, format_command, format_count, format_duration, format_line, format_quantity
from nanoflux_tui.theme import ENDED, draw_bar
from nanoflux_tui.widgets import charts
from nanoflux_tui.widgets.bars import ProblemBar
from nanoflux_tui.widgets.panel import Panel

FORECAST_PAUSE_S = 15.0
"""Minimum seconds between two forecasts, since a forecast costs more than the rest of the screen."""
MAX_TURN_LINES = 8
"""Maximum number of turns in progress that are shown."""
MAX_CHOICES = 200
"""Maximum number of other runs, the newest ones, that are offered for a comparison."""
FORMATS = ("chat", "prompt-completion", "alpaca", "parquet", "preference")
"""The export formats that the form offers."""
ANY_TRAINER = "any"
"""The option for an export without a trainer's configuration."""
TRAINERS = (ANY_TRAINER, "trl", "llama-factory", "axolotl")
"""The trainers for which the form can add a configuration to the exported rows."""
SOLUTIONS = ("author", "solver", "own", "shortest")
"""The solutions that the form offers. The choice `likeliest` needs a model; only the command line offers it."""


@dataclass(frozen=True, slots=True)
class RunState:
    """The current state of a run, except the counts, which its tally has. `row` is the run's row in the ledger,
    `config` its configuration, and `note` its newest note. `status`, `message` and `seconds` (the working time) take
    the run's worker into account.
    """

    row: dict[str, Any]
    config: dict[str, Any]
    status: str
    message: str
    note: str
    seconds: float
    worker: Worker | None

    @property
    def shown_status(self) -> str:
        """The status to show: `draining` if the run's worker was asked to pause or stop, else `status`."""
        has_stop_request = self.worker is not None and bool(self.worker.wish)
        return "draining" if self.status == "running" and has_stop_request else self.status


@dataclass(frozen=True, slots=True)
class DatedForecast:
    """A forecast, the number of committed turns on which it is based, and when it was computed: on the monotonic clock
    in seconds, and as local time (hh:mm:ss).
    """

    forecast: Forecast
    turns: int
    computed_s: float
    clock_time: str


def format_forecast(dated: DatedForecast | None, turns: int) -> str:
    """The newest forecast of a run with `turns` committed turns, in one line. If there is none, the line says so."""
    if dated is None:
        return "forecast: too early"
    run_forecast = dated.forecast
    if run_forecast.turns is None or run_forecast.seconds is None:
        return f"forecast: {run_forecast.reason}"
    is_old = turns != dated.turns and time.monotonic() - dated.computed_s > STALE_S
    age_note = f" (as of {dated.clock_time})" if is_old else ""
    turns_left, seconds = run_forecast.turns, run_forecast.seconds
    expected, low, high = map(format_duration, (seconds.expected, seconds.low, seconds.high))
    return (
        f"target in about {format_quantity(round(turns_left.expected), 'more turn')} "
        f"({turns_left.low:,.0f}–{turns_left.high:,.0f}), "
        f"{expected} ({low}–{high}); {run_forecast.reaches_target:.0%} likely{age_note}"
    )


class RunScreen(BaseScreen):
    """One run, updated while it runs."""

    AUTO_FOCUS = "#parts"
    mode = "home"
    RARE_ACTIONS = ("copy", "verify", "step(1)", "report", "note", "copy_text", "compare", "train")
    HELP = """A live run. Above: its progress, its speed, and a forecast of when it reaches its target. Below: the
turns in progress, the outcomes of all attempts, the similarity of new questions to earlier ones (the
line is the threshold), the judge's confidence, the trial of the judge on known solutions, and the latest
events. Pause and stop finish the turns in progress and keep their results; a second stop ends the run at once.
Attempts opens every attempt, kept or not, down to its raw calls; problems lists failed requests and unreadable
replies with their fixes; log shows the messages of the worker. The left and right arrow keys show the run as it was
after an earlier turn, computed from the ledger; f returns to the live view. b shows another run next to this one."""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "back", "Back"),
        Binding("f", "live", "Live"),
        Binding("space", "pause", "Pause"),
        Binding("s", "stop", "Stop"),
        Binding("c", "change", "Change"),
        Binding("e", "examples", "Examples"),
        Binding("a", "attempts", "Attempts"),
        Binding("w", "problems", "Problems"),
        Binding("l", "log", "Log"),
        # These keys have priority over sideways scrolling, since nothing here is wider than the screen.
        Binding("left", "step(-1)", "Earlier turn", key_display="←", priority=True),
        Binding("right", "step(1)", "Later turn", key_display="→", priority=True),
        Binding("shift+left", "step(-20)", "20 turns earlier", show=False, priority=True),
        Binding("shift+right", "step(20)", "20 turns later", show=False, priority=True),
        Binding("t", "train", "Train"),
        Binding("b", "compare", "Side by side"),
        Binding("m", "note", "Note"),
        Binding("x", "export", "Export"),
        Binding("r", "report", "Report"),
        Binding("v", "verify", "Verify"),
        Binding("y", "copy", "Copy"),
    ]
    DEFAULT_CSS = """
    RunScreen #left, RunScreen #right { width: 1fr; height: auto; }
    RunScreen #both { height: auto; layout: vertical; }
    RunScreen.-wide #both { layout: horizontal; }
    """

    def __init__(self, run: str) -> None:
        super().__init__()
        self.run_id = run
        self._tally = Tally(run)
        self._state: RunState | None = None
        self._forecast: DatedForecast | None = None
        self._trial: TrialResult | None = None
        self._history = RunHistory(run)
        self._past_turn: int | None = None
        """The earlier turn to which the user has stepped; None for the live run."""
        self._past_moment: RunMoment | None = None
        """The run as of the turn `_past_turn`; None for the live run."""

    @property
    def _shown_tally(self) -> Tally:
        """The tally on the screen: the live tally, or the tally as of an earlier turn."""
        return self._past_moment.tally if self._past_moment else self._tally

    def compose_body(self) -> ComposeResult:
        yield Panel(id="head", classes="plain")
        with VerticalScroll(id="parts"), Horizontal(id="both"):
            with Vertical(id="left"):
                yield Panel("Turns in progress", id="turns")
                yield Panel("Outcomes of attempts", id="outcomes")
                yield Panel("Calls", id="usage")
                trial = Panel("Judge's trial", id="trial")
                trial.display = False
                yield trial
                yield Panel("Kept examples by turn", id="kept")
            with Vertical(id="right"):
                yield Panel("Similarity", id="similarity")
                yield Panel("Judge confidence", id="confidence")
                yield Panel("Quality", id="quality")
                yield Panel("Latest events", id="events")
        yield ProblemBar()

    async def load(self) -> None:
        has_more = True
        while has_more:  # a long run is read in parts, so that the first figures appear without delay
            self._state, has_more = await self.reader.read(self._read_run)
            if has_more:
                self._show_head()
        self._show_head()
        self._show_parts()

    def _read_run(self, view: LedgerView) -> tuple[RunState, bool]:
        """Read the run's state, and the next part of the turns that were not read yet. Returns the state, and whether
        more such turns remain.
        """
        row = dict(view.find_run(self.run_id))
        config = json.loads(row["config"])
        self._tally.seed = int(config.get("seed", 0))
        self._tally.attempts = 1 + int(config["retries"]["validation"])
        if row["status"] == "running" and not self._tally.steps:
            self._tally.steps = load_steps(self.home, config)
        has_more = self._tally.update(view)
        job_state = load_job_state(self.home, view, Job(RUN, row["id"]), row)
        state = RunState(
            row,
            config,
            job_state.status,
            job_state.message,
            view.note("run", row["id"]),
            job_state.seconds,
            job_state.worker,
        )
        if not has_more:
            self._update_forecast(view, state)
            self._update_moment(view)
        return state, has_more

    def _update_moment(self, view: LedgerView) -> None:
        """Set `_past_moment` to the run as of the turn `_past_turn`. A moment that was loaded earlier is kept, since a
        committed turn never changes.
        """
        if self._past_turn is None:
            self._past_moment = None
        elif self._past_moment is None or self._past_moment.turn.number != self._past_turn:
            self._past_moment = self._history.load_moment(view, self._past_turn)

    def _update_forecast(self, view: LedgerView, state: RunState) -> None:
        """Update the forecast and the judge's trial if turns were committed since the last forecast, but not before
        `FORECAST_PAUSE_S` have passed.
        """
        last = self._forecast
        if last and (last.turns == self._tally.turns or time.monotonic() - last.computed_s < FORECAST_PAUSE_S):
            return
        row = view.row("SELECT coalesce(sum(fresh), 0) AS calls FROM turns WHERE run = ?", self.run_id)
        calls_in_committed_turns = row["calls"] if row else 0
        calls_made = sum(role_usage.calls for role_usage in self._tally.usage.values())
        position = RunPosition(
            run=self.run_id,
            turns=self._tally.turns,
            max_turns=state.row["max_turns"],
            kept=self._tally.kept,
            target=state.row["target"],
            seconds=state.seconds,
            calls_made=calls_made,
            calls_wasted=calls_made - calls_in_committed_turns,
        )
        clock_time = f"{datetime.now():%H:%M:%S}"
        self._forecast = DatedForecast(forecast(view, position), self._tally.turns, time.monotonic(), clock_time)
        self._trial = summarize_trial(view, self.run_id)

    def _show_head(self) -> None:
        """Show the run's status and figures, and the number of its problems."""
        if self._state is not None:
            state = self._state
            self.query_one("#head", Panel).show(lambda width: self._format_head(state, width))
            self._show_problems(state)

    def _show_problems(self, state: RunState) -> None:
        """Show the number of faults and warnings. The message of a run that ended badly counts as a fault, and the
        message of a paused run as a warning.
        """
        fault_count, warning_count = self._tally.faults, sum(self._tally.reasons.values())
        if state.message and state.status in ENDED_BADLY:
            fault_count += 1
        if state.message and state.status == "paused":
            warning_count += 1
        self.query_one(ProblemBar).show_counts(fault_count, warning_count)

    def _format_head(self, state: RunState, width: int) -> Text:
        """The run's status, name and origin, its progress, its figures, its forecast, its note and its message."""
        colours, tally = self.colours, self._shown_tally
        text = colours.format_status(state.shown_status)
        text.append(f"  {format_line(state.row['name'], 60)}", style="bold")
        rules = f"{state.config.get('rules', PAPER)} rules{format_rule_changes(list_rule_changes(state.config))}"
        origin = f"{state.row['domain']} · {state.config.get('profile', '')} · {rules}"
        text.append(f"  {origin}\n", style=colours["muted"])
        target, bar_width = state.row["target"], max(10, min(60, width - 44))
        text.append(f"kept {tally.kept:>4} of {target}  ")
        text.append(draw_bar(tally.kept, target, bar_width), style=colours["primary"])
        max_turns = state.row["max_turns"]
        noun = "turn" if max_turns == 1 else "turns"
        text.append(f"  {tally.kept / target:.0%} in {tally.turns} of {max_turns} {noun}\n")
        if self._past_moment is not None:
            return text.append_text(self._format_moment(self._past_moment))
        hours = state.seconds / 3600
        figures: list[str] = []
        if hours and tally.kept:
            figures.append(f"{tally.kept / hours:,.0f} kept per hour")
        if state.worker:
            figures.append(f"{tally.tokens_per_s:,.0f} tokens/s")
        figures += [
            f"{format_count(tally.tokens)} tokens",
            f"${tally.usd:,.2f}",
            f"worked {format_duration(state.seconds)}",
        ]
        text.append("  ".join(figures) + "\n")
        is_done = state.status == "done"
        forecast_line = "This run is done." if is_done else format_forecast(self._forecast, self._tally.turns)
        text.append(forecast_line, style=colours["secondary"])
        if state.note:
            text.append(f"\nnote: {format_line(state.note, 300)}", style=colours["accent"])
        if state.message:
            style = colours["error" if state.status == "failed" else "warning"]
            text.append(f"\n{format_line(state.message, 600)}", style=style)
        return text

    def _format_moment(self, moment: RunMoment) -> Text:
        """The figures as of an earlier turn, and the key that returns to the live view."""
        tally = moment.tally
        committed_time = format_clock(moment.committed_at)
        figures = f"{format_count(tally.tokens)} tokens  ${tally.usd:,.2f}  committed at {committed_time} UTC\n"
        turns_note = f"As of turn {moment.turn.number}; the last turn is {self._tally.turns - 1}."
        hint = f"◷ {turns_note} Press f to return to the live view."
        return Text.assemble(figures, (hint, f"bold {self.colours['warning']}"))

    def _show_parts(self) -> None:
        assert self._state is not None
        state, tally, colours = self._state, self._shown_tally, self.colours
        self._show_turns(state)
        self.query_one("#outcomes", Panel).show(lambda width: charts.draw_outcomes(tally.outcomes, colours, width))
        self.query_one("#kept", Panel).show(lambda width: charts.draw_kept_curve(tally.kept_by_turn, colours, width))
        worked_s = 0.0 if self._past_moment else state.seconds  # not known as of an earlier turn
        self.query_one("#usage", Panel).show(charts.draw_usage(tally, colours, worked_s))
        trial_panel = self.query_one("#trial", Panel)
        trial_panel.display = self._trial is not None
        if self._trial is not None:
            title = f"Judge's trial, {format_quantity(self._trial.solutions, 'known solution')}"
            trial_panel.show(charts.draw_trial(self._trial, colours), title)
        threshold = state.config["novelty"]["question"]
        self.query_one("#similarity", Panel).show(
            lambda width: charts.draw_histogram(tally.similarities, colours, width, threshold),
            f"Question similarity; rejected above {threshold:g}",
        )
        min_confidence = state.config["judge"]["confidence"]
        self.query_one("#confidence", Panel).show(
            lambda width: charts.draw_histogram(
                tally.confidences, colours, width, min_confidence, height=3, highlights_below=True
            ),
            f"Judge confidence; asked again below {min_confidence:g}",
        )
        self.query_one("#quality", Panel).show(lambda width: charts.draw_quality(tally.levels, colours, width))
        self.query_one("#events", Panel).show(lambda width: charts.draw_events(list(tally.events), colours, width, 12))

    def _show_turns(self, state: RunState) -> None:
        """Show the turns in progress, or the turn to which the user has stepped."""
        panel, tally, colours = self.query_one("#turns", Panel), self._tally, self.colours
        panel.border_subtitle = "← → earlier and later turns" if self._past_moment else "← earlier turns"
        if self._past_moment is not None:
            turn = self._past_moment.turn
            panel.show(charts.draw_turn(turn, colours), f"Turn {turn.number}")
            return
        concurrency = state.config["concurrency"] if state.worker else 0
        remaining_turns = max(0, state.row["max_turns"] - tally.turns)
        max_in_progress = min(concurrency, remaining_turns)
        turns = list(tally.list_turns_in_progress(max_in_progress)) if concurrency else []
        roles = state.config["roles"]
        first_endpoints = (roles["attacker"]["endpoint"], roles["defender"]["endpoint"])
        title = "Turns in progress"
        if concurrency:
            limit_note = f"; {MAX_TURN_LINES} of {len(turns)} shown" if len(turns) > MAX_TURN_LINES else ""
            title = f"Turns in progress, {format_quantity(concurrency, 'concurrent request')}{limit_note}"
        visible_turns = turns[:MAX_TURN_LINES]
        if visible_turns:
            panel.show(lambda width: charts.draw_turns(visible_turns, tally, first_endpoints, colours, width), title)
        elif state.status == "done":
            panel.show("This run is done.", title)
        else:
            panel.show("No process works on this run. Press space to resume it.", title)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Enable the key that returns to the live view only while an earlier turn is shown, and the keys that steer the
        run only in the live view.
        """
        is_live = self._past_turn is None
        if action == "live":
            return not is_live
        if action in ("pause", "stop", "change"):
            return is_live
        return super().check_action(action, parameters)

    def action_step(self, offset: int) -> None:
        """Step to an earlier (`offset` < 0) or a later turn; the live view follows the last turn."""
        last_turn = self._tally.turns - 1
        if last_turn < 0:
            self.notify("This run has no committed turn yet.")
            return
        shown_turn = last_turn + 1 if self._past_turn is None else self._past_turn
        turn = shown_turn + offset
        self._show_moment(None if turn > last_turn else max(0, turn))

    def action_live(self) -> None:
        self._show_moment(None)

    def _show_moment(self, turn: int | None) -> None:
        """Show the run as of a turn; None shows the live run."""
        if turn != self._past_turn:
            self._past_turn = turn
            self.refresh_bindings()
            self.reload()

    def action_back(self) -> None:
        """Return from an earlier turn to the live view; from the live view, close the screen."""
        if self._past_turn is None:
            super().action_back()
        else:
            self.action_live()

    def action_pause(self) -> None:
        """Pause the run if it runs; resume it if it was paused, stopped or interrupted."""
        status = self._state.shown_status if self._state else ""
        if status in ("running", "stalled"):
            self.run_command("run", "pause", self.run_id)
        elif status == "draining":
            self.notify("This run is already draining: it finishes its turns in progress. Press s to end it at once.")
        elif status == "done":
            self.notify(
                "This run is done. To continue it, raise its target with c, then press space.", severity="warning"
            )
        elif status:
            self.run_command("run", "resume", self.run_id, "--detach", "--json", success="Resumed the run.")

    def action_stop(self) -> None:
        """Ask for a confirmation, and stop the run; if it is stopping already, end it at once."""
        if self._state is None:
            return
        worker = self._state.worker
        if worker is None and self._state.status in ENDED:
            self.notify(f"This run is already {self._state.status}.")
            return
        is_stopping = worker is not None and worker.wish in ("stop", "end")
        question = (
            "End this run at once? Requests in flight are lost; every reply so far is kept."
            if is_stopping
            else "Stop this run? Turns in progress are finished and kept. You can resume it later."
        )
        self.app.push_screen(ConfirmDialog(question, "Stop"), self._stop)

    def _stop(self, yes: bool | None) -> None:
        if yes:
            self.run_command("run", "stop", self.run_id)

    def action_change(self) -> None:
        """Open the form with the settings that may change while the run runs."""
        if self._state is None:
            return
        state, budget = self._state, self._state.config.get("budget", {})
        fields = (
            Field("concurrency", "concurrent requests", str(state.config["concurrency"])),
            Field("target", "examples to keep", str(state.row["target"])),
            Field("max_turns", "maximum turns", str(state.row["max_turns"])),
            Field("budget.usd", "maximum dollars", "" if budget.get("usd") is None else str(budget["usd"]), "no limit"),
        )
        note = (
            "A running worker applies the changes within a second. Settings that decide the turns themselves are fixed."
        )
        self.app.push_screen(
            FormDialog("Change this run", fields, "Change", note), lambda values: self._change(fields, values)
        )

    def _change(self, fields: tuple[Field, ...], values: dict[str, str] | None) -> None:
        """Set the values that the user has changed; empty fields are ignored. `values` is None after a cancellation."""
        previous_values = {field.key: field.value for field in fields}
        new_values = values or {}
        changes = [f"{key}={value}" for key, value in new_values.items() if value and value != previous_values[key]]
        if changes:
            self.run_command("run", "set", self.run_id, *changes)

    def action_examples(self) -> None:
        self.app.push_screen(ExamplesScreen(self.run_id))

    def action_attempts(self) -> None:
        self.app.push_screen(AttemptsScreen(self.run_id, self._past_turn))

    def action_problems(self) -> None:
        self.app.push_screen(ProblemsScreen(self.run_id))

    def action_log(self) -> None:
        self.app.push_screen(LogScreen(Job(RUN, self.run_id)))

    async def action_compare(self) -> None:
        """Choose another run, and show it next to this one."""
        sql = "SELECT id, name FROM runs WHERE id != ? ORDER BY rowid DESC LIMIT ?"
        rows = await self.read_ledger(lambda view: list(view.rows(sql, self.run_id, MAX_CHOICES))) or []
        if not rows:
            self.notify("There is no other run.")
            return
        label_by_run: dict[str, str] = {}
        for row in rows:
            label_by_run[row["id"]] = row["id"] if row["name"] == row["id"] else f"{row['name']}  {row['id']}"
        self.app.push_screen(ChoiceDialog("Show this run next to", label_by_run), self._compare)

    def _compare(self, other_run: str | None) -> None:
        """Show the run `other_run` next to this one; None means that the user cancelled."""
        if other_run is None:
            return
        # Imported here, since these modules import libraries that a run's screen does not need.
        from nanoflux_local.run.side_by_side import CachedSide, SideBySide, compare_runs
        from nanoflux_tui.screens.side_by_side import SideBySideScreen

        home, cache = self.home, dict[str, CachedSide]()

        def compare(view: LedgerView) -> SideBySide:
            return compare_runs(home, view, self.run_id, other_run, cache)

        self.app.push_screen(SideBySideScreen(self.mode, compare))

    def action_train(self) -> None:
        run = self.run_id
        self.application.open_form(f"new training on {run}", lambda: NewTrainingScreen(run))

    def action_export(self) -> None:
        """Open the form that exports the kept examples."""
        fields = (
            Field("format", "format", "chat", options=FORMATS),
            Field("for", "for the trainer", ANY_TRAINER, options=TRAINERS),
            Field("solution", "solution", SOLUTIONS[0], options=SOLUTIONS),
            Field("path", "file", "", "a new file in exports/ of the home directory"),
        )
        self.app.push_screen(FormDialog("Export the kept examples", fields, "Export"), self._export)

    def _export(self, values: dict[str, str] | None) -> None:
        """Export the kept examples with the values of the form. If the export is for a trainer, the messages of the
        command, which say how to start the trainer, are shown too.
        """
        if values:
            trainer = "" if values["for"] == ANY_TRAINER else values["for"]
            path = values["path"] or str(self._default_export_path(values["format"], trainer))
            (self.home.root / "exports").mkdir(mode=0o700, parents=True, exist_ok=True)
            options = ("--format", values["format"], *(("--for", trainer) if trainer else ()))

            def show_trainer_command(result: CommandResult) -> None:
                if result.ok and trainer:
                    self.app.push_screen(TextDialog(f"Exported for {trainer}", result.stderr))

            self.run_command("export", self.run_id, *options, "--solution", values["solution"], "-o", path,
                             success=f"Wrote {path}", on_result=show_trainer_command)  # fmt: skip

    def _default_export_path(self, file_format: str, trainer: str) -> Path:
        """The file to which an export is written if the user does not name one. An export for a trainer gets a separate
        folder, since LLaMA-Factory's description of the rows always has the same file name.
        """
        stem = self.run_id if file_format == "chat" else f"{self.run_id}-{file_format}"
        suffix = "parquet" if file_format == "parquet" else "jsonl"
        name = f"{stem}.{suffix}"
        exports = self.home.root / "exports"
        return exports / f"{stem}-{trainer}" / name if trainer else exports / name

    def action_note(self) -> None:
        if self._state is not None:
            edit_note(self, "run", self.run_id, self._state.note)

    def action_report(self) -> None:
        self.write_report(self.run_id)

    def action_verify(self) -> None:
        self.notify("Verifying every hash …")
        self.run_command("run", "verify", self.run_id, success="Every hash matches.")

    def action_copy(self) -> None:
        command_line = format_command(("run", "show", self.run_id))
        self.app.copy_to_clipboard(command_line)
        self.app.push_screen(TextDialog("Copied the command", command_line))
