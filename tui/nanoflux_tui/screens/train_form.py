"""A new training: what to learn from, the audit of it first, and only then the training itself."""

import asyncio
from typing import Any, ClassVar

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.widgets import Button, Input, Label, Select, Static

from nanoflux_models.manifest import list_manifests
from nanoflux_models.weights import list_installed
from nanoflux_tui.screens.form import Form, choice
from nanoflux_tui.text import command, count, duration, harmless, line
from nanoflux_tui.widgets.panel import Panel

ALL = "for any reason"
PRECISIONS = ("base as it is", "base in 4 bits")
TYPED_S = 0.4


class TrainForm(Form):
    """The form; nothing is trained before its audit was seen."""

    AUTO_FOCUS = "#run"
    mode = "training"
    HELP = """What to train on: the kept examples of a run, all or some. The audit says, before anything is
trained, how many rows and tokens there are, which are too long, whether a test question is among them, and
what it will take. Ctrl+A makes it anew, Ctrl+S trains in a process of its own."""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+a", "audit", "Audit", priority=True),
        Binding("ctrl+s", "train", "Train", priority=True),
    ]
    DEFAULT_CSS = """
    TrainForm .words Select { width: 26; }
    TrainForm #run { width: 34; } TrainForm #where { width: 1fr; } TrainForm #settings { width: 1fr; }
    """

    def __init__(self, run: str = "") -> None:
        super().__init__()
        self._run = run
        self._audit_words: list[str] = []
        self._audited: list[str] = []
        self._starting = False

    def body(self) -> ComposeResult:
        bases = self._bases()
        with VerticalScroll(id="form", can_focus=False):
            with Horizontal(classes="words"):
                yield Label("Tune")
                yield choice(bases, bases[0], "base")
                yield Label("on the examples of run")
                yield Input(self._run, placeholder="a run's id or name", compact=True, id="run")
            with Horizontal(classes="words"):
                yield Label("kept")
                yield choice((ALL, "kept_failed", "kept_novel"), ALL, "reason")
                yield Label("as many as")
                yield Input("", placeholder="all", compact=True, id="size")
                yield Label("where")
                yield Input("", placeholder="SQL, e.g. length(solution) < 900", compact=True, id="where")
            with Horizontal(classes="words"):
                yield Label("for")
                yield Input("5", compact=True, id="epochs")
                yield Label("epochs;")
                yield choice(PRECISIONS, PRECISIONS[0], "precision")
                yield Label("also set")
                yield Input("", placeholder="KEY=VALUE …", compact=True, id="settings")
            with Horizontal(classes="words"):
                yield Button("Audit (^a)", compact=True, id="audit")
                yield Button("Train (^s)", variant="primary", compact=True, id="train", disabled=True)
            yield Static("", id="line", markup=False)
            yield Panel("Audit", id="found")

    def _bases(self) -> list[str]:
        """The installed chat models, or the small default where there is none: its audit then says what is missing."""
        here = {record.name for record in list_installed(self.place.root)}
        names = [m.name for m in list_manifests(self.place.root) if m.kind == "chat" and m.name in here]
        return names or ["smollm2-135m"]

    async def load(self) -> None:
        self._update_command()

    @on(Input.Changed)
    @on(Select.Changed)
    def _update_command(self) -> None:
        words = self._words()
        self.query_one("#line", Static).update(f"$ {harmless(command([*words, '--detach']), 1_000)}")
        self.query_one("#train", Button).disabled = words != self._audited or self._starting
        if words != self._audit_words:  # one under way is not begun anew whenever the room is brought up to date
            self._audit_words = words
            self._audit_soon()

    def _words(self) -> list[str]:
        value = self.value
        words = ["train", value("run"), "--base", value("base")]
        if value("reason") != ALL:
            words += ["--reason", value("reason")]
        for name in ("size", "where"):
            words += [f"--{name}", value(name)] if value(name) else []
        words += ["--set", f"epochs={value('epochs')}"] if value("epochs") not in ("", "5") else []
        words += ["--qlora"] if value("precision") == PRECISIONS[1] else []
        return [*words, *(word for setting in value("settings").split() for word in ("--set", setting))]

    @work(group="audit", exclusive=True, exit_on_error=False)
    async def _audit_soon(self) -> None:
        words, panel = self._words(), self.query_one("#found", Panel)
        if not words[1]:
            panel.show("Name a run: the audit needs its examples.")
            return
        await asyncio.sleep(TYPED_S)
        panel.show("The rows are looked at, and a matrix product is timed …")
        ended = await self.bridge.do(*words, "--dry-run", "--json", only_asks=True)
        audit = ended.json()
        if not ended.ok or not audit:
            panel.show(Text(f"✗ {harmless(ended.told, 1_500)}", style=self.ink["error"]))
            return
        panel.show(self._audit_text(audit))
        self._audited = words
        self.query_one("#train", Button).disabled = False

    def _audit_text(self, audit: dict[str, Any]) -> Text:
        ink, text = self.ink, Text()
        rows = [
            ("rows", f"{audit['rows']}, of which {audit['usable']} are trained on, {audit['validation']} validated on"),
            ("tokens", f"{count(audit['tokens']['total'])} an epoch, at most {count(audit['tokens']['most'])} a row"),
            ("cut", f"{audit['cut_rows']} rows lose {audit['cut_tokens']} tokens" if audit["cut_rows"] else "none"),
            ("leaks", f"{len(audit['leaked'])} rows hold a test question" if audit["leaked"] else "none"),
            ("it takes", f"{audit['steps']} steps, about {duration(audit['seconds'])}, "
                         f"about {audit['memory_bytes'] / 1e9:.1f} GB in {audit['dtype']}"),
        ]  # fmt: skip
        for name, value in rows:
            bad = name == "leaks" and audit["leaked"]
            text.append(f"{name:<10}", style=ink["secondary"])
            text.append(f"{value}\n", style=ink["error"] if bad else "")
        for finding in audit["findings"][:10]:
            text.append(f"! {line(finding, 200)}\n", style=ink["warning"])
        text.append("\nThe first row as the model sees it\n", style=f"bold {ink['secondary']}")
        text.append(harmless(audit["rendered"], 2_000))
        return text

    def on_button_pressed(self, event: Button.Pressed) -> None:
        self.action_audit() if event.button.id == "audit" else self.action_train()

    def action_audit(self) -> None:
        self._audit_words = self._audited = []
        self._update_command()

    def action_train(self) -> None:
        if self._starting:
            return
        if self._words() != self._audited:
            self.notify("The audit comes first; it is made as you type.", severity="warning")
            return
        self._starting = True
        self.query_one("#train", Button).disabled = True
        self.notify("The training is being started in a process of its own.")
        self._train([*self._audited, "--detach", "--json"])

    @work(group="train", exit_on_error=False)
    async def _train(self, words: list[str]) -> None:
        ended = await self.bridge.do(*words)
        self._starting = False
        if not ended.ok:
            self.control.complain(ended)
            self.query_one("#train", Button).disabled = False
            return
        self.app.pop_screen()
        self.control.action_go("training")
