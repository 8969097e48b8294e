"""Previews a run before it starts: estimates its cost from an earlier run with the same models or from its own prompts,
places its servers on GPUs, and finds the error that would prevent its start.

No process is started, and no server is contacted.
"""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from nanoflux_local.config import PROGRAM, RunConfig
from nanoflux_local.domains.own import load_domain
from nanoflux_local.endpoints.managed.launches import Workload, collect_workloads, plan_servers
from nanoflux_local.errors import NanofluxError
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.roles.checks.base import list_enabled_checks
from nanoflux_local.roles.judge import needs_evaluation
from nanoflux_local.run.binding import bind, build_rules
from nanoflux_local.run.forecast import Forecast, RunPosition, Span, load_newest_turns, predict
from nanoflux_local.run.overflow import make_typical_requests, refuse_overflows
from nanoflux_local.seeds.datasets import build_seed_source, list_seed_datasets
from nanoflux_models.errors import ModelsError
from nanoflux_models.gpus import list_gpu_gib, survey_gpus
from nanoflux_models.placement import Placement

BYTES_PER_TOKEN = 4
"""The approximate number of bytes of English text per token, to estimate the size of prompts."""
EQUAL_SETTINGS = (
    "domain",
    "roles",
    "judge",
    "retries",
    "rules",
    "samples",
    "keep",
    "swap_roles",
    "budgets",
    "reply_tokens",
)
"""An earlier run predicts the cost of a new run only if both have the same models and the same values of these
settings.
"""


@dataclass(frozen=True, slots=True)
class RoleCost:
    """The cost of one role's requests in one attempt: their number (`calls`), their approximate prompt tokens, and
    upper bounds on their completion tokens and dollars. `most_usd` is None if the endpoint has no price.
    """

    role: str
    model: str
    calls: int
    prompt_tokens: int
    most_completion_tokens: int
    most_usd: float | None


@dataclass(frozen=True, slots=True)
class Estimate:
    """The estimated cost of a run that is to keep `target` examples. `attempt` has the cost of one attempt by role;
    every kept example needs at least one attempt. If there is an earlier similar run, `basis` is its id, and `forecast`
    and `calls` estimate the whole run; otherwise they are None.
    """

    attempt: tuple[RoleCost, ...]
    target: int
    basis: str = ""
    forecast: Forecast | None = None
    calls: Span | None = None

    @property
    def least_calls(self) -> int:
        """The number of chat requests if every attempt were kept."""
        return self.target * sum(cost.calls for cost in self.attempt)


@dataclass(frozen=True, slots=True)
class GpuPlan:
    """The placement of the managed servers on this machine's GPUs; `gpus` is the memory of each GPU in GiB. `problem`
    says why the servers do not fit, or why they would run on the CPU.
    """

    gpus: tuple[float, ...]
    workloads: Mapping[str, Workload]
    placement: Placement | None
    problem: str = ""


def estimate_run(config: RunConfig, home: Home) -> Estimate:
    """Estimate a run before it starts.

    Raises:
        NothingMatchedError: a benchmark that the run draws seeds from is missing.
    """
    attempt = tuple(_estimate_attempt(config, home))
    if not home.ledger.exists():
        return Estimate(attempt, config.target)
    with LedgerView(home.ledger) as view:
        for row in view.rows("SELECT id, config FROM runs ORDER BY rowid DESC"):
            if not _is_similar(config, json.loads(row["config"])):
                continue
            summary = view.summarize_run(row["id"])
            turns = load_newest_turns(view, RunPosition.of(summary))
            if not turns.allow_forecast:
                continue
            forecast = predict(turns, config.target, config.max_turns)
            calls_per_turn = summary.calls.made / max(1, summary.turns)
            calls = _multiply(forecast.turns, calls_per_turn) if forecast.turns else None
            return Estimate(attempt, config.target, str(row["id"]), forecast, calls)
    return Estimate(attempt, config.target)


def _multiply(span: Span, factor: float) -> Span:
    return Span(round(span.expected * factor), round(span.low * factor), round(span.high * factor))


def _is_similar(config: RunConfig, earlier_config: Mapping[str, Any]) -> bool:
    """Whether an earlier run had the same rules, prompts and models, so that its turns cost about as much as those of a
    new run.
    """
    values = config.model_dump(mode="json")
    for key in EQUAL_SETTINGS:
        if key in earlier_config and not _has_equal_settings(earlier_config[key], values[key]):
            return False
    earlier_endpoints = earlier_config.get("endpoints", {})
    for name in config.role_endpoints:
        endpoint, earlier_endpoint = values["endpoints"][name], earlier_endpoints.get(name, {})
        if any(endpoint.get(key) != earlier_endpoint.get(key) for key in ("interface", "model", "adapter")):
            return False
    return True


def _has_equal_settings(earlier: Any, current: Any) -> bool:
    """Whether two settings are equal. Tables are compared by the keys of the earlier one: earlier versions recorded
    fewer.
    """
    if isinstance(earlier, dict) and isinstance(current, dict):
        return all(_has_equal_settings(setting, current.get(key)) for key, setting in earlier.items())
    return bool(earlier == current)


def _estimate_attempt(config: RunConfig, home: Home) -> list[RoleCost]:
    """The cost of one attempt that passes validation, one entry for each role that a model plays."""
    domain = load_domain(config.domain, home.root)
    stitches_seeds = config.roles.attacker.endpoint == PROGRAM
    seed_source = build_seed_source(home.ledger, config.datasets or list_seed_datasets(domain), stitches_seeds)
    seeds = seed_source.draw(config.seeds.max, Random(0), set())
    judge_count = 1 + len(config.judge.panel)
    check_calls = sum(check.count_calls(config.judge).get("chat", 0) for check in list_enabled_checks(config.judge))
    # Each judge validates the question, and evaluates the defence unless a program grades it.
    judgements = 2 if needs_evaluation(config.judge, domain) else 1
    calls_by_role = {"attacker": 1, "defender": config.samples, "judge": judgements * judge_count + check_calls}
    cost_by_role: dict[str, RoleCost] = {}
    for request in make_typical_requests(config, domain, seeds):
        role = request.role
        if role in cost_by_role:  # if several endpoints play a role, the first one represents them all
            continue
        endpoint = config.endpoints[request.endpoint]
        calls = calls_by_role[role]
        prompt_bytes = calls * sum(len(message.content.encode()) for message in request.messages)
        prompt_tokens = prompt_bytes // BYTES_PER_TOKEN
        completion_tokens = calls * (request.answer_tokens + endpoint.reasoning_tokens)
        usd = endpoint.price.cost(prompt_tokens, completion_tokens) if endpoint.price else None
        cost_by_role[role] = RoleCost(role, endpoint.model, calls, prompt_tokens, completion_tokens, usd)
    return list(cost_by_role.values())


def plan_gpus(config: RunConfig, home: Home) -> GpuPlan | None:
    """Place the servers that the run would start on this machine's GPUs; None if it starts none."""
    endpoints = [config.endpoints[name] for name in config.role_endpoints]
    workloads = collect_workloads(endpoints, config.concurrency, home)
    if not workloads:
        return None
    gpus = tuple(list_gpu_gib())
    if not gpus:
        problem = survey_gpus().problem or "no GPU reports its memory"
        return GpuPlan((), workloads, None, f"{problem}; the servers would run on the CPU")
    placement = plan_servers(workloads.values(), list(gpus), fill_gpus=True)
    problem = "" if placement.fits else f"{placement.refusal}; what would fit: {'; '.join(placement.would_fit)}"
    return GpuPlan(gpus, workloads, placement, problem)


def find_obstacle(config: RunConfig, home: Home) -> NanofluxError | ModelsError | None:
    """The error that would make `run start` refuse this run (for instance missing weights or keys), or None."""
    try:
        asyncio.run(_bind_and_close(config, home))
    except (NanofluxError, ModelsError) as error:
        return error
    return None


async def _bind_and_close(config: RunConfig, home: Home) -> None:
    """Check everything that `runs.start` checks, without creating a run. Raises the errors that `runs.start` would
    raise.
    """
    run_endpoints = bind(config, home)
    try:
        identities = await run_endpoints.identities()
        refuse_overflows(run_endpoints, build_rules(config, identities, home), load_domain(config.domain, home.root))
    finally:
        await run_endpoints.close()
