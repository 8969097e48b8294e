"""`nanoflux report`: one HTML page about a run."""

from pathlib import Path

import click

from nanoflux_local.cli.common import home


@click.command(name="report")
@click.argument("run")
@click.option("-o", "--out", type=click.Path(file_okay=False, path_type=Path), help="Folder [default: in the home].")
def command(run: str, out: Path | None) -> None:
    """Write an HTML report of RUN; it is one file and fetches nothing."""
    from nanoflux_local.ledger.views import LedgerView
    from nanoflux_local.report.run_report import write_report

    place = home()
    with LedgerView(place.ledger) as view:
        found = str(view.find_run(run)["id"])
    click.echo(write_report(place.ledger, found, out or place.reports / found))
