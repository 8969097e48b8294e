"""A run's life: started, carried on, replayed. One process works on a run at a time, and a kill at any moment loses
nothing but the calls that were in flight."""

import fcntl
import json
import os
import random
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from nanoflux_local.binding import bind, environment, recorded_identities, refuse_drift, rules_for
from nanoflux_local.config import RunConfig, validated
from nanoflux_local.engine import Engine, Progress, index_questions
from nanoflux_local.errors import NanofluxError, NothingMatchedError, RefusedError
from nanoflux_local.ledger.calls import RememberedCalls, TracedCalls
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.novelty import NoveltyIndex
from nanoflux_local.paths import Home
from nanoflux_local.records import Identity
from nanoflux_local.transcript import Example, TurnRecord, dataset_digest
from nanoflux_local.turn import Rules, run_turn

LOOKS, PAUSE_S = 10, 0.02
"""Whoever only asks whether a run is worked on holds its lock for a moment: worth a few looks before refusing."""
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@contextmanager
def working_on(home: Home, run: str) -> Iterator[None]:
    """Hold a run for this process. The lock is the kernel's, so that it dies with the process, however it ends.

    Raises:
        RefusedError: another process works on the run.
    """
    path = home.lock(f"run-{run}")
    path.parent.mkdir(mode=0o700, exist_ok=True)  # a ledger that was carried to another home brings no locks
    with path.open("w") as file:
        if not _locked(file, fcntl.LOCK_EX, LOOKS):
            raise RefusedError(f"another process is working on run {run}", f"watch it with `nanoflux run show {run}`")
        yield


def is_worked_on(home: Home, run: str) -> bool:
    """Whether a process holds the run just now."""
    path = home.lock(f"run-{run}")
    if not path.exists():
        return False
    with path.open() as file:
        return not _locked(file, fcntl.LOCK_SH)


def _locked(file: IO[str], how: int, looks: int = 1) -> bool:
    for look in range(looks):
        if look:
            time.sleep(PAUSE_S)
        try:
            fcntl.flock(file, how | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        return True
    return False


async def start(home: Home, config: RunConfig, name: str = "") -> str:
    """Create a run and return its id; `carry_on` plays it. Everything that can be wrong is found before the row is
    written: missing weights, missing data, a sandbox that cannot contain.

    Raises:
        NanofluxError, ModelsError, SandboxError: what is missing, and how to get it.
    """
    with Ledger(home.ledger) as ledger:
        bound = bind(config, home)
        try:
            identities = await bound.identities()
            rules_for(config, identities, home).seeds.draw(config.seeds.max, random.Random(0))
            run = f"{config.domain}-{secrets.token_hex(4)}"
            stored = environment(identities, bound.repeatable)
            ledger.create_run(run, name or run, config.model_dump(mode="json"), stored)
        finally:
            await bound.close()
    return run


async def carry_on(home: Home, run: str, on_progress: Callable[[Progress], None] = lambda _: None) -> None:
    """Play a run from its first turn that is not committed to its end.

    Raises:
        RefusedError: another process works on it, or its models have changed since it was started.
        NanofluxError: what stopped it; it can be resumed.
    """
    with working_on(home, run), Ledger(home.ledger) as ledger:
        config, identities, committed = _recorded(home, run)
        bound = bind(config, home)
        try:
            refuse_drift(identities, await bound.identities())
            rules = rules_for(config, identities, home)
            calls = RememberedCalls(ledger, run, bound.answers())
            engine = Engine(ledger, run, rules, calls, committed, on_progress)
            await _play(ledger, run, engine)
        finally:
            await bound.close()


async def _play(ledger: Ledger, run: str, engine: Engine) -> None:
    """Play, with the run's status and the job that works on it written down whatever happens."""
    job = ledger.start_job("run", run, os.getpid(), BOOT_ID.read_text().strip() if BOOT_ID.exists() else "")
    ledger.set_run_status(run, "running")
    status, message = "interrupted", ""
    began = time.monotonic()
    try:
        await engine.play()
        status = "done"
    except NanofluxError as error:
        status, message = "failed", error.message
        raise
    finally:
        ledger.set_run_status(run, status, message, time.monotonic() - began)
        ledger.finish_job(job, status, message)


def _recorded(home: Home, run: str) -> tuple[RunConfig, dict[str, Identity], list[TurnRecord]]:
    with LedgerView(home.ledger) as view:
        row = view.find_run(run)
        config = validated(RunConfig, json.loads(row["config"]), f"run {run}")
        return config, recorded_identities(json.loads(row["environment"])), view.turn_records(run)


async def replay(home: Home, run: str) -> dict[str, Any]:
    """Play a run again from the ledger alone: no endpoint, no sandbox, nothing written.

    Raises:
        ReplayMissError: the ledger does not hold a call that the run needs.
    """
    config, identities, committed = _recorded(home, run)
    if not committed:
        raise NothingMatchedError(f"run {run} has no turns to replay", "start or resume it first")
    rules = rules_for(config, identities, home)
    with Ledger(home.ledger) as ledger:
        records = await _replayed(rules, RememberedCalls(ledger, run, {}), len(committed))
    found = dataset_digest(Example.of(record) for record in records if record.kept)
    expected = dataset_digest(Example.of(record) for record in committed if record.kept)
    return {
        "run": run,
        "turns": len(records),
        "kept": sum(record.kept for record in records),
        "digest": found,
        "recorded_digest": expected,
        "same": found == expected,
    }


async def _replayed(rules: Rules, calls: RememberedCalls, turns: int) -> list[TurnRecord]:
    index, trace, records = NoveltyIndex(), TracedCalls(calls), []
    for number in range(turns):
        record = await run_turn(rules, number, index.history(), trace)
        await index_questions(rules, index, record, trace)
        records.append(record)
    return records
