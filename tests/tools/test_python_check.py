"""The sandbox as remembered calls: one reply for every way a program can end, and none when nothing can contain it."""

import asyncio

import pytest

from nanoflux_local.errors import RefusedError
from nanoflux_local.records import PythonReply, PythonRequest
from nanoflux_local.tools.python_check import PythonTool
from nanoflux_sandbox import Result


class Bench:
    """A tool on an event loop of its own: one pool, started once, serves every test."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self.tool = PythonTool(workers=1)
        self.identity = self.wait(self.tool.identity())

    def wait(self, awaitable):
        return self._loop.run_until_complete(awaitable)

    def run(self, code: str, wall_s: float = 10.0) -> PythonReply:
        return self.wait(self.tool.run(PythonRequest(self.identity, code, wall_s)))

    def close(self) -> None:
        self.wait(self.tool.close())
        self._loop.close()


@pytest.fixture(scope="module")
def bench():
    bench = Bench()
    yield bench
    bench.close()


def test_what_a_program_prints_comes_back(bench):
    reply = bench.run("import sys\nprint(6 * 7)\nprint('θ≈', file=sys.stderr)")
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
def test_every_end_has_its_word(bench, code, status):
    reply = bench.run(code, wall_s=0.5 if status == "timeout" else 10)
    assert reply.status == status
    assert reply.exit_code != 0


def test_a_program_that_dies_harms_no_later_one(bench):
    bench.run("import os\nos._exit(9)")
    assert bench.run("print(1)").stdout == "1\n"


def test_programs_do_not_see_each_other(bench):
    bench.run("import builtins\nbuiltins.left = 5")
    assert bench.run("print(left)").status == "error"


def test_math_numpy_and_sympy_are_there(bench):
    code = "import math, numpy, sympy\nprint(math.sqrt(16), int(numpy.sum([1, 2])), sympy.simplify('1/3 + 1/6'))"
    assert bench.run(code, wall_s=30).stdout == "4.0 3 1/2\n"


def test_the_identity_pins_what_decides_results(bench):
    other = PythonTool(workers=2)
    assert bench.wait(other.identity()) == bench.identity, "the number of workers decides no result"
    assert bench.identity.interface == "sandbox" and len(bench.identity.revision) == 16
    bench.wait(other.close())


def test_concurrent_programs_get_their_own_replies(bench):
    async def together():
        requests = [PythonRequest(bench.identity, f"print({number})") for number in range(12)]
        return await asyncio.gather(*map(bench.tool.run, requests))

    assert [reply.stdout for reply in bench.wait(together())] == [f"{number}\n" for number in range(12)]


def test_no_sandbox_is_no_verdict(bench, monkeypatch):
    async def unavailable(code, limits):
        return Result("unavailable", None, "", "", False, 0.0, "none", detail="no namespaces")

    monkeypatch.setattr(bench.tool._sandbox, "run", unavailable)
    with pytest.raises(RefusedError, match="no namespaces") as caught:
        bench.run("print(1)")
    assert caught.value.exit_code == 3
