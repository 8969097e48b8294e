"""`nanoflux run`: start, change, pause, stop, resume, inspect, verify and replay generation runs."""

import asyncio
import signal
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from nanoflux_local.cli import attempts
from nanoflux_local.cli.bar import Bar
from nanoflux_local.cli.common import (
    FiniteRange,
    PlainName,
    current_home,
    launch_detached,
    print_json,
    print_table,
    sanitize,
    say,
    with_json,
)
from nanoflux_local.cli.names import DOMAIN, PROFILE, RUN
from nanoflux_local.cli.notes import show_or_change_note, with_edit
from nanoflux_local.cli.overview import show_run
from nanoflux_local.cli.side_by_side import compare_runs
from nanoflux_local.errors import LedgerError, NothingMatchedError
from nanoflux_local.paths import Home
from nanoflux_local.quantities import format_quantity
from nanoflux_local.run.rule_sets import RULE_SETS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nanoflux_local.config import RunConfig
    from nanoflux_local.run.missing import MissingCalls
    from nanoflux_local.run.sources import Layer

OPTION_BY_SETTING = {
    "target": "--examples",
    "max_turns": "--max-turns",
    "seed": "--seed",
    "concurrency": "--concurrency",
}
"""The command-line option of each integer setting that has one."""


@click.group(name="run")
def command() -> None:
    """Start, change, stop, inspect and verify generation runs."""


for _subcommand in (attempts.attempts, attempts.calls, attempts.problems, attempts.log, compare_runs):
    command.add_command(_subcommand)


@command.command()
@click.option("--domain", type=DOMAIN, help="Domain of the questions; `nanoflux domains list` lists them.")
@click.option(
    "--profile", type=PROFILE, help="Profile with the endpoints and roles: a name or a .toml file [default: embedded]."
)
@click.option(
    "--fork",
    type=RUN,
    metavar="RUN",
    help="Start from the settings of RUN and reuse all of its recorded calls that still apply.",
)
@click.option("--config", "config_file", type=click.Path(dir_okay=False), help="TOML file with settings.")
@click.option("--examples", type=click.IntRange(1), help="Stop at this many kept examples [default: 200].")
@click.option("--max-turns", type=click.IntRange(1), help="Stop at this many turns [default: 1000].")
@click.option("--seed", type=click.IntRange(0), help="Seed of the run [default: 0].")
@click.option(
    "--concurrency",
    type=click.IntRange(1, 1024),
    help="Maximum number of concurrent requests; does not change the result.",
)
@click.option(
    "--budget-usd", type=FiniteRange(0), help="Pause before the calls could cost more than this many dollars."
)
@click.option(
    "--rules",
    type=click.Choice(list(RULE_SETS)),
    help="Rule set: paper (the paper's protocol) or proven (keep a question only if the checks support its answer) "
    "[default: paper].",
)
@click.option("--name", type=PlainName(), default="", help="Name of the run, shown in lists.")
@click.option(
    "--novel-against",
    type=RUN,
    multiple=True,
    metavar="RUN",
    help="Reject questions similar to those of this run; repeatable.",
)
@click.option("--rounds", type=click.IntRange(1), metavar="N",
              help="Train the defender on the kept examples and start the next run: up to N rounds, while dev "
              "accuracy rises.")  # fmt: skip
@click.option("--dev", default="", metavar="DATASET", help="Benchmark whose dev items measure each round.")
@click.option("--dev-items", type=click.IntRange(1), help="Number of dev items [default: all].")
@click.option(
    "--train-set",
    multiple=True,
    metavar="KEY=VALUE",
    help="Training setting for the rounds, e.g. epochs=3; repeatable.",
)
@click.option(
    "--dry-run", is_flag=True, help="Print settings with their sources, GPU plan and expected cost; start nothing."
)
@click.option("--detach", is_flag=True, help="Run in a separate process that outlives this terminal.")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Setting of the run, e.g. novelty.question=0.8; repeatable.",
)
@with_json
def start(
    domain: str | None,
    profile: str | None,
    fork: str | None,
    novel_against: tuple[str, ...],
    config_file: str | None,
    rules: str | None,
    name: str,
    settings: tuple[str, ...],
    as_json: bool,
    dry_run: bool,
    detach: bool,
    budget_usd: float | None,
    dev: str,
    train_set: tuple[str, ...],
    **integer_options: int | None,
) -> None:
    """Start a generation run.

    With --dry-run, print every setting and the option, file or default it comes from, which model goes on which GPU,
    and the expected calls, time, tokens and dollars. The exit code is that of a real start: 0 if the run could start.
    """
    from nanoflux_local.cli.preview import show_preview
    from nanoflux_local.run import configs, runs
    from nanoflux_local.run.sources import Layer, list_base_layers, list_fork_layers, merge_layers

    if not domain and not fork:
        raise click.UsageError("Missing option '--domain' (or '--fork', to start from another run's settings).")
    if fork and (domain or profile):
        raise click.UsageError(
            "--fork keeps the domain and the profile of the original run: change other settings with --set."
        )
    layers = _list_option_layers(config_file, settings, integer_options, rules, budget_usd)
    home = current_home() if dry_run else current_home().prepare()
    if novel_against:
        layers.append(Layer("--novel-against", {"novel_against": _freeze_questions(home, novel_against)}))
    overrides = merge_layers(layers)
    fork = _find_id(home, fork) if fork else ""
    if fork:
        config = runs.fork_config(home, fork, overrides)
    else:
        config = configs.resolve(str(domain), profile or "embedded", overrides, home)
    if dry_run:
        rule_set = str(overrides.get("rules", ""))
        if fork:
            lower_layers = list_fork_layers(fork, home, rule_set)
        else:
            lower_layers = list_base_layers(str(domain), profile or "embedded", home, rule_set)
        show_preview(home, config, [*lower_layers, *layers], as_json)
        return
    rounds, dev_items = integer_options["rounds"], integer_options["dev_items"] or 0
    if rounds:
        _start_rounds(home, config, name, rounds, dev, dev_items, train_set, detach, as_json)
        return
    if dev or train_set or dev_items:
        raise click.UsageError("--dev, --dev-items and --train-set apply to rounds only: add --rounds N.")
    run = asyncio.run(runs.start(home, config, name, fork))
    _execute_or_detach(home, run, detach)
    show_run(home, run, as_json)


def _list_option_layers(
    config_file: str | None,
    settings: tuple[str, ...],
    integer_options: "Mapping[str, int | None]",
    rules: str | None,
    budget_usd: float | None,
) -> "list[Layer]":
    """The settings that the options of `run start` set, a layer per option; a later layer overrides an earlier one."""
    from nanoflux_local.config import parse_settings, read_toml
    from nanoflux_local.run.sources import Layer

    layers = [Layer(config_file, read_toml(Path(config_file)))] if config_file else []
    layers.append(Layer("--set", parse_settings(settings)))
    value_by_setting = {
        "target": integer_options["examples"],
        "max_turns": integer_options["max_turns"],
        "seed": integer_options["seed"],
        "concurrency": integer_options["concurrency"],
    }
    for setting, value in value_by_setting.items():
        if value is not None:
            layers.append(Layer(OPTION_BY_SETTING[setting], {setting: value}))
    if rules:
        layers.append(Layer("--rules", {"rules": rules}))
    if budget_usd is not None:
        layers.append(Layer("--budget-usd", {"budget": {"usd": budget_usd}}))
    return layers


@command.command()
@click.argument("run", type=RUN)
@click.option("--detach", is_flag=True, help="Run in a separate process that outlives this terminal.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE",
              help="Setting to change first, e.g. endpoints.judge.url=http://host:8000/v1; repeatable.")  # fmt: skip
@with_json
def resume(run: str, detach: bool, settings: tuple[str, ...], as_json: bool) -> None:
    """Resume a run from its last committed turn.

    --set accepts the settings that `run set` can change and, for each endpoint, url, urls, key_env, key_file, timeout_s
    and capacity. A new url is accepted only if the endpoint has a `revision`, which identifies the model.
    """
    home = current_home()
    run = _find_id(home, run)
    _change_before_resume(home, run, settings)
    _execute_or_detach(home, run, detach)
    show_run(home, run, as_json)


def _change_before_resume(home: Home, run: str, settings: tuple[str, ...]) -> None:
    """Apply the options `--set KEY=VALUE` of `run resume`: new addresses of endpoints, and settings that may change
    during a run.
    """
    from nanoflux_local.config import parse_settings
    from nanoflux_local.errors import ConfigError
    from nanoflux_local.run import runs
    from nanoflux_local.run.addresses import move_endpoints

    changes = parse_settings(settings, "--set concurrency=4")
    endpoints = changes.pop("endpoints", {})
    if not isinstance(endpoints, dict) or not all(isinstance(table, dict) for table in endpoints.values()):
        raise ConfigError(
            "--set endpoints needs the name of an endpoint and a key", "write e.g. --set endpoints.judge.url=URL"
        )
    if changes:
        runs.change(home, run, changes)
    if endpoints:
        asyncio.run(move_endpoints(home, run, endpoints))


def _start_rounds(
    home: Home,
    config: "RunConfig",
    name: str,
    max_rounds: int,
    dev: str,
    dev_items: int,
    train_settings: tuple[str, ...],
    detach: bool,
    as_json: bool,
) -> None:
    """Start a series of at most `max_rounds` rounds, whose runs have the settings in `config`. The rounds are measured
    on the dev items of the benchmark `dev` or, if `dev` is "", of the domain's first benchmark with dev items.
    """
    from nanoflux_local.cli.rounds import execute_series, show_series
    from nanoflux_local.config import parse_settings
    from nanoflux_local.domains.own import load_domain
    from nanoflux_local.run import rounds
    from nanoflux_local.seeds.datasets import list_seed_datasets

    domain = load_domain(config.domain, home.root)
    benchmarks = (*domain.evaluates, *list_seed_datasets(domain))
    series_settings = rounds.SeriesSettings(
        config=config,
        rounds=max_rounds,
        dev=dev or rounds.choose_dev(home, config, benchmarks),
        dev_items=dev_items,
        train=parse_settings(train_settings, "--train-set epochs=3"),
        name=name,
    )
    series = rounds.create(home, series_settings)
    execute_series(home, series, detach)
    show_series(home, series, as_json)


def _freeze_questions(home: Home, runs: tuple[str, ...]) -> dict[str, Any]:
    """The setting `novel_against` of a new run: a reference to the questions that each of `runs` has asked so far."""
    from nanoflux_local.ledger.earlier_questions import freeze_questions
    from nanoflux_local.ledger.views import LedgerView

    with LedgerView(home.ledger) as view:
        return {run: questions.model_dump() for run, questions in freeze_questions(view, runs).items()}


def _execute_or_detach(home: Home, run: str, detach: bool) -> None:
    """Execute a run in this process or, with `detach`, in a background process."""
    if not detach:
        execute_run(home, run)
        return
    from nanoflux_local import jobs

    launch_detached(home, jobs.Job(jobs.RUN, run))


@command.command()
@click.argument("run", type=RUN)
@with_json
def pause(run: str, as_json: bool) -> None:
    """Finish and commit the turns in progress, then pause the run."""
    _request_stop(run, "pause", as_json)


@command.command()
@click.argument("run", type=RUN)
@with_json
def stop(run: str, as_json: bool) -> None:
    """Finish and commit the turns in progress, then stop the run; a second stop ends it at once.

    In both cases, committed turns are kept and `run resume` continues the run.
    """
    _request_stop(run, "stop", as_json)


def _request_stop(run: str, request: Literal["pause", "stop"], as_json: bool) -> None:
    from nanoflux_local import jobs

    home = current_home()
    run = _find_id(home, run)
    message = jobs.request_stop(home, jobs.Job(jobs.RUN, run), request)
    if as_json:
        print_json({"run": run, "message": message})
    else:
        say(message)


@command.command("set")
@click.argument("run", type=RUN)
@click.argument("settings", nargs=-1, required=True, metavar="KEY=VALUE…")
@with_json
def change(run: str, settings: tuple[str, ...], as_json: bool) -> None:
    """Change settings of a run: concurrency, target, max_turns, budget, pause_after_unread or pause_when_saturated.

    The process of the run applies the changes within a second. Settings that affect the result are refused; fork the
    run instead.
    """
    from nanoflux_local.config import LIVE, format_settings, parse_settings
    from nanoflux_local.run import runs

    changes = parse_settings(settings, "target=300")
    home = current_home()
    run = _find_id(home, run)
    config = runs.change(home, run, changes).model_dump(mode="json", include=set(LIVE))
    if as_json:
        print_json({"run": run, **config})
    else:
        say(f"run {run}: {', '.join(format_settings(changes))}")


def execute_run(home: Home, run: str) -> None:
    """Execute a run until it ends, with a progress bar, and report long waits for a server. After Ctrl-C or SIGTERM,
    the run can be resumed.
    """
    from nanoflux_local.run import runs
    from nanoflux_local.run.engine import RunProgress

    bar = Bar(run)
    say(f"run {run}; stop with Ctrl-C, resume with `nanoflux run resume {run}`")

    def show_progress(progress: RunProgress) -> None:
        bar.show(progress.kept, progress.target, f"kept in {format_quantity(progress.turns, 'turn')}")

    signal.signal(signal.SIGTERM, _handle_sigterm)
    try:
        asyncio.run(runs.execute(home, run, show_progress, bar.note))
    finally:
        bar.close()


def _handle_sigterm(*_: object) -> None:
    """Handle SIGTERM like Ctrl-C, which asyncio turns into a cancellation.

    Background jobs of a shell ignore SIGINT, so in these jobs the interrupt is raised directly.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        raise KeyboardInterrupt
    signal.raise_signal(signal.SIGINT)


@command.command("list")
@with_json
def list_runs(as_json: bool) -> None:
    """List all runs, newest first."""
    from nanoflux_local.ledger.views import LedgerView
    from nanoflux_local.run.overview import load_listed_run

    home = current_home()
    if as_json and not home.ledger.exists():
        print_json([])
        return
    with LedgerView(home.ledger) as view:
        run_ids = [row["id"] for row in view.rows("SELECT id FROM runs ORDER BY rowid DESC")]
        entries = [load_listed_run(home, view, run) for run in run_ids]
    if as_json:
        print_json([{**run.to_json(), "worker": asdict(worker) if worker else None} for run, worker in entries])
        return
    if not entries:
        raise NothingMatchedError("there are no runs yet", "start one with `nanoflux run start --domain starter`")
    print_table(
        ("run", "name", "domain", "status", "turns", "kept", "target"),
        [[run.run, run.name, run.domain, run.status, run.turns, run.kept, run.target] for run, _ in entries],
    )


@command.command()
@click.argument("run", type=RUN)
@click.option("--config", "only_config", is_flag=True, help="Print the run's configuration instead, as a file for "
              "`run start --config`.")  # fmt: skip
@with_json
def show(run: str, only_config: bool, as_json: bool) -> None:
    """Show a run's status, the outcomes of its attempts, its calls and its digest."""
    from nanoflux_local.cli.preview import show_config

    if only_config:
        show_config(current_home(), run, as_json)
    else:
        show_run(current_home(), run, as_json)


@command.command()
@click.argument("run", type=RUN)
@click.argument("text", required=False)
@with_edit
@with_json
def note(run: str, text: str | None, edit: bool, as_json: bool) -> None:
    """Store TEXT as the note on a run, or print the newest note. The empty TEXT "" removes the note."""
    show_or_change_note("run", lambda: _find_id(current_home(), run), text, edit, as_json)


@command.command()
@click.argument("run", type=RUN)
@with_json
def verify(run: str, as_json: bool) -> None:
    """Recompute every hash of a run and report what does not match."""
    from nanoflux_local.ledger.verify import verify_run
    from nanoflux_local.ledger.views import LedgerView

    with LedgerView(current_home().ledger) as view:
        run = str(view.find_run(run)["id"])
        problems = list(verify_run(view, run))
    if as_json:
        print_json({"run": run, "ok": not problems, "problems": problems})
    else:
        for problem in problems:
            click.echo(sanitize(problem))
    if problems:
        raise LedgerError(
            f"run {run} does not match its hashes in {format_quantity(len(problems), 'place')}",
            "restore a backup of the ledger",
        )
    say(f"run {run}: every hash matches")


@command.command()
@click.argument("run", type=RUN)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Setting to change, e.g. novelty.question=0.8; repeatable.",
)
@click.option("--rules", type=click.Choice(list(RULE_SETS)), help="Rule set for the replay.")
@with_json
def replay(run: str, settings: tuple[str, ...], rules: str | None, as_json: bool) -> None:
    """Replay a run from the ledger alone, with no endpoint, and compare the digests.

    With --set or --rules, show which examples would have been kept with other thresholds, rules, checks or retries,
    which calls are missing, and what they would cost.
    """
    from nanoflux_local.run import runs

    home = current_home()
    run = _find_id(home, run)
    if rules:
        settings = (f"rules={rules}", *settings)
    if settings:
        _show_what_if(home, run, settings, as_json)
        return
    result = asyncio.run(runs.replay(home, run))
    if as_json:
        print_json(asdict(result))
    else:
        say(f"{result.kept} kept in {format_quantity(result.turns, 'turn')}, digest {result.digest}")
    if not result.same:
        raise LedgerError(
            f"the replay of run {run} gives a different dataset", f"look for damage with `nanoflux run verify {run}`"
        )


def _show_what_if(home: Home, run: str, settings: tuple[str, ...], as_json: bool) -> None:
    """Replay a run with changed settings; print the examples that would be added or dropped, and the missing calls."""
    from nanoflux_local.config import parse_settings
    from nanoflux_local.run.commands import fork_command
    from nanoflux_local.run.whatif import replay_with

    changes = parse_settings(settings)
    what_if = asyncio.run(replay_with(home, run, changes))
    if as_json:
        print_json(asdict(what_if))
        return
    changed_examples = [("added", example) for example in what_if.come]
    changed_examples += [("dropped", example) for example in what_if.go]
    print_table(
        ("example", "turn", "reason", "question"),
        [(change, example.turn, example.reason, example.question) for change, example in changed_examples],
    )
    turns = format_quantity(what_if.turns, "turn")
    say(f"{what_if.kept} kept in {turns}; the recorded run kept {what_if.stay} of these")
    if what_if.needed.turns:
        _report_needed_calls(what_if.needed)
    if what_if.complete:
        say(f"digest {what_if.digest}" + (", the same as in the recorded run" if what_if.same else ""))
    else:
        say(f"run the turns with the missing calls: {fork_command(run, what_if.settings)}")


def _report_needed_calls(needed: "MissingCalls") -> None:
    """Print which calls the ledger lacks, and the expected cost of the turns that need them."""
    counted_calls: list[str] = []
    for entry in needed.by:
        call_name = f"{entry.role} {entry.kind}".strip()  # an embedding has no role
        counted_calls.append(f"{entry.calls} {call_name}")
    turns = format_quantity(needed.turns, "turn")
    need, count = ("needs", "counts") if needed.turns == 1 else ("need", "count")
    missing = ", ".join(counted_calls)
    say(f"{turns} {need} calls that the ledger lacks, and {count} as not kept: at least {missing};")
    dollars = "" if needed.usd is None else f" and ${needed.usd:.2f}"
    cost = f"{format_quantity(needed.expected, 'call')} with {needed.tokens:,} tokens{dollars}"
    turns_continue = "this turn continues" if needed.turns == 1 else "these turns continue"
    say(f"expected if {turns_continue} like the recorded ones: about {cost}")


def _find_id(home: Home, run: str) -> str:
    from nanoflux_local.ledger.views import LedgerView

    with LedgerView(home.ledger) as view:
        return str(view.find_run(run)["id"])
