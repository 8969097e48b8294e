"""The command line of the sandbox as a separate package: `python -m nanoflux_sandbox` with one of the commands
`run FILE [--wall S] [--backend TIER]`, `check` and `bench [--calls N]`. Each command has the option `--json`.

Exit codes: 0 success, 1 the program failed, 2 wrong usage, 3 this machine cannot isolate a program.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from nanoflux_sandbox import commands
from nanoflux_sandbox.records import Limits, SandboxError


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m nanoflux_sandbox", description="Run untrusted Python programs.")
    actions = parser.add_subparsers(dest="action", required=True)
    run = actions.add_parser("run", help="Run one program.")
    run.add_argument("file", type=Path)
    run.add_argument(
        "--wall", type=float, default=Limits().wall_s, metavar="S", help="Time limit in seconds (default: %(default)s)."
    )
    run.add_argument(
        "--backend", default="auto", help="Tier to use; `auto` selects the strongest that this machine supports."
    )
    check = actions.add_parser("check", help="Report which isolation layers work on this machine.")
    bench = actions.add_parser("bench", help="Measure the overhead of the sandbox.")
    bench.add_argument(
        "--calls", type=int, default=200, metavar="N", help="Number of times to run each benchmark program."
    )
    for action in (run, check, bench):
        action.add_argument("--json", action="store_true", help="Print one JSON document on stdout.")
    return parser


def _run_action(arguments: argparse.Namespace) -> dict[str, Any]:
    if arguments.action == "run":
        return commands.run_file(arguments.file, arguments.wall, arguments.backend)
    if arguments.action == "check":
        return commands.check()
    return commands.bench(arguments.calls)


def _print_outcome(arguments: argparse.Namespace, outcome: dict[str, Any]) -> None:
    if arguments.json:
        sys.stdout.write(json.dumps(outcome) + "\n")
    elif arguments.action == "run":
        sys.stdout.write(outcome["stdout"])
        sys.stderr.write(outcome["stderr"])
        if outcome["status"] != "ok":
            sys.stderr.write(f"[{outcome['status']}] {outcome['detail']}\n")
    else:
        sys.stdout.write(json.dumps(outcome, indent=2) + "\n")


def main() -> int:
    """Run the command line. Returns the exit code."""
    arguments = _build_parser().parse_args()
    try:
        outcome = _run_action(arguments)
    except SandboxError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    _print_outcome(arguments, outcome)
    return commands.exit_code(outcome)


if __name__ == "__main__":
    sys.exit(main())
