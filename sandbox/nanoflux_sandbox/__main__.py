"""`python -m nanoflux_sandbox run FILE [--wall S] | check | bench`, each with `--json`: the sandbox by itself.

Exit codes: 0 done, 1 the program failed, 2 wrong usage, 3 nothing here can contain a program.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from nanoflux_sandbox import commands
from nanoflux_sandbox.records import Limits, SandboxError


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m nanoflux_sandbox", description="Run untrusted Python.")
    actions = parser.add_subparsers(dest="action", required=True)
    run = actions.add_parser("run", help="run one program")
    run.add_argument("file", type=Path)
    run.add_argument("--wall", type=float, default=Limits().wall_s, metavar="S", help="seconds (default: %(default)s)")
    run.add_argument("--backend", default="auto", help="a tier by name; `auto` takes the strongest that holds")
    check = actions.add_parser("check", help="which layers hold on this machine")
    bench = actions.add_parser("bench", help="how long the sandbox itself takes")
    bench.add_argument("--calls", type=int, default=200, metavar="N", help="programs of each kind")
    for action in (run, check, bench):
        action.add_argument("--json", action="store_true", help="one JSON document on stdout")
    return parser


def _outcome(asked: argparse.Namespace) -> dict[str, Any]:
    if asked.action == "run":
        return commands.run_file(asked.file, asked.wall, asked.backend)
    return commands.check() if asked.action == "check" else commands.bench(asked.calls)


def _show(asked: argparse.Namespace, outcome: dict[str, Any]) -> None:
    if asked.json:
        sys.stdout.write(json.dumps(outcome) + "\n")
    elif asked.action == "run":
        sys.stdout.write(outcome["stdout"])
        sys.stderr.write(outcome["stderr"])
        sys.stderr.write(f"[{outcome['status']}] {outcome['detail']}\n" if outcome["status"] != "ok" else "")
    else:
        sys.stdout.write(json.dumps(outcome, indent=2) + "\n")


def main() -> int:
    """Do what the command line asks. Returns the exit code."""
    asked = _parser().parse_args()
    try:
        outcome = _outcome(asked)
    except SandboxError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    _show(asked, outcome)
    return commands.exit_code(outcome)


if __name__ == "__main__":
    sys.exit(main())
