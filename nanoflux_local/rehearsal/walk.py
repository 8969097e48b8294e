"""The walk itself: plan, serve, play, export, train, load, evaluate, sleep, stop, in the order in which a lab would.

Owns the order and what each step has to show. Each model is proved once, however many profiles use it.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from nanoflux_local.adapters.store import find_adapter
from nanoflux_local.config import EndpointConfig, RunConfig, merge_tables
from nanoflux_local.domains.own import load_domain
from nanoflux_local.endpoints.base import Endpoint
from nanoflux_local.endpoints.build import build_model_endpoint
from nanoflux_local.endpoints.kinds.base import adapter_kinds, find_kind
from nanoflux_local.endpoints.managed.launches import Workload, build_managed, plan_servers, seats, workloads
from nanoflux_local.errors import ConfigError, NanofluxError
from nanoflux_local.evaluate.evaluation import evaluate, make_plan
from nanoflux_local.examples.export import export
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.records import ChatRequest, Message, Sampling
from nanoflux_local.rehearsal.lessons import THOUGHTS, Lesson, lessons
from nanoflux_local.rehearsal.stage import Stage
from nanoflux_local.rehearsal.steps import Report, StepSkipped
from nanoflux_local.rehearsal.teaching import phrases, teach
from nanoflux_local.run import runs
from nanoflux_local.run.configs import load_profile, resolve
from nanoflux_local.seeds.datasets import load_items, seed_datasets, seed_source
from nanoflux_local.train import trainings
from nanoflux_local.train.settings import parse_train_settings
from nanoflux_local.train.targets import resolve_targets
from nanoflux_models.control import Control
from nanoflux_models.errors import ModelsError
from nanoflux_models.gpus import found_gpus
from nanoflux_models.manifest import load_manifest
from nanoflux_models.probe import probe
from nanoflux_models.stand_ins import family_of, make_stand_in
from nanoflux_models.stand_ins.gpt_oss import harmony_words
from nanoflux_models.weights import import_path, weights_dir

DOMAIN = "starter"
ITEMS = 20
CARD_GIB = 40.0
"""The cards that a profile is planned for where this machine has none."""
OVERRIDES = {
    "target": 2,
    "max_turns": 4,
    "concurrency": 4,
    "judge": {"trial": 0, "code_check": False, "quality": False, "fact_check": False},
}
WIDER = {"hidden_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2}
"""gpt-oss is decoded with its server's vocabulary, in which a reply is dozens of tokens that have to be told apart."""
CALM = 0.04
"""The spread of a wide stand-in's weights: at 0.08 rounding to 16 bits changes its states by 16%, at this by 4%."""
VALIDATED = 2
"""Rows for the validation loss of each epoch: a run's usual dozen would take most of a rehearsal's training."""


@dataclass(slots=True)
class _Act:
    """One profile while it is rehearsed."""

    config: RunConfig
    managed: dict[str, EndpointConfig]
    """The endpoints on managed servers that play a role, one for each model, by model."""
    base: str = ""
    """The model that is trained: the defender's, or another that takes adapters."""
    run: str = ""
    adapter: str = ""


def rehearse(profile: str, stage: Stage, report: Report) -> None:
    """Walk one profile; its steps go into `report`."""
    act = _configured(profile, stage, report)
    if act is None:
        return
    made = [model for model in act.managed if _prepare(act, stage, report, model)]
    started = len(made) == len(act.managed) and report.perform("run", "", lambda: _start_run(act, stage))
    up = [model for model in made if started and _serve(act, stage, report, model)]
    played = started and len(up) == len(act.managed) and report.perform("turns", "", lambda: _play(act, stage))
    if played:
        report.perform("export", "", lambda: _export(act, stage))
        _train_and_compare(act, stage, report)
    done = {step.name for step in report.steps}
    for name in ("run", "serve", "turns", "export", "train", "load", "evaluate"):
        if name not in done:
            report.skip(name, "", "a step before it failed")
    for model in up:
        report.perform("sleep and wake", model, lambda model=model: _sleep_and_wake(act, stage, model))  # type: ignore[misc]


def rehearse_all(stage: Stage, reports: Sequence[Report]) -> None:
    """Walk several profiles on one stage, and stop its servers at the end of each that is the last to need them."""
    for report in reports:
        with suppress(NanofluxError, ModelsError):  # reported by the profile's own first step
            for model, endpoint in _managed(_config(report.profile, stage)).items():
                stage.contexts[model] = max(endpoint.context, stage.contexts.get(model, 0))
    for report in reports:
        rehearse(report.profile, stage, report)
    for report in reports[-1:]:
        report.perform("stop", "", lambda: f"{stage.stop()} servers ended, nothing is left of them")


def _configured(profile: str, stage: Stage, report: Report) -> _Act | None:
    """The profile's configuration and plan; None if either fails."""
    act: _Act | None = None

    def configure() -> str:
        nonlocal act
        config = _config(profile, stage)
        act = _Act(config, _managed(config))
        takes_adapter = [model for model in act.managed if load_manifest(model, stage.home.root).lora]
        defender = config.endpoints[config.roles.defender.endpoint].model
        act.base = defender if defender in takes_adapter else next(iter(takes_adapter), "")
        hosted = len(config.players) - len(
            [n for n in config.players if find_kind(config.endpoints[n].interface).managed]
        )
        return f"{len(act.managed)} models on vLLM, {hosted} hosted ones played by the fake server"

    def plan() -> str:
        assert act is not None
        return _plan(_workloads(act, stage))

    if report.perform("profile", "", configure):
        report.perform("plan", "", plan)
    return act


def _config(profile: str, stage: Stage) -> RunConfig:
    values = load_profile(profile)
    stated = values.get("endpoints", {})
    for_cpu = not found_gpus() or stage.interpreter().for_cpu
    overrides = merge_tables(OVERRIDES, stage.overrides(stated, for_cpu))
    config = resolve(DOMAIN, profile, overrides, stage.home)
    local = [name for name in config.players if config.endpoints[name].interface == "in_process"]
    if local:
        fix = "run it: `nanoflux demo` needs neither a GPU nor a server"
        raise ConfigError(f"profile {profile} plays {local[0]!r} in process, which needs no rehearsal", fix)
    return config


def _managed(config: RunConfig) -> dict[str, EndpointConfig]:
    chosen = [config.endpoints[name] for name in config.players]
    return {endpoint.model: endpoint for endpoint in chosen if find_kind(endpoint.interface).managed}


def _workloads(act: _Act, stage: Stage) -> list[Workload]:
    return list(workloads(act.managed.values(), act.config.concurrency, stage.home).values())


def _plan(models: list[Workload]) -> str:
    """The smallest number of cards that the plan fits, or that of this machine."""
    if not models:
        raise StepSkipped("no model of this profile is served here")
    gpus = found_gpus()
    counts = [gpus] if gpus else [[CARD_GIB] * count for count in range(1, 9)]
    plans = [plan_servers(models, each) for each in counts]
    fitting = next((plan for plan in plans if plan.fits), None)
    if fitting is None:
        raise NanofluxError(plans[-1].refusal, "; ".join(plans[-1].would_fit))
    cards = counts[plans.index(fitting)]
    where = "this machine's" if gpus else "planned for, none is here:"
    shared = [server.name for server in fitting.servers if server.shares]
    turns = f"; {', '.join(shared)} take turns" if shared else ""
    return f"{where} {len(cards)} × {cards[0]:g} GiB hold {len(models)} models at true size{turns}"


def _once(stage: Stage, report: Report, name: str, model: str, work: Callable[[], str]) -> bool:
    """A step that is about a model alone, done for the first profile that has it."""
    key = (name, model)

    def remembered() -> str:
        if key not in stage.proved:
            stage.proved[key] = work()
            return stage.proved[key]
        return f"as before: {stage.proved[key]}"

    return report.perform(name, model, remembered)


def _make(act: _Act, stage: Stage, model: str) -> str:
    """Make the stand-in, teach it, and install it under the model's name and packaged manifest."""
    manifest = load_manifest(model, stage.home.root)
    family, python = family_of(manifest.architecture, model), stage.interpreter().path
    number = len([name for name, _ in stage.proved if name == "stand-in"])
    taught = _lessons(act, stage, model, number)
    texts = [THOUGHTS, *(m.content for lesson in taught for m in lesson.messages), *(each.reply for each in taught)]
    words = harmony_words(python) if family.model_type == "gpt_oss" else None
    folder = stage.home.root / "stand-ins" / model
    if words:
        make_stand_in(family, folder, texts, words, number, tiny=WIDER, spread=CALM)
    else:
        make_stand_in(family, folder, texts, seed=number, phrases=phrases(taught))
    learnt = teach(folder, manifest, family, taught, python)
    import_path(folder, model, stage.home.root)
    differs = f"; {family.differs}" if family.differs else ""
    return f"tiny {family.architecture}, random weights, {learnt}{differs}"


def _lessons(act: _Act, stage: Stage, model: str, number: int) -> list[Lesson]:
    domain = load_domain(DOMAIN, stage.home.root)
    source = seed_source(stage.home.ledger, act.config.datasets or seed_datasets(domain), False)
    items = load_items(stage.home.ledger, DOMAIN, "test")[:ITEMS] if model == act.base else ()
    return lessons(act.config, domain, source, number, items)


def _prepare(act: _Act, stage: Stage, report: Report, model: str) -> bool:
    return _once(stage, report, "stand-in", model, lambda: _make(act, stage, model))


def _start_run(act: _Act, stage: Stage) -> str:
    """Create the run, which refuses contexts that its requests do not fit."""
    act.run = asyncio.run(runs.start(stage.home, act.config))
    return "its requests fit the contexts of its models"


def _serve(act: _Act, stage: Stage, report: Report, model: str) -> bool:
    return report.perform("serve", model, lambda: _start_and_ask(act, stage, model))


def _start_and_ask(act: _Act, stage: Stage, model: str) -> str:
    """Start the server, or keep the one that runs, and have one chat answered through the client that runs use."""
    endpoint = act.managed[model]
    places = seats(_workloads(act, stage), whole=True)
    record = stage.serve(stage.launch(endpoint, places[model], adapts=model == act.base))

    async def ask() -> str:
        client = build_managed({model: endpoint}, stage.home)[0][model]
        try:
            reply = await client.chat(
                ChatRequest(client.identity, (Message("user", "What is 7 times 12?"),), Sampling(0.0, 1.0, 16), seed=1)
            )
            return f"{reply.completion_tokens} tokens in {reply.seconds:.1f} s"
        finally:
            await client.close()

    return f"vLLM {stage.interpreter().vllm} answers with {asyncio.run(ask())}, context {record.context}"


def _play(act: _Act, stage: Stage) -> str:
    """A few turns with every role; both players attack once."""
    asyncio.run(runs.carry_on(stage.home, act.run))
    with LedgerView(stage.home.ledger) as view:
        summary = view.summarize_run(act.run)
    if not summary.kept:
        funnel = ", ".join(f"{count} {name}" for name, count in summary.funnel.items() if count)
        faults = ", ".join(f"{count} {kind}" for kind, count in summary.faults.items())
        raise NanofluxError(f"nothing was kept in {summary.turns} turns: {funnel or faults or 'no attempt'}", "")
    usage = summary.usage
    return (
        f"{summary.kept} kept of {summary.turns}, {summary.calls.made} calls, "
        f"{usage.prompt_tokens} tokens read, {usage.completion_tokens} written"
    )


def _export(act: _Act, stage: Stage) -> str:
    out = stage.home.root / f"{act.run}.jsonl"
    return f"{export(stage.home, act.run, 'chat', out).rows} rows"


def _train_and_compare(act: _Act, stage: Stage, report: Report) -> None:
    base = act.base
    if not base:
        for name in ("train", "load", "evaluate"):
            report.skip(name, "", "no model of this profile takes an adapter")
        return
    if _once(stage, report, "train", base, lambda: _train(act, stage)):
        act.adapter = next(path.name for path in stage.home.adapters.iterdir() if not path.name.startswith("."))
        _once(stage, report, "load", base, lambda: _load(act, stage))
        _once(stage, report, "evaluate", base, lambda: _evaluate(act, stage))
    else:
        for name in ("load", "evaluate"):
            report.skip(name, base, "no adapter was trained")


def _train(act: _Act, stage: Stage) -> str:
    """LoRA with the default settings on the few rows that were kept."""
    settings = trainings.apply_manifest_targets(stage.home, act.base, parse_train_settings({}))
    data = trainings.load_run_data(stage.home, act.run)
    data = replace(data, validation=data.validation[:VALIDATED])
    adapted = resolve_targets(weights_dir(act.base, stage.home.root), settings.target_modules)
    outcome = trainings.train_adapter(
        stage.home, data.run, act.base, settings, data.rows, data.validation, source=data.source
    )
    losses = f"train loss {outcome.train_losses[0]:.2f} to {outcome.train_losses[-1]:.2f}"
    return f"{outcome.adapter[:12]} adapts {adapted}; {losses} in {outcome.steps} steps"


def _load(act: _Act, stage: Stage) -> str:
    """Load the adapter on the running server and prove it."""
    record, folder = stage.servers[act.base], find_adapter(stage.home.adapters, act.adapter)
    control = Control(record.url)
    control.load_adapter(act.adapter, folder)
    outcome = probe(control, act.base, weights_dir(act.base, stage.home.root), folder, act.adapter)
    if not outcome.passed:
        raise NanofluxError(outcome.verdict, f"nanoflux models probe {act.adapter[:12]}")
    stage.servers[act.base] = stage.supervisor.note_proved(record, act.adapter)
    return outcome.verdict


def _evaluate(act: _Act, stage: Stage) -> str:
    """The same items three ways: every answer that is read and every strict mark has to agree."""
    args = act.managed[act.base].args
    marks = {via: _marks(act, stage, via, args) for via in adapter_kinds()}
    first = marks["in_process"]
    for via in marks:
        differing = [item for item in first if marks[via].get(item) != first[item]]
        if differing:
            item = differing[0]
            raise NanofluxError(
                f"{len(differing)} of {len(first)} items differ between in_process and {via}, such as {item}: "
                f"{first[item]} and {marks[via].get(item)}",
                f"nanoflux models probe {act.adapter[:12]}",
            )
    right = sum(mark == "right" for _, mark in first.values())
    return f"{len(first)} items agree in process, through vLLM and merged ({right} right: a stand-in recites)"


def _marks(act: _Act, stage: Stage, via: str, args: tuple[str, ...]) -> dict[str, tuple[str, str]]:
    """By item, the answer that was read and its strict mark."""
    items = load_items(stage.home.ledger, DOMAIN, "test")[:ITEMS]

    async def ask() -> str:
        endpoint: Endpoint = build_model_endpoint(act.base, act.adapter, stage.home, via, args)
        try:
            plan = make_plan(endpoint.identity, DOMAIN, "test", items, 1, 0.0, root=stage.home.root)
            with Ledger(stage.home.ledger) as ledger:
                return (await evaluate(ledger, endpoint, plan)).id
        finally:
            await endpoint.close()

    evaluation = asyncio.run(ask())
    query = "SELECT item, reading, verdict FROM evaluation_items WHERE evaluation = ?"
    with LedgerView(stage.home.ledger) as view:
        return {row["item"]: (row["reading"], row["verdict"]) for row in view.rows(query, evaluation)}


def _sleep_and_wake(act: _Act, stage: Stage, model: str) -> str:
    if stage.interpreter().for_cpu:
        raise StepSkipped("vLLM's sleep mode needs a GPU")
    if not act.managed[model].shares:
        raise StepSkipped("it takes turns with no other model")
    control = Control(stage.servers[model].url)
    for act_on in (control.sleep, control.wake):
        act_on()
    if control.asleep():
        raise NanofluxError("it does not wake", "see the server's log")
    return "sleeps and wakes"
