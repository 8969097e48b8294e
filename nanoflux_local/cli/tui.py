"""`nanoflux tui`: open the terminal application, a separate program that replaces this process."""

import os
import sys

import click

from nanoflux_local.cli.common import current_home
from nanoflux_models.child import build_module_command


@click.command(name="tui")
@click.option(
    "--web",
    "in_browser",
    is_flag=True,
    help="Serve the application to a browser on this machine, protected by a token.",
)
@click.option("--port", default=0, type=click.IntRange(0, 65535), help="Port of --web [default: a free one].")
@click.option(
    "--tour", is_flag=True, help="Show a guided tour with scripted models; it needs no weights and leaves no files."
)
@click.option("--light", is_flag=True, help="Start with the light theme.")
@click.option("--keys", is_flag=True, help="Print every action with its keys, as the content of a keymap.toml.")
def command(in_browser: bool, port: int, tour: bool, light: bool, keys: bool) -> None:
    """Open the terminal application: watch and steer runs, read examples, train, compare, manage servers.

    Closing it stops no run. `nanoflux-tui` is the same program.
    """
    is_set_by_flag = {"--web": in_browser, "--tour": tour, "--light": light, "--keys": keys}
    arguments = [flag for flag, is_set in is_set_by_flag.items() if is_set]
    if port:
        arguments += ["--port", str(port)]
    sys.stdout.flush()
    command_line = build_module_command("nanoflux_tui", "--home", str(current_home().root), *arguments)
    os.execv(command_line[0], command_line)
