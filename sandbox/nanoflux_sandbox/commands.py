"""The commands of the sandbox, as functions that take plain values and return the document that `--json` prints.

`nanoflux sandbox` and `python -m nanoflux_sandbox` call them. A program cannot make them raise an error.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nanoflux_sandbox import bench as sandbox_bench
from nanoflux_sandbox import conformance
from nanoflux_sandbox.pool import Sandbox
from nanoflux_sandbox.probe import probe, run_in_thread
from nanoflux_sandbox.records import Limits, Result, SandboxError

OK, FAILED, REFUSED = 0, 1, 3
"""The exit codes for success, for a program that failed, and for a machine that cannot isolate programs."""

RUN_KEYS = ("status", "exit_code", "stdout", "stderr", "truncated", "wall_s", "backend", "detail")
"""The keys of the document that `run_file` returns."""


def run_file(path: Path, wall_s: float = Limits().wall_s, backend: str = "auto") -> dict[str, Any]:
    """Run the program in `path`. Raises SandboxError (exit code 2) for an unreadable file or an invalid setting."""
    try:
        code = path.read_bytes().decode("utf-8", "surrogateescape")
        limits = Limits(wall_s=wall_s)
        sandbox = Sandbox(workers=1, backend=backend, spares=0)
    except OSError as error:
        raise SandboxError(
            f"cannot read {path}: {error.strerror}", "pass a readable file with a Python program", 2
        ) from None
    except ValueError as error:
        raise SandboxError(str(error), "see docs/explanation/sandbox.md for the settings", 2) from None
    return run_in_thread(_run_once(sandbox, code, limits)).as_dict()


async def _run_once(sandbox: Sandbox, code: str, limits: Limits) -> Result:
    async with sandbox:
        return await sandbox.run(code, limits)


def check() -> dict[str, Any]:
    """Probe this machine, then run the conformance suite on the tier that works.

    The result is the probe's report with the additional key `cases`: the numbers of cases that ran and that failed.
    Each failure is listed in `reasons`; if there is any, `safe` is false.
    """
    report = probe().as_dict()
    failures: list[str] = []
    case_count = 0
    if report["safe"]:
        failures, case_count = run_in_thread(conformance.find_failures(report["backend"]))
    report["reasons"] += failures
    report["safe"] = report["safe"] and not failures
    report["cases"] = {"run": case_count, "failed": len(failures)}
    return report


def bench(calls: int = 200) -> dict[str, Any]:
    """Measure, in milliseconds, the overhead of `calls` calls, the time of a small sympy program, and a cold start."""
    return run_in_thread(sandbox_bench.measure(calls))


def exit_code(outcome: dict[str, Any]) -> int:
    """The exit code for the document that `run_file`, `check` or `bench` returned."""
    if outcome.get("status") == "unavailable" or outcome.get("safe") is False:
        return REFUSED
    return OK if outcome.get("status", "ok") == "ok" else FAILED
