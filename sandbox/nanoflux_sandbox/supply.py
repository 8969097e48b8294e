"""Supplies child processes: starts, tests and replaces the fork server, and keeps a few spare children."""

from __future__ import annotations

import asyncio

from nanoflux_sandbox import selftest, tiers
from nanoflux_sandbox.fork_server_handle import ForkServerError, ForkServerHandle, ForkServerReport, StartTimeoutError
from nanoflux_sandbox.waiting_child import WaitingChild


class UnavailableError(Exception):
    """No tier works on this machine, or the fork server keeps failing; `reasons` says why. `timed_out` means that a
    tier did not start in time, but may work when the machine is less busy.
    """

    def __init__(self, reasons: list[str], timed_out: bool = False) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = reasons
        self.timed_out = timed_out


class Supply:
    """Supplies child processes of the first tier in `candidate_tiers` that works, and keeps at most `spares` children
    ready. Belongs to the running event loop.
    """

    def __init__(self, candidate_tiers: tuple[str, ...], spares: int) -> None:
        self._candidate_tiers = candidate_tiers
        self._max_spares = spares
        self._spares: list[WaitingChild] = []
        self._fork_server: ForkServerHandle | None = None
        self._start_lock = asyncio.Lock()
        self._refusal: UnavailableError | None = None
        self.tier = ""
        self.starts = 0
        """The number of fork servers that have passed the self-test; if it exceeds 1, a fork server was replaced."""
        self.server_report: ForkServerReport | None = None
        """The report of the last fork server."""
        self.reasons: list[str] = []
        """Why the tiers before `tier` do not work."""

    @property
    def pid(self) -> int | None:
        """The process id of the live fork server, or None."""
        return self._fork_server.pid if self._fork_server is not None else None

    async def start(self) -> ForkServerHandle:
        """Start a fork server unless one is live, and return the live one. Raises UnavailableError if no tier works."""
        async with self._start_lock:
            if self._refusal is not None:
                raise self._refusal
            if self._fork_server is None or not self._fork_server.alive:
                await self._end_processes()
                self._fork_server = await self._start_first_working_tier()
            return self._fork_server

    async def _start_first_working_tier(self) -> ForkServerHandle:
        """Start a fork server with the first tier whose fork server passes the self-test. Raises UnavailableError."""
        unsupported_reason = tiers.explain_unsupported()
        reasons = [unsupported_reason] if unsupported_reason else []
        timed_out = False
        tiers_to_try = () if unsupported_reason else self._candidate_tiers
        for tier in tiers_to_try:
            fork_server = ForkServerHandle(tier)
            try:
                self.server_report = await fork_server.wait_until_ready()
                await selftest.verify(fork_server, tiers.full_name(tier))
            except ForkServerError as error:
                reasons.append(f"{tiers.full_name(tier)}: {error}")
                timed_out = timed_out or isinstance(error, StartTimeoutError)
                await fork_server.close()
            else:
                self.tier, self.reasons = tier, reasons
                self.starts += 1
                return fork_server
        refusal = UnavailableError(reasons, timed_out)
        if not self.tier:  # no tier has worked so far, so another start would fail as well
            self._refusal = refusal
        raise refusal

    async def take(self) -> WaitingChild:
        """A child that waits for a program. Raises UnavailableError or, if the fork server fails, ForkServerError."""
        fork_server = await self.start()
        child = self._take_spare() or WaitingChild(fork_server)
        try:
            await child.ready()
        except BaseException:
            child.drop()
            raise
        if not self._spares:  # keep a child ready for the next program
            self.restock()
        return child

    def _take_spare(self) -> WaitingChild | None:
        """The oldest spare child that is usable; None if there is none. Unusable spares are dropped."""
        while self._spares:
            child = self._spares.pop(0)
            if child.usable:
                return child
            child.drop()
        return None

    def restock(self) -> None:
        """Fork a spare child if there are fewer spare children than configured. Call this after a program has ended:
        forking while a program is ending doubles the time that its exit takes, since both work on the same memory.
        """
        fork_server = self._fork_server
        if fork_server is not None and fork_server.alive and len(self._spares) < self._max_spares:
            self._spares.append(WaitingChild(fork_server))

    async def _end_processes(self) -> None:
        """End the spare children and the fork server."""
        for child in self._spares:
            child.drop()
        self._spares.clear()
        if self._fork_server is not None:
            await self._fork_server.close()
            self._fork_server = None

    async def close(self) -> None:
        """End every child and the fork server; afterwards nothing can be started. Idempotent."""
        # Without this refusal, the retry of a program that is still running would start another fork server.
        self._refusal = UnavailableError(["the sandbox was closed"])
        async with self._start_lock:
            await self._end_processes()
