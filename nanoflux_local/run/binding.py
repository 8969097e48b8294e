"""Binding: from a frozen configuration to live endpoints, rules and the answers of remembered calls.

Identities are written into the run, so that a resume on changed weights is refused and a replay needs no endpoint.
"""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

from nanoflux_local.config import PROGRAM, ROLES, RunConfig
from nanoflux_local.domains.own import load_domain
from nanoflux_local.endpoints.base import Embedder, Endpoint
from nanoflux_local.endpoints.build import (
    build_embedder,
    build_endpoints,
)
from nanoflux_local.errors import RefusedError
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
from nanoflux_local.seeds.datasets import load_items, seed_datasets, seed_source
from nanoflux_local.tools.python_check import PythonTool
from nanoflux_local.tools.search import SearchTool, search_tool


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
