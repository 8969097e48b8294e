"""Rehearses a profile step by step, in the order in which a lab would work: plan, serve, run turns, export, train,
load, evaluate, sleep, stop.

This module defines the order of the steps and what each must prove. A model that several profiles use is tested once.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

from nanoflux_local.adapters.store import find_adapter
from nanoflux_local.config import EndpointConfig, RunConfig, merge_tables
from nanoflux_local.domains.own import load_domain
from nanoflux_local.endpoints.base import Endpoint
from nanoflux_local.endpoints.build import build_model_endpoint
from nanoflux_local.endpoints.kinds.base import find_kind, list_adapter_kinds
from nanoflux_local.endpoints.managed.launches import (
    Workload,
    assign_resources,
    build_managed,
    collect_workloads,
    plan_servers,
)
from nanoflux_local.errors import ConfigError, NanofluxError
from nanoflux_local.evaluate.evaluation import evaluate, make_plan
from nanoflux_local.examples.export import export
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.quantities import format_quantity
from nanoflux_local.reasoning import strip_reasoning
from nanoflux_local.records import ChatRequest, Message, Sampling
from nanoflux_local.rehearsal.environment import RehearsalEnvironment, list_managed_endpoints
from nanoflux_local.rehearsal.exchanges import GREETING, REASONING, Exchange, write_exchanges
from nanoflux_local.rehearsal.fitting import fit_stand_in, list_phrases
from nanoflux_local.rehearsal.steps import RehearsalReport, StepSkipped
from nanoflux_local.run import runs
from nanoflux_local.run.configs import load_profile, resolve
from nanoflux_local.run.rule_sets import PAPER
from nanoflux_local.seeds.datasets import build_seed_source, list_seed_datasets, load_items
from nanoflux_local.train import trainings
from nanoflux_local.train.settings import parse_train_settings
from nanoflux_local.train.targets import resolve_targets
from nanoflux_models.errors import ModelsError
from nanoflux_models.gpus import list_gpu_gib
from nanoflux_models.manifest import load_manifest
from nanoflux_models.probe import probe
from nanoflux_models.server_client import ServerClient
from nanoflux_models.stand_ins import find_family, make_stand_in
from nanoflux_models.stand_ins.gpt_oss import read_harmony_vocabulary
from nanoflux_models.weights import import_path, weights_dir

DOMAIN = "starter"
"""The domain of every rehearsed run; it is also the name of its benchmark."""
ITEM_COUNT = 20
"""The number of items of the benchmark's test split that are evaluated."""
GPU_GIB = 40.0
"""The GPU size for which a profile is planned on a machine without GPUs."""
MAX_PLANNED_GPUS = 8
"""The largest number of GPUs for which a profile is planned on a machine without GPUs."""
RUN_OVERRIDES = {
    "rules": PAPER,
    "samples": 1,
    "keep": "failed",
    "target": 2,
    "max_turns": 4,
    "concurrency": 4,
    "judge": {
        "checks": [], "grading": "judge", "trial": 0, "code_check": False, "quality": False, "fact_check": False
    },
}  # fmt: skip
"""The settings that a rehearsed run replaces in its profile. No check is enabled, since the stand-ins are not fitted to
the prompts of checks."""
WIDE_SIZES = {"hidden_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2}
"""The sizes of a wider stand-in for gpt-oss. vLLM splits a reply of gpt-oss into dozens of tokens, and only a wider
model can be fitted to so many.
"""
WIDE_WEIGHT_STD = 0.04
"""The standard deviation of a wider stand-in's weights: rounding to 16 bits changes the hidden states by 4%; with 0.08,
by 16%."""
VALIDATION_ROWS = 2
"""The number of rows for the validation loss of each epoch. The dozen rows of a run would take most of a rehearsal's
training time."""


@dataclass(slots=True)
class _ProfileState:
    """A profile under rehearsal, and what its steps have produced so far."""

    config: RunConfig
    managed: dict[str, EndpointConfig]
    """The endpoints with managed servers, by model (`environment.list_managed_endpoints`)."""
    base: str = ""
    """The model to train: the defender's if it accepts adapters, else another model that does; "" if none does."""
    run: str = ""
    """The id of the run; "" before it is created."""
    adapter: str = ""
    """The hash of the trained adapter; "" before the training."""


def rehearse(profile: str, environment: RehearsalEnvironment, report: RehearsalReport) -> None:
    """Rehearse one profile, and add the steps to `report`. A step is performed only if the steps that it needs have
    passed.
    """
    state = _configure(profile, environment, report)
    if state is None:
        return
    stand_ins = [model for model in state.managed if _perform_stand_in(state, environment, report, model)]
    has_all_stand_ins = len(stand_ins) == len(state.managed)
    run_fits = has_all_stand_ins and report.perform("run", "", lambda: _start_run(state, environment))
    served_models: list[str] = []
    if run_fits:
        served_models = [model for model in stand_ins if _perform_serve(state, environment, report, model)]
    all_served = run_fits and len(served_models) == len(state.managed)
    if all_served and report.perform("turns", "", lambda: _run_turns(state, environment)):
        report.perform("export", "", lambda: _export(state, environment))
        _train_and_compare(state, environment, report)
    reported_steps = {step.name for step in report.steps}
    for name in ("run", "serve", "turns", "export", "train", "load", "evaluate"):
        if name not in reported_steps:
            report.skip(name, "", "an earlier step failed")
    for model in served_models:
        report.perform("sleep and wake", model, partial(_sleep_and_wake, state, environment, model))


def rehearse_all(environment: RehearsalEnvironment, reports: Sequence[RehearsalReport]) -> None:
    """Rehearse several profiles in one environment, and stop its servers at the end."""
    for report in reports:
        with suppress(NanofluxError, ModelsError):  # an invalid profile is reported by its first step
            config = _resolve_profile(report.profile, environment)
            for model, endpoint in list_managed_endpoints(config).items():
                environment.contexts[model] = max(endpoint.context, environment.contexts.get(model, 0))
    for report in reports:
        rehearse(report.profile, environment, report)
    if reports:  # the servers are stopped once; the last profile's report has this step
        reports[-1].perform("stop", "", environment.stop_and_describe)


def _configure(profile: str, environment: RehearsalEnvironment, report: RehearsalReport) -> _ProfileState | None:
    """Perform the steps `profile` and `plan`. Return the state of the rehearsal; None if the step `profile` failed."""
    state: _ProfileState | None = None

    def configure() -> str:
        nonlocal state
        config = _resolve_profile(profile, environment)
        state = _ProfileState(config, list_managed_endpoints(config))
        tunable_models = [model for model in state.managed if load_manifest(model, environment.home.root).lora]
        defender = config.endpoints[config.roles.defender.endpoint].model
        state.base = defender if defender in tunable_models else next(iter(tunable_models), "")
        hosted_endpoints = [
            name for name in config.role_endpoints if not find_kind(config.endpoints[name].interface).managed
        ]
        managed_models = format_quantity(len(state.managed), "model")
        hosted_models = format_quantity(len(hosted_endpoints), "hosted model")
        return f"{managed_models} on vLLM, {hosted_models} replaced by the fake server"

    def plan() -> str:
        assert state is not None
        return _plan_servers(_list_workloads(state, environment))

    if report.perform("profile", "", configure):
        report.perform("plan", "", plan)
    return state


def _resolve_profile(profile: str, environment: RehearsalEnvironment) -> RunConfig:
    """The configuration of the profile's rehearsed run. Raises ConfigError if an endpoint runs in process."""
    values = load_profile(profile)
    endpoint_tables = values.get("endpoints", {})
    on_cpu = not list_gpu_gib() or environment.prepare_interpreter().serves_on_cpu
    overrides = merge_tables(RUN_OVERRIDES, environment.build_overrides(endpoint_tables, on_cpu))
    config = resolve(DOMAIN, profile, overrides, environment.home)
    in_process_names = [name for name in config.role_endpoints if config.endpoints[name].interface == "in_process"]
    if in_process_names:
        fix = "start a run instead: `nanoflux demo` needs neither a GPU nor a server"
        raise ConfigError(
            f"profile {profile} runs endpoint {in_process_names[0]!r} in process, which needs no rehearsal", fix
        )
    return config


def _list_workloads(state: _ProfileState, environment: RehearsalEnvironment) -> list[Workload]:
    """The load that the profile puts on each model with a managed server."""
    return list(collect_workloads(state.managed.values(), state.config.concurrency, environment.home).values())


def _plan_servers(workloads: list[Workload]) -> str:
    """Place the models of the workloads on this machine's GPUs. On a machine without GPUs, place them on the smallest
    number of GPUs of `GPU_GIB` that holds them.

    Raises:
        NanofluxError: the models do not fit.
    """
    if not workloads:
        raise StepSkipped("this profile serves no model on this machine")
    gpus = list_gpu_gib()
    gpu_options = [gpus] if gpus else [[GPU_GIB] * count for count in range(1, MAX_PLANNED_GPUS + 1)]
    placements = [plan_servers(workloads, option) for option in gpu_options]
    fitting_options = [index for index, placement in enumerate(placements) if placement.fits]
    if not fitting_options:
        raise NanofluxError(placements[-1].refusal, "use one of: " + "; ".join(placements[-1].would_fit))
    placement = placements[fitting_options[0]]
    chosen_gpus = gpu_options[fitting_options[0]]
    origin = "of this machine" if gpus else "(planned: this machine has none)"
    sharing_models = [server.name for server in placement.servers if server.shares]
    sharing = f"; {', '.join(sharing_models)} take turns" if sharing_models else ""
    noun, verb = ("GPU", "holds") if len(chosen_gpus) == 1 else ("GPUs", "hold")
    models = format_quantity(len(workloads), "model")
    return f"{len(chosen_gpus)} × {chosen_gpus[0]:g} GiB {noun} {origin} {verb} {models} at full size{sharing}"


def _perform_once(
    environment: RehearsalEnvironment, report: RehearsalReport, name: str, model: str, work: Callable[[], str]
) -> bool:
    """Perform a step that depends only on the model, unless it passed in an earlier profile with this model; then
    report the earlier result.
    """
    key = (name, model)

    def reuse_or_work() -> str:
        if key in environment.passed_steps:
            return f"as before: {environment.passed_steps[key]}"
        environment.passed_steps[key] = work()
        return environment.passed_steps[key]

    return report.perform(name, model, reuse_or_work)


def _make_stand_in(state: _ProfileState, environment: RehearsalEnvironment, model: str) -> str:
    """Make and fit a stand-in, and install it under the model's name and packaged manifest."""
    manifest = load_manifest(model, environment.home.root)
    family = find_family(manifest.architecture, model)
    python = environment.prepare_interpreter().path
    earlier_stand_ins = [name for step, name in environment.passed_steps if step == "stand-in"]
    stand_in_number = len(earlier_stand_ins)
    exchanges = _write_exchanges(state, environment, model, stand_in_number)
    prompts: list[str] = []
    for exchange in exchanges:
        prompts += [message.content for message in exchange.messages]
    replies = [exchange.reply for exchange in exchanges]
    texts = [REASONING, *prompts, *replies]
    harmony_vocabulary = read_harmony_vocabulary(python) if family.model_type == "gpt_oss" else None
    folder = environment.home.root / "stand-ins" / model
    if harmony_vocabulary:
        make_stand_in(
            family,
            folder,
            texts,
            harmony_vocabulary,
            seed=stand_in_number,
            overrides=WIDE_SIZES,
            weight_std=WIDE_WEIGHT_STD,
        )
    else:
        make_stand_in(family, folder, texts, seed=stand_in_number, phrases=list_phrases(exchanges))
    summary = fit_stand_in(folder, manifest, family, exchanges, python)
    import_path(folder, model, environment.home.root)
    difference = f"; {family.difference}" if family.difference else ""
    return f"tiny {family.architecture}, random weights, {summary}{difference}"


def _write_exchanges(
    state: _ProfileState, environment: RehearsalEnvironment, model: str, stand_in_number: int
) -> list[Exchange]:
    """The exchanges of a model's stand-in; only the stand-in that is trained also answers the items to evaluate."""
    domain = load_domain(DOMAIN, environment.home.root)
    source = build_seed_source(environment.home.ledger, state.config.datasets or list_seed_datasets(domain), False)
    items = load_items(environment.home.ledger, DOMAIN, "test")[:ITEM_COUNT] if model == state.base else ()
    return write_exchanges(state.config, domain, source, stand_in_number, items)


def _perform_stand_in(
    state: _ProfileState, environment: RehearsalEnvironment, report: RehearsalReport, model: str
) -> bool:
    """Make the stand-in of a model; return whether the step passed."""
    return _perform_once(environment, report, "stand-in", model, lambda: _make_stand_in(state, environment, model))


def _start_run(state: _ProfileState, environment: RehearsalEnvironment) -> str:
    """Create the run, without executing it.

    Raises:
        NanofluxError: the run's requests do not fit the context of a model.
    """
    state.run = asyncio.run(runs.start(environment.home, state.config))
    return "the requests fit the models' contexts"


def _perform_serve(
    state: _ProfileState, environment: RehearsalEnvironment, report: RehearsalReport, model: str
) -> bool:
    """Start the server of a model and chat with it; return whether the step passed."""
    return report.perform("serve", model, lambda: _start_and_chat(state, environment, model))


def _start_and_chat(state: _ProfileState, environment: RehearsalEnvironment, model: str) -> str:
    """Start the model's server unless it is running, and send it one chat request through the client that runs use.

    Raises:
        NanofluxError: the server does not start, or the reply is empty.
    """
    endpoint = state.managed[model]
    resources_by_model = assign_resources(_list_workloads(state, environment), fill_gpus=True)
    launch = environment.make_launch(endpoint, resources_by_model[model], accepts_adapters=model == state.base)
    record = environment.serve(launch)

    async def chat() -> str:
        clients, _ = build_managed({model: endpoint}, environment.home)
        client = clients[model]
        try:
            question = (Message("user", GREETING),)
            reply = await client.chat(ChatRequest(client.identity, question, Sampling(0.0, 1.0, 128), seed=1))
            if not strip_reasoning(reply.text).strip():
                raise NanofluxError(
                    f"{model} answers {GREETING!r} with an empty reply",
                    f"read the server's log with `nanoflux models logs {model}`",
                )
            return f"{format_quantity(reply.completion_tokens, 'token')} in {reply.seconds:.1f} s"
        finally:
            await client.close()

    version = environment.prepare_interpreter().vllm
    return f"vLLM {version} answers with {asyncio.run(chat())}, context {record.context}"


def _run_turns(state: _ProfileState, environment: RehearsalEnvironment) -> str:
    """Run a few turns, in which every role gets requests. Models that swap roles attack at least once each."""
    asyncio.run(runs.execute(environment.home, state.run))
    with LedgerView(environment.home.ledger) as view:
        summary = view.summarize_run(state.run)
    if not summary.kept:
        funnel = ", ".join(f"{count} {name}" for name, count in summary.funnel.items() if count)
        faults = ", ".join(f"{count} {kind}" for kind, count in summary.faults.items())
        fix = f"inspect the run with `nanoflux run show {state.run}`"
        turns = format_quantity(summary.turns, "turn")
        raise NanofluxError(f"no example was kept in {turns}: {funnel or faults or 'no attempt'}", fix)
    usage = summary.usage
    return (
        f"{summary.kept} kept of {summary.turns}, {format_quantity(summary.calls.made, 'call')}, "
        f"{usage.prompt_tokens} prompt and {format_quantity(usage.completion_tokens, 'completion token')}"
    )


def _export(state: _ProfileState, environment: RehearsalEnvironment) -> str:
    """Export the kept examples as chat messages."""
    path = environment.home.root / f"{state.run}.jsonl"
    return format_quantity(export(environment.home, state.run, "chat", path).rows, "row")


def _train_and_compare(state: _ProfileState, environment: RehearsalEnvironment, report: RehearsalReport) -> None:
    """Train an adapter, load it on the server, and evaluate it with every kind of endpoint."""
    base = state.base
    if not base:
        for name in ("train", "load", "evaluate"):
            report.skip(name, "", "no model of this profile accepts an adapter")
        return
    if _perform_once(environment, report, "train", base, lambda: _train(state, environment)):
        adapter_hashes = [path.name for path in environment.home.adapters.iterdir() if not path.name.startswith(".")]
        state.adapter = adapter_hashes[0]
        _perform_once(environment, report, "load", base, lambda: _load(state, environment))
        _perform_once(environment, report, "evaluate", base, lambda: _evaluate(state, environment))
    else:
        for name in ("load", "evaluate"):
            report.skip(name, base, "no adapter was trained")


def _train(state: _ProfileState, environment: RehearsalEnvironment) -> str:
    """Train a LoRA with the default settings on the run's examples."""
    settings = trainings.apply_manifest_targets(environment.home, state.base, parse_train_settings({}))
    data = trainings.load_run_data(environment.home, state.run)
    data = replace(data, validation=data.validation[:VALIDATION_ROWS])
    targets = resolve_targets(weights_dir(state.base, environment.home.root), settings.target_modules)
    outcome = trainings.train_adapter(
        environment.home, data.run, state.base, settings, data.rows, data.validation, source=data.source
    )
    losses = f"train loss {outcome.train_losses[0]:.2f} to {outcome.train_losses[-1]:.2f}"
    return f"{outcome.adapter[:12]} adapts {targets}; {losses} in {format_quantity(outcome.steps, 'step')}"


def _load(state: _ProfileState, environment: RehearsalEnvironment) -> str:
    """Load the adapter on the running server and probe the server."""
    record = environment.servers[state.base]
    folder = find_adapter(environment.home.adapters, state.adapter)
    client = ServerClient(record.url)
    client.load_adapter(state.adapter, folder)
    outcome = probe(client, state.base, weights_dir(state.base, environment.home.root), folder, state.adapter)
    if not outcome.passed:
        fix = f"probe the adapter again with `nanoflux models probe {state.adapter[:12]}`"
        raise NanofluxError(outcome.verdict, fix)
    environment.servers[state.base] = environment.supervisor.record_passed_probe(record, state.adapter)
    return outcome.verdict


def _evaluate(state: _ProfileState, environment: RehearsalEnvironment) -> str:
    """Evaluate the same items in process, through vLLM, and merged. The answers and strict marks must agree."""
    args = state.managed[state.base].args
    answers_by_kind = {kind: _evaluate_kind(state, environment, kind, args) for kind in list_adapter_kinds()}
    in_process_answers = answers_by_kind["in_process"]
    for kind, answers in answers_by_kind.items():
        differing_items = [item for item in in_process_answers if answers.get(item) != in_process_answers[item]]
        if differing_items:
            item = differing_items[0]
            share = f"{len(differing_items)} of {format_quantity(len(in_process_answers), 'item')}"
            verb = "differs" if len(differing_items) == 1 else "differ"
            raise NanofluxError(
                f"{share} {verb} between in_process and {kind}, such as {item}: {in_process_answers[item]} and "
                f"{answers.get(item)}",
                f"probe the adapter with `nanoflux models probe {state.adapter[:12]}`",
            )
    marks = [mark for _, mark in in_process_answers.values()]
    right_count = marks.count("right")
    items = format_quantity(len(in_process_answers), "item")
    verb = "agrees" if len(in_process_answers) == 1 else "agree"
    return f"{items} {verb} in process, through vLLM and merged ({right_count} right, as expected)"


def _evaluate_kind(
    state: _ProfileState, environment: RehearsalEnvironment, kind: str, args: tuple[str, ...]
) -> dict[str, tuple[str, str]]:
    """Evaluate with one kind of endpoint; return each item's answer and strict mark, by item."""
    items = load_items(environment.home.ledger, DOMAIN, "test")[:ITEM_COUNT]

    async def run_evaluation() -> str:
        endpoint: Endpoint = build_model_endpoint(state.base, state.adapter, environment.home, kind, args)
        try:
            plan = make_plan(endpoint.identity, DOMAIN, "test", items, 1, 0.0, root=environment.home.root)
            with Ledger(environment.home.ledger) as ledger:
                evaluation = await evaluate(ledger, endpoint, plan)
            return evaluation.id
        finally:
            await endpoint.close()

    evaluation_id = asyncio.run(run_evaluation())
    query = "SELECT item, reading, verdict FROM evaluation_items WHERE evaluation = ?"
    with LedgerView(environment.home.ledger) as view:
        return {row["item"]: (row["reading"], row["verdict"]) for row in view.rows(query, evaluation_id)}


def _sleep_and_wake(state: _ProfileState, environment: RehearsalEnvironment, model: str) -> str:
    """Put the model's server to sleep and wake it. Skipped without a GPU, or if the model has its GPU to itself."""
    if environment.prepare_interpreter().serves_on_cpu:
        raise StepSkipped("vLLM's sleep mode needs a GPU")
    if not state.managed[model].shares:
        raise StepSkipped("the model shares its GPU with no other")
    client = ServerClient(environment.servers[model].url)
    client.sleep()
    client.wake()
    if client.is_asleep():
        fix = f"read the server's log with `nanoflux models logs {model}`"
        raise NanofluxError(f"the server of {model} does not wake", fix)
    return "sleeps and wakes"
