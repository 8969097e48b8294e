"""Models: the servers with their state, the GPUs, the models with their weights, and the downloads in progress."""

import asyncio
import shutil
from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll

from nanoflux_local.run.configs import list_profiles
from nanoflux_models.gpus import query_gpus, survey_gpus
from nanoflux_models.manifest import list_manifests
from nanoflux_models.server_record import log_path, records
from nanoflux_models.weights import list_installed
from nanoflux_tui.base import BaseScreen
from nanoflux_tui.commands import CommandResult
from nanoflux_tui.screens.dialogs import ConfirmDialog, Field, FormDialog, TextDialog
from nanoflux_tui.text import format_line, sanitize
from nanoflux_tui.theme import draw_bar
from nanoflux_tui.widgets.columns import Cells, Column
from nanoflux_tui.widgets.panel import Panel
from nanoflux_tui.widgets.window_table import WindowTable

TAIL = 16_000
GPU_FIELDS = "name,memory.used,memory.total,utilization.gpu"


class ModelsScreen(BaseScreen):
    """Servers, weights, GPUs and background commands."""

    mode = "models"
    HELP = """vLLM servers started from this home, and the models with a manifest. Serve starts a server for the
selected model and leaves it running. Plan shows which model of a profile goes on which GPU, without
starting anything. Pull downloads and checks weights; verify hashes every byte of them again."""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("s", "serve", "Serve"),
        Binding("x", "stop", "Stop"),
        Binding("l", "log", "Log"),
        Binding("p", "pull", "Pull"),
        Binding("v", "verify", "Verify"),
        Binding("g", "plan", "Plan"),
    ]
    DEFAULT_CSS = """
    ModelsScreen #servers { height: 30%; min-height: 4; border-bottom: solid $border; }
    ModelsScreen #weights { height: 1fr; }
    ModelsScreen #lists { width: 1fr; }
    ModelsScreen #now { height: auto; max-height: 35%; scrollbar-size-vertical: 1; }
    ModelsScreen.-flat #servers, ModelsScreen.-flat #now { display: none; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._weights: dict[str, Cells] = {}
        self._servers: dict[str, Cells] = {}

    def compose_body(self) -> ComposeResult:
        servers = (
            Column("server", 16, share=1),
            Column("state", 14),
            Column("address", 26, from_width=70),
            Column("owner", 14, from_width=90),
            Column("adapters", 8, right=True, from_width=104),
        )
        weights = (
            Column("model", 22, share=1),
            Column("installed", 9),
            Column("kind", 8, from_width=66),
            Column("licence", 14, from_width=84),
            Column("description", 20, share=3),
        )
        with Horizontal(), Vertical(id="lists"):
            yield WindowTable(servers, self._server_rows, id="servers")
            yield WindowTable(weights, self._weight_rows, id="weights")
            with VerticalScroll(id="now", can_focus=False):
                yield Panel("This machine", id="machine")

    def on_mount(self) -> None:
        super().on_mount()
        self.query_one("#weights").focus()

    async def load(self) -> None:
        installed = {record.name for record in list_installed(self.home.root)}
        self._weights = {
            m.name: [
                m.name,
                "✓ yes" if m.name in installed else "· no",
                m.kind,
                m.licence,
                format_line(m.description, 200),
            ]
            for m in list_manifests(self.home.root)
        }
        self._servers = {
            record.name: [
                record.name, self.colours.format_status("ready" if record.alive else "ended"), record.url,
                f"process {record.owner[0]}" if record.owner else "–", str(len(record.proved)),
            ]
            for record in records(self.home.root)
        }  # fmt: skip
        self.query_one("#servers").display = bool(self._servers)
        await self.query_one("#servers", WindowTable).show(list(self._servers))
        await self.query_one("#weights", WindowTable).show(list(self._weights))
        gpus = await asyncio.to_thread(_query_gpus)
        self.query_one("#machine", Panel).show(self._format_machine(gpus))

    async def _server_rows(self, keys: Sequence[str]) -> list[Cells]:
        return [self._servers.get(key, ["deleted"]) for key in keys]

    async def _weight_rows(self, keys: Sequence[str]) -> list[Cells]:
        return [self._weights.get(key, ["deleted"]) for key in keys]

    def _format_machine(self, gpus: list[list[str]]) -> Text:
        text, colours = Text(), self.colours
        if not self._servers:
            text.append("No server is running. Press s to serve the selected model; this needs vLLM.\n")
        for index, (name, used, total, busy) in enumerate(gpus):
            text.append(f"GPU {index} {format_line(name, 30)}  ")
            if used.isdigit() and total.isdigit():
                text.append(draw_bar(float(used), float(total), 20), style=colours["primary"])
                text.append(f" {float(used) / 1024:.1f} of {float(total) / 1024:.1f} GiB, ")
            else:
                text.append(f"memory not reported ({format_line(total, 30)}), ")
            text.append(f"{format_line(busy, 30)}% busy\n")
        if not gpus:
            text.append("No GPU was found. Small models run on the CPU, in the process of the run.\n")
        for command in self.commands.background[-6:]:
            code = command.code
            status = colours.format_status("running" if code is None else "done" if code == 0 else "failed")
            text.append_text(status)
            text.append(f"  {format_line(command.label, 60)}: {command.read_last_lines()}\n")
        text.rstrip()
        return text

    def _selected_model(self) -> str:
        return str(self.query_one("#weights", WindowTable).key or "")

    def _selected_server(self) -> str:
        return str(self.query_one("#servers", WindowTable).key or "")

    def action_serve(self) -> None:
        model = self._selected_model()
        fields = (
            Field("context", "context length", "", "8192 tokens"),
            Field("gpu-memory", "share of GPU memory", "", "as planned"),
        )
        note = "The server continues when you close this application. Its progress appears below; l shows its log."
        self.app.push_screen(
            FormDialog(f"Serve {model}", fields, "Serve", note), lambda values: self._serve(model, values)
        )

    def _serve(self, model: str, values: dict[str, str] | None) -> None:
        if values is not None:
            words = [word for key, value in values.items() if value for word in (f"--{key}", value)]
            self.commands.start_in_background(f"serving {model}", "models", "serve", model, *words)
            self.reload()

    def action_stop(self) -> None:
        if server := self._selected_server():
            question = f"Stop the server {server}? Runs that use it pause; you can resume them later."
            self.app.push_screen(ConfirmDialog(question, "Stop"), lambda yes: self._stop(server, bool(yes)))
        else:
            self.notify("No server is running.")

    def _stop(self, server: str, yes: bool) -> None:
        if yes:
            self.run_command("models", "stop", server)

    def action_log(self) -> None:
        server = self._selected_server()
        path = log_path(self.home.root, server) if server else None
        if path is None or not path.is_file():
            path = self.commands.background[-1].log if self.commands.background else None
        if path is None or not path.is_file():
            self.notify("There is no log yet: no server and no background command has started.")
            return
        text = path.read_bytes()[-TAIL:].decode("utf-8", "replace")
        self.app.push_screen(TextDialog(f"End of {path.name}", sanitize(text.replace("\r", "\n"), TAIL)))

    def action_pull(self) -> None:
        model = self._selected_model()
        question = f"Download the weights of {model} from the source in its manifest? This connects to the internet."
        self.app.push_screen(ConfirmDialog(question, "Download"), lambda yes: self._pull(model) if yes else None)

    def _pull(self, model: str) -> None:
        self.commands.start_in_background(f"pulling {model}", "models", "pull", model)
        self.reload()

    def action_verify(self) -> None:
        if model := self._selected_model():
            self.commands.start_in_background(f"verifying {model}", "models", "verify", model)
            self.reload()

    def action_plan(self) -> None:
        fields = (
            Field("profile", "profile", "a100-40g-x2", options=list_profiles(self.home)),
            Field("gpus", "GiB of each GPU", "", "detected, or e.g. 40,40"),
        )
        self.app.push_screen(FormDialog("Plan models on GPUs", fields, "Plan"), self._plan)

    def _plan(self, values: dict[str, str] | None) -> None:
        if values:
            words = ["models", "plan", values["profile"], *(["--gpus", values["gpus"]] if values["gpus"] else [])]
            self._show_plan(words)

    @work(group="plan", exclusive=True, exit_on_error=False)
    async def _show_plan(self, words: list[str]) -> None:
        result: CommandResult = await self.commands.run(*words)
        self.app.push_screen(TextDialog(" ".join(words), sanitize(f"{result.stdout}\n{result.stderr}".strip())))


def _query_gpus() -> list[list[str]]:
    """Name, used and total memory in MiB, and utilization of each GPU, as nvidia-smi prints them; empty without a
    working driver.
    """
    smi = shutil.which("nvidia-smi")
    if smi is None or survey_gpus().hangs:
        return []
    rows = [[part.strip() for part in line.rsplit(",", 3)] for line in query_gpus(smi, GPU_FIELDS)[0]]
    return [row for row in rows if len(row) == 4]
