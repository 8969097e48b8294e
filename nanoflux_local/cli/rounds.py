"""`nanoflux rounds`: series of runs, each played with what the last one taught; `run start --rounds N` begins one."""

from typing import Any

import click

from nanoflux_local.cli.common import (
    Bar,
    end_at_sigterm,
    home,
    launch_detached,
    print_json,
    print_table,
    say,
    with_json,
)
from nanoflux_local.paths import Home


@click.group(name="rounds")
def command() -> None:
    """Self-improvement, begun by `run start --rounds N`: list, show, pause, stop, resume."""


@command.command("list")
@with_json
def list_series(as_json: bool) -> None:
    """All series, newest first."""
    from nanoflux_local.run import rounds

    place = home()
    listed = rounds.list_series(place) if place.ledger.exists() else []
    if as_json:
        print_json(listed)
        return
    rows = [
        [each["series"], each["name"], each["status"], f"{len(each['rounds'])} of {each['of']}", each["adapter"] or "–"]
        for each in listed
    ]
    print_table(("series", "name", "status", "rounds", "adapter"), rows)


@command.command()
@click.argument("series")
@with_json
def show(series: str, as_json: bool) -> None:
    """A series with its curve: accuracy on dev before and after each round."""
    show_series(home(), series, as_json)


@command.command()
@click.argument("series")
def pause(series: str) -> None:
    """Let what is under way drain, then pause."""
    _ask(series, "pause")


@command.command()
@click.argument("series")
def stop(series: str) -> None:
    """Let what is under way drain, then stop; a second stop ends at once. `resume` goes on all the same."""
    _ask(series, "stop")


@command.command()
@click.argument("series")
@click.option("--detach", is_flag=True, help="In a process of its own that outlives this terminal.")
@with_json
def resume(series: str, detach: bool, as_json: bool) -> None:
    """Go on with a series where it stopped."""
    place = home()
    play(place, _id(place, series), detach)
    show_series(place, series, as_json)


def play(place: Home, series: str, detach: bool) -> None:
    """Play a series here, or in a process of its own."""
    from nanoflux_local import jobs
    from nanoflux_local.run import rounds

    work = jobs.Work(jobs.SERIES, series)
    if detach:
        launch_detached(place, work, "played")
        return
    say(f"{work}; stop with Ctrl-C, go on with `nanoflux rounds resume {series}`")
    end_at_sigterm()
    bar = Bar("rounds")
    try:
        rounds.carry_on(place, series, lambda step, done, total: bar.show(done, total, step))
    finally:
        bar.close()


def show_series(place: Home, series: str, as_json: bool) -> None:
    from nanoflux_local.run import rounds

    summary = rounds.show(place, series)
    if as_json:
        print_json(summary)
        return
    said = f": {summary['message']}" if summary["message"] else ""
    named = f" ({summary['name']})" if summary["name"] else ""
    click.echo(f"{summary['series']}{named} {summary['status']}{said}")
    rows = [
        [
            str(entry["round"]), entry["run"], str(entry["kept"]), _accuracy_text(entry["before"]),
            _accuracy_text(entry["after"]), entry["adapter"] or "–",
        ]
        for entry in summary["rounds"]
    ]  # fmt: skip
    print_table(("round", "run", "kept", f"{summary['dev']} before", "after", "adapter"), rows)
    if summary["adapter"]:
        click.echo(f"best adapter: {summary['adapter']} for {summary['base']}")


def _accuracy_text(strict: dict[str, Any] | None) -> str:
    return "–" if strict is None else f"{strict['mean']:.1%}"


def _ask(series: str, wish: Any) -> None:
    from nanoflux_local import jobs

    place = home()
    say(jobs.ask(place, jobs.Work(jobs.SERIES, _id(place, series)), wish))


def _id(place: Home, series: str) -> str:
    from nanoflux_local.ledger.views import LedgerView
    from nanoflux_local.run.rounds import find

    with LedgerView(place.ledger) as view:
        return str(find(view, series)["id"])
