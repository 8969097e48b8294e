"""Models: the servers with their state, the models with their weights, this machine's gauges, and the background
commands, which download or convert weights or start servers.
"""

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
from nanoflux_models.machine import Gauges, MachineMeter
from nanoflux_models.manifest import Manifest, list_manifests
from nanoflux_models.record import WeightsRecord
from nanoflux_models.server_record import ServerRecord, log_path, read_records
from nanoflux_models.weights import list_installed
from nanoflux_tui.base import BaseScreen
from nanoflux_tui.commands import BackgroundCommand
from nanoflux_tui.screens.dialogs import ConfirmDialog, Field, FormDialog, TextDialog
from nanoflux_tui.text import format_line, sanitize
from nanoflux_tui.theme import draw_bar
from nanoflux_tui.widgets.columns import Cells, Column
from nanoflux_tui.widgets.panel import Panel
from nanoflux_tui.widgets.window_table import WindowTable

LOG_TAIL_BYTES = 16_000
"""Number of bytes at the end of a log that the log dialog shows."""
GIB = 2**30
"""Bytes in a GiB."""
NEARLY_FULL = 0.9
"""The used share of a resource (from 0 to 1) above which its gauge is drawn in the warning colour."""
GPU_FIELDS = "name,memory.used,memory.total,utilization.gpu"
"""The fields that nvidia-smi reports for the gauges of a GPU."""


class ModelsScreen(BaseScreen):
    """Servers, weights, the machine's gauges and background commands."""

    mode = "models"
    SHOWS_ONLY_LEDGER = False
    HELP = """vLLM servers started from this home, and the models with a manifest. Serve starts a server for the
selected model and leaves it running. Plan shows which model of a profile goes on which GPU, without
starting anything. Pull downloads and checks weights; verify hashes every byte of them again. Below are
the gauges of this machine and the progress of downloads, conversions and starting servers; press Tab
until that panel is marked, then scroll it with the arrow keys."""
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
        self._weight_cells: dict[str, Cells] = {}  # by the name of the model
        self._server_cells: dict[str, Cells] = {}  # by the name of the server
        self._meter: MachineMeter | None = None

    def compose_body(self) -> ComposeResult:
        server_columns = (
            Column("server", 16, share=1),
            Column("state", 14),
            Column("address", 26, from_width=70),
            Column("owner", 14, from_width=90),
            Column("adapters", 8, right=True, from_width=104),
        )
        weight_columns = (
            Column("model", 22, share=1),
            Column("installed", 9),
            Column("GiB", 6, right=True, from_width=48),
            Column("kind", 8, from_width=66),
            Column("licence", 14, from_width=84),
            Column("description", 20, share=3),
        )
        with Horizontal(), Vertical(id="lists"):
            yield WindowTable(server_columns, self._fetch_server_rows, id="servers")
            yield WindowTable(weight_columns, self._fetch_weight_rows, id="weights")
            with VerticalScroll(id="now"):
                yield Panel("This machine", id="machine")

    def on_mount(self) -> None:
        super().on_mount()
        self.query_one("#weights").focus()

    async def load(self) -> None:
        installed = {record.name: record for record in list_installed(self.home.root)}
        self._weight_cells = {
            manifest.name: _format_model_cells(manifest, installed.get(manifest.name))
            for manifest in list_manifests(self.home.root)
        }
        servers = read_records(self.home.root)
        self._server_cells = {server.name: self._format_server_cells(server) for server in servers}
        self.query_one("#servers").display = bool(self._server_cells)
        await self.query_one("#servers", WindowTable).show(list(self._server_cells))
        await self.query_one("#weights", WindowTable).show(list(self._weight_cells))
        self._meter = self._meter or MachineMeter(self.home.root)
        gauges = self._meter.read()
        gpus = await asyncio.to_thread(_query_gpus)
        self.query_one("#machine", Panel).show(lambda width: self._format_machine(gauges, gpus, width))

    def _format_server_cells(self, server: ServerRecord) -> Cells:
        """A server's row in the table."""
        owner_pid = server.owner[0] if server.owner else None
        return [
            server.name,
            self.colours.format_status("ready" if server.alive else "ended"),
            server.url,
            "–" if owner_pid is None else f"process {owner_pid}",
            str(len(server.proved)),
        ]

    async def _fetch_server_rows(self, keys: Sequence[str]) -> list[Cells]:
        return [self._server_cells.get(key, ["deleted"]) for key in keys]

    async def _fetch_weight_rows(self, keys: Sequence[str]) -> list[Cells]:
        return [self._weight_cells.get(key, ["deleted"]) for key in keys]

    def _format_machine(self, gauges: Gauges, gpus: list[list[str]], width: int) -> Text:
        """The gauges, the commands in progress, the GPUs, and the commands among the last six that have ended."""
        text = self._format_gauges(gauges, width)
        for command in self.commands.background:
            if command.code is None:
                text.append_text(self._format_command(command))
        for index, gpu in enumerate(gpus):
            text.append_text(self._format_gpu(index, *gpu))
        if not gpus:
            text.append("No GPU was found. Small models run on the CPU, in the process of the run.\n")
        if not self._server_cells:
            text.append("No server is running. Press s to serve the selected model; this needs vLLM.\n")
        for command in self.commands.background[-6:]:
            if command.code is not None:
                text.append_text(self._format_command(command))
        text.rstrip()
        return text

    def _format_gauges(self, gauges: Gauges, width: int) -> Text:
        """The use of the CPU, the memory and the disk in one line, as bars. A gauge without a reading is left out."""
        bar_width = 6 if width < 100 else 14
        readings = list[tuple[str, float, float, str]]()  # label, used, total, note
        if gauges.busy is not None:
            readings.append(("CPU", gauges.busy, 1.0, f"{gauges.busy:.0%} of {gauges.cores}"))
        if gauges.memory_total:
            note = f"{gauges.memory_used / GIB:.1f}/{gauges.memory_total / GIB:.0f} GiB"
            readings.append(("memory", gauges.memory_used, gauges.memory_total, note))
        if gauges.disk_total:
            note = f"{(gauges.disk_total - gauges.disk_used) / GIB:.0f} GiB free"
            readings.append(("disk", gauges.disk_used, gauges.disk_total, note))
        text = Text()
        for label, used, total, note in readings:
            text.append(f"{label} ").append(draw_bar(used, total, bar_width), style=self._choose_colour(used / total))
            text.append(f" {note}  ")
        text.append("\n" if readings else "")
        return text

    def _choose_colour(self, share: float) -> str:
        """The colour of a gauge of which `share` is used."""
        return self.colours["warning" if share > NEARLY_FULL else "primary"]

    def _format_gpu(self, index: int, name: str, used: str, total: str, utilization: str) -> Text:
        """One GPU's memory (`used` of `total` MiB) and its utilization in percent. If the driver does not report a
        figure, the line shows the text that the driver prints in its place.
        """
        text = Text(f"GPU {index} {format_line(name, 30)}  ")
        if used.isdigit() and total.isdigit():
            used_mib, total_mib = float(used), float(total)
            text.append(draw_bar(used_mib, total_mib, 12), style=self._choose_colour(used_mib / total_mib))
            text.append(f" {used_mib / 1024:.1f}/{total_mib / 1024:.1f} GiB  ")
        else:
            text.append(f"memory not reported ({format_line(total, 30)})  ")
        if utilization.isdigit():
            text.append(draw_bar(float(utilization), 100.0, 8), style=self.colours["primary"])
        text.append(f" {format_line(utilization, 30)}% busy\n")
        return text

    def _format_command(self, command: BackgroundCommand) -> Text:
        """The state of a background command, with a bar while it reports progress."""
        if command.code is None:
            status, progress = "running", command.read_progress()
        else:
            status, progress = "failed" if command.code else "done", None
        text = self.colours.format_status(status)
        text.append(f"  {format_line(command.label, 60)}")
        if progress is None:
            text.append(f": {command.read_last_lines() or 'no message yet'}\n")
            return text
        text.append("  ").append(draw_bar(progress.done, progress.total, 12), style=self.colours["primary"])
        text.append(f" {progress.done}/{progress.total} {format_line(progress.note, 100)}\n")
        return text

    def _selected_model(self) -> str:
        return str(self.query_one("#weights", WindowTable).selected_key or "")

    def _selected_server(self) -> str:
        return str(self.query_one("#servers", WindowTable).selected_key or "")

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
            options: list[str] = []
            for name, value in values.items():
                if value:
                    options += [f"--{name}", value]
            self.commands.start_in_background(f"serving {model}", "models", "serve", model, *options)
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
        """Show the end of the selected server's log. If there is no such log, show the latest background command's."""
        server = self._selected_server()
        path = log_path(self.home.root, server) if server else None
        if path is None or not path.is_file():
            path = self.commands.background[-1].log if self.commands.background else None
        if path is None or not path.is_file():
            self.notify("There is no log yet: no server and no background command has started.")
            return
        text = path.read_bytes()[-LOG_TAIL_BYTES:].decode("utf-8", "replace")
        self.app.push_screen(TextDialog(f"End of {path.name}", sanitize(text.replace("\r", "\n"), LOG_TAIL_BYTES)))

    def action_pull(self) -> None:
        """Ask for a confirmation, and download the weights of the selected model."""
        model = self._selected_model()
        if any(record.name == model for record in list_installed(self.home.root)):
            self.notify(f"The weights of {model} are installed. Press v to verify them.")
            return
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
        """Open the form that plans the placement of a profile's models on GPUs."""
        fields = (
            Field("profile", "profile", "a100-40g-x2", options=list_profiles(self.home)),
            Field("gpus", "GiB of each GPU", "", "detected, or e.g. 40,40"),
        )
        self.app.push_screen(FormDialog("Plan models on GPUs", fields, "Plan"), self._plan)

    def _plan(self, values: dict[str, str] | None) -> None:
        if values:
            arguments = ["models", "plan", values["profile"]]
            if values["gpus"]:
                arguments += ["--gpus", values["gpus"]]
            self._show_plan(arguments)

    @work(group="plan", exclusive=True, exit_on_error=False)
    async def _show_plan(self, arguments: list[str]) -> None:
        result = await self.commands.run(*arguments)
        text = sanitize(f"{result.stdout}\n{result.stderr}".strip())
        self.app.push_screen(TextDialog(" ".join(arguments), text, wide=True))


def _format_model_cells(manifest: Manifest, record: WeightsRecord | None) -> Cells:
    """A model's row in the table. Its size is the size of the installed files; if the model is not installed, the
    expected size of its weights in memory.
    """
    estimated_gib = f"~{manifest.memory.weights_gib:.1f}" if manifest.memory else "–"
    return [
        manifest.name,
        "✓ yes" if record else "· no",
        f"{record.bytes / GIB:.1f}" if record else estimated_gib,
        manifest.kind,
        manifest.licence,
        format_line(manifest.description, 200),
    ]


def _query_gpus() -> list[list[str]]:
    """Each GPU's name, used and total memory in MiB, and utilization in percent, as nvidia-smi prints them; [] if
    nvidia-smi is missing or does not answer.
    """
    executable = shutil.which("nvidia-smi")
    if executable is None or survey_gpus().timed_out:
        return []
    lines, _ = query_gpus(executable, GPU_FIELDS)
    rows = [[field.strip() for field in line.rsplit(",", 3)] for line in lines]
    return [row for row in rows if len(row) == 4]
