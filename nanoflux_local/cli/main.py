"""The command `nanoflux`: imports only the subcommand in use, and turns errors into messages and exit codes."""

import errno
import importlib
import io
import os
import sys
import warnings

import click

from nanoflux_local import __version__, redaction
from nanoflux_local.cli.common import sanitize
from nanoflux_local.endpoints.local.cores import share_cores
from nanoflux_local.errors import NanofluxError, RefusedError
from nanoflux_local.suggestions import nearest

COMMANDS = {
    "demo": ("demo", "Generate, train, evaluate and report with the small default models."),
    "doctor": ("doctor", "Check this machine and say how to fix what is missing; list licences."),
    "models": ("models", "Manage model weights and vLLM servers."),
    "data": ("data", "List, import and show benchmarks."),
    "domains": ("domains", "List and show domains, including your own."),
    "profiles": ("profiles", "List, show, write and check profiles: which model has which role."),
    "corpus": ("corpus", "Manage the local documents that fact checks search."),
    "run": ("run", "Start and manage generation runs."),
    "rounds": ("rounds", "Manage self-improvement rounds: runs that train the next run's model."),
    "examples": ("examples", "List, show and review the kept examples of a run."),
    "export": ("export", "Export a run's kept examples as a dataset with a card."),
    "train": ("train", "Train a LoRA adapter on a run's examples or on the rows of a file."),
    "trainings": ("trainings", "List, show, compare, pause, stop and resume training runs."),
    "adapters": ("adapters", "Manage trained adapters, named by content hash."),
    "eval": ("evaluate", "Evaluate a model, with or without an adapter."),
    "compare": ("compare", "Compare evaluations of the same items with paired tests."),
    "experiment": ("experiment", "Run the paper's tables and ablations as grids of cells."),
    "report": ("report", "Write an HTML report of a run or an experiment."),
    "bundle": ("bundle", "Create, verify, install and merge bundles for machines without internet."),
    "ledger": ("ledger", "Show, compact and back up the ledger."),
    "tui": ("tui", "Open the terminal application, or serve it to a browser."),
    "completion": ("completion", "Install completion of commands and options in your shell."),
    "sandbox": ("sandbox", "Run a program in the sandbox, check it, or benchmark it."),
}

OS_ERROR_FIXES = {
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EROFS: "choose a path on a file system that can be written, or another home directory with --home",
    errno.EACCES: "choose a path that you can access, or another home directory with --home",
    errno.ENOSPC: "free some disk space, then try again",
}
"""The advice for an error of the operating system that no command handles, by its number."""


class LazyGroup(click.Group):
    """A group that imports a subcommand only when it is called, so that `--help` stays fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"nanoflux_local.cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a command, or suggest the most similar one: click alone would suggest only imported commands."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            suggestion = nearest(args[0], COMMANDS)
            if suggestion and args[0] not in COMMANDS:
                raise click.UsageError(f"No such command {args[0]!r}. Did you mean {suggestion!r}?", ctx) from error
            raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Print the table of commands without importing them."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="nanoflux")
@click.option(
    "--home",
    type=click.Path(file_okay=False),
    help="Directory that holds all state [default: $NANOFLUX_HOME, else the XDG data directory].",
)
def nanoflux(home: str | None) -> None:
    """NanoFlux Local: adversarial data generation that runs offline, on your own machines."""
    _secure_process()
    if home is not None:
        os.environ["NANOFLUX_HOME"] = home


def _secure_process() -> None:
    """Block outgoing connections, make new files private, and redact secrets, before any command runs."""
    from nanoflux_models import guard, offline  # deferred: `--help` needs neither module

    os.umask(0o077)
    offline.go_offline()
    if not sys.stderr.isatty():  # libraries must not draw progress bars into files and pipes
        os.environ.setdefault("TQDM_DISABLE", "1")
    guard.install()
    redaction.install()


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code (0, 1, 2, 3, 4 or 130); if stdout is a closed pipe, exit with 1."""
    share_cores()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # print a replacement for characters the terminal cannot encode
    warnings.filterwarnings("ignore", category=FutureWarning)  # meant for developers, not for users
    try:
        _refuse_undecodable(sys.argv[1:] if arguments is None else arguments)
        code = nanoflux.main(arguments, standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.exceptions.Abort, KeyboardInterrupt):
        click.echo("interrupted; everything committed so far is kept", err=True)
        code = 130
    except Exception as error:  # noqa: BLE001 - errors without a message for users are raised again
        code = _report_failure(error)
    _report_refused_hosts(code)
    sys.exit(code if isinstance(code, int) else 0)


def _refuse_undecodable(arguments: list[str]) -> None:
    """Raise click's UsageError if an argument is not UTF-8: neither the ledger nor a JSON document can store it."""
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise click.UsageError(
                f"The argument {argument!r} is not UTF-8. Write it in UTF-8; rename a file with such a name."
            ) from None


def _report_failure(error: Exception) -> int:
    """Print an error that has a message for users and return its exit code; raise any other error again."""
    from nanoflux_models.guard import find_refusal

    error = find_refusal(error) or error
    message, code = getattr(error, "message", None), getattr(error, "exit_code", None)
    # The errors of the other NanoFlux packages do not inherit from NanofluxError, but have the same two attributes.
    if isinstance(error, NanofluxError) or (isinstance(message, str) and isinstance(code, int)):
        _print_error(f"nanoflux: {error}")
        return int(code or 1)
    if isinstance(error, OSError) and error.errno is not None:
        location = f"{error.filename}: " if error.filename else ""
        fix = OS_ERROR_FIXES.get(error.errno, "correct the path or its permissions, then try again")
        _print_error(f"nanoflux: {NanofluxError(f'{location}{error.strerror}', fix)}")
        return 1
    raise error


def _report_refused_hosts(code: object) -> None:
    """Report the hosts that the guard refused although the command did not fail with a refusal: a library tried to
    reach them and swallowed the guard's exception.
    """
    guard = sys.modules.get("nanoflux_models.guard")
    hosts = guard.refused_hosts() if guard and code != RefusedError.exit_code else []
    if hosts:
        _print_error(f"nanoflux: blocked connections of a library to {', '.join(hosts)}; the command did not need them")


def _print_error(text: str) -> None:
    click.echo(sanitize(redaction.redact(text)), err=True)
