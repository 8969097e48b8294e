"""`nanoflux tui`: becomes the terminal application, which stands on top of all this and is a program of its own."""

import os
import sys

import click

from nanoflux_local.cli.common import home
from nanoflux_models.child import module_command


@click.command(name="tui")
@click.option("--web", "in_browser", is_flag=True, help="In a browser of this machine, behind a token.")
@click.option("--port", default=0, type=click.IntRange(0, 65535), help="Of --web [default: any that is free].")
@click.option("--tour", is_flag=True, help="A guided tour with scripted models: needs nothing, leaves nothing.")
@click.option("--light", is_flag=True, help="Begin with the light theme.")
def command(in_browser: bool, port: int, tour: bool, light: bool) -> None:
    """The control room: watch and steer runs, read examples, train, compare, manage servers.

    Closing it stops nothing. The same as `nanoflux-tui`.
    """
    chosen = {"--web": in_browser, "--tour": tour, "--light": light}
    words = [*(flag for flag, wanted in chosen.items() if wanted), *(["--port", str(port)] if port else [])]
    sys.stdout.flush()
    application = module_command("nanoflux_tui", "--home", str(home().root), *words)
    os.execv(application[0], application)
