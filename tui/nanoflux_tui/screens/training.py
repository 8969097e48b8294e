"""The training runs with live loss curves and their checkpoints, and the adapters with their probes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual_plotext import PlotextPlot

from nanoflux_local.adapters.record import Adapter, DamagedAdapter
from nanoflux_local.adapters.store import list_adapters
from nanoflux_local.errors import NothingMatchedError
from nanoflux_local.jobs import TRAINING, Job, JobState, load_job_state
from nanoflux_local.ledger import board
from nanoflux_local.ledger.views import LedgerView, TrainingCurve
from nanoflux_local.run.side_by_side import CachedSide, SideBySide, compare_trainings
from nanoflux_local.train.summary import StoredTraining
from nanoflux_tui.base import BaseScreen
from nanoflux_tui.screens.dialogs import ChoiceDialog, ConfirmDialog, TextDialog
from nanoflux_tui.screens.log import LogScreen
from nanoflux_tui.screens.new_training import NewTrainingScreen
from nanoflux_tui.screens.notes import edit_note
from nanoflux_tui.screens.side_by_side import SideBySideScreen
from nanoflux_tui.text import format_duration, format_line, format_pace, format_quantity, sanitize
from nanoflux_tui.theme import ENDED, draw_bar
from nanoflux_tui.widgets.columns import Cells, Column, SortableCell
from nanoflux_tui.widgets.panel import Panel
from nanoflux_tui.widgets.window_table import WindowTable

MAX_POINTS = 400
"""The maximum number of points of a drawn curve; no terminal has as many columns."""


@dataclass(frozen=True, slots=True)
class CurrentTraining:
    """A training run as recorded in the ledger, its last step, and its current state, which takes its worker into
    account.
    """

    stored: StoredTraining
    last_step: board.LastStep
    state: JobState


class TrainingScreen(BaseScreen):
    """Training runs, the loss curve of the selected training run, and adapters."""

    mode = "training"
    HELP = """Training runs, newest first, with the loss curves of the selected one: on its training examples and on dev
items it does not train on. Below are the adapters. A probe proves that a served adapter changes the
replies of its base. d shows an adapter's full record, m edits the note on the selected training run, b shows that
training run next to another one, and l shows the log of its worker."""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("t", "train", "New training run"),
        Binding("space", "pause", "Pause/resume"),
        Binding("s", "stop", "Stop"),
        Binding("m", "note", "Note"),
        Binding("d", "details", "Adapter"),
        Binding("b", "compare", "Side by side"),
        Binding("l", "log", "Log"),
        Binding("e", "evaluate", "Evaluate", show=False),
    ]
    DEFAULT_CSS = """
    TrainingScreen #both { height: 1fr; layout: vertical; }
    TrainingScreen.-wide #both { layout: horizontal; }
    TrainingScreen #lists, TrainingScreen #curves { width: 1fr; height: 1fr; }
    TrainingScreen #adapters { height: 2fr; border-top: solid $border; }
    TrainingScreen #trainings { height: 3fr; }
    TrainingScreen PlotextPlot { height: 1fr; }
    TrainingScreen.-flat #adapters, TrainingScreen.-flat #curves { display: none; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._adapters: list[Adapter | DamagedAdapter] = []
        self._drawn_version: tuple[object, ...] = ()
        """The training run, the number of its events, and the theme, when the curve was last drawn."""

    def compose_body(self) -> ComposeResult:
        training_columns = (
            Column("state", 13),
            Column("base", 14, share=1),
            Column("data", 14, share=2, from_width=70),
            Column("step", 18),
        )
        adapter_columns = (
            Column("adapter", 12),
            Column("base", 12, share=1),
            Column("examples", 8, right=True, from_width=54),
            Column("dev loss", 16, from_width=70),
            Column("probe", 7),
        )
        with Horizontal(id="both"):
            with Vertical(id="lists"):
                yield WindowTable(training_columns, self._fetch_rows, id="trainings")
                empty_text = "No adapters yet. A finished training adds one."
                yield WindowTable(adapter_columns, self._fetch_adapter_rows, id="adapters", empty=empty_text)
            with Vertical(id="curves"):
                yield Panel(id="about", classes="plain")
                plot = PlotextPlot(id="plot")
                plot.display = False
                yield plot

    async def load(self) -> None:
        keys = await self.read_ledger(_list_trainings) or []
        self._adapters = list_adapters(self.home.adapters)
        requested_key = self.application.requested_key_by_tab.pop("training", None)
        await self.query_one("#trainings", WindowTable).show(keys, requested_key)
        await self.query_one("#adapters", WindowTable).show([adapter.hash for adapter in self._adapters])
        await self._show_selected_training()

    async def _fetch_rows(self, keys: Sequence[str]) -> list[Cells]:
        ids = list(keys)
        trainings = await self.read_ledger(lambda view: [self._read_training(view, key) for key in ids]) or []
        return [self._format_cells(training) for training in trainings]

    def _read_training(self, view: LedgerView, training: str) -> CurrentTraining:
        """The training run with the id `training`, with its current state.

        Raises:
            NothingMatchedError: the ledger does not contain the training run.
        """
        row = view.row("SELECT * FROM trainings WHERE id = ?", training)
        if row is None:
            raise NothingMatchedError(
                f"training {training} is no longer in the ledger", "return to the list with Escape"
            )
        state = load_job_state(self.home, view, Job(TRAINING, training), dict(row))
        return CurrentTraining(StoredTraining.from_row(row), board.load_last_step(view, training), state)

    def _format_cells(self, training: CurrentTraining) -> Cells:
        stored, step, steps = training.stored, training.last_step.step, training.last_step.steps
        data = stored.run or stored.plan.get("source", {}).get("file", "a file")  # a run's examples, or rows of a file
        return [
            self.colours.format_status(training.state.status),
            format_line(stored.base, 40),
            format_line(data, 60),
            SortableCell(f"{draw_bar(step, steps, 8)} {step}/{steps}", step / steps) if steps else "–",
        ]

    async def _fetch_adapter_rows(self, keys: Sequence[str]) -> list[Cells]:
        adapter_by_key = {adapter.hash: adapter for adapter in self._adapters}
        return [self._format_adapter(adapter_by_key[key]) if key in adapter_by_key else ["deleted"] for key in keys]

    def _format_adapter(self, adapter: Adapter | DamagedAdapter) -> Cells:
        """The row of an adapter in the table of adapters."""
        if isinstance(adapter, DamagedAdapter):
            return [adapter.hash[:12], "damaged", "", "", "–"]
        training, probe = adapter.training, adapter.probe
        if probe is None:
            probe_word, colour = "–", "foreground"
        else:
            probe_word, colour = ("works", "success") if probe.passed else ("fails", "error")
        dev_losses = training.dev_losses if training else ()
        dev_loss = SortableCell("–", None)
        if len(dev_losses) > 1:
            dev_loss = SortableCell(f"{dev_losses[0]:.3f} → {dev_losses[-1]:.3f}", dev_losses[-1])
        return [
            adapter.id,
            format_line(adapter.base.name, 40),
            str(training.examples) if training else "imported",
            dev_loss,
            Text(probe_word, style=self.colours[colour]),
        ]

    @on(WindowTable.RowHighlighted, "#trainings")
    async def _handle_highlight(self) -> None:
        await self._show_selected_training()

    async def _show_selected_training(self) -> None:
        """Show the details and the loss curve of the training run under the cursor."""
        training = self.query_one("#trainings", WindowTable).selected_key
        panel = self.query_one("#about", Panel)
        if training is None:
            panel.show("No training runs yet. Press t to train a model on the examples of a run.")
            self.query_one(PlotextPlot).display = False
            return
        current = await self.read_ledger(lambda view: self._read_training(view, training))
        curve = await self.read_ledger(lambda view: view.training_curve(training)) or TrainingCurve(())
        if current:
            panel.show(self._format_details(current, await self._read_note(training)))
        curve_version = (training, len(curve.events), self.app.theme)
        if curve_version != self._drawn_version:
            self._drawn_version = curve_version
            self._draw_curve(curve)

    async def _read_note(self, training: str) -> str:
        return await self.read_ledger(lambda view: view.note("training", training)) or ""

    def _format_details(self, training: CurrentTraining, note: str) -> Text:
        """The status, last step, rate, checkpoints, note and message of a training run."""
        last_step, state = training.last_step, training.state
        text = self.colours.format_status(state.status)
        text.append(f"  {training.stored.id}", style="bold")
        step_text = "no step yet"
        if last_step.loss is not None:
            step_text = f"loss {last_step.loss:.3f}, {last_step.tokens_per_s:,.0f} tokens/s"
        folder = self.home.root / "trainings" / training.stored.id
        checkpoint_count = len(list(folder.glob("checkpoint*"))) if folder.is_dir() else 0
        text.append(f"\n{step_text}  worked {format_duration(state.seconds)}")
        if state.status == "running":
            pace = format_pace(last_step.step, last_step.steps, state.seconds, "steps")
            text.append(f"  {pace}" if pace else "")
        text.append(f"  {format_quantity(checkpoint_count, 'checkpoint')}" if checkpoint_count else "")
        if note:
            text.append(f"\nnote: {format_line(note, 300)}", style=self.colours["accent"])
        if state.message:
            text.append(f"\n{format_line(state.message, 300)}", style=self.colours["error"])
        return text

    def _draw_curve(self, curve: TrainingCurve) -> None:
        """Draw the training loss of each step and the dev loss of each epoch."""
        plot = self.query_one(PlotextPlot)
        steps, dev_losses = curve.steps, curve.dev_losses
        plot.display = bool(steps)
        if not steps:
            return
        stride = max(1, len(steps) // MAX_POINTS)
        drawn_steps = steps[::stride]
        plt = plot.plt
        plt.clear_data()
        plt.clear_figure()
        plt.xlabel("step")
        plt.plot(
            [step.step for step in drawn_steps],
            [step.loss for step in drawn_steps],
            label="train loss",
            marker="braille",
        )
        if dev_losses:
            epoch_steps, losses = zip(*dev_losses, strict=True)
            plt.plot(epoch_steps, losses, label="dev loss", marker="●")
        plot.refresh()

    def _selected_training(self) -> str:
        return str(self.query_one("#trainings", WindowTable).selected_key or "")

    def action_train(self) -> None:
        self.application.open_form("new training", NewTrainingScreen)

    async def action_pause(self) -> None:
        """Pause the selected training run if it runs; otherwise resume it from its last checkpoint."""
        training = self._selected_training()
        if not training:
            return
        current = await self.read_ledger(lambda view: self._read_training(view, training))
        status = current.state.status if current else ""
        if status in ("running", "stalled"):
            self.run_command("trainings", "pause", training)
        elif status == "done":
            self.notify("This training run is done. Its adapter is listed below.")
        else:
            self.run_command(
                "trainings",
                "resume",
                training,
                "--detach",
                "--json",
                success="Resumed the training run from its last checkpoint.",
            )

    async def action_stop(self) -> None:
        """Ask for a confirmation, and stop the selected training run after its current step."""
        training = self._selected_training()
        current = await self.read_ledger(lambda view: self._read_training(view, training)) if training else None
        if current is not None and current.state.worker is None and current.state.status in ENDED:
            self.notify(f"This training run is already {current.state.status}.")
        elif current is not None:
            question = (
                "Stop this training run? It finishes its current step and writes a checkpoint. You can resume it later."
            )
            self.app.push_screen(ConfirmDialog(question, "Stop"), lambda yes: self._stop(training, bool(yes)))

    def _stop(self, training: str, yes: bool) -> None:
        if yes:
            self.run_command("trainings", "stop", training)

    async def action_compare(self) -> None:
        """Choose another training run, and show it next to the selected one."""
        selected = self._selected_training()
        all_trainings = await self.read_ledger(_list_trainings) or []
        label_by_training = {training: training for training in all_trainings if training != selected}
        if not selected or not label_by_training:
            self.notify("There is no other training.")
            return
        dialog = ChoiceDialog(f"Show {selected} next to", label_by_training)
        self.app.push_screen(dialog, lambda other: self._compare(selected, other))

    def _compare(self, training: str, other_training: str | None) -> None:
        if other_training is not None:
            home, cache = self.home, dict[str, CachedSide]()

            def compare(view: LedgerView) -> SideBySide:
                return compare_trainings(home, view, training, other_training, cache)

            self.app.push_screen(SideBySideScreen(self.mode, compare))

    def action_log(self) -> None:
        if training := self._selected_training():
            self.app.push_screen(LogScreen(Job(TRAINING, training), self.mode))

    async def action_note(self) -> None:
        if training := self._selected_training():
            edit_note(self, "trainings", training, await self._read_note(training))

    def action_details(self) -> None:
        adapter = self.query_one("#adapters", WindowTable).selected_key
        if adapter is not None:
            self._show_record(str(adapter))

    def _show_record(self, adapter: str) -> None:
        """Show the record file of the adapter with this hash."""
        path = Path(self.home.adapters) / adapter / "nanoflux.json"
        text = path.read_text("utf-8", errors="replace") if path.is_file() else f"There is no record at {path}."
        self.app.push_screen(TextDialog(f"Adapter {adapter[:12]}", sanitize(text, 20_000)))

    def action_evaluate(self) -> None:
        self.application.action_go("evaluation")


def _list_trainings(view: LedgerView) -> list[str]:
    """The ids of all training runs, the newest first."""
    return [row["id"] for row in view.rows("SELECT id FROM trainings ORDER BY rowid DESC")]
