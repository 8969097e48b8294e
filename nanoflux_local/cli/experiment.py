"""`nanoflux experiment`: run the paper's tables, ablations and controls as grids of cells that can be resumed."""

from typing import TYPE_CHECKING, Any

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
from nanoflux_local.errors import NothingMatchedError, UsageError
from nanoflux_local.paths import Home
from nanoflux_local.quantities import format_quantity

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nanoflux_local.experiments.experiment import Workers
    from nanoflux_local.experiments.grid import Cell


@click.group(name="experiment")
def command() -> None:
    """Run the paper's tables and ablations as grids of cells."""


@command.command("list")
@with_json
def list_experiments(as_json: bool) -> None:
    """List the built-in grids and the experiments of this home, newest first."""
    from nanoflux_local.experiments.experiment import list_experiments as load_experiments
    from nanoflux_local.experiments.grid import list_grids, load_grid

    home = current_home()
    built_in_grids = [
        {"grid": name, "title": grid.title, "scales": list(grid.scales)} for name, grid in map(load_grid, list_grids())
    ]
    experiments = load_experiments(home) if home.ledger.exists() else []
    if as_json:
        print_json({"grids": built_in_grids, "experiments": [entry.to_json() for entry in experiments]})
        return
    print_table(
        ("grid", "scales", "title"), [[row["grid"], ", ".join(row["scales"]), row["title"]] for row in built_in_grids]
    )
    if experiments:
        click.echo()
        print_table(
            ("experiment", "status", "cells"),
            [[entry.experiment, entry.state.status, describe_cells(entry.cells)] for entry in experiments],
        )


def describe_cells(cells: "Mapping[str, int]") -> str:
    """The number of cells in each status, as text: "3 done, 1 failed"."""
    return ", ".join(f"{count} {status}" for status, count in cells.items())


@command.command()
@click.argument("name", metavar="NAME|FILE")
@click.option(
    "--scale", default="tiny", show_default=True, help="Scale of the grid: tiny, small, paper or one you defined."
)
@click.option("--run", "existing_run", default="", help="Run whose examples the experiment uses [default: a new run].")
@click.option(
    "--ray", default="", metavar="ADDRESS", help="Address of a Ray cluster on which to run the cells in parallel."
)
@click.option("--detach", is_flag=True, help="Run in a separate process that outlives this terminal.")
@with_json
def run(name: str, scale: str, existing_run: str, ray: str, detach: bool, as_json: bool) -> None:
    """Run an experiment. Run the same command again to run the remaining cells."""
    from nanoflux_local.experiments import experiment as lifecycle
    from nanoflux_local.experiments.planning import make_plan
    from nanoflux_local.ledger.views import LedgerView

    if ray and detach:
        raise UsageError(
            "--ray and --detach cannot be combined",
            "leave out one of them; with --ray, detach the command with your shell or scheduler",
        )
    home = current_home().prepare()
    run_id = ""
    if existing_run:
        with LedgerView(home.ledger) as view:
            run_id = str(view.find_run(existing_run)["id"])
    plan = make_plan(name, scale, run_id)
    experiment = lifecycle.create_experiment(home, plan)
    _run_cells(home, experiment, ray, detach, as_json)


@command.command()
@click.argument("name")
@click.option("--detach", is_flag=True, help="Run in a separate process that outlives this terminal.")
@with_json
def resume(name: str, detach: bool, as_json: bool) -> None:
    """Resume an experiment: run the remaining cells of its plan."""
    from nanoflux_local.experiments.experiment import load_summary

    home = current_home()
    _run_cells(home, load_summary(home, name).experiment, "", detach, as_json)


def _run_cells(home: Home, experiment: str, ray: str, detach: bool, as_json: bool) -> None:
    """Run the remaining cells of an experiment in this process or, with `detach`, in a background process."""
    from nanoflux_local import jobs
    from nanoflux_local.experiments import experiment as lifecycle

    if detach:
        launch_detached(home, jobs.Job(jobs.EXPERIMENT, experiment))
        if as_json:
            print_json(lifecycle.load_summary(home, experiment).to_json())
        return
    cells = format_quantity(len(lifecycle.load_plan(home, experiment).cells), "cell")
    say(f"{experiment}: {cells}; stop with Ctrl-C, resume with `nanoflux experiment resume {experiment}`")
    end_at_sigterm()
    bar = Bar(experiment)
    workers = _make_workers(home, ray, bar)
    try:
        lifecycle.run_remaining_cells(home, experiment, workers, _report_status)
    finally:
        workers.close()
        bar.close()
    _show_experiment(home, experiment, as_json)


def _make_workers(home: Home, ray: str, bar: Bar) -> "Workers":
    """The workers that run the cells: on the Ray cluster at the address `ray`, or in this process if `ray` is ""."""
    from nanoflux_local.experiments.experiment import LocalWorkers

    if ray:
        from nanoflux_local.experiments.on_ray import RayWorkers

        return RayWorkers(home, ray, _report_status)
    return LocalWorkers(home, lambda label, done, total: bar.show(done, total, label), _report_status)


def _report_status(cell: "Cell", status: str) -> None:
    say(f"{cell.id}: {status}")


@command.command()
@click.argument("name")
@with_json
def show(name: str, as_json: bool) -> None:
    """Show an experiment's results so far: accuracies with intervals, paired tests, cost, remaining cells."""
    home = current_home()
    if not home.ledger.exists():
        raise NothingMatchedError(
            f"no experiment {name!r} in this home", "list experiments with `nanoflux experiment list`"
        )
    _show_experiment(home, name, as_json)


@command.command()
@click.argument("name")
def stop(name: str) -> None:
    """Ask an experiment's process to stop after the cells it is running."""
    from nanoflux_local import jobs
    from nanoflux_local.experiments.experiment import load_summary

    home = current_home()
    say(jobs.request_stop(home, jobs.Job(jobs.EXPERIMENT, load_summary(home, name).experiment), "stop"))


def _show_experiment(home: Home, name: str, as_json: bool) -> None:
    from nanoflux_local.experiments.results import load_results

    results = load_results(home, name).to_json()
    if as_json:
        print_json(results)
    else:
        show_results(results)


def show_results(experiment: dict[str, Any]) -> None:
    """Print an experiment's table, its pairs and its notes."""
    from nanoflux_local.experiments.kinds.base import find_experiment_kind
    from nanoflux_local.experiments.tables import PAIR_COLUMNS, format_pair_rows, list_notes

    click.echo(
        f"{experiment['experiment']}: {experiment['question']}\n"
        f"{experiment['status']}, {describe_cells(experiment['cells'])}\n"
    )
    kind = find_experiment_kind(experiment["kind"])
    print_table([column.title for column in kind.columns], kind.list_rows(experiment))
    if experiment["pairs"]:
        click.echo()
        print_table([column.title for column in PAIR_COLUMNS], format_pair_rows(experiment["pairs"]))
    for line in list_notes(experiment):
        click.echo(f"\n{line}")
    for cell, reason in experiment["left_out"].items():
        click.echo(f"left out: {cell}: {reason}")
