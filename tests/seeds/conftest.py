"""Fixtures for the tests of seeds: the real sandbox, started once, and the path of GSM-Hard's official file."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanoflux_local.records import Identity, PythonReply, PythonRequest
from nanoflux_local.tools.python_check import PythonTool

GSMHARD = Path(__file__).parents[3] / "shared" / "data" / "gsm-hard" / "gsmhardv2.jsonl"
"""GSM-Hard's official file, in the folder `shared` next to the project."""


class RealSandbox:
    """Runs programs in the sandbox on a separate event loop, so that one sandbox serves tests with different loops."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._tool = PythonTool(workers=2)
        self.identity: Identity = self._loop.run_until_complete(self._tool.identity())

    def run(self, code: str) -> PythonReply:
        """Run a program and wait for its reply."""
        return self._loop.run_until_complete(self._tool.run(PythonRequest(self.identity, code)))

    def wait(self, awaitable):
        """Wait for an awaitable, which may use `call`, and return its result."""
        return self._loop.run_until_complete(awaitable)

    async def call(self, request: PythonRequest) -> PythonReply:
        """Run a program and return its reply; usable only by an awaitable that is passed to `wait`."""
        return await self._tool.run(request)

    def close(self) -> None:
        self._loop.run_until_complete(self._tool.close())
        self._loop.close()


@pytest.fixture(scope="session")
def sandbox() -> Iterator[RealSandbox]:
    """One sandbox for all tests of the session."""
    real_sandbox = RealSandbox()
    yield real_sandbox
    real_sandbox.close()


@pytest.fixture(scope="session")
def gsmhard_path() -> Path:
    """The path of GSM-Hard's official file; skips the test if the file is missing."""
    if not GSMHARD.exists():
        pytest.skip(f"GSM-Hard's official file is not at {GSMHARD}")
    return GSMHARD
