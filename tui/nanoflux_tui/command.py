"""The command `nanoflux-tui`: the application over a home, its guided tour, or the same in a browser."""

import os
import sys
from pathlib import Path

import click

from nanoflux_local import __version__, redaction
from nanoflux_local.errors import NanofluxError
from nanoflux_local.paths import Home, default_home, expand_user
from nanoflux_models.child import protect_children
from nanoflux_tui.text import harmless


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="nanoflux-tui")
@click.option("--home", "root", type=click.Path(file_okay=False, path_type=Path), help="[default: NANOFLUX_HOME]")
@click.option("--light", is_flag=True, help="Begin with the light theme; F2 changes it.")
@click.option("--tour", is_flag=True, help="A guided tour with scripted models: needs nothing, leaves nothing.")
@click.option("--web", "in_browser", is_flag=True, help="In a browser of this machine, behind a token.")
@click.option("--port", default=0, type=click.IntRange(0, 65535), help="Of --web [default: any that is free].")
def tui(root: Path | None, light: bool, tour: bool, in_browser: bool, port: int) -> None:
    """The control room: watch and steer runs, read examples, train, compare, manage servers.

    Closing it stops nothing. It reads the ledger and acts through the commands of `nanoflux`.
    """
    place = Home(expand_user(root or default_home()).absolute())
    os.environ["NANOFLUX_HOME"] = str(place.root)
    if in_browser:
        from nanoflux_tui.web import serve

        serve(place.root, port, light)
        return
    from nanoflux_tui.escape import answer_soon

    answer_soon()
    if tour:
        from nanoflux_tui.tour import take

        sys.exit(take(light))
    from nanoflux_tui.app import NanofluxApp

    app = NanofluxApp(place, light)
    app.run()
    sys.exit(app.return_code or 0)


def main() -> None:
    """Run, and turn failures into messages and exit codes."""
    os.umask(0o077)
    protect_children()
    redaction.install()
    try:
        tui.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.exceptions.Abort, KeyboardInterrupt):
        sys.exit(130)
    except NanofluxError as error:
        click.echo(harmless(f"nanoflux-tui: {redaction.redact(str(error))}"), err=True)
        sys.exit(error.exit_code)
