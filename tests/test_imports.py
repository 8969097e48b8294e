"""Startup of the command line: help loads no heavy library, and every command has a help text."""

import json
import resource
import subprocess
import sys

import pytest

from nanoflux_local.cli.main import COMMANDS

HEAVY_LIBRARIES = {
    "torch",
    "transformers",
    "peft",
    "textual",
    "openai",
    "sqlite_utils",
    "pydantic",
    "scipy",
    "matplotlib",
    "numpy",
}
"""The top-level modules that a help text must not import, since they slow down the start."""
LIST_MODULES_PROGRAM = """
import json, sys
try:
    from nanoflux_local.cli.main import main
    if sys.argv[1:]:
        main(sys.argv[1:])
finally:
    print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})), file=sys.stderr)
"""
"""A program that runs a command line, and then prints to stderr which top-level modules it has imported."""
COMMAND_LINES = [
    (), ("demo",), ("doctor",), ("models",), ("models", "list"), ("models", "pull"), ("models", "import"),
    ("models", "show"), ("models", "verify"),
    ("models", "plan"), ("models", "rehearse"),
    ("models", "serve"), ("models", "ps"), ("models", "logs"), ("models", "stop"),
    ("models", "probe"), ("data",), ("data", "documents"), ("data", "import"), ("data", "list"),
    ("data", "show"),  ("run",), ("run", "start"), ("run", "resume"), ("run", "list"), ("run", "show"),
    ("corpus",), ("corpus", "add"), ("corpus", "search"), ("corpus", "show"),
    ("run", "pause"), ("run", "stop"), ("run", "set"),
    ("run", "attempts"), ("run", "calls"), ("run", "problems"), ("run", "log"), ("run", "compare"), ("run", "note"),
    ("run", "verify"), ("run", "replay"), ("examples",), ("examples", "list"), ("examples", "show"),
    ("examples", "review"), ("examples", "export-review"), ("examples", "import-review"),
    ("export",), ("train",), ("domains",), ("domains", "list"), ("domains", "show"),
    ("profiles",), ("profiles", "list"), ("profiles", "show"), ("profiles", "new"), ("profiles", "set"),
    ("profiles", "check"),
    ("eval", "list"), ("eval", "show"), ("eval", "items"),
    ("trainings",), ("trainings", "list"), ("trainings", "show"), ("trainings", "pause"), ("trainings", "stop"),
    ("trainings", "resume"), ("trainings", "compare"), ("trainings", "note"),
    ("adapters",), ("adapters", "list"), ("adapters", "show"), ("adapters", "merge"), ("adapters", "export"),
    ("adapters", "import"), ("eval",),
    ("compare",), ("experiment",), ("experiment", "list"), ("experiment", "run"), ("experiment", "show"),
    ("experiment", "stop"), ("experiment", "resume"),
    ("report",), ("ledger",), ("ledger", "show"), ("ledger", "compact"), ("ledger", "backup"),
    ("bundle",), ("bundle", "create"), ("bundle", "verify"), ("bundle", "install"), ("bundle", "merge"),
    ("rounds",), ("rounds", "list"), ("rounds", "show"), ("rounds", "pause"), ("rounds", "stop"), ("rounds", "resume"),
    ("tui",), ("completion",), ("completion", "install"), ("completion", "show"),
    ("sandbox",), ("sandbox", "run"), ("sandbox", "check"), ("sandbox", "bench"),
]  # fmt: skip
"""Every command and group of commands; `()` is the program itself."""


def run_and_list_modules(*arguments: str) -> tuple[str, set[str]]:
    """Run a command line in a new process. Returns its output, and the top-level modules that it imported."""
    process = subprocess.run(
        [sys.executable, "-c", LIST_MODULES_PROGRAM, *arguments], capture_output=True, text=True, timeout=60
    )
    assert process.returncode == 0, process.stderr
    return process.stdout, set(json.loads(process.stderr.splitlines()[-1]))


@pytest.mark.parametrize("arguments", [(), ("--help",), ("--version",), ("run", "--help"), ("run", "start", "--help")])
def test_help_loads_no_heavy_library(arguments: tuple[str, ...]) -> None:
    """Without arguments, the program is only imported, so it prints nothing."""
    output, modules = run_and_list_modules(*arguments)
    assert "click" in modules and bool(output) == bool(arguments)
    assert not HEAVY_LIBRARIES & modules


def test_help_lists_every_command_within_300_cpu_milliseconds() -> None:
    command = [sys.executable, "-m", "nanoflux_local.cli", "--help"]
    cpu_s = []
    for _ in range(5):  # the fastest of five measurements counts
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        text = subprocess.check_output(command, text=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu_s.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    assert min(cpu_s) < 0.3, cpu_s
    assert all(f"  {name} " in text for name in COMMANDS)


def test_commands_have_a_help_text(capsys: pytest.CaptureFixture[str]) -> None:
    from nanoflux_local.cli.main import main

    for command in COMMAND_LINES:
        for option in ("--help", "-h"):
            with pytest.raises(SystemExit) as exit_info:
                main([*command, option])
            text = capsys.readouterr().out
            assert exit_info.value.code == 0 and "Usage: " in text and " ".join(command) in text
            assert len(text.splitlines()) > 4, "the help does not say what the command does"


def test_command_lines_include_every_command_and_group() -> None:
    import click

    from nanoflux_local.cli.main import nanoflux

    def list_command_lines(command: click.Command, words: tuple[str, ...]) -> list[tuple[str, ...]]:
        """The words that call a command, and those that call each of its subcommands."""
        command_lines = [words]
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                subcommand = command.get_command(context, name)
                assert subcommand is not None
                command_lines += list_command_lines(subcommand, (*words, name))
        return command_lines

    assert sorted(list_command_lines(nanoflux, ())) == sorted(COMMAND_LINES)
