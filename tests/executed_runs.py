"""Executes runs in the process of the test, and reads their digests."""

import asyncio

from nanoflux_local.config import RunConfig
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.run import runs


def execute_run(home: Home, config: RunConfig, name: str = "", forked_from: str = "") -> str:
    """Start a run, execute it to its end, and return its id."""

    async def execute() -> str:
        run = await runs.start(home, config, name, forked_from)
        await runs.execute(home, run)
        return run

    return asyncio.run(execute())


def read_digest(home: Home, run: str) -> str:
    """The digest of a run's kept examples: equal digests mean equal datasets."""
    with LedgerView(home.ledger) as view:
        return view.summarize_run(run).digest
