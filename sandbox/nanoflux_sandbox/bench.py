"""Measures the sandbox: the overhead of a call (with calls back to back, with pauses in between, and two at a time),
the time of a small sympy program, and the time of a cold start.
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
"""The highest acceptable median and 99th percentile of each series, in milliseconds; None means no bound."""
_PAUSE_S = 0.02
"""The pause between two programs of a series with pauses, in seconds. During the pause the next child is forked, as
happens between the programs of a judge.
"""


async def measure(calls: int = 200) -> dict[str, Any]:
    """Run each benchmark program `calls` times, and return the times in milliseconds.

    Raises:
        SandboxError: no tier works on this machine.
    """
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
    """Run `program` `calls` times in two concurrent series. Returns the milliseconds of each call."""
    first_times, second_times = await asyncio.gather(
        _time_calls(sandbox, program, calls // 2), _time_calls(sandbox, program, calls // 2)
    )
    return [*first_times, *second_times]


def _compute_percentile(times: Sequence[float], share: float) -> float:
    """The percentile of the times at `share`, for example 0.99: the time below which this share of them lies."""
    rank = min(len(times) - 1, int(len(times) * share))
    return sorted(times)[rank]


def _summarize(times: Sequence[float]) -> dict[str, float | int]:
    """The number of calls, and the median, 99th percentile and maximum of their times, in milliseconds."""
    return {
        "calls": len(times),
        "p50": round(statistics.median(times), 2),
        "p99": round(_compute_percentile(times, 0.99), 2),
        "max": round(max(times), 2),
    }


def _is_within_bounds(name: str, times: Sequence[float]) -> bool:
    """Whether the times of the series `name` are within its bounds."""
    p50_bound, p99_bound = _BOUNDS_MS[name]
    is_p50_met = p50_bound is None or _compute_percentile(times, 0.5) <= p50_bound
    is_p99_met = p99_bound is None or _compute_percentile(times, 0.99) <= p99_bound
    return is_p50_met and is_p99_met
