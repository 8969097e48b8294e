"""The form that starts a training run: it audits the data first and trains only after the audit."""

import asyncio
from typing import Any, ClassVar

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.widgets import Button, Input, Label, Select, Static

from nanoflux_local.train.origin import describe_leaks, describe_origin
from nanoflux_models.manifest import list_manifests
from nanoflux_models.weights import list_installed
from nanoflux_tui.screens.form import FormScreen, build_select, call_after_typing
from nanoflux_tui.text import format_command, format_count, format_duration, format_line, format_quantity, sanitize
from nanoflux_tui.widgets.panel import Panel

ANY_REASON = "for any reason"
"""The option for all kept examples."""
REASONS = {ANY_REASON: "", "as the defender failed": "kept_failed", "for a new solution": "kept_novel"}
"""The options of the field for the reason why examples were kept, with the values of `--reason`."""
DEFAULT_EPOCHS = "5"
QUANTIZED = "4-bit base"
"""The option that trains with `--qlora`."""
PRECISIONS = ("unquantized base", QUANTIZED)
AUTHOR = "of the author"
"""The option that stands for the default of `--solution`."""
SOLUTIONS = {
    AUTHOR: "author",
    "of a blind solver": "solver",
    "of the defender": "own",
    "that is shortest": "shortest",
    "that is likeliest": "likeliest",
}
"""The options of the field for the solution to learn, with the values of `--solution`."""
TYPING_PAUSE_S = 0.4
"""Seconds without a key press after which the audit starts."""


class NewTrainingScreen(FormScreen):
    """The form for a new training run. Training can start only once the audit of the current input has been shown."""

    AUTO_FOCUS = "#run"
    mode = "training"
    HELP = """The settings of a new training run on all or some kept examples of a run, with the right solution to learn
and benchmark rows to mix in. Before training, the audit reports the number of rows and tokens, rows that
are too long, test questions among the rows, and the expected time and memory. Ctrl+A repeats the audit,
Ctrl+S starts the training in a separate process."""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+a", "audit", "Audit", priority=True),
        Binding("ctrl+s", "train", "Train", priority=True),
    ]
    DEFAULT_CSS = """
    NewTrainingScreen .words Select { width: 26; }
    NewTrainingScreen #run { width: 34; }
    NewTrainingScreen #where, NewTrainingScreen #settings, NewTrainingScreen #mix { width: 1fr; }
    """

    def __init__(self, run: str = "") -> None:
        super().__init__()
        self._run = run
        self._requested_arguments: list[str] = []
        """The arguments of the last audit that was started."""
        self._audited_arguments: list[str] = []
        """The arguments of the last audit that finished."""
        self._is_starting = False

    def compose_body(self) -> ComposeResult:
        bases = self._list_bases()
        with VerticalScroll(id="form", can_focus=False):
            with Horizontal(classes="words"):
                yield Label("Fine-tune")
                yield build_select(bases, bases[0], "base")
                yield Label("on the examples of run")
                yield Input(self._run, placeholder="a run's id or name", compact=True, id="run")
            with Horizontal(classes="words"):
                yield Label("kept")
                yield build_select(list(REASONS), ANY_REASON, "reason")
                yield Label("at most")
                yield Input("", placeholder="all", compact=True, id="size")
                yield Label("where")
                yield Input("", placeholder="SQL, e.g. length(solution) < 900", compact=True, id="where")
            with Horizontal(classes="words"):
                yield Label("learn the solution")
                yield build_select(list(SOLUTIONS), AUTHOR, "solution")
                yield Label("mix in")
                yield Input("", placeholder="benchmark rows, e.g. gsm8k=1.0", compact=True, id="mix")
            with Horizontal(classes="words"):
                yield Label("for")
                yield Input(DEFAULT_EPOCHS, compact=True, id="epochs")
                yield Label("epochs;")
                yield build_select(PRECISIONS, PRECISIONS[0], "precision")
                yield Label("also set")
                yield Input("", placeholder="KEY=VALUE …", compact=True, id="settings")
            with Horizontal(classes="words"):
                yield Button("Audit (^a)", compact=True, id="audit")
                yield Button("Train (^s)", variant="primary", compact=True, id="train", disabled=True)
            yield Static("", id="line", markup=False)
            yield Panel("Audit", id="audit-result")

    def _list_bases(self) -> list[str]:
        """The installed chat models. If none is installed, only the small default model, so that the audit reports the
        missing weights and how to install them.
        """
        installed = {record.name for record in list_installed(self.home.root)}
        names = [
            manifest.name
            for manifest in list_manifests(self.home.root)
            if manifest.kind == "chat" and manifest.name in installed
        ]
        return names or ["smollm2-135m"]

    async def load(self) -> None:
        self._update_command()

    @on(Input.Changed)
    @on(Select.Changed)
    def _update_command(self) -> None:
        """Show the command for the current input, and start an audit if the input has changed since the last audit."""
        arguments = self._build_arguments()
        self.query_one("#line", Static).update(f"$ {sanitize(format_command([*arguments, '--detach']), 1_000)}")
        self.query_one("#train", Button).disabled = arguments != self._audited_arguments or self._is_starting
        if arguments != self._requested_arguments:  # a refresh does not restart a running audit
            self._requested_arguments = arguments
            self._run_audit()

    def _build_arguments(self) -> list[str]:
        """The arguments of the equivalent command, without --detach."""
        value = self.value
        arguments = ["train", value("run"), "--base", value("base")]
        if value("reason") != ANY_REASON:
            arguments += ["--reason", REASONS[value("reason")]]
        for name in ("size", "where"):
            if value(name):
                arguments += [f"--{name}", value(name)]
        if value("solution") != AUTHOR:
            arguments += ["--solution", SOLUTIONS[value("solution")]]
        for mix in value("mix").split():
            arguments += ["--mix", mix]
        if value("epochs") not in ("", DEFAULT_EPOCHS):
            arguments += ["--set", f"epochs={value('epochs')}"]
        if value("precision") == QUANTIZED:
            arguments.append("--qlora")
        for setting in value("settings").split():
            arguments += ["--set", setting]
        return arguments

    @work(group="audit", exclusive=True, exit_on_error=False)
    async def _run_audit(self) -> None:
        """Audit the current input once the user has stopped typing, and then enable the button that starts training."""
        arguments, panel = self._build_arguments(), self.query_one("#audit-result", Panel)
        if not arguments[1]:
            panel.show("Enter a run: the audit needs its examples.")
            return
        await asyncio.sleep(TYPING_PAUSE_S)
        panel.show("Auditing the rows and timing a matrix multiplication …")
        result = await self.commands.run(*arguments, "--dry-run", "--json", read_only=True)
        audit = result.json()
        if not result.ok or not audit:
            panel.show(Text(f"✗ {sanitize(result.stderr, 1_500)}", style=self.colours["error"]))
            return
        panel.show(self._format_audit(audit))
        self._audited_arguments = arguments
        self.query_one("#train", Button).disabled = False

    def _format_audit(self, audit: dict[str, Any]) -> Text:
        """The audit as a table of its figures, its findings, and the first training row."""
        colours, text, tokens = self.colours, Text(), audit["tokens"]
        lines = [
            ("rows", f"{audit['rows']}: {audit['usable']} for training, {audit['validation']} for validation"),
            *describe_origin(audit["source"]),
            ("tokens", f"{format_count(tokens['total'])} per epoch, at most {format_count(tokens['most'])} per row"),
            ("cut", _describe_cut(audit["cut_rows"], audit["cut_tokens"])),
            ("leaks", describe_leaks(len(audit["leaked"]))),
            ("expected", f"{format_quantity(audit['steps'], 'step')}, about {format_duration(audit['seconds'])}, "
                         f"about {audit['memory_bytes'] / 1e9:.1f} GB in {audit['dtype']}"),
        ]  # fmt: skip
        for label, line in lines:
            has_leaks = label == "leaks" and audit["leaked"]
            text.append(f"{label:<10}", style=colours["secondary"])
            text.append(f"{line}\n", style=colours["error"] if has_leaks else "")
        for finding in audit["findings"][:10]:
            text.append(f"! {format_line(finding, 200)}\n", style=colours["warning"])
        text.append("\nThe first row as the model reads it\n", style=f"bold {colours['secondary']}")
        text.append(sanitize(audit["rendered"], 2_000))
        return text

    def on_button_pressed(self, event: Button.Pressed) -> None:
        if event.button.id == "audit":
            self.action_audit()
        else:
            self.action_train()

    def action_audit(self) -> None:
        """Repeat the audit of the current input."""
        self._requested_arguments = self._audited_arguments = []  # as if the input had changed
        self._update_command()

    def action_train(self) -> None:
        call_after_typing(self, self._train)

    def _train(self) -> None:
        """Start the training with the audited input. Input without an audit is refused."""
        if self._is_starting:
            return
        if self._build_arguments() != self._audited_arguments:
            self.notify("Wait for the audit: it runs while you type.", severity="warning")
            return
        self._is_starting = True
        self.query_one("#train", Button).disabled = True
        self.notify("Starting the training in a separate process …")
        self._start_training([*self._audited_arguments, "--detach", "--json"])

    @work(group="train", exit_on_error=False)
    async def _start_training(self, arguments: list[str]) -> None:
        result = await self.commands.run(*arguments)
        self._is_starting = False
        if not result.ok:
            self.application.show_failure(result)
            self.query_one("#train", Button).disabled = False
            return
        started_training = result.json() or {}
        self.application.requested_key_by_tab["training"] = started_training.get("training", "")
        self.app.call_later(self._show_training)  # closing the form ends this worker

    def _show_training(self) -> None:
        self.application.close_form(self)
        self.application.action_go("training")


def _describe_cut(row_count: int, token_count: int) -> str:
    """How many rows exceed the maximum length, and how many tokens they lose."""
    if not row_count:
        return "none"
    verb = "loses" if row_count == 1 else "lose"
    return f"{format_quantity(row_count, 'row')} {verb} {format_quantity(token_count, 'token')}"
