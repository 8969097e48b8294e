"""The command `nanoflux`: finds the noun, imports it only then, and turns failures into messages and exit codes."""

import importlib
import io
import os
import sys
import warnings

import click

from nanoflux_local import __version__, redaction
from nanoflux_local.cli.common import plain
from nanoflux_local.endpoints.local.cores import share_cores
from nanoflux_local.errors import NanofluxError, RefusedError

NOUNS = {
    "demo": ("demo", "The main job on the embedded default: generate, train, evaluate, report."),
    "doctor": ("doctor", "What this machine has and lacks, and how to mend it; licences."),
    "models": ("models", "Weights and servers: list, pull, import, verify, plan, serve, ps, logs, stop, probe."),
    "data": ("data", "Benchmarks: list, import, show."),
    "domains": ("domains", "What is asked: list and show domains, your own among them."),
    "corpus": ("corpus", "The lab's own documents for fact checks: add, search, show."),
    "run": ("run", "Generation: start, list, show, set, pause, resume, stop, verify, replay."),
    "rounds": ("rounds", "Self-improvement, run after run: list, show, pause, stop, resume."),
    "examples": ("examples", "The kept examples of a run, and people's word on them."),
    "export": ("export", "A run's kept examples as a dataset, with a card."),
    "train": ("train", "LoRA-tune a model on a run's examples, or on the rows of a file."),
    "trainings": ("trainings", "What `train` began: list, show, pause, stop, resume."),
    "adapters": ("adapters", "Trained adapters, by content hash."),
    "eval": ("evaluate", "Evaluate a model, with or without an adapter."),
    "compare": ("compare", "Paired tests between evaluations of the same items."),
    "experiment": ("experiment", "The paper's tables and ablations as grids: list, run, show, stop."),
    "report": ("report", "An HTML report of a run."),
    "bundle": ("bundle", "Carry everything into a lab without internet, and its work out: create, verify, install."),
    "ledger": ("ledger", "The file that remembers everything: show, compact, backup."),
    "tui": ("tui", "The terminal application: the control room over all of it; also in a browser."),
    "sandbox": ("sandbox", "The sandbox by itself: run, check, bench."),
}


class Nouns(click.Group):
    """Commands that are imported when they are called, so that help needs none of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(NOUNS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in NOUNS:
            return None
        module = importlib.import_module(f"nanoflux_local.cli.{NOUNS[cmd_name][0]}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table of commands from their names alone."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, told) for name, (_, told) in NOUNS.items()])


@click.group(cls=Nouns, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="nanoflux")
@click.option("--home", type=click.Path(file_okay=False), help="Where everything is kept [default: NANOFLUX_HOME].")
def nanoflux(home: str | None) -> None:
    """NanoFlux Local: adversarial data generation that runs offline, on your own machines."""
    _keep_in()
    if home is not None:
        os.environ["NANOFLUX_HOME"] = home


def _keep_in() -> None:
    """Before any command: nothing leaves this machine unasked, no file is for others, no message holds a secret."""
    from nanoflux_models import guard, offline  # deferred: help reaches for nothing

    os.umask(0o077)
    offline.go_offline()
    if not sys.stderr.isatty():  # progress bars of libraries: a file or a pipe gets whole lines
        os.environ.setdefault("TQDM_DISABLE", "1")
    guard.install()
    redaction.install()


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code (0, 1, 2, 3, 4 or 130); click exits with 1 when its reader goes."""
    share_cores()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that lacks a character shows another
    warnings.filterwarnings("ignore", category=FutureWarning)  # libraries' notes to their developers, not to users
    try:
        code = nanoflux.main(arguments, standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.exceptions.Abort, KeyboardInterrupt):
        click.echo("interrupted; everything up to here is kept", err=True)
        code = 130
    except Exception as error:  # noqa: BLE001 - what has no message for users is raised again
        code = _told(error)
    _own_up(code)
    sys.exit(code if isinstance(code, int) else 0)


def _told(error: Exception) -> int:
    """Show a failure that has a message for users, and give its exit code; any other keeps its traceback."""
    from nanoflux_models.guard import refusal_in

    error = refusal_in(error) or error
    message, code = getattr(error, "message", None), getattr(error, "exit_code", None)
    if isinstance(error, NanofluxError) or (isinstance(message, str) and isinstance(code, int)):
        _complain(f"nanoflux: {error}")  # the other rooms' errors have the same shape
        return int(code or 1)
    if isinstance(error, OSError) and error.errno is not None:
        _complain(f"nanoflux: {error}")
        return 1
    raise error


def _own_up(code: object) -> None:
    """Name the hosts that some library tried to reach without anybody hearing of the refusal."""
    guard = sys.modules.get("nanoflux_models.guard")
    hosts = guard.refused() if guard and code != RefusedError.exit_code else []
    if hosts:
        _complain(f"nanoflux: refused on the way, without harm: a library tried to reach {', '.join(hosts)}")


def _complain(text: str) -> None:
    click.echo(plain(redaction.redact(text)), err=True)
