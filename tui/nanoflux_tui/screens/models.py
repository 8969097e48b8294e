"""Servers and models: what is served and how it is, the GPUs, the weights that are here, and what is being fetched."""

import asyncio
import shutil
from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll

from nanoflux_local.run.binding import profiles
from nanoflux_models.gpus import query_gpus, survey_gpus
from nanoflux_models.manifest import list_manifests
from nanoflux_models.server_record import log_path, records
from nanoflux_models.weights import list_installed
from nanoflux_tui.bridge import Ended
from nanoflux_tui.look import bar
from nanoflux_tui.room import Room
from nanoflux_tui.screens.dialogs import Confirm, Field, Fill, Told
from nanoflux_tui.text import harmless, line
from nanoflux_tui.widgets.columns import Cells, Column
from nanoflux_tui.widgets.panel import Panel
from nanoflux_tui.widgets.window_table import WindowTable

TAIL = 16_000
GPU_FIELDS = "name,memory.used,memory.total,utilization.gpu"


class ModelsRoom(Room):
    """Servers above, weights below, GPUs and errands beside."""

    mode = "models"
    HELP = """vLLM servers that were started here, and the models that are known. Serve starts a server for the
model under the cursor and leaves it running; plan says which model of a profile goes on which GPU before
anything is started. Pull fetches weights and checks them, verify reads every byte of them again."""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("s", "serve", "Serve"),
        Binding("x", "stop", "Stop"),
        Binding("l", "log", "Log"),
        Binding("p", "pull", "Pull"),
        Binding("v", "verify", "Verify"),
        Binding("g", "plan", "Plan"),
    ]
    DEFAULT_CSS = """
    ModelsRoom #servers { height: 30%; min-height: 4; border-bottom: solid $border; }
    ModelsRoom #weights { height: 1fr; }
    ModelsRoom #lists { width: 1fr; }
    ModelsRoom #now { height: auto; max-height: 35%; scrollbar-size-vertical: 1; }
    ModelsRoom.-flat #servers, ModelsRoom.-flat #now { display: none; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._weights: dict[str, Cells] = {}
        self._servers: dict[str, Cells] = {}

    def body(self) -> ComposeResult:
        servers = (
            Column("server", 16, share=1),
            Column("state", 14),
            Column("address", 26, from_width=70),
            Column("for", 14, from_width=90),
            Column("adapters", 8, right=True, from_width=104),
        )
        weights = (
            Column("model", 22, share=1),
            Column("here", 6),
            Column("kind", 8, from_width=66),
            Column("licence", 14, from_width=84),
            Column("what it is", 20, share=3),
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
        here = {record.name for record in list_installed(self.place.root)}
        self._weights = {
            m.name: [m.name, "✓ yes" if m.name in here else "· no", m.kind, m.licence, line(m.description, 200)]
            for m in list_manifests(self.place.root)
        }
        self._servers = {
            record.name: [
                record.name, self.ink.sign("ready" if record.alive else "ended"), record.url,
                f"process {record.owner[0]}" if record.owner else "anyone", str(len(record.proved)),
            ]
            for record in records(self.place.root)
        }  # fmt: skip
        self.query_one("#servers").display = bool(self._servers)
        await self.query_one("#servers", WindowTable).show(list(self._servers))
        await self.query_one("#weights", WindowTable).show(list(self._weights))
        gpus = await asyncio.to_thread(_gpus)
        self.query_one("#machine", Panel).show(self._machine(gpus))

    async def _server_rows(self, keys: Sequence[str]) -> list[Cells]:
        return [self._servers.get(key, ["gone"]) for key in keys]

    async def _weight_rows(self, keys: Sequence[str]) -> list[Cells]:
        return [self._weights.get(key, ["gone"]) for key in keys]

    def _machine(self, gpus: list[list[str]]) -> Text:
        text, ink = Text(), self.ink
        if not self._servers:
            text.append("No server is running. s serves the model under the cursor, where there is a vLLM.\n")
        for index, (name, used, total, busy) in enumerate(gpus):
            text.append(f"GPU {index} {line(name, 30)}  ")
            if used.isdigit() and total.isdigit():
                text.append(bar(float(used), float(total), 20), style=ink["primary"])
                text.append(f" {float(used) / 1024:.1f} of {float(total) / 1024:.1f} GiB, ")
            else:
                text.append(f"memory not stated ({line(total, 30)}), ")
            text.append(f"{line(busy, 30)}% busy\n")
        if not gpus:
            text.append("No GPU was found: small models run on the processor, in the run's own process.\n")
        for errand in self.bridge.errands[-6:]:
            code = errand.code
            sign = ink.sign("running" if code is None else "done" if code == 0 else "failed")
            text.append_text(sign)
            text.append(f"  {line(errand.label, 60)}: {errand.last()}\n")
        text.rstrip()
        return text

    def _model(self) -> str:
        return str(self.query_one("#weights", WindowTable).key or "")

    def _server(self) -> str:
        return str(self.query_one("#servers", WindowTable).key or "")

    def action_serve(self) -> None:
        model = self._model()
        fields = (
            Field("context", "longest conversation", "", "8192 tokens"),
            Field("gpu-memory", "share of each GPU", "", "as planned"),
        )
        note = "The server outlives this application. Its way there stands below, its log under l."
        self.app.push_screen(Fill(f"Serve {model}", fields, "Serve", note), lambda values: self._serve(model, values))

    def _serve(self, model: str, values: dict[str, str] | None) -> None:
        if values is not None:
            words = [word for key, value in values.items() if value for word in (f"--{key}", value)]
            self.bridge.leave(f"serving {model}", "models", "serve", model, *words)
            self.reload()

    def action_stop(self) -> None:
        if server := self._server():
            question = (
                f"Stop the server {server}? Whoever asks it gets no reply any more; runs pause and can be resumed."
            )
            self.app.push_screen(Confirm(question, "Stop"), lambda yes: self._stop(server, bool(yes)))
        else:
            self.notify("No server is running.")

    def _stop(self, server: str, yes: bool) -> None:
        if yes:
            self.do("models", "stop", server)

    def action_log(self) -> None:
        server = self._server()
        path = log_path(self.place.root, server) if server else None
        if path is None or not path.is_file():
            errand = self.bridge.errands[-1] if self.bridge.errands else None
            path = errand.log if errand else None
        if path is None or not path.is_file():
            self.notify("No server and nothing that was started here has written anything yet.")
            return
        text = path.read_bytes()[-TAIL:].decode("utf-8", "replace")
        self.app.push_screen(Told(f"The end of {path.name}", harmless(text.replace("\r", "\n"), TAIL)))

    def action_pull(self) -> None:
        model = self._model()
        question = f"Fetch the weights of {model} from where its manifest says? Of all here, this alone goes outside."
        self.app.push_screen(Confirm(question, "Fetch"), lambda yes: self._pull(model) if yes else None)

    def _pull(self, model: str) -> None:
        self.bridge.leave(f"pulling {model}", "models", "pull", model)
        self.reload()

    def action_verify(self) -> None:
        if model := self._model():
            self.bridge.leave(f"verifying {model}", "models", "verify", model)
            self.reload()

    def action_plan(self) -> None:
        fields = (
            Field("profile", "profile", "a100-40g-x2", options=profiles(self.place)),
            Field("gpus", "GiB of each GPU", "", "as found here, or e.g. 40,40"),
        )
        self.app.push_screen(Fill("Which model goes on which GPU", fields, "Plan"), self._plan)

    def _plan(self, values: dict[str, str] | None) -> None:
        if values:
            words = ["models", "plan", values["profile"], *(["--gpus", values["gpus"]] if values["gpus"] else [])]
            self._show_plan(words)

    @work(group="plan", exclusive=True, exit_on_error=False)
    async def _show_plan(self, words: list[str]) -> None:
        ended: Ended = await self.bridge.do(*words)
        self.app.push_screen(Told(" ".join(words), harmless(f"{ended.out}\n{ended.told}".strip())))


def _gpus() -> list[list[str]]:
    """Of each GPU its name, the used and the whole memory in MiB, and how busy it is, in nvidia-smi's words. A driver
    that hangs is asked once.
    """
    smi = shutil.which("nvidia-smi")
    if smi is None or survey_gpus().hangs:
        return []
    rows = [[part.strip() for part in line.rsplit(",", 3)] for line in query_gpus(smi, GPU_FIELDS)[0]]
    return [row for row in rows if len(row) == 4]
