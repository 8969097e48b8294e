"""The sandbox: runs programs, a limited number at a time, and returns a result for each."""

from __future__ import annotations

import asyncio
import os
from types import TracebackType
from typing import Self

from nanoflux_sandbox import tiers
from nanoflux_sandbox.fork_server_handle import ForkServerError
from nanoflux_sandbox.records import BUSY_FIX, Limits, Result, SandboxError, SandboxIdentity, Status
from nanoflux_sandbox.supply import Supply, UnavailableError

_ATTEMPTS = 3
"""The number of attempts to run a program if the fork server fails. Retries are safe, since programs have no side
effects.
"""

_MAX_SPARES = 4
"""The default of `spares` is the number of workers, but at most this number."""
_DEFAULT_LIMITS = Limits()


class Sandbox:
    """Runs programs, at most `workers` at a time (None: one for each CPU), inside the layers of `backend`.

    `backend` is `auto` (the strongest tier that works on this machine) or the name of a tier, that is, of a set of
    layers, for example `linux:seccomp`. A named tier that does not work is never replaced by a weaker one; the status
    of every run is then `unavailable`. `spares` is the number of child processes that are forked in advance
    (None: one for each worker, at most four; each takes a few MB). The sandbox starts on first use, and belongs to the
    event loop of that use until it is closed.

    Raises ValueError for an unknown backend or fewer than one worker.
    """

    def __init__(self, *, workers: int | None = None, backend: str = "auto", spares: int | None = None) -> None:
        self._tiers = tiers.list_tiers(backend)
        self._workers = len(os.sched_getaffinity(0)) if workers is None else workers
        if self._workers < 1:
            raise ValueError(f"a sandbox needs at least one worker, not {workers}")
        self._spares = min(self._workers, _MAX_SPARES) if spares is None else spares
        self._loop: asyncio.AbstractEventLoop | None = None

    async def run(self, code: str, limits: Limits = _DEFAULT_LIMITS) -> Result:
        """Run the script `code` under `limits` and return its outcome; never raises because of what a program does.

        The status is `unavailable` if no tier works on this machine. Cancelling the call ends the program.
        """
        supply = self._open_supply()
        source = code.encode("utf-8", "surrogatepass")
        async with self._slots:
            try:
                await supply.start()
                if len(source) > limits.source_bytes:
                    reason = f"the source has {len(source)} bytes, more than {limits.source_bytes}"
                    return _build_refusal("error", reason, supply.tier)
                return await _run_with_retries(supply, source, limits)
            except UnavailableError as refusal:
                return _build_refusal("unavailable", str(refusal), supply.tier)

    async def identity(self) -> SandboxIdentity:
        """Everything that determines results: tier, versions, seeds. Raises SandboxError if no tier works on this
        machine.
        """
        supply = self._open_supply()
        try:
            await supply.start()
        except UnavailableError as refusal:
            if refusal.timed_out:
                raise SandboxError(f"the sandbox could not be tested: {refusal}", BUSY_FIX) from None
            raise SandboxError(
                f"this machine cannot isolate programs: {refusal}",
                "see which layers are missing with `nanoflux sandbox check`",
            ) from None
        assert supply.server_report is not None
        python, machine, libraries = supply.server_report
        return SandboxIdentity(
            backend=tiers.full_name(supply.tier), python=python, machine=machine, libraries=libraries
        )

    def _open_supply(self) -> Supply:
        """The supply of child processes, which is created on first use and belongs to the event loop of that use."""
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
            self._slots = asyncio.Semaphore(self._workers)
            self._supply = Supply(self._tiers, self._spares)
        if self._loop is not loop:
            raise RuntimeError("this sandbox is in use on another event loop; close it there first")
        return self._supply

    @property
    def fork_server_pid(self) -> int | None:
        """The process id of the fork server, or None if none is running."""
        return self._supply.pid if self._loop is not None else None

    @property
    def starts(self) -> int:
        """The number of fork servers that have passed the self-test; if it exceeds 1, a fork server was replaced."""
        return self._supply.starts if self._loop is not None else 0

    async def close(self) -> None:
        """End all programs and processes. Idempotent; the next `run` starts new processes."""
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
    """Run a program, and try again with a new fork server if the fork server fails."""
    last_reason = ""
    for _ in range(_ATTEMPTS):
        try:
            child = await supply.take()
            try:
                return await child.run(source, limits, tiers.full_name(supply.tier))
            finally:
                child.drop()
                supply.restock()
        except ForkServerError as error:
            last_reason = str(error)
    raise UnavailableError([f"tried {_ATTEMPTS} times: {last_reason}"])


def _build_refusal(status: Status, reason: str, tier: str) -> Result:
    """The result of a program that was not started; `tier` is "" if no tier works."""
    return Result(
        status=status,
        exit_code=None,
        stdout="",
        stderr=reason,
        truncated=False,
        wall_s=0.0,
        backend=tiers.full_name(tier) if tier else "none",
        detail=reason,
    )
