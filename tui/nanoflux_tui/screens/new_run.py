"""A new run, as a sentence with gaps: what is wrong is said while one types, and the command that does the same stands
below, to copy."""

import asyncio
from pathlib import Path
from typing import Any, ClassVar

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.widgets import Button, Input, Label, Select, Static

from nanoflux_local.errors import NanofluxError
from nanoflux_tui.screens.form import Form, choice
from nanoflux_tui.text import command, harmless

TYPED_S = 0.25
AS_IT_IS = "as the profile says"
NUMBERS = {"examples": "24", "max-turns": "1000", "seed": "0"}


class NewRun(Form):
    """The form; it becomes the run that it started."""

    AUTO_FOCUS = "#domain"
    mode = "home"
    HELP = """A sentence that says what to play. Tab goes from gap to gap; lists open with Enter. Whatever is
wrong is said below while you type, with what to do. Ctrl+S starts the run in a process of its own."""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+s", "start", "Start", priority=True),
        Binding("ctrl+y", "copy", "Copy the command"),
    ]
    DEFAULT_CSS = """
    NewRun .words Select { width: 20; }
    NewRun.-narrow .words Select { width: 18; }
    NewRun.-narrow .words Input { width: 8; }
    NewRun #attacker, NewRun #defender, NewRun #judge { width: 25; }
    NewRun #name { width: 26; }
    NewRun #settings { width: 1fr; }
    NewRun #line { margin-top: 1; }
    NewRun #verdict { height: auto; min-height: 2; }
    NewRun #doctor { height: auto; color: $muted; margin-top: 1; }
    """

    def __init__(self, domain: str = "starter", profile: str = "embedded") -> None:
        super().__init__()
        self._domain, self._profile = domain, profile
        self._ready = self._starting = False
        self._models: tuple[str, ...] = ()

    def body(self) -> ComposeResult:
        from nanoflux_local.domains.own import known_domains
        from nanoflux_local.run.binding import profiles

        domains, profile_names = known_domains(self.place.root), profiles(self.place)
        with VerticalScroll(id="form", can_focus=False):
            with Horizontal(classes="words"):
                yield Label("Make examples for domain")
                yield choice(domains, self._domain, "domain")
                yield Label("with profile")
                yield choice(profile_names, self._profile, "profile")
            with Horizontal(classes="words"):
                yield Label("Stop at")
                yield Input(NUMBERS["examples"], compact=True, id="examples")
                yield Label("kept examples, or at")
                yield Input(NUMBERS["max-turns"], compact=True, id="max-turns")
                yield Label("turns; seed")
                yield Input(NUMBERS["seed"], compact=True, id="seed")
            for role in ("attacker", "defender", "judge"):
                with Horizontal(classes="words"):
                    yield Label(f"The {role:<8} is", classes="role")
                    yield choice((AS_IT_IS,), AS_IT_IS, role)
            with Horizontal(classes="words"):
                yield Label("Spend at most $")
                yield Input("", placeholder="no limit", compact=True, id="budget-usd")
                yield Label("and call it")
                yield Input("", placeholder="by its id", compact=True, id="name")
            with Horizontal(classes="words"):
                yield Label("Also set")
                yield Input("", placeholder="KEY=VALUE …, e.g. novelty.question=0.8 concurrency=8", compact=True,
                            id="settings")  # fmt: skip
            with Horizontal(classes="words"):
                yield Button("Start (^s)", variant="primary", compact=True, id="start")
                yield Button("Copy the command (^y)", compact=True, id="copy")
            yield Static("", id="verdict", markup=False)
            yield Static("", id="line", markup=False)
            yield Static("", id="doctor", markup=False)

    async def load(self) -> None:
        if not self._starting:
            self._check()
        if not self.query_one("#doctor", Static).content:
            self._doctor()

    @on(Input.Changed)
    @on(Select.Changed)
    def _check_after_change(self) -> None:
        self._check()

    def value(self, name: str) -> str:
        value = super().value(name)
        return "" if value == AS_IT_IS else value

    def _words(self) -> list[str]:
        """The command that the sentence says."""
        words = ["run", "start", "--domain", self.value("domain")]
        if (profile := self.value("profile")) != "embedded":
            words += ["--profile", profile]
        for name in ("examples", "max-turns", "seed", "budget-usd", "name"):
            if (value := self.value(name)) and value != {"max-turns": "1000", "seed": "0"}.get(name):
                words += [f"--{name}", value]
        for role in ("attacker", "defender", "judge"):
            if value := self.value(role):
                words += ["--set", f"roles.{role}.endpoint={value}"]
        for setting in self.value("settings").split():
            words += ["--set", setting]
        return [*words, "--detach"]

    @work(group="check", exclusive=True, exit_on_error=False)
    async def _check(self) -> None:
        """Say what is wrong with the sentence; nothing is written, and no model is loaded."""
        words = self._words()
        self.query_one("#line", Static).update(f"$ {harmless(command(words), 1_000)}")
        await asyncio.sleep(TYPED_S)
        try:
            asked = self._chosen_settings()
            config = await asyncio.to_thread(_resolve_config, self.place, self.value("domain"), self.value("profile"),
                                             asked)  # fmt: skip
        except NanofluxError as error:
            text = Text.assemble((f"✗ {harmless(error.message, 500)}", self.ink["error"]))
            text.append(f"\n  → {harmless(error.fix, 400)}" if error.fix else "")
            self._ready = False
        else:
            self._offer(tuple(sorted(config.endpoints)))
            roles = ", ".join(f"{role} {getattr(config.roles, role).endpoint}" for role in ("attacker", "defender",
                                                                                              "judge"))  # fmt: skip
            rest = f"{config.concurrency} requests at once, {config.seeds.min} to {config.seeds.max} seeds a question"
            text = Text.assemble(("✓ it can be played", self.ink["success"]), f": {roles}; {rest}")
            self._ready = True
        self.query_one("#verdict", Static).update(text)
        self.query_one("#start", Button).disabled = not self._ready or self._starting

    def _chosen_settings(self) -> dict[str, Any]:
        """What is set over domain and profile.

        Raises:
            ConfigError: a number is none, or a setting is not KEY=VALUE.
        """
        from nanoflux_local.config import parse_settings
        from nanoflux_local.errors import ConfigError

        words: list[str] = []
        for name, key in (("examples", "target"), ("max-turns", "max_turns"), ("seed", "seed")):
            value = self.value(name)
            if value and not value.isdigit():
                raise ConfigError(f"{name}: {value!r} is not a whole number", "write for instance 24")
            words += [f"{key}={value}"] if value else []
        if usd := self.value("budget-usd"):
            try:
                float(usd)
            except ValueError:
                raise ConfigError(f"the budget {usd!r} is not an amount", "write for instance 2.50") from None
            words.append(f"budget.usd={usd}")
        words += [f"roles.{role}.endpoint={value}" for role in ("attacker", "defender", "judge")
                  if (value := self.value(role))]  # fmt: skip
        return parse_settings([*words, *self.value("settings").split()])

    def _offer(self, names: tuple[str, ...]) -> None:
        """The profile's endpoints for each role; a program may attack and judge."""
        if names == self._models:
            return
        self._models = names
        for role in ("attacker", "defender", "judge"):
            select = self.query_one(f"#{role}", Select)
            programs = () if role == "defender" else ("program",)
            options = (AS_IT_IS, *programs, *names)
            before = select.value
            with select.prevent(Select.Changed):
                select.set_options([(option, option) for option in options])
                select.value = before if before in options else AS_IT_IS

    @work(group="doctor", exclusive=True, exit_on_error=False)
    async def _doctor(self) -> None:
        """What this machine lacks, asked of `nanoflux doctor` beside everything else."""
        place = self.query_one("#doctor", Static)
        place.update("nanoflux doctor looks at this machine …")
        ended = await self.bridge.do("doctor", "--json", only_asks=True)
        report = ended.json() or {"checks": []}
        bad = [check for check in report["checks"] if not check["ok"]]
        lines = [f"! {check['name']}: {check['found']}\n  → {check['fix']}" for check in bad]
        place.update(harmless("\n".join(lines), 2_000) or "✓ nanoflux doctor found nothing that is to be mended")

    def on_button_pressed(self, event: Button.Pressed) -> None:
        if event.button.id == "start":
            self.action_start()
        else:
            self.action_copy()

    def action_start(self) -> None:
        if self._starting:
            return
        if not self._ready:
            self.notify("What is wrong stands below the sentence.", severity="warning")
            return
        self._starting = True
        self.query_one("#start", Button).disabled = True
        self.query_one("#verdict", Static).update("Starting: weights, seeds and sandbox are looked at first …")
        self._start(self._words())

    @work(group="start", exit_on_error=False)
    async def _start(self, words: list[str]) -> None:
        from nanoflux_tui.screens.run import RunRoom

        ended = await self.bridge.do(*words, "--json")
        self._starting = False
        started = ended.json()
        if ended.ok and started:
            self.app.call_later(self.app.switch_screen, RunRoom(started["run"]))  # which ends this worker
            return
        self.control.complain(ended)
        text = Text.assemble(("✗ it was not started", self.ink["error"]), f"\n{harmless(ended.told, 1_500)}")
        self.query_one("#verdict", Static).update(text)
        self.query_one("#start", Button).disabled = False

    def action_copy(self) -> None:
        self.app.copy_to_clipboard(command(self._words()))
        self.notify("The command is in the clipboard.")


def _resolve_config(place: Any, domain: str, profile: str, asked: dict[str, Any]) -> Any:
    from nanoflux_local.run import binding

    if Path(profile).suffix == ".toml":
        profile = str(Path(profile).expanduser())
    return binding.resolve(domain, profile, asked, place)
