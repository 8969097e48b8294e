"""The life cycle of a run: start, execute, change, fork, replay.

One process executes a run at a time. If that process is killed, only the requests in flight are lost.
"""

import asyncio
import json
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nanoflux_local.config import LIVE, RunConfig, merge_tables, validate_model
from nanoflux_local.domains.own import load_domain
from nanoflux_local.endpoints.faults import reporting_faults
from nanoflux_local.endpoints.remote.waits import log_wait, reporting_waits
from nanoflux_local.errors import EndpointError, NothingMatchedError, RefusedError
from nanoflux_local.jobs import RUN, Heartbeat, Job, StopRequest, hold_lock, record_execution, status_after
from nanoflux_local.ledger.calls import ROLE, CachedCalls, TracedCalls
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.quantities import format_quantity
from nanoflux_local.records import ChatRequest, Identity
from nanoflux_local.run.binding import (
    RunEndpoints,
    bind,
    build_rules,
    describe_environment,
    read_recorded_identities,
    refuse_drift,
)
from nanoflux_local.run.budget import Cost, RunAccounts, bound_prompt_tokens
from nanoflux_local.run.commands import fork_command, format_fix
from nanoflux_local.run.configs import derive_config, validate_run
from nanoflux_local.run.engine import Engine, RunProgress, index_questions, index_questions_of_other_runs
from nanoflux_local.run.novelty import NoveltyIndex
from nanoflux_local.run.overflow import refuse_overflows
from nanoflux_local.run.trials.session import hold_trial
from nanoflux_local.run.turn import Rules, run_turn
from nanoflux_local.transcript import Example, TurnRecord, dataset_digest

DATASET_SETTINGS = ("datasets", "held_out")
"""The settings whose values are names of datasets."""


async def start(home: Home, config: RunConfig, name: str = "", forked_from: str = "") -> str:
    """Create a run and return its id; `execute` executes it. If the run is a fork, `forked_from` is the id of the
    original run.

    Raises:
        NanofluxError, ModelsError, SandboxError: weights or data are missing, or the sandbox cannot isolate programs.
            Nothing is written in that case.
    """
    with Ledger(home.ledger) as ledger:
        run_endpoints = bind(config, home)
        try:
            identities = await run_endpoints.identities()
            refuse_overflows(
                run_endpoints, build_rules(config, identities, home), load_domain(config.domain, home.root)
            )
            run = f"{config.domain}-{secrets.token_hex(4)}"
            environment = describe_environment(identities, run_endpoints.repeatable, forked_from)
            ledger.create_run(run, name or run, config.model_dump(mode="json"), environment)
        finally:
            await run_endpoints.close()
    return run


async def execute(
    home: Home,
    run: str,
    on_progress: Callable[[RunProgress], None] = lambda _: None,
    report: Callable[[str], None] = log_wait,
) -> None:
    """Execute a run from its first uncommitted turn to its end. `report` is called with a line of text when calls have
    waited long for a server, and when a server does not list the requested model.

    Raises:
        RefusedError: another process is executing the run, or its models have changed since it was started.
        NanofluxError: the run stopped; it can be resumed.
    """
    with hold_lock(home, Job(RUN, run)), Ledger(home.ledger) as ledger:
        ledger.close_dead_executions(RUN.name, RUN.table, run)
        config, identities, committed_turns = load_run(home, run)
        run_endpoints = bind(config, home)
        try:
            refuse_drift(identities, await run_endpoints.identities())
            rules, domain = build_rules(config, identities, home), load_domain(config.domain, home.root)
            accounts = RunAccounts.load(ledger, run, config.budget, _bound_costs(run_endpoints))
            calls = CachedCalls(ledger, run, accounts.enforce_caps(run_endpoints.answers()))
            capacity = sum(endpoint.capacity for endpoint in run_endpoints.endpoints.values())
            if not capacity:  # all endpoints run in this process
                capacity = os.cpu_count() or 1

            async def prepare() -> None:
                if not engine.finished:
                    await _report_unlisted_models(config, run_endpoints, report)
                await hold_trial(ledger, run, rules, domain, calls, lambda: engine.draining)

            engine = Engine(ledger, run, rules, calls, committed_turns, on_progress, capacity, prepare)
            with reporting_faults(lambda fault: ledger.add_fault(run, fault, ROLE.get())), reporting_waits(report):
                await _execute_and_record(ledger, run, engine, accounts, config)
        finally:
            await run_endpoints.close()


def _bound_costs(run_endpoints: RunEndpoints) -> Callable[[ChatRequest], Cost]:
    """A function that returns an upper bound on the cost of a request, computed from the bytes of its prompt and its
    `max_tokens`.
    """

    def bound_cost(request: ChatRequest) -> Cost:
        endpoint = run_endpoints.find_endpoint(request.endpoint)
        prompt_tokens, completion_tokens = bound_prompt_tokens(request), request.sampling.max_tokens
        price = getattr(endpoint, "price", None)  # local models have no price
        usd = price.cost(prompt_tokens, completion_tokens) if price else 0.0
        return Cost(usd, prompt_tokens + completion_tokens)

    return bound_cost


async def _report_unlisted_models(
    config: RunConfig, run_endpoints: RunEndpoints, report: Callable[[str], None]
) -> None:
    """Report each server that does not list the model of its endpoint."""
    if not any(endpoint.addresses for endpoint in config.endpoints.values()):
        return
    from nanoflux_local.endpoints.remote.listing import list_model_warnings  # deferred: imports the servers' clients

    for warning in await list_model_warnings(run_endpoints.endpoints):
        report(warning)


async def _execute_and_record(
    ledger: Ledger, run: str, engine: Engine, accounts: RunAccounts, config: RunConfig
) -> None:
    """Execute a run, and record its status and this execution, even if the run fails. If an endpoint fails, the
    commands that resume or fork this run are added to the error's fix.
    """
    with record_execution(ledger, Job(RUN, run)) as execution:
        try:
            execution.status = await _execute_and_handle_requests(ledger, execution.id, run, engine, accounts)
        except EndpointError as error:
            error.fix = format_fix(error, run, config)
            raise


async def _execute_and_handle_requests(
    ledger: Ledger, execution_id: int, run: str, engine: Engine, accounts: RunAccounts
) -> str:
    """Execute a run, and meanwhile apply what other processes request: a pause, a stop, or changed settings. Returns
    the final status.
    """
    engine_task = asyncio.create_task(engine.run())
    requests: list[StopRequest] = []

    def on_request(request: StopRequest) -> None:
        requests.append(request)
        if request == "end":
            engine_task.cancel()
        elif request:
            engine.drain()

    def on_settings(config_json: str) -> None:
        config = validate_model(RunConfig, json.loads(config_json), "the changed configuration")
        engine.reconfigure(config)
        accounts.set_budget(config.budget)

    heartbeat = Heartbeat(ledger, execution_id, Job(RUN, run), on_request, on_settings)
    heartbeat_task = asyncio.create_task(heartbeat.run())
    try:
        await asyncio.wait([engine_task, heartbeat_task], return_when=asyncio.FIRST_COMPLETED)
        if not engine_task.done():
            heartbeat_task.result()  # raises its error: a heartbeat ends early only if the ledger is unusable
        if engine_task.cancelled() and "end" in requests:
            return status_after("end")
        await engine_task
    finally:
        for task in (engine_task, heartbeat_task):
            task.cancel()
        await asyncio.gather(engine_task, heartbeat_task, return_exceptions=True)
    return "done" if engine.finished else status_after(requests[-1])


def fork_config(home: Home, run: str, changes: Mapping[str, Any]) -> RunConfig:
    """The configuration of a fork of `run` with these changes. `execute` reuses the stored replies to all requests that
    the changes do not affect.

    Raises:
        NothingMatchedError: there is no such run.
        ConfigError: an unknown key, or a value out of range.
    """
    config, _, _ = load_run(home, run)
    return derive_config(config, changes, home)


def change(home: Home, run: str, settings: Mapping[str, Any]) -> RunConfig:
    """Change settings of a run; only those in `config.LIVE` can change after the run has started. A process that
    executes the run applies the changes within a second. Returns the new configuration.

    Raises:
        RefusedError: a setting affects the run's result.
        ConfigError: an unknown key, or a value out of range.
    """
    with LedgerView(home.ledger) as view:
        row = view.find_run(run)
        old = validate_model(RunConfig, json.loads(row["config"]), f"run {run}")
        kept = len(view.examples(run))
    new = validate_run(merge_tables(old.model_dump(mode="json"), settings))
    changed_keys = [key for key in RunConfig.model_fields if getattr(new, key) != getattr(old, key)]
    changed_fixed_keys = [key for key in changed_keys if key not in LIVE]
    if changed_fixed_keys:
        raise RefusedError(
            f"{changed_fixed_keys[0]} affects the result of run {run}, so it is fixed once the run has started",
            f"fork the run, which reuses every call that still applies: {fork_command(run, settings)}",
        )
    if new.target < old.target and new.target < kept:
        raise RefusedError(
            f"run {run} has already kept {format_quantity(kept, 'example')}",
            f"set a target of at least {kept}, or run `nanoflux run stop {run}`",
        )
    with Ledger(home.ledger) as ledger:
        ledger.reconfigure_run(run, new.model_dump(mode="json"))
        limits_changed = "target" in changed_keys or "max_turns" in changed_keys
        if row["status"] == "done" and kept < new.target and limits_changed:
            ledger.set_run_status(run, "paused", "the target or the turn limit was raised; resume the run")
    return new


def load_run(home: Home, run: str) -> tuple[RunConfig, dict[str, Identity], list[TurnRecord]]:
    """Load a run's configuration, the identities recorded at its start, and its committed turns.

    If a dataset was replaced since the run started, the configuration names the version that the run uses.
    """
    with LedgerView(home.ledger) as view:
        row = view.find_run(run)
        config = validate_model(RunConfig, json.loads(row["config"]), f"run {run}")
        version_by_dataset = view.pinned_versions(row["id"])
        if version_by_dataset:
            pinned_settings = {
                key: tuple(version_by_dataset.get(name, name) for name in getattr(config, key))
                for key in DATASET_SETTINGS
            }
            config = config.model_copy(update=pinned_settings)
        return config, read_recorded_identities(json.loads(row["environment"])), view.turn_records(run)


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """The result of a replay: the numbers of replayed turns and kept examples, the digest of these examples, and the
    digest of the recorded examples. `same` says whether the two digests are equal.
    """

    run: str
    turns: int
    kept: int
    digest: str
    recorded_digest: str
    same: bool


async def replay(home: Home, run: str) -> ReplayResult:
    """Replay a run from the ledger alone, without endpoints or a sandbox; nothing is written.

    Raises:
        ReplayMissError: a call that the run needs is not in the ledger.
    """
    config, identities, committed_turns = load_run(home, run)
    if not committed_turns:
        raise NothingMatchedError(f"run {run} has no turns to replay", f"resume it first: `nanoflux run resume {run}`")
    rules = build_rules(config, identities, home)
    with Ledger(home.ledger) as ledger:
        replayed_turns = await _replay_turns(rules, CachedCalls(ledger, run, {}), len(committed_turns))
    digest, recorded_digest = _digest_examples(replayed_turns), _digest_examples(committed_turns)
    kept = sum(record.kept for record in replayed_turns)
    return ReplayResult(run, len(replayed_turns), kept, digest, recorded_digest, digest == recorded_digest)


def _digest_examples(turns: Sequence[TurnRecord]) -> str:
    return dataset_digest(Example.of(record) for record in turns if record.kept)


async def _replay_turns(rules: Rules, calls: CachedCalls, turn_count: int) -> list[TurnRecord]:
    """Run the first `turn_count` turns again, one after another."""
    index, traced_calls = NoveltyIndex(), TracedCalls(calls)
    records: list[TurnRecord] = []
    await index_questions_of_other_runs(rules, index, traced_calls)
    for number in range(turn_count):
        record = await run_turn(rules, number, index.history(), traced_calls)
        await index_questions(rules, index, record, traced_calls)
        records.append(record)
    return records
