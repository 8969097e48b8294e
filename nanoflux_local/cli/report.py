"""`nanoflux report`: write a report of a run or an experiment."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from nanoflux_local.cli.common import current_home
from nanoflux_local.errors import NothingMatchedError

if TYPE_CHECKING:
    from nanoflux_local.ledger.views import LedgerView


@click.command(name="report")
@click.argument("name", metavar="RUN|EXPERIMENT")
@click.option(
    "-o",
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory for the report [default: in the home].",
)
def command(name: str, out: Path | None) -> None:
    """Write an HTML report of a run or an experiment: one file without external resources.

    For an experiment, the same report in Markdown and its tables as CSV are written next to it.
    """
    from nanoflux_local.ledger.views import LedgerView
    from nanoflux_local.report.experiment_report import write_experiment_report
    from nanoflux_local.report.run_report import write_report

    home = current_home()
    with LedgerView(home.ledger) as view:
        subject, is_run = _find_subject(view, name)
    folder = out or home.reports / subject
    page = write_report(home.ledger, subject, folder) if is_run else write_experiment_report(home, subject, folder)
    click.echo(page)


def _find_subject(view: "LedgerView", name: str) -> tuple[str, bool]:
    """The id of the run or experiment `name`, and whether it is a run."""
    from nanoflux_local.experiments.experiment import find_experiment

    try:
        return str(view.find_run(name)["id"]), True
    except NothingMatchedError as no_such_run:
        try:
            return find_experiment(view, name).id, False
        except NothingMatchedError:
            raise no_such_run from None
