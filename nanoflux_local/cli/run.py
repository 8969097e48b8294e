"""`nanoflux run`: a generation job's life: start, watch, steer, pause, stop, resume, verify, replay."""

import asyncio
import signal
from pathlib import Path
from typing import Any, Literal

import click

from nanoflux_local.cli.common import Bar, home, launch_detached, plain, print_json, print_table, say, with_json
from nanoflux_local.errors import LedgerError, NothingMatchedError
from nanoflux_local.paths import Home

SHOWN = 10
"""Of the attempts that repeated an evaluation item: `--json` has all of them."""


@click.group(name="run")
def command() -> None:
    """Generation: a run's life from start to report."""


@command.command()
@click.option("--domain", help="One of `nanoflux domains list`, your own among them.")
@click.option("--profile", help="Which endpoints play: a name or a .toml file [default: embedded].")
@click.option(
    "--fork", metavar="RUN", help="Begin with RUN's settings instead, and reuse every call that still applies."
)
@click.option("--config", "config_file", type=click.Path(dir_okay=False), help="A TOML file of settings.")
@click.option("--examples", type=click.IntRange(1), help="Stop at this many kept examples [default: 200].")
@click.option("--max-turns", type=click.IntRange(1), help="Stop at this many turns [default: 1000].")
@click.option("--seed", type=click.IntRange(0), help="The run's seed [default: 0].")
@click.option("--concurrency", type=click.IntRange(1, 1024), help="Requests under way at once; changes no result.")
@click.option(
    "--budget-usd", type=click.FloatRange(0), help="Pause before the calls could cost more dollars than this."
)
@click.option("--name", default="", help="A name for people.")
@click.option(
    "--novel-against", multiple=True, metavar="RUN", help="What RUN has asked counts as asked before; may be repeated."
)
@click.option("--rounds", type=click.IntRange(1), metavar="N",
              help="Train the defender on what was kept and play again: N times, while it helps on dev.")  # fmt: skip
@click.option("--dev", default="", metavar="DATASET", help="The benchmark whose dev items say whether a round helped.")
@click.option("--dev-items", type=click.IntRange(1), help="How many of them [default: all].")
@click.option("--train-set", multiple=True, metavar="KEY=VALUE", help="A setting of the rounds' trainings.")
@click.option("--detach", is_flag=True, help="Play it in a process of its own that outlives this terminal.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any setting, e.g. novelty.question=0.8.")
@with_json
def start(
    domain: str | None,
    profile: str | None,
    fork: str | None,
    novel_against: tuple[str, ...],
    config_file: str | None,
    name: str,
    settings: tuple[str, ...],
    as_json: bool,
    detach: bool,
    budget_usd: float | None,
    dev: str,
    train_set: tuple[str, ...],
    **numbers: int | None,
) -> None:
    """Generate a dataset."""
    from nanoflux_local.config import merged, parse_settings, read_toml
    from nanoflux_local.run import binding, runs

    if not domain and not fork:
        raise click.UsageError("Missing option '--domain' (or '--fork', to begin with another run's settings).")
    if fork and (domain or profile):
        raise click.UsageError("A fork keeps the domain and the profile of its run: change single settings with --set.")
    overrides: dict[str, Any] = read_toml(Path(config_file)) if config_file else {}
    overrides = merged(overrides, parse_settings(settings))
    flags = {"target": numbers["examples"], **{key: numbers[key] for key in ("max_turns", "seed", "concurrency")}}
    overrides = merged(overrides, {key: value for key, value in flags.items() if value is not None})
    if budget_usd is not None:
        overrides = merged(overrides, {"budget": {"usd": budget_usd}})
    place = home().prepare()
    if novel_against:
        overrides = merged(overrides, {"novel_against": _asked(place, novel_against)})
    fork = _id(place, fork) if fork else ""
    if fork:
        config = runs.forked(place, fork, overrides)
    else:
        config = binding.resolve(str(domain), profile or "embedded", overrides, place)
    if numbers["rounds"]:
        given = {"rounds": numbers["rounds"], "dev": dev, "dev_items": numbers["dev_items"] or 0, "name": name}
        _rounds(place, config, given, train_set, detach, as_json)
        return
    if dev or train_set or numbers["dev_items"]:
        raise click.UsageError("--dev, --dev-items and --train-set are for rounds: add --rounds N.")
    run = asyncio.run(runs.start(place, config, name, fork))
    _work(place, run, detach)
    show_run(place, run, as_json)


@command.command()
@click.argument("run")
@click.option("--detach", is_flag=True, help="Play it in a process of its own that outlives this terminal.")
@with_json
def resume(run: str, detach: bool, as_json: bool) -> None:
    """Go on with a run where it stopped."""
    place = home()
    run = _id(place, run)
    _work(place, run, detach)
    show_run(place, run, as_json)


def _rounds(
    place: Home, config: Any, given: dict[str, Any], settings: tuple[str, ...], detach: bool, as_json: bool
) -> None:
    """Begin a series of rounds with this run's settings."""
    from nanoflux_local.cli.rounds import play as play_series
    from nanoflux_local.cli.rounds import show_series
    from nanoflux_local.config import parse_settings
    from nanoflux_local.domains.own import load_domain
    from nanoflux_local.run import rounds

    domain = load_domain(config.domain, place.root)
    dev = given["dev"] or rounds.default_dev(place, config, (*domain.evaluates, *domain.datasets))
    plan = rounds.Rounds(config=config, train=parse_settings(settings), **{**given, "dev": dev})
    series = rounds.create(place, plan)
    play_series(place, series, detach)
    show_series(place, series, as_json)


def _asked(place: Home, names: tuple[str, ...]) -> dict[str, Any]:
    """What these runs have asked so far, as a run's configuration holds it."""
    from nanoflux_local.ledger.asked import freeze
    from nanoflux_local.ledger.views import LedgerView

    with LedgerView(place.ledger) as view:
        return {run: asked.model_dump() for run, asked in freeze(view, names).items()}


def _work(place: Home, run: str, detach: bool) -> None:
    """Play a run here, or in a process of its own."""
    if not detach:
        play(place, run)
        return
    from nanoflux_local import jobs

    launch_detached(place, jobs.Work(jobs.RUN, run), "played")


@command.command()
@click.argument("run")
@with_json
def pause(run: str, as_json: bool) -> None:
    """Commit the turns under way, begin no new one, and leave the run paused."""
    _ask(run, "pause", as_json)


@command.command()
@click.argument("run")
@with_json
def stop(run: str, as_json: bool) -> None:
    """Commit the turns under way and end; a second stop ends at once. Both lose nothing, and `resume` goes on."""
    _ask(run, "stop", as_json)


def _ask(run: str, wish: Literal["pause", "stop"], as_json: bool) -> None:
    from nanoflux_local import jobs

    place = home()
    run = _id(place, run)
    told = jobs.ask(place, jobs.Work(jobs.RUN, run), wish)
    if as_json:
        print_json({"run": run, "message": told})
    else:
        say(told)


@command.command("set")
@click.argument("run")
@click.argument("settings", nargs=-1, required=True, metavar="KEY=VALUE…")
@with_json
def change(run: str, settings: tuple[str, ...], as_json: bool) -> None:
    """Change what may change while a run is played: concurrency, target, max_turns, budget.

    A worker takes it up within a second. What decides the result is refused: it needs a run of its own.
    """
    from nanoflux_local.config import LIVE, parse_settings
    from nanoflux_local.run import runs

    changes = parse_settings(settings)
    place = home()
    run = _id(place, run)
    config = runs.change(place, run, changes).model_dump(mode="json", include=set(LIVE))
    if as_json:
        print_json({"run": run, **config})
    else:
        say(f"run {run}: " + ", ".join(f"{key} {config[key]}" for key in changes))


def play(place: Home, run: str) -> None:
    """Carry a run on with a progress bar; Ctrl-C and SIGTERM end it with everything kept. A long wait for a server is
    reported.
    """
    from nanoflux_local.run import runs
    from nanoflux_local.run.engine import RunProgress

    bar = Bar(run)
    say(f"run {run}; stop with Ctrl-C, go on with `nanoflux run resume {run}`")

    def told(progress: RunProgress) -> None:
        bar.show(progress.kept, progress.target, f"kept in {progress.turns} turns")

    signal.signal(signal.SIGTERM, _end)
    try:
        asyncio.run(runs.carry_on(place, run, told, bar.note))
    finally:
        bar.close()


def _end(*_: object) -> None:
    """As Ctrl-C does, which asyncio turns into a cancel; where a shell has background jobs ignore that, by hand."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        raise KeyboardInterrupt
    signal.raise_signal(signal.SIGINT)


@command.command("list")
@with_json
def list_runs(as_json: bool) -> None:
    """All runs, newest first."""
    from nanoflux_local.jobs import RUN, Work, with_worker
    from nanoflux_local.ledger.views import LedgerView

    place = home()
    with LedgerView(place.ledger) as view:
        names = [row["id"] for row in view.rows("SELECT id FROM runs ORDER BY rowid DESC")]
        found = [with_worker(place, view, Work(RUN, name), view.run_summary(name)) for name in names]
    if as_json:
        print_json(found)
        return
    if not found:
        raise NothingMatchedError("there are no runs yet", "start one: nanoflux run start --domain starter")
    print_table(
        ("run", "name", "domain", "status", "turns", "kept", "target"),
        [[entry[key] for key in ("run", "name", "domain", "status", "turns", "kept", "target")] for entry in found],
    )


@command.command()
@click.argument("run")
@with_json
def show(run: str, as_json: bool) -> None:
    """A run's state, its funnel, its calls and its digest."""
    show_run(home(), run, as_json)


def show_run(place: Home, run: str, as_json: bool) -> None:
    from nanoflux_local.examples.review import agreement
    from nanoflux_local.jobs import RUN, Work, with_worker
    from nanoflux_local.ledger.views import LedgerView
    from nanoflux_local.run.forecast import forecast
    from nanoflux_local.run.trial import panel_result, trial_result

    with LedgerView(place.ledger) as view:
        summary = view.run_summary(run)
        found = with_worker(place, view, Work(RUN, summary["run"]), summary)
        found["forecast"] = forecast(view, found)
        found["judge_trial"] = trial_result(view, summary["run"])
        found["panel"] = panel_result(view, summary["run"])
        found["review"] = agreement(view, summary["run"])
        found |= view.unread(summary["run"])
        priced = view.is_priced(summary["run"])
    if as_json:
        print_json(found)
        return
    print_table(
        ("run", found["run"]),
        [
            ("name", found["name"]),
            ("domain", found["domain"]),
            *([("fork of", found["forked_from"])] if found["forked_from"] else []),
            ("status", f"{found['status']} {found['message']}".strip()),
            ("kept", f"{found['kept']} of {found['target']} in {found['turns']} turns"),
            *((f"  {key.replace('_', ' ')}", value) for key, value in found["funnel"].items()),
            *((f"  turn {hit['turn']}", hit["reason"]) for hit in found["contaminated"][:SHOWN]),
            *_unread_rows(found["unread"], found["refused"]),
            *_reasoning_cut_rows(found["cut_in_reasoning"]),
            (
                "calls",
                ", ".join(f"{value} {key}" for key, value in found["calls"].items())
                + f" ({found['wasted_share']:.1%})",
            ),
            ("tokens", _describe_usage(found["usage"])),
            *([("dollars", _describe_dollars(found))] if priced else []),
            *((f"  fault: {kind.replace('_', ' ')}", count) for kind, count in found["faults"].items()),
            ("seconds", found["seconds"]),
            *_level_rows(found["levels"]),
            *_trial_rows(found["judge_trial"]),
            *_panel_rows(found["panel"]),
            *_review_rows(found["review"]),
            *_forecast_rows(found["forecast"]),
            ("repeatable", "yes" if found["repeatable"] else "no: an endpoint does not promise equal replies"),
            ("digest", found["digest"]),
        ],
    )


def _describe_usage(usage: dict[str, Any]) -> str:
    """Tokens read and written, and how many of the written ones were thoughts, where that can be counted."""
    thoughts = f", of them {usage['reasoning_tokens']} in reasoning" if usage["reasoning_tokens"] else ""
    return f"{usage['prompt_tokens']} read, {usage['completion_tokens']} written{thoughts}"


def _describe_dollars(run: dict[str, Any]) -> str:
    """What the calls cost, and what attempts may have cost that gave nothing."""
    lost = f", and at most {run['lost']['usd']:.4f} for replies that were lost" if run["lost"]["usd"] else ""
    return f"{run['usage']['usd']:.4f}{lost}"


def _unread_rows(unread: dict[str, int], refused: dict[str, int]) -> list[tuple[str, str]]:
    """Why attempts had nothing to read, the most frequent reasons first."""
    rows = []
    for name, reasons in (("unread replies", unread), ("refused prompts", refused)):
        if reasons:
            rows.append((name, str(sum(reasons.values()))))
            rows += [(f"  {count}", reason) for reason, count in list(reasons.items())[:SHOWN]]
    return rows


def _reasoning_cut_rows(attempts: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [("cut in reasoning", f"{len(attempts)} attempts ended without an answer")] if attempts else []


def _level_rows(levels: dict[str, int]) -> list[tuple[str, str]]:
    if not set(levels) - {"unrated"}:
        return []
    return [("reasoning", ", ".join(f"{count} {name}" for name, count in levels.items()))]


def _panel_rows(found: dict[str, Any] | None) -> list[tuple[str, str]]:
    if found is None:
        return []
    alpha = "not defined" if found["alpha"] is None else f"{found['alpha']:.2f}"
    return [("panel", f"split over {found['split']} of {found['judgements']} judgements, Krippendorff's alpha {alpha}")]


def _review_rows(found: dict[str, Any] | None) -> list[tuple[str, str]]:
    from nanoflux_local.cli.examples import describe_agreement

    people = found["reviewers"] if found else {}
    return [(f"review by {name}", describe_agreement(told)) for name, told in people.items()]


def _trial_rows(found: dict[str, Any] | None) -> list[tuple[str, str]]:
    """How the judge judged solutions of known worth, by its own word and with its programs where it wrote any."""
    if found is None:
        return []
    from nanoflux_local.run.trial import describe_rates

    left = f", {found['unjudged']} not judged" if found["unjudged"] else ""
    if found["with_check"] is None:
        return [("judge's trial", describe_rates(found["judge"]) + left)]
    return [
        ("judge's trial", f"{found['solutions']} known solutions{left}"),
        ("  its word alone", describe_rates(found["without_check"])),
        ("  with the checks", describe_rates(found["with_check"])),
        *(
            (f"  {name} check alone", f"{describe_rates(check)}; concluded on {check['concluded']}")
            for name, check in found["checks"].items()
        ),
    ]


def _forecast_rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    """What is to be expected yet, each with its interval; nothing where the run has come to its end."""
    rows = [("kept per hour", f"{found['kept_per_hour']:.1f}")] if found["kept_per_hour"] else []
    if found["turns"] is None:
        return rows if "end" in found["reason"] else [*rows, ("forecast", found["reason"])]
    likely = f"{found['reaches_target']:.0%} likely within the turn limit, with {found['level']:.0%} intervals"
    shown = (("turns", "turns", 1, 0), ("minutes", "seconds", 60, 1), ("tokens", "tokens", 1, 0), ("usd", "usd", 1, 2))
    spans = [(f"  {told}", _span(found[name], unit, digits)) for told, name, unit, digits in shown]
    return [*rows, ("to the target", likely), *spans]


def _span(span: dict[str, float], unit: int, digits: int) -> str:
    expected, low, high = (f"{span[key] / unit:,.{digits}f}" for key in ("expected", "low", "high"))
    return f"{expected} ({low} to {high})"


@command.command()
@click.argument("run")
@with_json
def verify(run: str, as_json: bool) -> None:
    """Derive every hash of a run again, and say what does not match."""
    from nanoflux_local.ledger.verify import verify_run
    from nanoflux_local.ledger.views import LedgerView

    with LedgerView(home().ledger) as view:
        found = view.find_run(run)["id"]
        problems = list(verify_run(view, found))
    if as_json:
        print_json({"run": found, "ok": not problems, "problems": problems})
    else:
        for problem in problems:
            click.echo(plain(problem))
    if problems:
        raise LedgerError(f"run {found}: {len(problems)} things do not match", "restore a backup of the ledger")
    say(f"run {found}: every hash matches")


@command.command()
@click.argument("run")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="What if, e.g. novelty.question=0.8?")
@with_json
def replay(run: str, settings: tuple[str, ...], as_json: bool) -> None:
    """Play a run again from the ledger alone, with no endpoint, and compare the digests.

    With --set: what would have been kept under other thresholds, judge's rules or retries, and which calls are missing.
    """
    from nanoflux_local.run import runs

    place = home()
    run = _id(place, run)
    if settings:
        _what_if(place, run, settings, as_json)
        return
    result = asyncio.run(runs.replay(place, run))
    if as_json:
        print_json(result)
    else:
        say(f"{result['kept']} kept in {result['turns']} turns, digest {result['digest']}")
    if not result["same"]:
        raise LedgerError("the replay gives another dataset than the run", f"see `nanoflux run verify {run}`")


def _what_if(place: Home, run: str, settings: tuple[str, ...], as_json: bool) -> None:
    from nanoflux_local.config import parse_settings
    from nanoflux_local.run.runs import fork_command
    from nanoflux_local.run.whatif import replay_with

    changes = parse_settings(settings)
    found = asyncio.run(replay_with(place, run, changes))
    if as_json:
        print_json(found)
        return
    rows = [("comes", example) for example in found["come"]] + [("goes", example) for example in found["go"]]
    print_table(
        ("example", "turn", "reason", "question"),
        [(told, example["turn"], example["reason"], example["question"]) for told, example in rows],
    )
    needed = found["needed"]
    say(f"{found['kept']} kept in {found['turns']} turns, {found['stay']} of them as recorded")
    if needed["turns"]:
        calls = ", ".join(
            f"{entry['calls']} {entry['role']} {entry['kind']}".replace("  ", " ") for entry in needed["by"]
        )
        say(f"{needed['turns']} turns need calls that were never made and count as not kept: at least {calls};")
        say(f"about {needed['expected']} calls are to be expected, if they go on as the recorded turns did")
    if found["complete"]:
        say(f"digest {found['digest']}" + (", as recorded" if found["same"] else ""))
    else:
        say(f"the ledger does not hold all of it; play it: {fork_command(run, changes)}")


def _id(place: Home, run: str) -> str:
    from nanoflux_local.ledger.views import LedgerView

    with LedgerView(place.ledger) as view:
        return str(view.find_run(run)["id"])
