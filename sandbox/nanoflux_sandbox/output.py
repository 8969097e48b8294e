"""What a guest says: its two pipes, read within a budget of bytes and lines, never more.

The guest itself writes the first two bytes, before it looks at the program: see `guest.READY` and `guest.ENCLOSED`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from nanoflux_sandbox.text import decode_output

_CHUNK = 65536
_GREETING = b"re"


class Output:
    """Hears both pipes of one guest on the running event loop, from its creation to `finish`."""

    def __init__(self, out: int, err: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._out, self._err = out, err
        self._heard = {out: bytearray(), err: bytearray()}
        self._bytes, self._lines = len(_GREETING), 0
        self._on_over: Callable[[], None] = lambda: None
        self.over = False
        self.ready: asyncio.Future[None] = self._loop.create_future()
        for descriptor in self._heard:
            self._loop.add_reader(descriptor, self._hear, descriptor)

    def allow(self, size: int, lines: int, on_over: Callable[[], None]) -> None:
        """Take up to `size` bytes and `lines` lines from now on; past either, cut and call `on_over` once."""
        self._bytes, self._lines, self._on_over = size + len(_GREETING) - len(self._heard[self._out]), lines, on_over

    @property
    def enclosed(self) -> bool:
        """Whether the guest said that its filter was on before it looked at the program."""
        return self._heard[self._out].startswith(_GREETING)

    @property
    def stdout(self) -> str:
        """What the program printed, harmless."""
        return decode_output(bytes(self._heard[self._out][len(_GREETING) :]))

    @property
    def stderr(self) -> str:
        """What the program wrote to its error output, harmless."""
        return decode_output(bytes(self._heard[self._err]))

    def finish(self) -> None:
        """Take what is left in the pipes and close them. To be called once, after the guest's end."""
        for descriptor in self._heard:
            while self._hear(descriptor):
                pass
            self._loop.remove_reader(descriptor)
            os.close(descriptor)

    def _hear(self, descriptor: int) -> bool:
        try:
            raw = os.read(descriptor, _CHUNK)
        except BlockingIOError:
            return False
        if not raw:
            self._loop.remove_reader(descriptor)
            return False
        self._keep(self._heard[descriptor], raw)
        return not self.over

    def _keep(self, heard: bytearray, raw: bytes) -> None:
        kept = raw[: self._bytes]
        if kept.count(b"\n") > self._lines:
            kept = b"\n".join([*kept.split(b"\n", self._lines)[:-1], b""])
        heard += kept
        self._bytes -= len(kept)
        self._lines -= kept.count(b"\n")
        if len(kept) < len(raw) and not self.over:
            self.over = True
            self._on_over()
        if not self.ready.done():
            self.ready.set_result(None)
