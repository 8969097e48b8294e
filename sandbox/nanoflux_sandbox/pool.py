"""The sandbox as its users see it: runs programs, a bounded number at once, and always has an answer."""

from __future__ import annotations

import asyncio
import os
from types import TracebackType
from typing import Self

from nanoflux_sandbox import tiers
from nanoflux_sandbox.parent import Died
from nanoflux_sandbox.records import Identity, Limits, Result, SandboxError, Status
from nanoflux_sandbox.supply import Supply, Unavailable

_ATTEMPTS = 3
"""How often a program is tried because the warm process, not the program, failed. Programs have no effects."""

_MOST_SPARES = 4
_DEFAULT = Limits()


class Sandbox:
    """Runs programs, at most `workers` at once (None: one for each processor), inside the layers of `backend`.

    `backend` is `auto` (the strongest tier that holds here, or none) or one tier by name, which may have fewer
    layers, for example `linux:seccomp`; a tier that is not reached is `unavailable`, never replaced by a weaker one.
    `spares` guests wait forked (None: one for each worker, at most four; each takes a few MB).
    It starts at the first use, and belongs to that event loop until it is closed.
    Raises ValueError for an unknown backend or less than one worker.
    """

    def __init__(self, *, workers: int | None = None, backend: str = "auto", spares: int | None = None) -> None:
        self._tiers = tiers.tiers_for(backend)
        self._workers = len(os.sched_getaffinity(0)) if workers is None else workers
        if self._workers < 1:
            raise ValueError(f"a sandbox needs at least one worker, not {workers}")
        self._spares = min(self._workers, _MOST_SPARES) if spares is None else spares
        self._loop: asyncio.AbstractEventLoop | None = None

    async def run(self, code: str, limits: Limits = _DEFAULT) -> Result:
        """Run the script `code` under `limits` and say what became of it; never raises for what a program does.

        The status is `unavailable` where nothing here can contain a program. Cancelling ends the program.
        """
        supply = self._open_supply()
        source = code.encode("utf-8", "surrogatepass")
        async with self._turns:
            try:
                await supply.start()
                return _too_long(source, limits, supply.tier) or await _run_with_retries(supply, source, limits)
            except Unavailable as refusal:
                return _never_ran("unavailable", str(refusal), supply.tier)

    async def identity(self) -> Identity:
        """What decides results here: tier, versions, seeds. Raises SandboxError where nothing can be contained."""
        supply = self._open_supply()
        try:
            await supply.start()
        except Unavailable as refusal:
            raise SandboxError(
                f"no sandbox can be built on this machine: {refusal}",
                "run `nanoflux sandbox check` to see which layers are missing",
            ) from None
        assert supply.warm is not None
        python, machine, libraries = supply.warm
        return Identity(backend=tiers.full_name(supply.tier), python=python, machine=machine, libraries=libraries)

    def _open_supply(self) -> Supply:
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
            self._turns = asyncio.Semaphore(self._workers)
            self._supply = Supply(self._tiers, self._spares)
        if self._loop is not loop:
            raise RuntimeError("a Sandbox belongs to the event loop that used it first; close it there")
        return self._supply

    async def close(self) -> None:
        """End everything that runs and was started. Idempotent; the next `run` starts anew."""
        if self._loop is not None:
            await self._supply.close()
            self._loop = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


async def _run_with_retries(supply: Supply, source: bytes, limits: Limits) -> Result:
    reason = ""
    for _ in range(_ATTEMPTS):
        try:
            program = await supply.take()
            try:
                return await program.run(source, limits, tiers.full_name(supply.tier))
            finally:
                program.drop()
                supply.restock()
        except Died as error:
            reason = str(error)
    raise Unavailable([f"tried {_ATTEMPTS} times: {reason}"])


def _too_long(source: bytes, limits: Limits, tier: str) -> Result | None:
    if len(source) <= limits.source_bytes:
        return None
    return _never_ran("error", f"the source has {len(source)} bytes, more than {limits.source_bytes}", tier)


def _never_ran(status: Status, reason: str, tier: str) -> Result:
    backend = tiers.full_name(tier) if tier else "none"
    return Result(status, None, "", reason, False, 0.0, backend, reason)
