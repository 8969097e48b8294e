"""The command `nanoflux-tui`: the terminal application, its guided tour, or the application in a browser."""

import os
import sys
from pathlib import Path

import click

from nanoflux_local import __version__, redaction
from nanoflux_local.errors import NanofluxError, UsageError
from nanoflux_local.paths import Home, default_home, expand_user
from nanoflux_models.child import protect_children
from nanoflux_tui.text import sanitize


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="nanoflux-tui")
@click.option(
    "--home",
    "root",
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory with all state [default: $NANOFLUX_HOME, else the XDG data directory].",
)
@click.option("--light", is_flag=True, help="Start with the light theme; F2 switches themes.")
@click.option(
    "--tour", is_flag=True, help="Take a guided tour with scripted models; it needs no weights and leaves no files."
)
@click.option(
    "--web",
    "in_browser",
    is_flag=True,
    help="Serve the application to a browser on this machine, protected by a token.",
)
@click.option("--keys", is_flag=True, help="Print every action with its keys, as the content of a keymap.toml.")
@click.option("--port", default=0, type=click.IntRange(0, 65535), help="Port for --web [default: any free port].")
def tui(root: Path | None, light: bool, tour: bool, in_browser: bool, keys: bool, port: int) -> None:
    """Open the terminal application: watch and steer runs, read examples, train, compare, manage servers.

    Closing it stops nothing. It reads the ledger and acts through `nanoflux` commands.
    """
    home = Home(expand_user(root or default_home()).absolute())
    os.environ["NANOFLUX_HOME"] = str(home.root)
    if keys:
        from nanoflux_tui.keymap import format_keymap

        click.echo(format_keymap(home.keymap), nl=False)
        return
    if in_browser:
        from nanoflux_tui.web import serve

        serve(home.root, port, light)
        return
    from nanoflux_tui.escape import shorten_escape_delay

    shorten_escape_delay()
    if tour:
        from nanoflux_tui.tour import run_tour

        _require_terminal()
        sys.exit(run_tour(light))
    from nanoflux_tui.app import NanofluxApp

    app = NanofluxApp(home, light)
    _require_terminal()
    app.run()
    sys.exit(app.return_code or 0)


def _require_terminal() -> None:
    """Raise UsageError if the application cannot read keys from a terminal and draw on it. The server of --web starts
    the application without a terminal, with a driver that TEXTUAL_DRIVER names.
    """
    if "TEXTUAL_DRIVER" not in os.environ and not (os.isatty(0) and os.isatty(2)):  # Textual draws on stderr
        raise UsageError(
            "the terminal application needs a terminal for its input and output",
            "start it in a terminal, or serve it to a browser with `nanoflux tui --web`",
        )


def main() -> None:
    """Run the command and turn failures into messages and exit codes."""
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
        click.echo(sanitize(f"nanoflux-tui: {redaction.redact(str(error))}"), err=True)
        sys.exit(error.exit_code)
