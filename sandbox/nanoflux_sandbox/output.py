"""Reads the two output pipes of a child process, up to a limit of bytes and lines.

The first two bytes do not come from the program: the child writes `READY` and `FILTER_ACTIVE` (see `child_process`)
before it parses the program.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from nanoflux_sandbox.text import decode_output

_CHUNK_BYTES = 65536
_CONFIRMATION = b"re"
"""`READY` and `FILTER_ACTIVE`, the bytes that come before the program's output."""


class OutputReader:
    """Reads both pipes of one child on the running event loop until `finish` is called. `ready` is done when the child
    has written its first byte.
    """

    def __init__(self, stdout: int, stderr: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._stdout, self._stderr = stdout, stderr
        self._buffers = {stdout: bytearray(), stderr: bytearray()}
        self._bytes_left, self._lines_left = len(_CONFIRMATION), 0
        self._on_exceeded: Callable[[], None] = lambda: None
        self.exceeded = False
        self.ready: asyncio.Future[None] = self._loop.create_future()
        for descriptor in self._buffers:
            self._loop.add_reader(descriptor, self._read, descriptor)

    def set_limits(self, max_bytes: int, max_lines: int, on_exceeded: Callable[[], None]) -> None:
        """Set the maximum number of bytes and of lines. Output beyond either limit is discarded, and `on_exceeded` is
        called once.
        """
        self._bytes_left = max_bytes + len(_CONFIRMATION) - len(self._buffers[self._stdout])
        self._lines_left, self._on_exceeded = max_lines, on_exceeded

    @property
    def filter_confirmed(self) -> bool:
        """Whether the child confirmed that its filter was active before it parsed the program."""
        return self._buffers[self._stdout].startswith(_CONFIRMATION)

    @property
    def stdout(self) -> str:
        """The program's output as harmless text."""
        return decode_output(bytes(self._buffers[self._stdout][len(_CONFIRMATION) :]))

    @property
    def stderr(self) -> str:
        """The program's error output as harmless text."""
        return decode_output(bytes(self._buffers[self._stderr]))

    def finish(self) -> None:
        """Read the rest of the pipes and close them. Call once, after the child has ended."""
        for descriptor in self._buffers:
            while self._read(descriptor):
                pass
            self._loop.remove_reader(descriptor)
            os.close(descriptor)

    def _read(self, descriptor: int) -> bool:
        """Read one chunk. Returns whether the pipe may have more output within the limits."""
        try:
            raw = os.read(descriptor, _CHUNK_BYTES)
        except BlockingIOError:
            return False
        if not raw:
            self._loop.remove_reader(descriptor)
            return False
        self._append(self._buffers[descriptor], raw)
        return not self.exceeded

    def _append(self, buffer: bytearray, raw: bytes) -> None:
        """Append the part of `raw` that is within the limits. If a part exceeds the limits, `on_exceeded` is called
        once.
        """
        kept_bytes = raw[: self._bytes_left]
        if kept_bytes.count(b"\n") > self._lines_left:  # keep only the lines that the limit still allows
            kept_lines = kept_bytes.split(b"\n", self._lines_left)[:-1]
            kept_bytes = b"".join(line + b"\n" for line in kept_lines)
        buffer += kept_bytes
        self._bytes_left -= len(kept_bytes)
        self._lines_left -= kept_bytes.count(b"\n")
        if len(kept_bytes) < len(raw) and not self.exceeded:
            self.exceeded = True
            self._on_exceeded()
        if not self.ready.done():
            self.ready.set_result(None)
