"""`nanoflux experiment`: the paper's tables and ablations, with controls, as grids that go on after a kill."""

from typing import TYPE_CHECKING, Any

import click

from nanoflux_local.cli.common import Bar, end_at_sigterm, home, launched, print_json, print_table, say, with_json
from nanoflux_local.cli.compare import told_detectable
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
    from nanoflux_local.experiments.grid import make_plan
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
    """The table of an experiment, its pairs, and what stands beside them."""
    click.echo(f"{found['experiment']}: {found['question']}\n{found['status']}, {told_cells(found['cells'])}\n")
    print_table(*condition_rows(found))
    if found["pairs"]:
        click.echo()
        print_table(*pair_rows(found["pairs"]))
    for line in told_beside(found):
        click.echo(f"\n{line}")
    for cell, reason in found["left_out"].items():
        click.echo(f"left out: {cell}: {reason}")


def told_beside(found: dict[str, Any]) -> list[str]:
    """What dev has chosen, and what the examples took."""
    lines = []
    if chosen := found["chosen"]:
        test = ", ".join(f"{mean:.1%} on {data}" for data, mean in chosen["test"].items())
        lines.append(f"chosen on dev: {chosen['title']} ({chosen['dev']:.1%} there); on test {test}")
    if less := found["less_compute"]:
        lines.append(told_compute(less))
    return lines


def told_compute(less: dict[str, float]) -> str:
    """How many times less compute the run's examples took than the full set."""
    line = (
        f"training on the run's examples took {less['training_6nd']:.1f} times less compute than on the full set"
        f" (6ND; {less['training_measured']:.1f} times as measured)"
    )
    if "with_generation" in less:
        return f"{line}; with the generation of the examples {less['with_generation']:.2f} times"
    return f"{line}; what their generation took is not known"


Rows = tuple[tuple[str, ...], list[list[object]]]


def condition_rows(found: dict[str, Any]) -> Rows:
    """Titles and rows of what each condition came to."""
    return {"train": _trained_rows, "judge": _judge_rows, "discriminativity": _distance_rows}[found["kind"]](found)


def _trained_rows(found: dict[str, Any]) -> Rows:
    rows: list[list[object]] = []
    for entry in found["conditions"]:
        for data in found["test"]:
            accuracy = entry["test"].get(data)
            rows.append([entry["title"], data, f"{entry['rows']:.0f}" if "rows" in entry else "", *_accuracy(accuracy)])
    return ("condition", "on", "rows", "items", "accuracy", "95% interval", "sd over seeds"), rows


def _accuracy(found: dict[str, Any] | None) -> list[object]:
    if found is None:
        return ["", "not done yet", "", ""]
    low, high = found["ci95"]
    spread = "" if found["sd"] is None else f"{found['sd']:.1%}"
    return [found["n"], f"{found['mean']:.1%}", f"{low:.1%} to {high:.1%}", spread]


def _judge_rows(found: dict[str, Any]) -> Rows:
    rows: list[list[object]] = []
    for entry in found["conditions"]:
        rates = entry.get("rates")
        shares = [_share(rates[name]) for name in ("sensitivity", "specificity")] if rates else ["not done yet", ""]
        rows.append([entry["title"], *shares, rates["errors"] if rates else "", entry.get("unjudged", "")])
    return ("judge", "wrong ones rejected", "right ones accepted", "errors", "unjudged"), rows


def _share(found: dict[str, Any]) -> str:
    if not found["n"]:
        return "none judged"
    low, high = found["ci95"]
    return f"{found['share']:.0%} of {found['n']} ({low:.0%} to {high:.0%})"


def _distance_rows(found: dict[str, Any]) -> Rows:
    rows: list[list[object]] = []
    for entry in found["conditions"]:
        told = [_distance(entry[name]) for name in ("centres", "each")] if "centres" in entry else ["not done yet", ""]
        rows.append([entry["title"], entry.get("pairs", ""), *told])
    return ("solutions", "pairs", "between centres", "within pairs"), rows


def _distance(found: dict[str, Any]) -> str:
    low, high = found["ci95"]
    return f"{found['distance']:.4f} ({low:.4f} to {high:.4f})"


def pair_rows(pairs: list[dict[str, Any]]) -> Rows:
    """Titles and rows of the paired tests."""
    rows: list[list[object]] = [
        [
            f"{pair['b']} − {pair['a']}",
            pair["data"],
            f"{pair['difference']:+.1%}",
            f"{pair['ci95'][0]:+.1%} to {pair['ci95'][1]:+.1%}",
            f"{pair['mcnemar_p']:.3g}",
            f"{pair['holm_p']:.3g}",
            "" if pair["paired_t_p"] is None else f"{pair['paired_t_p']:.3g}",
            told_detectable(pair),
        ]
        for pair in pairs
    ]
    return ("pair", "on", "difference", "95% interval", "McNemar p", "Holm p", "t over seeds p", "detectable"), rows
