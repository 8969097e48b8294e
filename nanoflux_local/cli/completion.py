"""`nanoflux completion`: install or print the script that completes commands and names in bash, zsh and fish."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nanoflux_local.cli.common import F, print_json, say, with_json
from nanoflux_local.errors import NanofluxError, UsageError

if TYPE_CHECKING:
    from click.shell_completion import ShellComplete

SHELLS = ("bash", "zsh", "fish")
PROGRAM = "nanoflux"
COMPLETION_VARIABLE = "_NANOFLUX_COMPLETE"
"""The environment variable with which the completion script asks the program for completions."""
NEXT_STEP_BY_SHELL = {
    "bash": "open a new shell; if it completes nothing, install bash-completion, or add to ~/.bashrc: source {path}",
    "zsh": "add to ~/.zshrc before compinit, then open a new shell: fpath=({folder} $fpath)",
    "fish": "open a new shell",
}


@click.group(name="completion")
def command() -> None:
    """Install or print the completion script of your shell."""


def with_shell(function: F) -> F:
    """Add the option `--shell`."""
    option = click.option("--shell", type=click.Choice(SHELLS), help="Shell that the script is for [default: $SHELL].")
    decorated: F = option(function)
    return decorated


@command.command()
@with_shell
@with_json
def install(shell: str | None, as_json: bool) -> None:
    """Install the completion script where the shell loads it from; no other file is changed."""
    shell = shell or _detect_shell()
    path = _find_script_path(shell)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_find_completer(shell).source(), "utf-8")
    except OSError as error:
        fix = f"print the script with `nanoflux completion show --shell {shell}` and save it yourself"
        raise NanofluxError(f"{path} cannot be written: {error.strerror}", fix) from error
    if as_json:
        print_json({"shell": shell, "path": str(path)})
    next_step = NEXT_STEP_BY_SHELL[shell].format(path=path, folder=path.parent)
    say(f"installed {path}; {next_step}")


@command.command()
@with_shell
def show(shell: str | None) -> None:
    """Print the completion script."""
    click.echo(_find_completer(shell or _detect_shell()).source(), nl=False)


def _find_script_path(shell: str) -> Path:
    """The file from which a shell loads the completion script of this program.

    Raises:
        UsageError: the user has no home directory.
    """
    try:
        home = Path.home()
    except RuntimeError as error:
        raise UsageError("this user has no home directory", "set HOME") from error
    data_folder = Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share")
    config_folder = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    return {
        "bash": data_folder / "bash-completion" / "completions" / PROGRAM,
        "zsh": data_folder / "zsh" / "site-functions" / f"_{PROGRAM}",
        "fish": config_folder / "fish" / "completions" / f"{PROGRAM}.fish",
    }[shell]


def _detect_shell() -> str:
    """The name of the user's shell, from $SHELL.

    Raises:
        UsageError: SHELL is not set, or names a shell without completion.
    """
    name = Path(os.environ.get("SHELL", "")).name
    if name not in SHELLS:
        problem = f"there is no completion for the shell {name!r}" if name else "SHELL is not set"
        raise UsageError(problem, f"pass a shell with --shell: {', '.join(SHELLS)}")
    return name


def _find_completer(shell: str) -> "ShellComplete":
    from click.shell_completion import get_completion_class

    from nanoflux_local.cli.main import nanoflux

    completer_class = get_completion_class(shell)
    assert completer_class is not None  # one of SHELLS
    return completer_class(nanoflux, {}, PROGRAM, COMPLETION_VARIABLE)
