"""The caller's side of one child process: sends it a program, waits within the limits, and returns the result."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import struct
import time

from nanoflux_sandbox.exit_status import ChildExit, ProgramStatus, classify_exit
from nanoflux_sandbox.fork_server_handle import ForkServerError, ForkServerHandle
from nanoflux_sandbox.output import OutputReader
from nanoflux_sandbox.records import Limits, Result

GRACE_S = 0.4
"""How many seconds after a program's time limit a result is returned even if the fork server has not killed the child.
"""

STALL_S = 10.0
"""Seconds that the fork server may take to fork a child, or to kill a child at its limit, before it counts as stalled.
"""

_HEADER = struct.Struct("=QQQ")  # equals `child_process.HEADER`, which the caller does not import


class WaitingChild:
    """A child process that waits for a program. Await `ready`; then call `run` once, or `drop` the child."""

    def __init__(self, fork_server: ForkServerHandle) -> None:
        self._loop = asyncio.get_running_loop()
        self._fork_server = fork_server
        descriptors = [*os.pipe2(os.O_CLOEXEC), *os.pipe2(os.O_CLOEXEC), *os.pipe2(os.O_CLOEXEC)]
        child_stdin, self._stdin, stdout, child_stdout, stderr, child_stderr = descriptors
        for descriptor in (self._stdin, stdout, stderr):
            os.set_blocking(descriptor, False)
        self._number, self._exit_future = fork_server.fork([child_stdin, child_stdout, child_stderr])
        for descriptor in (child_stdin, child_stdout, child_stderr):
            os.close(descriptor)
        self._output = OutputReader(stdout, stderr)
        self._dropped = False

    @property
    def usable(self) -> bool:
        """Whether the child is alive and waits for a program, as far as the caller can tell."""
        return self._fork_server.alive and not self._exit_future.done()

    async def ready(self) -> None:
        """Wait until the child has isolated itself. Raises ForkServerError if the child ends before that."""
        futures = (self._output.ready, self._exit_future)
        await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED, timeout=STALL_S)
        if not any(future.done() for future in futures):
            self._fork_server.give_up("it did not fork a child in time")
        if self._exit_future.done():
            self._exit_future.result()  # raises ForkServerError if the fork server has ended
            raise ForkServerError("a child could not isolate itself")

    async def run(self, source: bytes, limits: Limits, backend: str) -> Result:
        """Run `source` to its end or its limits. Raises ForkServerError if the fork server fails."""
        cpu_limit_s = math.ceil(limits.wall_s if limits.cpu_s is None else limits.cpu_s)
        start = time.monotonic()
        self._output.set_limits(limits.output_bytes, limits.output_lines, lambda: self._fork_server.kill(self._number))
        self._fork_server.start_clock(self._number, limits.wall_s)
        header = _HEADER.pack(len(source), limits.memory_mb << 20, cpu_limit_s)
        self._write_input(memoryview(header + source))
        child_exit = await self._wait_for_exit(limits.wall_s + GRACE_S)
        wall_s = time.monotonic() - start
        self.drop()
        program_status = self._determine_status(child_exit, limits, cpu_limit_s)
        return Result(
            status=program_status.status,
            exit_code=program_status.exit_code,
            stdout=self._output.stdout,
            stderr=self._output.stderr,
            truncated=self._output.exceeded,
            wall_s=wall_s,
            backend=backend,
            detail=program_status.detail,
        )

    def _determine_status(self, child_exit: ChildExit | None, limits: Limits, cpu_limit_s: int) -> ProgramStatus:
        """The program's status; `child_exit` is None if the child still runs. Raises ForkServerError if the child did
        not confirm its filter, because the program may then not have been isolated.
        """
        if not self._output.filter_confirmed:
            self._give_up_if_running()
            raise ForkServerError("a child ended or stalled before its filter was active")
        if child_exit is None:
            self._loop.call_later(STALL_S, self._give_up_if_running)
            return ProgramStatus("timeout", None, f"still running after {limits.wall_s:g} s, and could not be killed")
        return classify_exit(child_exit, limits, cpu_limit_s, self._output.exceeded, self._output.stderr)

    async def _wait_for_exit(self, timeout_s: float) -> ChildExit | None:
        """How the child ended; None if it still runs after `timeout_s`."""
        await asyncio.wait((self._exit_future,), timeout=timeout_s)
        return self._exit_future.result() if self._exit_future.done() else None

    def _give_up_if_running(self) -> None:
        """Give the fork server up if it has not ended this child."""
        if not self._exit_future.done():
            self._fork_server.give_up("it did not end a program that exceeded its time")

    def _write_input(self, unsent: memoryview) -> None:
        """Write as much of `unsent` as the pipe accepts. The event loop writes the rest when the pipe has room."""
        try:
            unsent = unsent[os.write(self._stdin, unsent) :]
        except BlockingIOError:
            pass
        except BrokenPipeError:  # the child has ended; its exit status says how
            unsent = unsent[:0]
        if unsent:
            self._loop.add_writer(self._stdin, self._write_input, unsent)
        else:
            self._close_input()

    def _close_input(self) -> None:
        """Close the pipe to the child. Idempotent."""
        if self._stdin >= 0:
            self._loop.remove_writer(self._stdin)
            os.close(self._stdin)
            self._stdin = -1

    def drop(self) -> None:
        """Release the child and kill it if it still runs. Idempotent."""
        if self._dropped:
            return
        self._dropped = True
        if self.usable:
            with contextlib.suppress(OSError):
                self._fork_server.kill(self._number)
        self._close_input()
        self._output.finish()
