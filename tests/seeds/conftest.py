"""Fixtures for the tests of seeds: the real sandbox, started once, and GSM-Hard if its file is installed."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanoflux_local.records import Identity, PythonReply, PythonRequest
from nanoflux_local.tools.python_check import PythonTool

GSMHARD = Path(__file__).parents[3] / "shared" / "data" / "gsm-hard" / "gsmhardv2.jsonl"


class RealSandbox:
    """Runs programs on a separate event loop, so that one pool serves tests with different loops."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._tool = PythonTool(workers=2)
        self.identity: Identity = self._loop.run_until_complete(self._tool.identity())

    def run(self, code: str) -> PythonReply:
        """Run a program and wait for its reply."""
        return self._loop.run_until_complete(self._tool.run(PythonRequest(self.identity, code)))

    def wait(self, awaitable):
        """The result of an awaitable that may use `call`."""
        return self._loop.run_until_complete(awaitable)

    async def call(self, request: PythonRequest) -> PythonReply:
        """Run a program; only inside `wait`."""
        return await self._tool.run(request)

    def close(self) -> None:
        self._loop.run_until_complete(self._tool.close())
        self._loop.close()


@pytest.fixture(scope="session")
def sandbox() -> Iterator[RealSandbox]:
    real_sandbox = RealSandbox()
    yield real_sandbox
    real_sandbox.close()


@pytest.fixture(scope="session")
def gsmhard_path() -> Path:
    """The path of GSM-Hard's official file; skips the test if the file is missing."""
    if not GSMHARD.exists():
        pytest.skip(f"GSM-Hard's official file is not at {GSMHARD}")
    return GSMHARD
