"""Each limit ends a program in time with a distinct status, and the pool keeps working."""

# ruff: noqa: E501 (programs are easier to read unbroken)

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from nanoflux_sandbox import Limits, Sandbox

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox() -> AsyncIterator[Sandbox]:
    """A started sandbox, so that the first test does not measure the start."""
    async with Sandbox() as sandbox:
        await sandbox.identity()
        yield sandbox


@pytest.mark.parametrize("code", ["while True: pass", "import time\ntime.sleep(99)", "9 ** 9 ** 9"])
async def test_timeout_returns_within_half_a_second_of_the_limit(sandbox: Sandbox, code: str) -> None:
    start = time.monotonic()
    result = await sandbox.run(code, Limits(wall_s=0.5))
    assert result.status == "timeout"
    assert result.exit_code is None
    assert 0.5 <= result.wall_s <= time.monotonic() - start < 1.0


async def test_cpu_time_is_limited_independently_of_wall_time(sandbox: Sandbox) -> None:
    result = await sandbox.run("while True: pass", Limits(wall_s=20.0, cpu_s=1.0))
    assert result.status == "timeout"
    assert "processor" in result.detail


async def test_sleeping_uses_no_cpu_time(sandbox: Sandbox) -> None:
    result = await sandbox.run("import time\ntime.sleep(1.3)\nprint('awake')", Limits(wall_s=10.0, cpu_s=1.0))
    assert (result.status, result.stdout) == ("ok", "awake\n")


async def test_memory_is_available_up_to_the_limit(sandbox: Sandbox) -> None:
    code_for_size = "x = bytearray({} << 20)\nprint(len(x) >> 20)"  # {} stands for the MiB to allocate
    limits = Limits(memory_mb=256)
    result_within, result_beyond = await asyncio.gather(
        sandbox.run(code_for_size.format(200), limits), sandbox.run(code_for_size.format(300), limits)
    )
    assert (result_within.status, result_within.stdout) == ("ok", "200\n")
    assert result_beyond.status == "memory"


async def test_program_may_catch_its_memory_error(sandbox: Sandbox) -> None:
    result = await sandbox.run("try:\n    bytearray(1 << 40)\nexcept MemoryError:\n    print('caught')")
    assert (result.status, result.stdout) == ("ok", "caught\n")


async def test_output_is_truncated_at_its_limit(sandbox: Sandbox) -> None:
    result = await sandbox.run("print('x' * 5000)", Limits(output_bytes=1000))
    assert (result.status, result.truncated, result.stdout) == ("output", True, "x" * 1000)


async def test_output_lines_are_limited(sandbox: Sandbox) -> None:
    result = await sandbox.run("for i in range(50):\n    print(i)", Limits(output_lines=3))
    assert (result.status, result.truncated, result.stdout) == ("output", True, "0\n1\n2\n")


async def test_output_within_its_limits_is_complete(sandbox: Sandbox) -> None:
    result = await sandbox.run("print('x' * 999)", Limits(output_bytes=1000, output_lines=1))
    assert (result.status, result.truncated, result.stdout) == ("ok", False, "x" * 999 + "\n")


async def test_output_limit_counts_output_and_error_output_together(sandbox: Sandbox) -> None:
    code = "import sys\nprint('a' * 600, flush=True)\nprint('b' * 600, file=sys.stderr)"
    result = await sandbox.run(code, Limits(output_bytes=1000))
    assert result.status == "output"
    assert len(result.stdout) + len(result.stderr) == 1000


async def test_long_source_is_not_started(sandbox: Sandbox) -> None:
    result = await sandbox.run("#" * 10_000_000)
    assert (result.status, result.exit_code) == ("error", None)
    assert "10000000 bytes" in result.stderr


async def test_source_limit_can_be_raised_above_ten_megabytes(sandbox: Sandbox) -> None:
    code = "print('ran')\n" + "#" * 10_000_000
    result = await sandbox.run(code, Limits(source_bytes=11_000_000, wall_s=20.0))
    assert (result.status, result.stdout) == ("ok", "ran\n")


# Programs that break the parser, the interpreter or the standard streams, each named by what it abuses.
_ABNORMAL_PROGRAMS = {
    "brackets": "(" * 100_000 + ")" * 100_000,
    "signs": "-" * 300_000 + "1",
    "attributes": "a" + ".a" * 200_000,
    "sums": "1" + "+1" * 200_000,
    "blocks": "\n".join(" " * depth + "if 1:" for depth in range(200)) + "\n" + " " * 200 + "pass",
    "lists": "x = " + "[" * 150 + "]" * 150 + "\nrepr(x)\n" + "y = []\nfor _ in range(10**6): y = [y]\nprint(y)",
    "NUL": "print(1)\0print(2)",
    "surrogate": "print('\ud800')",
    "half a character": "print('\udcff')",
    "other coding": "# coding: utf-7\n+AHAAcgBpAG4AdA-(1)",
    "recursion": "import sys\nsys.setrecursionlimit(10**9)\nf = lambda: f()\nf()",
    "recursion in C": "import sys\nsys.setrecursionlimit(10**9)\nx, y = [], []\nfor _ in range(10**6):\n    x, y = [x], [y]\nx == y",
    "null pointer": "import ctypes\nctypes.string_at(0)",
    "abort": "import os\nos.abort()",
    "broken interpreter": "import builtins, sys\nbuiltins.__dict__.clear()\nsys.modules.clear()\n1 / 0",
    "broken output": "import sys\nsys.stdout = sys.stderr = None\n1 / 0",
    "closed output": "import os\nos.close(1)\nos.close(2)\nprint('x')",
    "exit from everywhere": "import atexit, os\natexit.register(os._exit, 7)\nraise SystemExit(8)",
}


@pytest.mark.parametrize("name", _ABNORMAL_PROGRAMS)
async def test_abnormal_program_fails_without_harming_the_next(sandbox: Sandbox, name: str) -> None:
    result = await sandbox.run(_ABNORMAL_PROGRAMS[name], Limits(wall_s=5.0))
    assert result.status in ("error", "killed", "memory", "timeout"), result
    next_result = await sandbox.run("print('still here')")
    assert (next_result.status, next_result.stdout) == ("ok", "still here\n")


@pytest.mark.parametrize("name", ["NUL", "surrogate", "brackets"])
async def test_invalid_source_reports_its_error(sandbox: Sandbox, name: str) -> None:
    result = await sandbox.run(_ABNORMAL_PROGRAMS[name])
    assert (result.status, result.exit_code) == ("error", 1)
    assert "Error" in result.stderr


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [
        ("raise SystemExit(3)", 3),
        ("import os\nos._exit(9)", 9),
        ("import sys\nsys.exit('bad')", 1),
        ("1 / 0", 1),
    ],
)
async def test_exit_code_is_that_of_the_program(sandbox: Sandbox, code: str, exit_code: int) -> None:
    result = await sandbox.run(code)
    assert (result.status, result.exit_code) == ("error", exit_code)


async def test_deadly_system_call_is_reported(sandbox: Sandbox) -> None:
    result = await sandbox.run("import ctypes\nctypes.CDLL(None).ptrace(0, 0, 0, 0)")
    assert (result.status, result.exit_code) == ("killed", None)
    assert "system call" in result.detail


@pytest.mark.parametrize("invalid_limits", [{"wall_s": 0}, {"wall_s": float("nan")}, {"memory_mb": -1}, {"cpu_s": 0.0}])
async def test_limits_reject_values_that_are_not_positive_and_finite(invalid_limits: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="limit"):
        Limits(**invalid_limits)  # type: ignore[arg-type]
