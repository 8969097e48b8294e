"""The caller's side of one child process: sends it a program, waits within the limits, and returns the result."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import struct
import time

from nanoflux_sandbox.exit_status import ChildExit, ProgramStatus, classify_exit
from nanoflux_sandbox.output import Output
from nanoflux_sandbox.parent import ForkServerError, Parent
from nanoflux_sandbox.records import Limits, Result

GRACE_S = 0.4
"""Seconds past a program's limit after which a result is returned, even if the fork server has not ended the program.
"""

STALL_S = 10.0
"""Seconds that a fork or an overdue end may take before the fork server is considered stalled."""

_HEADER = struct.Struct("=QQQ")  # equals `child_process.HEADER`, which the caller does not import


class Program:
    """A child process that waits for a program. Await `ready`; then call `run` once, or `drop` the child."""

    def __init__(self, parent: Parent) -> None:
        self._loop = asyncio.get_running_loop()
        self._parent = parent
        descriptors = [*os.pipe2(os.O_CLOEXEC), *os.pipe2(os.O_CLOEXEC), *os.pipe2(os.O_CLOEXEC)]
        inner_in, self._in, out, inner_out, err, inner_err = descriptors
        for descriptor in (self._in, out, err):
            os.set_blocking(descriptor, False)
        self._number, self._end = parent.fork([inner_in, inner_out, inner_err])
        for descriptor in (inner_in, inner_out, inner_err):
            os.close(descriptor)
        self._output = Output(out, err)
        self._dropped = False

    @property
    def usable(self) -> bool:
        """Whether the child is alive and waits for a program, as far as the caller can tell."""
        return self._parent.alive and not self._end.done()

    async def ready(self) -> None:
        """Wait until the child has isolated itself. Raises ForkServerError if the child ends before that."""
        futures = (self._output.ready, self._end)
        await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED, timeout=STALL_S)
        if not any(future.done() for future in futures):
            self._parent.give_up("it does not fork")
        if self._end.done():
            self._end.result()
            raise ForkServerError("a child could not isolate itself")

    async def run(self, source: bytes, limits: Limits, backend: str) -> Result:
        """Run `source` to its end or its limits. Raises ForkServerError if the fork server fails."""
        cpu_limit_s = math.ceil(limits.wall_s if limits.cpu_s is None else limits.cpu_s)
        start = time.monotonic()
        self._output.allow(limits.output_bytes, limits.output_lines, lambda: self._parent.kill(self._number))
        self._parent.start_clock(self._number, limits.wall_s)
        self._write_input(memoryview(_HEADER.pack(len(source), limits.memory_mb << 20, cpu_limit_s) + source))
        end = await self._wait_for_end(limits.wall_s + GRACE_S)
        wall_s = time.monotonic() - start
        self.drop()
        program_status = self._determine_status(end, limits, cpu_limit_s)
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

    def _determine_status(self, end: ChildExit | None, limits: Limits, cpu_limit_s: int) -> ProgramStatus:
        if not self._output.enclosed:
            self._give_up_if_silent()
            raise ForkServerError("a child ended or stalled before its filter was active")
        if end is None:
            self._loop.call_later(STALL_S, self._give_up_if_silent)
            return ProgramStatus("timeout", None, f"still running after {limits.wall_s:g} s, and could not be killed")
        return classify_exit(end, limits, cpu_limit_s, self._output.exceeded, self._output.stderr)

    async def _wait_for_end(self, timeout_s: float) -> ChildExit | None:
        await asyncio.wait((self._end,), timeout=timeout_s)
        return self._end.result() if self._end.done() else None

    def _give_up_if_silent(self) -> None:
        if not self._end.done():
            self._parent.give_up("it did not end a program that exceeded its time")

    def _write_input(self, unsent: memoryview) -> None:
        try:
            unsent = unsent[os.write(self._in, unsent) :]
        except BlockingIOError:
            pass
        except BrokenPipeError:  # the child has ended; its exit status says how
            unsent = unsent[:0]
        if unsent:
            self._loop.add_writer(self._in, self._write_input, unsent)
        else:
            self._close_input()

    def _close_input(self) -> None:
        if self._in >= 0:
            self._loop.remove_writer(self._in)
            os.close(self._in)
            self._in = -1

    def drop(self) -> None:
        """Release the child and kill it if it still runs. Idempotent."""
        if self._dropped:
            return
        self._dropped = True
        if self.usable:
            with contextlib.suppress(OSError):
                self._parent.kill(self._number)
        self._close_input()
        self._output.finish()
