"""Which layers this machine can enforce, found by building each tier for real and attacking it.

Works with and without a running event loop; takes one or two cold starts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from nanoflux_sandbox import selftest, tiers
from nanoflux_sandbox.parent import Died, Parent
from nanoflux_sandbox.records import Report
from nanoflux_sandbox.supply import Supply, Unavailable

_T = TypeVar("_T")

_LAYER_BY_LAYER = ("namespaces+seccomp", "landlock+seccomp", "seccomp")


def probe() -> Report:
    """Build the sandbox as `auto` would; where it is not the strongest, find out which layers are missing and why."""
    return run_apart(_probe())


def run_apart(work: Coroutine[Any, Any, _T]) -> _T:
    """Run `work` on an event loop in a thread of its own, also where the caller has a running loop."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


async def _probe() -> Report:
    supply = Supply(tiers.AUTOMATIC, spares=0)
    try:
        await supply.start()
    except Unavailable as refusal:
        return Report(await _layers(), "none", False, refusal.reasons)
    finally:
        await supply.close()
    reached = set(supply.tier.split("+"))
    layers = {layer: layer in reached for layer in tiers.LAYERS}
    return Report(layers, tiers.full_name(supply.tier), True, supply.reasons)


async def _layers() -> dict[str, bool]:
    holding: set[str] = set()
    if not tiers.why_unsupported():
        for tier in _LAYER_BY_LAYER:
            if await _holds(tier):
                holding.update(tier.split("+"))
    return {layer: layer in holding for layer in tiers.LAYERS}


async def _holds(tier: str) -> bool:
    parent = Parent(tier)
    try:
        await parent.warm()
        await selftest.hold(parent, tiers.full_name(tier))
    except Died:
        return False
    finally:
        await parent.close()
    return True
