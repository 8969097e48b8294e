"""Determines which isolation layers this machine can enforce: starts fork servers with different tiers (sets of
layers), each of which must withstand the attacks of the self-test.

`probe` can be called with or without a running event loop. If a tier that `auto` tries works, `probe` takes as long as
one or two cold starts of the sandbox.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from nanoflux_sandbox import selftest, tiers
from nanoflux_sandbox.fork_server_handle import ForkServerError, ForkServerHandle
from nanoflux_sandbox.records import LayerReport
from nanoflux_sandbox.supply import Supply, UnavailableError

_T = TypeVar("_T")

_LAYER_TEST_TIERS = ("namespaces+seccomp", "landlock+seccomp", "seccomp")
"""The tiers that are started to find out which of the three layers work on this machine."""


def probe() -> LayerReport:
    """Start the sandbox as `auto` does, and report which layers work. If a layer is missing, the report says why."""
    return run_in_thread(_probe())


def run_in_thread(work: Coroutine[Any, Any, _T]) -> _T:
    """Run the coroutine `work` on a new event loop in a separate thread, since the caller may have a running loop."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


async def _probe() -> LayerReport:
    """The report of `probe`. The layers are tested one by one only if no tier of `auto` works."""
    supply = Supply(tiers.AUTOMATIC, spares=0)
    try:
        await supply.start()
    except UnavailableError as refusal:
        if refusal.timed_out:
            no_layers = dict.fromkeys(tiers.LAYERS, False)
            return LayerReport(no_layers, "none", safe=False, reasons=refusal.reasons, timed_out=True)
        return LayerReport(await _test_layers(), "none", safe=False, reasons=refusal.reasons)
    finally:
        await supply.close()
    working_layers = set(supply.tier.split("+"))
    layers = {layer: layer in working_layers for layer in tiers.LAYERS}
    return LayerReport(layers, tiers.full_name(supply.tier), safe=True, reasons=supply.reasons)


async def _test_layers() -> dict[str, bool]:
    """Whether each layer works, tested with tiers of one or two layers."""
    working_layers: set[str] = set()
    if not tiers.explain_unsupported():
        for tier in _LAYER_TEST_TIERS:
            if await _tier_works(tier):
                working_layers.update(tier.split("+"))
    return {layer: layer in working_layers for layer in tiers.LAYERS}


async def _tier_works(tier: str) -> bool:
    """Whether a fork server with the layers of `tier` starts and passes the self-test."""
    fork_server = ForkServerHandle(tier)
    try:
        await fork_server.wait_until_ready()
        await selftest.verify(fork_server, tiers.full_name(tier))
    except ForkServerError:
        return False
    finally:
        await fork_server.close()
    return True
