"""`nanoflux trainings`: a training's life after `nanoflux train`: list, show, pause, stop, resume."""

from typing import Literal

import click

from nanoflux_local.cli.common import home, print_json, print_table, say, with_json
from nanoflux_local.errors import NothingMatchedError
from nanoflux_local.paths import Home


@click.group(name="trainings")
def command() -> None:
    """Trainings: what `nanoflux train` began."""


@command.command("list")
@with_json
def list_all(as_json: bool) -> None:
    """All trainings, newest first."""
    from nanoflux_local.train.trainings import list_trainings

    found = list_trainings(home())
    if as_json:
        print_json(found)
        return
    if not found:
        raise NothingMatchedError("there are no trainings yet", "begin one: nanoflux train RUN --base smollm2-135m")
    print_table(
        ("training", "base", "rows", "status", "step", "steps", "adapter"),
        [
            [entry["training"], entry["base"], entry["run"] or entry["source"].get("file", ""), entry["status"],
             entry["step"], entry["steps"], entry["adapter"][:16]]
            for entry in found
        ],
    )  # fmt: skip


@command.command()
@click.argument("training")
@click.option("--curve", is_flag=True, help="Every step and epoch too, as JSON.")
@with_json
def show(training: str, curve: bool, as_json: bool) -> None:
    """A training's state and where its curves stand."""
    from nanoflux_local.cli.train import show_state
    from nanoflux_local.ledger.views import LedgerView
    from nanoflux_local.train import trainings

    place = home()
    found = trainings.show(place, training)
    if curve:
        with LedgerView(place.ledger) as view:
            points = view.training_curve(found["training"])
        found["curve"] = [{"kind": kind, **event} for kind, event in points]
    if as_json or curve:
        print_json(found)
    else:
        show_state(found)


@command.command()
@click.argument("training")
@click.option("--detach", is_flag=True, help="Train in a process of its own that outlives this terminal.")
@with_json
def resume(training: str, detach: bool, as_json: bool) -> None:
    """Go on with a training from its last checkpoint."""
    from nanoflux_local.cli.train import work

    place = home()
    work(place, _id(place, training), detach, as_json)


@command.command()
@click.argument("training")
@with_json
def pause(training: str, as_json: bool) -> None:
    """End the step under way, write a checkpoint, and leave the training paused."""
    _ask(training, "pause", as_json)


@command.command()
@click.argument("training")
@with_json
def stop(training: str, as_json: bool) -> None:
    """End the step under way, write a checkpoint, and end; a second stop ends at once, at the last checkpoint."""
    _ask(training, "stop", as_json)


def _ask(training: str, wish: Literal["pause", "stop"], as_json: bool) -> None:
    from nanoflux_local import jobs

    place = home()
    training = _id(place, training)
    told = jobs.ask(place, jobs.Work(jobs.TRAINING, training), wish)
    if as_json:
        print_json({"training": training, "message": told})
    else:
        say(told)


def _id(place: Home, training: str) -> str:
    from nanoflux_local.ledger.views import LedgerView
    from nanoflux_local.train.trainings import find_training

    with LedgerView(place.ledger) as view:
        return str(find_training(view, training)["id"])
