"""`nanoflux trainings`: list, show, compare, pause, stop and resume the training runs that `nanoflux train` started."""

from typing import Literal

import click

from nanoflux_local.cli import common
from nanoflux_local.cli.common import print_json, print_table, say, with_json
from nanoflux_local.cli.names import TRAINING
from nanoflux_local.cli.notes import show_or_change_note, with_edit
from nanoflux_local.cli.side_by_side import compare_trainings
from nanoflux_local.errors import NothingMatchedError
from nanoflux_local.paths import Home


@click.group(name="trainings")
def command() -> None:
    """List, show, compare, pause, stop and resume training runs."""


command.add_command(compare_trainings)


@command.command("list")
@with_json
def list_all(as_json: bool) -> None:
    """List all training runs, newest first."""
    from nanoflux_local.train.trainings import list_trainings

    home = common.current_home()
    if as_json and not home.ledger.exists():
        print_json([])
        return
    summaries = list_trainings(home)
    if as_json:
        print_json([summary.to_json() for summary in summaries])
        return
    if not summaries:
        raise NothingMatchedError(
            "there are no training runs yet", "start one with `nanoflux train RUN --base smollm2-135m`"
        )
    print_table(
        ("training", "base", "rows", "status", "step", "steps", "adapter"),
        [
            [summary.training, summary.base, summary.run or summary.source.get("file", ""), summary.status,
             summary.step, summary.steps, summary.adapter[:16]]
            for summary in summaries
        ],
    )  # fmt: skip


@command.command()
@click.argument("training", type=TRAINING)
@click.option("--curve", is_flag=True, help="Print JSON that includes every step and epoch.")
@with_json
def show(training: str, curve: bool, as_json: bool) -> None:
    """Show the status of a training run and its latest losses."""
    from nanoflux_local.cli.train import show_summary
    from nanoflux_local.ledger.views import LedgerView
    from nanoflux_local.train import trainings

    home = common.current_home()
    summary = trainings.summarize_training(home, training)
    if not (as_json or curve):
        show_summary(summary)
        return
    document = summary.to_json()
    if curve:
        with LedgerView(home.ledger) as view:
            training_curve = view.training_curve(summary.training)
        document["curve"] = [{"kind": event.kind, **event.event} for event in training_curve.events]
    print_json(document)


@command.command()
@click.argument("training", type=TRAINING)
@click.argument("text", required=False)
@with_edit
@with_json
def note(training: str, text: str | None, edit: bool, as_json: bool) -> None:
    """Store TEXT as the note on a training run, or print the newest note. The empty TEXT "" removes the note."""
    show_or_change_note("training", lambda: _find_id(common.current_home(), training), text, edit, as_json)


@command.command()
@click.argument("training", type=TRAINING)
@click.option("--detach", is_flag=True, help="Train in a background process that outlives this terminal.")
@with_json
def resume(training: str, detach: bool, as_json: bool) -> None:
    """Resume a training run from its last checkpoint."""
    from nanoflux_local.cli.train import train_and_report

    home = common.current_home()
    train_and_report(home, _find_id(home, training), detach, as_json)


@command.command()
@click.argument("training", type=TRAINING)
@with_json
def pause(training: str, as_json: bool) -> None:
    """Pause a training run: finish the current step and write a checkpoint."""
    _request_stop(training, "pause", as_json)


@command.command()
@click.argument("training", type=TRAINING)
@with_json
def stop(training: str, as_json: bool) -> None:
    """Stop a training run after the current step and write a checkpoint; a second stop ends it at once."""
    _request_stop(training, "stop", as_json)


def _request_stop(training: str, request: Literal["pause", "stop"], as_json: bool) -> None:
    from nanoflux_local import jobs

    home = common.current_home()
    training = _find_id(home, training)
    message = jobs.request_stop(home, jobs.Job(jobs.TRAINING, training), request)
    if as_json:
        print_json({"training": training, "message": message})
    else:
        say(message)


def _find_id(home: Home, training: str) -> str:
    from nanoflux_local.ledger.views import LedgerView
    from nanoflux_local.train.trainings import find_training

    with LedgerView(home.ledger) as view:
        return find_training(view, training).id
