"""Trainings and what they left: curves that grow while one looks, checkpoints, adapters with their probe."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual_plotext import PlotextPlot

from nanoflux_local.adapters.record import Adapter, DamagedAdapter
from nanoflux_local.adapters.store import list_adapters
from nanoflux_local.errors import NothingMatchedError
from nanoflux_local.jobs import TRAINING, Work, with_worker
from nanoflux_local.ledger import board
from nanoflux_local.ledger.views import LedgerView
from nanoflux_tui.look import bar
from nanoflux_tui.room import Room
from nanoflux_tui.screens.dialogs import Confirm, Told
from nanoflux_tui.screens.train_form import TrainForm
from nanoflux_tui.text import duration, harmless, line
from nanoflux_tui.widgets.columns import Cells, Column
from nanoflux_tui.widgets.panel import Panel
from nanoflux_tui.widgets.window_table import WindowTable

POINTS = 400
"""Points of a curve that are drawn: more than a terminal has columns."""


class TrainingRoom(Room):
    """Trainings above, the curve of the one under the cursor beside or below, adapters at the foot."""

    mode = "training"
    HELP = """Trainings, newest first, with the loss of the one under the cursor: on what it learns from (train)
and on dev items that it never learns from. Below are the adapters that came of them; a probe proves that a
served adapter changes what its base says. m shows all of an adapter's record."""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("t", "train", "New training"),
        Binding("space", "pause", "Pause/resume"),
        Binding("s", "stop", "Stop"),
        Binding("m", "more", "More"),
        Binding("e", "evaluate", "Evaluate", show=False),
    ]
    DEFAULT_CSS = """
    TrainingRoom #both { height: 1fr; layout: vertical; }
    TrainingRoom.-wide #both { layout: horizontal; }
    TrainingRoom #lists, TrainingRoom #curves { width: 1fr; height: 1fr; }
    TrainingRoom #adapters { height: 2fr; border-top: solid $border; }
    TrainingRoom #trainings { height: 3fr; }
    TrainingRoom PlotextPlot { height: 1fr; }
    TrainingRoom.-flat #adapters, TrainingRoom.-flat #curves { display: none; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._adapters: list[Adapter | DamagedAdapter] = []
        self._seen: tuple[object, ...] = ()

    def body(self) -> ComposeResult:
        trainings = (
            Column("state", 13),
            Column("base", 14, share=1),
            Column("learns from", 14, share=2, from_width=70),
            Column("step", 18),
        )
        adapters = (
            Column("adapter", 12),
            Column("base", 12, share=1),
            Column("examples", 8, right=True, from_width=54),
            Column("dev loss", 16, from_width=70),
            Column("probe", 7),
        )
        with Horizontal(id="both"):
            with Vertical(id="lists"):
                yield WindowTable(trainings, self._rows, id="trainings")
                empty = "none yet: a training that is done leaves one"
                yield WindowTable(adapters, self._adapter_rows, id="adapters", empty=empty)
            with Vertical(id="curves"):
                yield Panel(id="about", classes="plain")
                yield PlotextPlot(id="plot")

    async def load(self) -> None:
        keys = await self.ask(_keys) or []
        self._adapters = list_adapters(self.place.adapters)
        await self.query_one("#trainings", WindowTable).show(keys)
        await self.query_one("#adapters", WindowTable).show([adapter.hash for adapter in self._adapters])
        await self._show_curve()

    async def _rows(self, keys: Sequence[str]) -> list[Cells]:
        wanted = list(keys)
        lines = await self.ask(lambda view: [self._line(view, key) for key in wanted]) or []
        return [self._cells(training) for training in lines]

    def _line(self, view: LedgerView, training: str) -> dict[str, Any]:
        row = view.row("SELECT * FROM trainings WHERE id = ?", training)
        if row is None:
            raise NothingMatchedError(f"the training {training} is gone")
        values = {**dict(row), **board.last_step(view, training)}
        return with_worker(self.place, view, Work(TRAINING, training), values)

    def _cells(self, training: dict[str, Any]) -> Cells:
        source = json.loads(training["plan"]).get("source", dict)
        steps, step = training.get("steps", 0), training.get("step", 0)
        return [
            self.ink.sign(training["status"]),
            line(training["base"], 40),
            line(training["run"] or source.get("file", "a file"), 60),
            f"{bar(step, steps, 8)} {step}/{steps}" if steps else "–",
        ]

    async def _adapter_rows(self, keys: Sequence[str]) -> list[Cells]:
        adapter_by_key = {adapter.hash: adapter for adapter in self._adapters}
        return [self._adapter(adapter_by_key[key]) if key in adapter_by_key else ["gone"] for key in keys]

    def _adapter(self, adapter: Adapter | DamagedAdapter) -> Cells:
        if isinstance(adapter, DamagedAdapter):
            return [adapter.hash[:12], "damaged", "", "", "–"]
        training, probe = adapter.training, adapter.probe
        losses = training.dev_losses if training else ()
        word, colour = ("works", "success") if probe and probe.passed else ("fails", "error")
        if probe is None:
            word, colour = "–", "foreground"
        dev = f"{losses[0]:.3f} → {losses[-1]:.3f}" if len(losses) > 1 else "–"
        return [adapter.id, line(adapter.base.name, 40), str(training.examples) if training else "imported", dev,
                Text(word, style=self.ink[colour])]  # fmt: skip

    @on(WindowTable.Pointed, "#trainings")
    async def _update_curve(self) -> None:
        await self._show_curve()

    async def _show_curve(self) -> None:
        training = self.query_one("#trainings", WindowTable).key
        panel = self.query_one("#about", Panel)
        if training is None:
            panel.show("No training yet: t begins one on the examples of a run.")
            self.query_one(PlotextPlot).display = False
            return
        values = await self.ask(lambda view: self._line(view, training)) or {}
        curve = await self.ask(lambda view: view.training_curve(training)) or []
        if values:
            panel.show(self._about(values))
        seen = (training, len(curve), self.app.theme)
        if seen != self._seen:
            self._seen = seen
            self._draw(curve)

    def _about(self, training: dict[str, Any]) -> Text:
        text = self.ink.sign(training["status"])
        text.append(f"  {training['id']}", style="bold")
        loss = (
            f"loss {training['loss']:.3f}, {training['tokens_per_s']:,.0f} tokens/s"
            if training.get("loss") is not None
            else ""
        )
        kept = self.place.root / "trainings" / training["id"]
        points = len(list(kept.glob("checkpoint*"))) if kept.is_dir() else 0
        text.append(f"\n{loss or 'nothing was learned yet'}  worked {duration(training['seconds'])}")
        text.append(f"  {points} checkpoint{'s' if points != 1 else ''}" if points else "")
        if training["message"]:
            text.append(f"\n{line(training['message'], 300)}", style=self.ink["error"])
        return text

    def _draw(self, curve: list[tuple[str, dict[str, Any]]]) -> None:
        plot = self.query_one(PlotextPlot)
        steps = [event for kind, event in curve if kind == "step"]
        epochs = [event for kind, event in curve if kind == "epoch" and event.get("val_loss") is not None]
        plot.display = bool(steps)
        if not steps:
            return
        every = max(1, len(steps) // POINTS)
        shown = steps[::every]
        plt = plot.plt
        plt.clear_data()
        plt.clear_figure()
        plt.xlabel("step")
        plt.plot([e["step"] for e in shown], [e["loss"] for e in shown], label="train loss", marker="braille")
        if epochs:
            plt.plot([e["step"] for e in epochs], [e["val_loss"] for e in epochs], label="dev loss", marker="●")
        plot.refresh()

    def _training(self) -> str:
        return str(self.query_one("#trainings", WindowTable).key or "")

    def action_train(self) -> None:
        self.app.push_screen(TrainForm())

    async def action_pause(self) -> None:
        training = self._training()
        if not training:
            return
        values = await self.ask(lambda view: self._line(view, training)) or {}
        if values.get("status") in ("running", "stalled"):
            self.do("trainings", "pause", training)
        elif values.get("status") == "done":
            self.notify("It is done; its adapter is below.")
        else:
            self.do("trainings", "resume", training, "--detach", "--json", said="It goes on from its last checkpoint.")

    def action_stop(self) -> None:
        if training := self._training():
            question = "Stop this training? The step under way is ended and a checkpoint written. It can be resumed."
            self.app.push_screen(Confirm(question, "Stop"), lambda yes: self._stop(training, bool(yes)))

    def _stop(self, training: str, yes: bool) -> None:
        if yes:
            self.do("trainings", "stop", training)

    def action_more(self) -> None:
        adapter = self.query_one("#adapters", WindowTable).key
        if adapter is not None:
            self._more(str(adapter))

    def _more(self, adapter: str) -> None:
        path = Path(self.place.adapters) / adapter / "nanoflux.json"
        text = path.read_text("utf-8", errors="replace") if path.is_file() else "its record is gone"
        self.app.push_screen(Told(f"adapter {adapter[:12]}", harmless(text, 20_000)))

    def action_evaluate(self) -> None:
        self.control.action_go("evaluation")


def _keys(view: LedgerView) -> list[str]:
    return [row["id"] for row in view.rows("SELECT id FROM trainings ORDER BY rowid DESC")]
