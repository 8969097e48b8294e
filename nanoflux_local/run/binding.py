"""Binding: from a frozen configuration to live endpoints, rules and the answers of remembered calls.

Identities are written into the run, so that a resume on changed weights is refused and a replay needs no endpoint.
"""

import logging
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from nanoflux_local.config import PROGRAM, ROLES, EndpointConfig, RunConfig, merged, read_toml, validated
from nanoflux_local.domains.base import Domain, Sections
from nanoflux_local.domains.own import load_domain
from nanoflux_local.endpoints.base import Embedder, Endpoint
from nanoflux_local.endpoints.build import (
    build_embedder,
    build_endpoint,
    build_endpoints,
    check_endpoint,
    check_endpoints,
    complete_endpoint,
    lacks_price,
    manifest_reasoning_room,
    reasoning_room,
)
from nanoflux_local.endpoints.prices import price_of
from nanoflux_local.errors import ConfigError, RefusedError
from nanoflux_local.ledger.asked import load_questions
from nanoflux_local.ledger.calls import Answer
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.records import (
    ChatReply,
    ChatRequest,
    CutReply,
    CutRequest,
    Identity,
    digest,
)
from nanoflux_local.roles.attacker import ModelAttacker
from nanoflux_local.roles.base import Player
from nanoflux_local.roles.build import build_judge, build_rater
from nanoflux_local.roles.checks.base import SANDBOX, SEARCH, needed_tools
from nanoflux_local.roles.defender import Defender, reply_budget
from nanoflux_local.roles.stitcher import StitchingAttacker
from nanoflux_local.run.held_out import HeldOut
from nanoflux_local.run.turn import Attacker, Cast, Rules
from nanoflux_local.seeds.datasets import held_out_here, load_items, seed_datasets, seed_source, with_seeds
from nanoflux_local.tools.python_check import PythonTool
from nanoflux_local.tools.search import SearchTool, search_tool
from nanoflux_models.manifest import load_manifest


def profiles(home: Home | None = None) -> list[str]:
    """The names of the profiles that ship, and of the user's own under `<home>/profiles`."""
    return sorted(_profile_paths(home))


def load_profile(name: str, home: Home | None = None) -> dict[str, Any]:
    """A profile by its name, where the user's own hides one that ships, or any other by its path.

    Raises:
        ConfigError: there is no such profile, or it is not TOML.
    """
    paths = _profile_paths(home)
    if name in paths:
        return read_toml(paths[name])
    if name.endswith(".toml"):
        return read_toml(Path(name))
    raise ConfigError(
        f"there is no profile {name!r}", f"choose one of: {', '.join(sorted(paths))}, or name a .toml file"
    )


def _profile_paths(home: Home | None) -> dict[str, Path]:
    shipped = Path(str(resources.files("nanoflux_local.profiles")))
    folders = [shipped, *([home.profiles] if home else [])]
    return {path.stem: path for folder in folders for path in folder.glob("*.toml")}


def resolve(domain_name: str, profile_name: str, overrides: Mapping[str, Any], home: Home) -> RunConfig:
    """The frozen configuration: domain, then profile, then the embedder's thresholds, then `overrides`.

    Raises:
        ConfigError: a name, key or value is wrong; the message says where.
    """
    domain = load_domain(domain_name, home.root)
    profile = load_profile(profile_name, home)
    without_programs = profile.pop("without_programs", {})
    if not isinstance(without_programs, dict):
        raise ConfigError(f"profile {profile_name}: without_programs is not a table", "correct the profile")
    values = merged(domain.defaults(), profile)
    if not domain.programs:
        values = merged(values, without_programs)
    values = merged(values, {"profile": profile_name, "domain_hash": domain.hash})
    values["prompts"] = {name: digest(text) for name, text in domain.prompts.items()}
    chosen = validate_run({**merged(values, overrides), "budget": {}})  # prices are added below
    values = merged(values, {"novelty": _thresholds(chosen.endpoints[chosen.embedder], domain, home)})
    values = merged(values, {"endpoints": _listed_prices(chosen, home)})
    values = merged(values, {"endpoints": _reasoning_rooms(chosen.endpoints, home)})
    config = validate_run(merged(values, overrides))
    _refuse_unplayable(config, domain)
    # Written down, so that what is imported later changes neither.
    datasets = config.datasets or with_seeds(home.ledger, seed_datasets(domain))
    held_out = config.held_out
    if "held_out" not in config.model_fields_set:
        held_out = held_out_here(home.ledger, datasets, (*seed_datasets(domain), *domain.evaluates))
    return config.model_copy(update={"datasets": datasets, "held_out": held_out})


def validate_run(values: Mapping[str, Any], where: str = "the configuration") -> RunConfig:
    """Build a run's configuration and check its endpoints against their kinds.

    Raises:
        ConfigError: a key or value is wrong; the message begins with `where`.
    """
    config = validated(RunConfig, values, where)
    check_endpoints(config, where)
    return config


def derived(config: RunConfig, changes: Mapping[str, Any], home: Home) -> RunConfig:
    """The configuration of another run with changes on top. Novelty thresholds belong to an embedder (SPEC §6), room
    for thoughts to a model: with another one come its own, unless `changes` name some.

    Raises:
        ConfigError: a name, key or value is wrong; the message says where.
    """
    domain = load_domain(config.domain, home.root)
    values = merged(config.model_dump(mode="json"), changes)
    changed = validate_run(values)
    if changed.endpoints[changed.embedder] != config.endpoints[config.embedder]:
        values = merged(values, {"novelty": _thresholds(changed.endpoints[changed.embedder], domain, home)})
    values = merged(values, {"endpoints": _renewed_rooms(config, changed, changes, home)})
    changed = validate_run(merged(values, changes))
    _refuse_unplayable(changed, domain)
    return changed


def _listed_prices(config: RunConfig, home: Home) -> dict[str, Any]:
    """Prices of the endpoints that name none, so that a run keeps the prices that it was started with."""
    unpriced = {name: endpoint for name, endpoint in config.endpoints.items() if lacks_price(endpoint)}
    prices = {name: price_of(endpoint, home.root) for name, endpoint in unpriced.items()}
    return {name: {"price": price.model_dump()} for name, price in prices.items() if price is not None}


def _reasoning_rooms(endpoints: Mapping[str, EndpointConfig], home: Home) -> dict[str, Any]:
    """Room for thoughts, from the manifests of the models of this machine, for the endpoints that state none."""
    return {name: {"reasoning_tokens": reasoning_room(endpoint, home)} for name, endpoint in endpoints.items()}


def _renewed_rooms(config: RunConfig, changed: RunConfig, changes: Mapping[str, Any], home: Home) -> dict[str, Any]:
    """Room for thoughts for the endpoints that changed their model, unless `changes` state some."""
    models = {name: endpoint.model for name, endpoint in config.endpoints.items()}
    stated = changes.get("endpoints", {})
    return {
        name: {"reasoning_tokens": manifest_reasoning_room(endpoint, home)}
        for name, endpoint in changed.endpoints.items()
        if endpoint.model != models.get(name) and "reasoning_tokens" not in stated.get(name, {})
    }


def _refuse_unplayable(config: RunConfig, domain: Domain) -> None:
    """What a configuration cannot say by itself: whether it suits its domain."""
    if config.domain != domain.name:
        raise ConfigError(f"the settings are for the domain {config.domain!r}, not {domain.name!r}", "correct --domain")
    sections = dict.fromkeys((*domain.sections.defender, *Sections().defender))  # a profile budgets for every domain
    unknown = [name for name in config.budgets if name not in sections]
    if unknown:
        keys = ", ".join(sections)
        raise ConfigError(f"the configuration: unknown key 'budgets.{unknown[0]}'", f"known keys there: {keys}")
    programs = [role for role in ("attacker", "judge") if getattr(config.roles, role).endpoint == PROGRAM]
    if programs and not domain.programs:
        raise ConfigError(
            f"the seeds of {domain.name!r} carry no programs, so no program can be the {programs[0]}",
            f"name a model: --set roles.{programs[0]}.endpoint=NAME",
        )
    if config.roles.attacker.endpoint != PROGRAM and config.roles.judge.endpoint == PROGRAM:
        raise ConfigError(
            "a program can judge only what a program attacked with", "name a model: --set roles.judge.endpoint=NAME"
        )


def _thresholds(endpoint: EndpointConfig, domain: Domain, home: Home) -> dict[str, float]:
    """Thresholds belong to an embedding model (SPEC §6): its manifest's, where it states any."""
    if endpoint.interface != "embedder":
        return {}
    if endpoint.model == domain.novelty.embedder:
        return domain.novelty.model_dump(exclude={"embedder"})
    embedder = load_manifest(endpoint.model, home.root).embedder
    if embedder is None:
        return {}
    if embedder.thresholds is None:
        logging.getLogger(__name__).warning(
            "%s has no calibrated novelty thresholds; those of the domain hold, which belong to another embedder",
            endpoint.model,
        )
        return {}
    stated = embedder.thresholds
    return {
        kind: table.get(domain.name, table["default"])
        for kind, table in (("question", stated.question), ("solution", stated.solution))
    }


@dataclass(slots=True)
class Bound:
    """Live endpoints by name in the configuration. `close` ends everything that was started."""

    endpoints: dict[str, Endpoint]
    embedder: Embedder
    python: PythonTool
    programs: bool
    search: SearchTool | None = None

    async def identities(self) -> dict[str, Identity]:
        """Every endpoint's identity, the embedder's and, where a program plays, the sandbox's among them."""
        identities = {name: endpoint.identity for name, endpoint in self.endpoints.items()}
        identities["embedder"] = self.embedder.identity
        if self.programs:
            identities[SANDBOX] = await self.python.identity()
        if self.search is not None:
            identities[SEARCH] = self.search.identity
        return identities

    @property
    def repeatable(self) -> bool:
        return all(endpoint.repeatable for endpoint in self.endpoints.values())

    def answers(self) -> dict[str, Answer]:
        """What answers each kind of request."""
        answers: dict[str, Answer] = {
            "chat": self._chat,
            "embed": self.embedder.embed,
            "cut": self._cut,
            "python": self.python.run,
        }
        return answers if self.search is None else {**answers, "search": self.search.search}

    async def _chat(self, request: ChatRequest) -> ChatReply:
        return await self.by_identity(request.endpoint).chat(request)

    async def _cut(self, request: CutRequest) -> CutReply:
        """The longest beginning within the budget, by bisection over the endpoint's own count."""
        endpoint = self.by_identity(request.endpoint)
        exact = endpoint.count_tokens("") is not None

        def fits(length: int) -> bool:
            counted = endpoint.count_tokens(request.text[:length])
            return (length // 3 if counted is None else counted) <= request.budget

        if fits(len(request.text)):
            return CutReply(request.text, exact)
        low, high = 0, len(request.text)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(middle) else (low, middle)
        return CutReply(request.text[:low], exact)

    def by_identity(self, identity: Identity) -> Endpoint:
        """The endpoint that answers requests of this identity."""
        return next(endpoint for endpoint in self.endpoints.values() if endpoint.identity == identity)

    async def close(self) -> None:
        for endpoint in self.endpoints.values():
            await endpoint.close()
        await self.embedder.close()
        await self.python.close()
        if self.search is not None:
            await self.search.close()


def bind(config: RunConfig, home: Home) -> Bound:
    """The endpoints that a configuration uses; models are loaded at their first call.

    Raises:
        ConfigError: a key or url is missing.
        ModelsError: weights are not installed.
    """
    chosen = {name: config.endpoints[name] for name in sorted(config.players)}
    endpoints = build_endpoints(chosen, home, config.concurrency)
    embedder = build_embedder(config.endpoints[config.embedder], home)
    tools = needed_tools(config.judge)
    sandboxed = PROGRAM in {getattr(config.roles, role).endpoint for role in ROLES} or SANDBOX in tools
    search = search_tool(config.search, home.corpus) if SEARCH in tools else None
    return Bound(endpoints, embedder, PythonTool(), programs=sandboxed, search=search)


def build_profile_endpoint(
    profile: str, name: str, home: Home, role: str = "", settings: Mapping[str, Any] | None = None
) -> tuple[Endpoint, EndpointConfig]:
    """Build an endpoint of a profile, and return it with its configuration: the endpoint `name`, or the one that plays
    `role` if `name` is "". `settings` override the profile's.

    Raises:
        ConfigError: the profile has no such endpoint, or a program plays the role.
    """
    values = load_profile(profile, home)
    name = name or str(values.get("roles", {}).get(role, {}).get("endpoint", ""))
    endpoints = values.get("endpoints", {})
    if name not in endpoints:
        fix = f"name one of: {', '.join(sorted(endpoints))}"
        raise ConfigError(f"profile {profile} has no endpoint {name!r}{f' to play {role}' if role else ''}", fix)
    where = f"profile {profile}: endpoints.{name}"
    config = validated(EndpointConfig, {**endpoints[name], **(settings or {})}, where)
    check_endpoint(config, where)
    config = complete_endpoint(config, home)
    return build_endpoint(name, config, home), config


def rules_for(config: RunConfig, identities: Mapping[str, Identity], home: Home) -> Rules:
    """The rules of a run; needs identities, not endpoints, so that a replay can make them too."""
    domain = load_domain(config.domain, home.root)
    texts = {name: digest(text) for name, text in domain.prompts.items()}
    changed = [name for name in texts if config.prompts.get(name, texts[name]) != texts[name]]  # older runs know fewer
    if changed:
        raise RefusedError(
            f"the prompt {changed[0]!r} of {domain.name!r} is not the one this run was started with",
            "run it with the version of NanoFlux that started it, or start a new run",
        )
    if config.domain_hash not in ("", domain.hash):  # "": from before it was written down
        raise RefusedError(
            f"the domain {domain.name!r} is not as it was when this run was started",
            "restore its file, run it with the version of NanoFlux that started it, or start a new run",
        )
    chained = config.roles.attacker.endpoint == PROGRAM
    datasets = config.datasets or seed_datasets(domain)
    source = seed_source(home.ledger, datasets, chained)

    def player(role: str, name: str, tokens: int, stop: tuple[str, ...] = ()) -> Player:
        endpoint = config.endpoints[name]
        sampling = config.sampling(role, tokens + endpoint.reasoning_tokens, () if endpoint.structured else stop)
        return Player(name, identities[name], sampling, endpoint.structured, thinks=endpoint.reasoning_tokens > 0)

    def attacker(name: str) -> Attacker:
        if name == PROGRAM:
            return StitchingAttacker(source, identities[SANDBOX], config.sandbox_wall_s)
        return ModelAttacker(domain, player("attacker", name, config.reply_tokens))

    def defender(name: str) -> Defender:
        playing = player("defender", name, reply_budget(domain, config.budgets), domain.stop)
        return Defender(domain, playing, config.budgets, config.retries.parse)

    def judging(name: str) -> Player:
        return player("judge", name, config.reply_tokens)

    one, other = config.roles.attacker.endpoint, config.roles.defender.endpoint
    arbiter, rater = build_judge(config, domain, identities, judging), build_rater(config, domain, judging)
    casts = [Cast(attacker(one), defender(other), arbiter, rater)]
    if PROGRAM not in (one, other) and one != other:  # two models swap after each turn (paper §3)
        casts.append(Cast(attacker(other), defender(one), arbiter, rater))
    questions: tuple[str, ...] = ()
    if config.novel_against:
        with LedgerView(home.ledger) as view:
            questions = load_questions(view, config.novel_against)
    return Rules(config, source, casts, identities["embedder"], questions, _held_out(config, datasets, home))


def _held_out(config: RunConfig, datasets: Sequence[str], home: Home) -> HeldOut:
    items = [item for name in config.held_out for item in load_items(home.ledger, name, "test")]
    phrasing = (seed.question for name in datasets for seed in load_items(home.ledger, name, "train")) if items else ()
    return HeldOut(items, phrasing)


def environment(identities: Mapping[str, Identity], repeatable: bool, forked_from: str = "") -> dict[str, Any]:
    """What a run records about where it was made, and of which run it is a fork."""
    return {
        "forked_from": forked_from,
        "identities": {name: asdict(identity) for name, identity in identities.items()},
        "repeatable": repeatable,
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in ("nanoflux-local", "numpy", "torch", "transformers")},
    }


def recorded_identities(stored: Mapping[str, Any]) -> dict[str, Identity]:
    """The identities in a run's recorded environment."""
    return {name: Identity(**identity) for name, identity in stored["identities"].items()}


def refuse_drift(recorded: Mapping[str, Identity], current: Mapping[str, Identity]) -> None:
    """Resuming on another model, revision or sandbox would give another dataset under the same name.

    Raises:
        RefusedError: an identity differs from the one that the run was started with.
    """
    for name, identity in recorded.items():
        if current.get(name) != identity:
            raise RefusedError(
                f"{name} is not what this run was started with: it was {identity}, and is now {current.get(name)}",
                "restore it, or start a new run",
            )
