"""Guests for programs: the warm process they are forked from, started, tested and replaced, and a few in reserve."""

from __future__ import annotations

import asyncio

from nanoflux_sandbox import selftest, tiers
from nanoflux_sandbox.parent import Died, Parent, Warm
from nanoflux_sandbox.program import Program


class Unavailable(Exception):
    """None of the tiers could be reached; `reasons` says why, one for each."""

    def __init__(self, reasons: list[str]) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = reasons


class Supply:
    """Ready guests from the best tier of `wanted` that holds. Belongs to the running event loop."""

    def __init__(self, wanted: tuple[str, ...], spares: int) -> None:
        self._wanted = wanted
        self._wanted_spares = spares
        self._spares: list[Program] = []
        self._parent: Parent | None = None
        self._starting = asyncio.Lock()
        self._refusal: Unavailable | None = None
        self.tier = ""
        self.starts = 0
        """How many warm processes have passed the self-test so far: more than one means that some were replaced."""
        self.warm: Warm | None = None
        """What the last warm process said of itself."""
        self.reasons: list[str] = []

    async def start(self) -> Parent:
        """The live warm process, started if there is none. Raises Unavailable where no tier is reached."""
        async with self._starting:
            if self._refusal is not None:
                raise self._refusal
            if self._parent is None or not self._parent.alive:
                await self._end()
                self._parent = await self._first_that_holds()
            return self._parent

    async def _first_that_holds(self) -> Parent:
        reasons = [reason] if (reason := tiers.why_unsupported()) else []
        for tier in () if reasons else self._wanted:
            parent = Parent(tier)
            try:
                self.warm = await parent.warm()
                await selftest.hold(parent, tiers.full_name(tier))
            except Died as error:
                reasons.append(f"{tiers.full_name(tier)}: {error}")
                await parent.close()
            else:
                self.tier, self.reasons = tier, reasons
                self.starts += 1
                return parent
        refusal = Unavailable(reasons)
        if not self.tier:  # it never worked here, so it will not the next time
            self._refusal = refusal
        raise refusal

    async def take(self) -> Program:
        """A guest that waits for a program. Raises Unavailable, or Died where the warm process just failed."""
        parent = await self.start()
        program = self._spare() or Program(parent)
        try:
            await program.ready()
        except BaseException:
            program.drop()
            raise
        if not self._spares:  # one always waits for the next program
            self.restock()
        return program

    def _spare(self) -> Program | None:
        while self._spares:
            program = self._spares.pop(0)
            if program.usable:
                return program
            program.drop()
        return None

    def restock(self) -> None:
        """Fork one more guest to wait, if one is missing. Best once a program has ended: beside it, a fork of the same
        memory makes its end take twice as long.
        """
        parent = self._parent
        if parent is not None and parent.alive and len(self._spares) < self._wanted_spares:
            self._spares.append(Program(parent))

    async def _end(self) -> None:
        for program in self._spares:
            program.drop()
        self._spares.clear()
        if self._parent is not None:
            await self._parent.close()
            self._parent = None

    async def close(self) -> None:
        """End every guest and the warm process; nothing is started from here any more. Idempotent."""
        self._refusal = Unavailable(["the sandbox was closed"])  # a program under way would start another warm process
        async with self._starting:
            await self._end()
