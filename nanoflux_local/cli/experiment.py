"""`nanoflux experiment`: the paper's tables and ablations, with controls, as grids that go on after a kill."""

from typing import TYPE_CHECKING, Any

import click

from nanoflux_local.cli.common import Bar, end_at_sigterm, home, launched, print_json, print_table, say, with_json
from nanoflux_local.errors import NothingMatchedError, UsageError
from nanoflux_local.paths import Home

if TYPE_CHECKING:
    from nanoflux_local.experiments.experiment import Workers
    from nanoflux_local.experiments.grid import Cell


@click.group(name="experiment")
def command() -> None:
    """The paper's tables and ablations as grids of cells: list, run, show, stop, resume."""


@command.command("list")
@with_json
def list_experiments(as_json: bool) -> None:
    """The grids that ship, and the experiments that were begun here, newest first."""
    from nanoflux_local.experiments.experiment import list_experiments as begun
    from nanoflux_local.experiments.grid import grids, load_grid

    place = home()
    known = [{"grid": name, "title": grid.title, "scales": list(grid.scales)} for name, grid in map(load_grid, grids())]
    found = begun(place) if place.ledger.exists() else []
    if as_json:
        print_json({"grids": known, "experiments": found})
        return
    print_table(("grid", "scales", "title"), [[row["grid"], ", ".join(row["scales"]), row["title"]] for row in known])
    if found:
        click.echo()
        print_table(
            ("experiment", "status", "cells"),
            [[row["experiment"], row["status"], told_cells(row["cells"])] for row in found],
        )


def told_cells(cells: dict[str, int]) -> str:
    """How many cells there are of each status."""
    return ", ".join(f"{count} {status}" for status, count in cells.items())


@command.command()
@click.argument("name", metavar="NAME|FILE")
@click.option("--scale", default="tiny", show_default=True, help="A scale of the grid: tiny, small, paper or your own.")
@click.option("--run", default="", help="Take the examples of this run; without it one is made.")
@click.option("--ray", default="", metavar="ADDRESS", help="Do the cells on the Ray cluster there, many at once.")
@click.option("--detach", is_flag=True, help="In a process of its own that outlives this terminal.")
@with_json
def run(name: str, scale: str, run: str, ray: str, detach: bool, as_json: bool) -> None:
    """Do an experiment, or go on with it: the same command again does the cells that are left."""
    from nanoflux_local.experiments import experiment as life
    from nanoflux_local.experiments.planning import make_plan
    from nanoflux_local.ledger.views import LedgerView

    if ray and detach:
        raise UsageError("--ray and --detach do not go together", "detach the command with your shell or scheduler")
    place = home().prepare()
    if run:
        with LedgerView(place.ledger) as view:
            run = str(view.find_run(run)["id"])
    plan = make_plan(name, scale, run)
    experiment = life.create(place, plan)
    _do(place, experiment, ray, detach, as_json)


@command.command()
@click.argument("name")
@click.option("--detach", is_flag=True, help="In a process of its own that outlives this terminal.")
@with_json
def resume(name: str, detach: bool, as_json: bool) -> None:
    """Go on with an experiment that was begun here: its cells that are left are done, by the plan that it has."""
    from nanoflux_local.experiments.experiment import summary

    place = home()
    _do(place, summary(place, name)["experiment"], "", detach, as_json)


def _do(place: Home, experiment: str, ray: str, detach: bool, as_json: bool) -> None:
    """Do what is left of an experiment here, or in a process of its own."""
    from nanoflux_local import jobs
    from nanoflux_local.experiments import experiment as life

    if detach:
        launched(place, jobs.Work(jobs.EXPERIMENT, experiment))
        if as_json:
            print_json(life.summary(place, experiment))
        return
    cells = len(life.plan_of(place, experiment).cells)
    say(f"{experiment}: {cells} cells; stop with Ctrl-C, go on with `nanoflux experiment resume {experiment}`")
    end_at_sigterm()
    bar = Bar(experiment)
    workers = _workers(place, ray, bar)
    try:
        life.carry_on(place, experiment, workers, lambda cell, status: say(f"{cell.id}: {status}"))
    finally:
        workers.close()
        bar.close()
    _show(place, experiment, as_json)


def _workers(place: Home, ray: str, bar: Bar) -> "Workers":
    from nanoflux_local.experiments.experiment import Here

    def begun(cell: "Cell", status: str) -> None:
        say(f"{cell.id}: {status}")

    if ray:
        from nanoflux_local.experiments.on_ray import OnRay

        return OnRay(place, ray, begun)
    return Here(place, lambda what, done, total: bar.show(done, total, what), begun)


@command.command()
@click.argument("name")
@with_json
def show(name: str, as_json: bool) -> None:
    """What an experiment found so far: accuracies with intervals, paired tests, what it cost, what is left."""
    place = home()
    if not place.ledger.exists():
        raise NothingMatchedError(f"there is no experiment {name!r} here", "see `nanoflux experiment list`")
    _show(place, name, as_json)


@command.command()
@click.argument("name")
def stop(name: str) -> None:
    """Ask the process that works on an experiment to end after the cells that it is at."""
    from nanoflux_local import jobs
    from nanoflux_local.experiments.experiment import summary

    place = home()
    say(jobs.ask(place, jobs.Work(jobs.EXPERIMENT, summary(place, name)["experiment"]), "stop"))


def _show(place: Home, name: str, as_json: bool) -> None:
    from nanoflux_local.experiments.results import results

    found = results(place, name)
    if as_json:
        print_json(found)
    else:
        show_results(found)


def show_results(found: dict[str, Any]) -> None:
    """The table of an experiment, its pairs and its notes."""
    from nanoflux_local.experiments.kinds.base import find_kind
    from nanoflux_local.experiments.tables import PAIR_COLUMNS, notes, pair_rows

    click.echo(f"{found['experiment']}: {found['question']}\n{found['status']}, {told_cells(found['cells'])}\n")
    kind = find_kind(found["kind"])
    print_table([column.title for column in kind.columns], kind.rows(found))
    if found["pairs"]:
        click.echo()
        print_table([column.title for column in PAIR_COLUMNS], pair_rows(found["pairs"]))
    for line in notes(found):
        click.echo(f"\n{line}")
    for cell, reason in found["left_out"].items():
        click.echo(f"left out: {cell}: {reason}")
