"""Measures the sandbox: the overhead of a call (when calls follow each other, with pauses between them, and two at a
time), the time of a small sympy program, and the time of a cold start.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence
from typing import Any

from nanoflux_sandbox.pool import Sandbox
from nanoflux_sandbox.records import SandboxError

_TINY_PROGRAM = "print(1)"
_SYMPY_PROGRAM = "import sympy as sp\nx = sp.symbols('x')\nprint(sp.solve(x**2 - 5*x + 6, x))"
_BOUNDS_MS = {"overhead": (5.0, 15.0), "spare_waiting": (5.0, 15.0), "two_at_once": (None, 50.0), "solve": (20.0, None)}
"""The highest accepted median and 99th percentile of each series, in milliseconds; None means no bound."""
_PAUSE_S = 0.02
"""Seconds between two programs, as when a judge runs programs: long enough for the next child to be forked."""


async def measure(calls: int = 200) -> dict[str, Any]:
    """Time `calls` programs of each kind, in milliseconds. Raises SandboxError if no tier works on this machine."""
    async with Sandbox(workers=2) as sandbox:
        start = time.perf_counter()
        backend = (await sandbox.identity()).backend
        await sandbox.run(_TINY_PROGRAM)
        cold_ms = (time.perf_counter() - start) * 1000
        series = {
            "overhead": await _time_calls(sandbox, _TINY_PROGRAM, calls),
            "spare_waiting": await _time_calls(sandbox, _TINY_PROGRAM, calls, _PAUSE_S),
            "two_at_once": await _time_two_at_once(sandbox, _TINY_PROGRAM, calls),
            "solve": await _time_calls(sandbox, _SYMPY_PROGRAM, calls),
        }
        return {
            "backend": backend,
            "unit": "ms",
            "cold_start": round(cold_ms, 1),
            **{name: _summarize(times) for name, times in series.items()},
            "met": {name: _is_within_bounds(name, times) for name, times in series.items()},
        }


async def _time_calls(sandbox: Sandbox, program: str, calls: int, pause_s: float = 0.0) -> list[float]:
    """Run `program` `calls` times, each time after a pause. Returns the milliseconds of each call."""
    times = []
    for _ in range(calls):
        await asyncio.sleep(pause_s)
        start = time.perf_counter()
        result = await sandbox.run(program)
        times.append((time.perf_counter() - start) * 1000)
        if result.status != "ok":
            raise SandboxError(
                f"a benchmark program ended with status {result.status}: {result.detail}",
                "check the sandbox with `nanoflux sandbox check`",
                exit_code=1,
            )
    return times


async def _time_two_at_once(sandbox: Sandbox, program: str, calls: int) -> list[float]:
    halves = await asyncio.gather(*(_time_calls(sandbox, program, calls // 2) for _ in range(2)))
    return [*halves[0], *halves[1]]


def _compute_percentile(times: Sequence[float], share: float) -> float:
    return sorted(times)[min(len(times) - 1, int(len(times) * share))]


def _summarize(times: Sequence[float]) -> dict[str, float | int]:
    return {
        "calls": len(times),
        "p50": round(statistics.median(times), 2),
        "p99": round(_compute_percentile(times, 0.99), 2),
        "max": round(max(times), 2),
    }


def _is_within_bounds(name: str, times: Sequence[float]) -> bool:
    p50_bound, p99_bound = _BOUNDS_MS[name]
    is_p50_met = p50_bound is None or _compute_percentile(times, 0.5) <= p50_bound
    is_p99_met = p99_bound is None or _compute_percentile(times, 0.99) <= p99_bound
    return is_p50_met and is_p99_met
