"""The form that starts a run: it checks the input while the user types and shows the equivalent command."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.widgets import Button, Input, Label, Select, Static

from nanoflux_local.errors import NanofluxError
from nanoflux_local.paths import Home
from nanoflux_models.errors import ModelsError
from nanoflux_tui.screens.dialogs import TextDialog
from nanoflux_tui.screens.endpoints import open_endpoints
from nanoflux_tui.screens.form import FormScreen, build_select, call_after_typing
from nanoflux_tui.text import format_command, format_quantity, sanitize

if TYPE_CHECKING:
    from nanoflux_local.config import RunConfig

TYPING_PAUSE_S = 0.25
"""Seconds without a key press after which the input is checked."""
ROLES = ("attacker", "defender", "judge")
FROM_PROFILE = "set by the profile"
"""The option with which the user leaves the choice to the profile."""
INITIAL_VALUES = {"examples": "24", "max-turns": "1000", "seed": "0"}
"""The values of the form's number fields when the form opens."""
OMITTED_VALUES = {"max-turns": "1000", "seed": "0"}
"""The defaults of `nanoflux run start`, which the equivalent command omits."""


class NewRunScreen(FormScreen):
    """The form for a new run. Once the run has started, the screen of the run replaces the form."""

    AUTO_FOCUS = "#domain"
    mode = "home"
    HELP = """The settings of a new run. Tab moves to the next field; Enter opens a list. Errors and their fixes
appear below while you type. F3 shows every setting with its source, the plan for the GPUs and the expected
cost. F4 edits the models, addresses and key variables of the profile. Ctrl+S starts the run in a separate process."""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+s", "start", "Start", priority=True),
        Binding("f3", "preview", "Preview"),
        Binding("f4", "endpoints", "Endpoints"),
        Binding("ctrl+y", "copy", "Copy command"),
    ]
    DEFAULT_CSS = """
    NewRunScreen .words Select { width: 20; }
    NewRunScreen.-narrow .words Select { width: 18; }
    NewRunScreen.-narrow .words Input { width: 8; }
    NewRunScreen #attacker, NewRunScreen #defender, NewRunScreen #judge, NewRunScreen #rules { width: 25; }
    NewRunScreen #name { width: 26; }
    NewRunScreen #settings { width: 1fr; }
    NewRunScreen #line { margin-top: 1; }
    NewRunScreen #verdict { height: auto; min-height: 2; }
    NewRunScreen #doctor { height: auto; color: $muted; margin-top: 1; }
    """

    def __init__(self, domain: str = "starter", profile: str = "embedded") -> None:
        super().__init__()
        self._domain, self._profile = domain, profile
        self._is_ready = self._is_starting = False
        self._endpoint_names: tuple[str, ...] = ()

    def compose_body(self) -> ComposeResult:
        from nanoflux_local.domains.own import list_domain_names
        from nanoflux_local.run.configs import list_profiles
        from nanoflux_local.run.rule_sets import RULE_SETS

        domains, profile_names = list_domain_names(self.home.root), list_profiles(self.home)
        with VerticalScroll(id="form", can_focus=False):
            with Horizontal(classes="words"):
                yield Label("Generate examples for domain")
                yield build_select(domains, self._domain, "domain")
                yield Label("with profile")
                yield build_select(profile_names, self._profile, "profile")
            with Horizontal(classes="words"):
                yield Label("Stop at")
                yield Input(INITIAL_VALUES["examples"], compact=True, id="examples")
                yield Label("kept examples, or at")
                yield Input(INITIAL_VALUES["max-turns"], compact=True, id="max-turns")
                yield Label("turns; seed")
                yield Input(INITIAL_VALUES["seed"], compact=True, id="seed")
            for role in ROLES:
                with Horizontal(classes="words"):
                    yield Label(f"The {role:<8} is", classes="role")
                    yield build_select((FROM_PROFILE,), FROM_PROFILE, role)
            with Horizontal(classes="words"):
                yield Label("Keep questions by the rules")
                yield build_select((FROM_PROFILE, *RULE_SETS), FROM_PROFILE, "rules")
            with Horizontal(classes="words"):
                yield Label("Spend at most $")
                yield Input("", placeholder="no limit", compact=True, id="budget-usd")
                yield Label("and call it")
                yield Input("", placeholder="its id", compact=True, id="name")
            with Horizontal(classes="words"):
                yield Label("Also set")
                yield Input("", placeholder="KEY=VALUE …, e.g. novelty.question=0.8 concurrency=8", compact=True,
                            id="settings")  # fmt: skip
            with Horizontal(classes="words"):
                yield Button("Start (^s)", variant="primary", compact=True, id="start")
                yield Button("Preview (F3)", compact=True, id="preview")
                yield Button("Copy the command (^y)", compact=True, id="copy")
            yield Static("", id="verdict", markup=False)
            yield Static("", id="line", markup=False)
            yield Static("", id="doctor", markup=False)

    async def load(self) -> None:
        if not self._is_starting:
            self._check_input()
        if not self.query_one("#doctor", Static).content:
            self._run_doctor()

    @on(Input.Changed)
    @on(Select.Changed)
    def _check_after_change(self) -> None:
        self._check_input()

    def value(self, name: str) -> str:
        """The value of the field with this id; "" if the profile sets it."""
        value = super().value(name)
        return "" if value == FROM_PROFILE else value

    def _build_arguments(self) -> list[str]:
        """The arguments of the equivalent command."""
        arguments = ["run", "start", "--domain", self.value("domain")]
        profile = self.value("profile")
        if profile != "embedded":
            arguments += ["--profile", profile]
        for name in ("examples", "max-turns", "seed", "rules", "budget-usd", "name"):
            value = self.value(name)
            if value and value != OMITTED_VALUES.get(name):
                arguments += [f"--{name}", value]
        for role in ROLES:
            if endpoint := self.value(role):
                arguments += ["--set", f"roles.{role}.endpoint={endpoint}"]
        for setting in self.value("settings").split():
            arguments += ["--set", setting]
        return [*arguments, "--detach"]

    @work(group="check", exclusive=True, exit_on_error=False)
    async def _check_input(self) -> None:
        """Check the input and show the first error, if there is one; missing weights are an error too. The check writes
        nothing and loads no model.
        """
        from nanoflux_local.endpoints.build import require_weights
        from nanoflux_local.run.rule_sets import format_rule_changes, list_rule_changes

        arguments = self._build_arguments()
        self.query_one("#line", Static).update(f"$ {sanitize(format_command(arguments), 1_000)}")
        await asyncio.sleep(TYPING_PAUSE_S)
        try:
            settings = self._read_settings()
            config = await asyncio.to_thread(_resolve_config, self.home, self.value("domain"), self.value("profile"),
                                             settings)  # fmt: skip
            self._update_endpoints(tuple(sorted(config.endpoints)))
            await asyncio.to_thread(require_weights, config, self.home)
        except (NanofluxError, ModelsError) as error:
            text = Text.assemble((f"✗ {sanitize(error.message, 500)}", self.colours["error"]))
            text.append(f"\n  → {sanitize(error.fix, 400)}" if error.fix else "")
            self._is_ready = False
        else:
            role_endpoints = ", ".join(f"{role} {getattr(config.roles, role).endpoint}" for role in ROLES)
            seeds = f"{config.seeds.min} to {format_quantity(config.seeds.max, 'seed')} per question"
            requests = format_quantity(config.concurrency, "concurrent request")
            changes = list_rule_changes(config.model_dump(mode="json"))
            rules = f"{config.rules} rules{format_rule_changes(changes)}"
            details = f"{requests}, {seeds}, {rules}"
            text = Text.assemble(("✓ Ready to start", self.colours["success"]), f": {role_endpoints}; {details}")
            self._is_ready = True
        self.query_one("#verdict", Static).update(text)
        self.query_one("#start", Button).disabled = not self._is_ready or self._is_starting

    def _read_settings(self) -> dict[str, Any]:
        """The settings that override the domain and the profile.

        Raises:
            ConfigError: a field that takes a number has another value, or a setting is not KEY=VALUE.
        """
        from nanoflux_local.config import parse_settings
        from nanoflux_local.errors import ConfigError

        assignments: list[str] = []
        for name, key in (("examples", "target"), ("max-turns", "max_turns"), ("seed", "seed")):
            value = self.value(name)
            if value and not value.isdigit():
                raise ConfigError(f"{name}: {value!r} is not a whole number", "enter a whole number such as 24")
            if value:
                assignments.append(f"{key}={value}")
        if rules := self.value("rules"):
            assignments.append(f"rules={rules}")
        if usd := self.value("budget-usd"):
            try:
                float(usd)
            except ValueError:
                raise ConfigError(
                    f"the budget {usd!r} is not an amount", "enter an amount in dollars such as 2.50"
                ) from None
            assignments.append(f"budget.usd={usd}")
        for role in ROLES:
            if endpoint := self.value(role):
                assignments.append(f"roles.{role}.endpoint={endpoint}")
        return parse_settings([*assignments, *self.value("settings").split()], "novelty.question=0.8")

    def _update_endpoints(self, names: tuple[str, ...]) -> None:
        """Offer the profile's endpoints `names` for each role. The attacker and the judge can also be a program."""
        if names == self._endpoint_names:
            return
        self._endpoint_names = names
        for role in ROLES:
            select = self.query_one(f"#{role}", Select)
            programs = () if role == "defender" else ("program",)
            options = (FROM_PROFILE, *programs, *names)
            previous_value = select.value
            with select.prevent(Select.Changed):
                select.set_options([(option, option) for option in options])
                select.value = previous_value if previous_value in options else FROM_PROFILE

    @work(group="doctor", exclusive=True, exit_on_error=False)
    async def _run_doctor(self) -> None:
        """Show the checks of `nanoflux doctor` that fail on this machine, with their fixes."""
        doctor_text = self.query_one("#doctor", Static)
        doctor_text.update("Checking this machine with nanoflux doctor …")
        result = await self.commands.run("doctor", "--json", read_only=True)
        report = result.json() or {"checks": []}
        failed_checks = [check for check in report["checks"] if not check["ok"]]
        lines = [f"! {check['name']}: {check['found']}\n  → {check['fix']}" for check in failed_checks]
        doctor_text.update(sanitize("\n".join(lines), 2_000) or "✓ nanoflux doctor reports no problems.")

    def on_button_pressed(self, event: Button.Pressed) -> None:
        if event.button.id == "start":
            self._start()
        elif event.button.id == "preview":
            self.action_preview()
        else:
            self.action_copy()

    def action_start(self) -> None:
        call_after_typing(self, self._start)

    def _start(self) -> None:
        """Start the run, unless the input has an error or the run is being started already."""
        if self._is_starting:
            return
        if not self._is_ready:
            self.notify("Correct the error below the form first.", severity="warning")
            return
        self._is_starting = True
        self.query_one("#start", Button).disabled = True
        self.query_one("#verdict", Static).update("Starting: checking weights, seeds and the sandbox …")
        self._start_run(self._build_arguments())

    @work(group="start", exit_on_error=False)
    async def _start_run(self, arguments: list[str]) -> None:
        """Run the command that starts the run; then show the run's screen, or the error in the form."""
        from nanoflux_tui.screens.run import RunScreen

        result = await self.commands.run(*arguments, "--json")
        self._is_starting = False
        started_run = result.json()
        if result.ok and started_run:
            # Called later, since closing the form ends this worker.
            self.app.call_later(self.application.close_form, self, RunScreen(started_run["run"]))
            return
        self.application.show_failure(result)
        text = Text.assemble(("✗ The run did not start.", self.colours["error"]), f"\n{sanitize(result.stderr, 1_500)}")
        self.query_one("#verdict", Static).update(text)
        self.query_one("#start", Button).disabled = False

    @work(group="preview", exclusive=True, exit_on_error=False)
    async def action_preview(self) -> None:
        """Show what `run start --dry-run` prints: settings, GPU plan, expected cost, and what would prevent a start."""
        self.notify("Computing the preview …")
        arguments = [argument for argument in self._build_arguments() if argument != "--detach"]
        result = await self.commands.run(*arguments, "--dry-run", read_only=True)
        outputs = (result.stdout, result.stderr)
        text = "\n".join(output.rstrip() for output in outputs if output.strip())
        self.app.push_screen(TextDialog("Preview of the run", text, wide=True))

    def action_endpoints(self) -> None:
        """Edit the endpoints of the profile in a form."""
        open_endpoints(self, self.value("profile"), self.value("domain"), self._select_profile)

    def _select_profile(self, name: str) -> None:
        """Update the form's list of profiles, and select the profile `name`, which was just saved."""
        from nanoflux_local.run.configs import list_profiles

        select = self.query_one("#profile", Select)
        select.set_options([(option, option) for option in list_profiles(self.home)])
        select.value = name

    def action_copy(self) -> None:
        self.app.copy_to_clipboard(format_command(self._build_arguments()))
        self.notify("Copied the command.")


def _resolve_config(home: Home, domain: str, profile: str, settings: dict[str, Any]) -> "RunConfig":
    """The configuration of a run. `profile` is the name of a profile or the path of a .toml file."""
    from nanoflux_local.run import configs

    if Path(profile).suffix == ".toml":
        profile = str(Path(profile).expanduser())
    return configs.resolve(domain, profile, settings, home)
