"""Prints two runs or two training runs side by side, for `nanoflux run compare` and `nanoflux trainings compare`."""

from typing import TYPE_CHECKING

import click

from nanoflux_local.cli.common import current_home, print_json, print_table, say, with_json
from nanoflux_local.cli.names import RUN, TRAINING

if TYPE_CHECKING:
    from nanoflux_local.run.side_by_side import SideBySide


@click.command("compare")
@click.argument("run", type=RUN)
@click.argument("other", type=RUN)
@with_json
def compare_runs(run: str, other: str, as_json: bool) -> None:
    """Show RUN and OTHER side by side: their statistics, and the settings in which they differ.

    `--json` includes the kept examples by turn.
    """
    from nanoflux_local.ledger.views import LedgerView
    from nanoflux_local.run import side_by_side

    home = current_home()
    with LedgerView(home.ledger) as view:
        _show_comparison(side_by_side.compare_runs(home, view, run, other), as_json)


@click.command("compare")
@click.argument("training", type=TRAINING)
@click.argument("other", type=TRAINING)
@with_json
def compare_trainings(training: str, other: str, as_json: bool) -> None:
    """Show TRAINING and OTHER side by side: their losses, and the settings in which they differ.

    `--json` includes the losses by step.
    """
    from nanoflux_local.ledger.views import LedgerView
    from nanoflux_local.run import side_by_side

    home = current_home()
    with LedgerView(home.ledger) as view:
        _show_comparison(side_by_side.compare_trainings(home, view, training, other), as_json)


def _show_comparison(comparison: "SideBySide", as_json: bool) -> None:
    from nanoflux_local.run.side_by_side import format_value

    if as_json:
        print_json(comparison.to_json())
        return
    print_table(
        ("statistic", comparison.first, comparison.second),
        [[name.replace("_", " "), *map(format_value, pair)] for name, pair in comparison.figures.items()],
    )
    click.echo()
    if not comparison.settings:
        say("the settings are equal")
        return
    print_table(
        ("setting", comparison.first, comparison.second),
        [[setting.key, format_value(setting.first), format_value(setting.second)] for setting in comparison.settings],
    )
