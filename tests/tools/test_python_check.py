"""The Python tool replies however a program ends, and refuses to run programs if the sandbox cannot isolate them."""

import asyncio

import pytest

from nanoflux_local.errors import RefusedError
from nanoflux_local.records import PythonReply, PythonRequest
from nanoflux_local.tools.python_check import PythonTool


class ToolRunner:
    """Runs programs with a tool on a separate event loop, so that one sandbox serves tests with different loops."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self.tool = PythonTool(workers=1)
        self.identity = self.wait(self.tool.identity())

    def wait(self, awaitable):
        """Wait for an awaitable, and return its result."""
        return self._loop.run_until_complete(awaitable)

    def run(self, code: str, wall_s: float = 10.0) -> PythonReply:
        """Run a program and wait for its reply."""
        return self.wait(self.tool.run(PythonRequest(self.identity, code, wall_s)))

    def close(self) -> None:
        self.wait(self.tool.close())
        self._loop.close()


@pytest.fixture(scope="module")
def runner():
    """A runner that all tests in this module share."""
    runner = ToolRunner()
    yield runner
    runner.close()


def test_python_tool_returns_output(runner):
    reply = runner.run("import sys\nprint(6 * 7)\nprint('θ≈', file=sys.stderr)")
    assert (reply.status, reply.exit_code, reply.stdout, reply.stderr) == ("ok", 0, "42\n", "θ≈\n")
    assert not reply.truncated and 0 < reply.wall_s < 5
    assert PythonReply.from_json(reply.to_json()) == reply


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("1 / 0", "error"),
        ("raise SystemExit(3)", "error"),
        ("def f(:", "error"),
        ("while True: pass", "timeout"),
        ("print('\ud800')", "error"),
        ("x = 1\0", "error"),
    ],
)
def test_python_tool_reports_every_status(runner, code, status):
    reply = runner.run(code, wall_s=0.5 if status == "timeout" else 10)
    assert reply.status == status
    assert reply.exit_code != 0


def test_python_tool_runs_the_next_program_after_a_process_ended_abruptly(runner):
    runner.run("import os\nos._exit(9)")
    assert runner.run("print(1)").stdout == "1\n"


def test_python_tool_isolates_programs(runner):
    runner.run("import builtins\nbuiltins.left = 5")
    assert runner.run("print(left)").status == "error"


def test_python_tool_provides_numpy_and_sympy(runner):
    code = "import math, numpy, sympy\nprint(math.sqrt(16), int(numpy.sum([1, 2])), sympy.simplify('1/3 + 1/6'))"
    assert runner.run(code, wall_s=30).stdout == "4.0 3 1/2\n"


def test_python_tool_identity_does_not_depend_on_the_worker_count(runner):
    second_tool = PythonTool(workers=2)
    assert runner.wait(second_tool.identity()) == runner.identity
    assert runner.identity.interface == "sandbox" and len(runner.identity.revision) == 16
    runner.wait(second_tool.close())


def test_python_tool_runs_programs_concurrently(runner):
    async def run_all():
        requests = [PythonRequest(runner.identity, f"print({number})") for number in range(12)]
        return await asyncio.gather(*map(runner.tool.run, requests))

    assert [reply.stdout for reply in runner.wait(run_all())] == [f"{number}\n" for number in range(12)]


def test_python_tool_refuses_programs_without_a_sandbox(runner, monkeypatch):
    monkeypatch.setattr("sys.platform", "darwin")  # a platform without isolation
    tool = PythonTool(workers=1)
    with pytest.raises(RefusedError, match=r"the sandbox is unavailable: .*darwin") as error:
        runner.wait(tool.run(PythonRequest(runner.identity, "print(1)")))
    assert error.value.exit_code == 3
