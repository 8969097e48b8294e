"""`nanoflux rounds`: manage series of runs in which each run's examples train the defender of the next run."""

from collections.abc import Mapping
from typing import Any, Literal

import click

from nanoflux_local.cli.bar import Bar
from nanoflux_local.cli.common import (
    current_home,
    end_at_sigterm,
    launch_detached,
    print_json,
    print_table,
    say,
    with_json,
)
from nanoflux_local.errors import NothingMatchedError
from nanoflux_local.paths import Home


@click.group(name="rounds")
def command() -> None:
    """List, show, pause, stop and resume self-improvement series, which `run start --rounds N` starts."""


@command.command("list")
@with_json
def list_series(as_json: bool) -> None:
    """List all series, newest first."""
    from nanoflux_local.run import rounds

    home = current_home()
    summaries = rounds.summarize_all_series(home) if home.ledger.exists() else []
    if as_json:
        print_json([summary.to_json() for summary in summaries])
        return
    if not summaries:
        raise NothingMatchedError(
            "there are no series of rounds yet", "start one with `nanoflux run start --domain starter --rounds N`"
        )
    rows = [
        [summary.series, summary.name, summary.status, f"{len(summary.rounds)} of {summary.of}", summary.adapter or "–"]
        for summary in summaries
    ]
    print_table(("series", "name", "status", "rounds", "adapter"), rows)


@command.command()
@click.argument("series")
@with_json
def show(series: str, as_json: bool) -> None:
    """Show a series: accuracy on dev items before and after each round."""
    show_series(current_home(), series, as_json)


@command.command()
@click.argument("series")
def pause(series: str) -> None:
    """Pause a series once the turns or the training step in progress are finished."""
    _request_stop(series, "pause")


@command.command()
@click.argument("series")
def stop(series: str) -> None:
    """Stop a series once the turns or the training step in progress are finished; a second stop ends it at once.

    In both cases, committed work is kept and `rounds resume` continues the series.
    """
    _request_stop(series, "stop")


@command.command()
@click.argument("series")
@click.option("--detach", is_flag=True, help="Run in a separate process that outlives this terminal.")
@with_json
def resume(series: str, detach: bool, as_json: bool) -> None:
    """Resume a series where it stopped."""
    home = current_home()
    execute_series(home, _find_id(home, series), detach)
    show_series(home, series, as_json)


def execute_series(home: Home, series: str, detach: bool) -> None:
    """Execute a series in this process or, with `detach`, in a background process."""
    from nanoflux_local import jobs
    from nanoflux_local.run import rounds

    job = jobs.Job(jobs.SERIES, series)
    if detach:
        launch_detached(home, job)
        return
    say(f"{job}; stop with Ctrl-C, resume with `nanoflux rounds resume {series}`")
    end_at_sigterm()
    bar = Bar("rounds")
    try:
        rounds.execute(home, series, lambda step, done, total: bar.show(done, total, step))
    finally:
        bar.close()


def show_series(home: Home, series: str, as_json: bool) -> None:
    """Print a series as a table or as JSON."""
    from nanoflux_local.run import rounds

    summary = rounds.summarize_series(home, series)
    if as_json:
        print_json(summary.to_json())
        return
    name = f" ({summary.name})" if summary.name else ""
    message = f": {summary.message}" if summary.message else ""
    click.echo(f"{summary.series}{name} {summary.status}{message}")
    rows = [
        [
            str(round_.round), round_.run, str(round_.kept), _format_accuracy(round_.before),
            _format_accuracy(round_.after), round_.adapter or "–",
        ]
        for round_ in summary.rounds
    ]  # fmt: skip
    print_table(("round", "run", "kept", f"{summary.dev} before", "after", "adapter"), rows)
    if summary.adapter:
        click.echo(f"best adapter: {summary.adapter} for {summary.base}")


def _format_accuracy(strict: Mapping[str, Any] | None) -> str:
    return "–" if strict is None else f"{strict['mean']:.1%}"


def _request_stop(series: str, request: Literal["pause", "stop"]) -> None:
    from nanoflux_local import jobs

    home = current_home()
    say(jobs.request_stop(home, jobs.Job(jobs.SERIES, _find_id(home, series)), request))


def _find_id(home: Home, series: str) -> str:
    from nanoflux_local.ledger.views import LedgerView
    from nanoflux_local.run.rounds import find

    with LedgerView(home.ledger) as view:
        return find(view, series).id
