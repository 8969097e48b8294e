"""Binding: builds the endpoints of a frozen configuration, and the rules that the run's turns follow.

The identities of models and tools are recorded with the run. A resume with changed weights can therefore be refused,
and a replay needs no endpoint.
"""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

from nanoflux_local.config import PROGRAM, ROLES, RunConfig
from nanoflux_local.domains.base import Domain
from nanoflux_local.domains.own import load_domain
from nanoflux_local.endpoints.base import Embedder, Endpoint
from nanoflux_local.endpoints.build import (
    build_embedder,
    build_endpoints,
    require_weights,
)
from nanoflux_local.errors import RefusedError
from nanoflux_local.ledger.calls import Answer
from nanoflux_local.ledger.earlier_questions import load_questions
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
from nanoflux_local.roles.checks.base import SANDBOX, SEARCH, list_needed_tools
from nanoflux_local.roles.defender import Defender, compute_reply_budget
from nanoflux_local.roles.marking import Marker
from nanoflux_local.roles.stitcher import StitchingAttacker
from nanoflux_local.run.held_out import HeldOut
from nanoflux_local.run.turn import Attacker, Rules, TurnRoles
from nanoflux_local.seeds.datasets import build_seed_source, list_seed_datasets, load_items
from nanoflux_local.tools.python_check import PythonTool
from nanoflux_local.tools.search import SearchTool, build_search_tool
from nanoflux_models.errors import ModelNotFoundError


@dataclass(slots=True)
class RunEndpoints:
    """The endpoints of a run by their names in its configuration, and its tools. `runs_programs` says whether the run
    executes programs. `close` ends every process that the endpoints and tools started.
    """

    endpoints: dict[str, Endpoint]
    embedder: Embedder
    python: PythonTool
    runs_programs: bool
    search: SearchTool | None = None

    async def identities(self) -> dict[str, Identity]:
        """The identities of the endpoints and the embedder, and of the sandbox and the search engine if used."""
        identities = {name: endpoint.identity for name, endpoint in self.endpoints.items()}
        identities["embedder"] = self.embedder.identity
        if self.runs_programs:
            identities[SANDBOX] = await self.python.identity()
        if self.search is not None:
            identities[SEARCH] = self.search.identity
        return identities

    @property
    def repeatable(self) -> bool:
        """Whether every endpoint answers equal requests equally."""
        return all(endpoint.repeatable for endpoint in self.endpoints.values())

    def answers(self) -> dict[str, Answer]:
        """The functions that answer requests, by the kind of request."""
        answers: dict[str, Answer] = {
            "chat": self._chat,
            "embed": self.embedder.embed,
            "cut": self._cut,
            "python": self.python.run,
        }
        return answers if self.search is None else {**answers, "search": self.search.search}

    async def _chat(self, request: ChatRequest) -> ChatReply:
        return await self.find_endpoint(request.endpoint).chat(request)

    async def _cut(self, request: CutRequest) -> CutReply:
        """Cut the request's text to the longest prefix within its token budget, found by bisection over the prefix
        lengths. If the endpoint has no tokenizer, tokens are estimated from characters, and the reply is not `exact`.
        """
        endpoint = self.find_endpoint(request.endpoint)
        has_tokenizer = endpoint.count_tokens("") is not None

        def fits(length: int) -> bool:
            tokens = endpoint.count_tokens(request.text[:length])
            if tokens is None:
                tokens = length // 3  # an estimate: three characters per token
            return tokens <= request.budget

        if fits(len(request.text)):
            return CutReply(request.text, exact=has_tokenizer)
        low, high = 0, len(request.text)
        while high - low > 1:
            middle = (low + high) // 2
            if fits(middle):
                low = middle
            else:
                high = middle
        return CutReply(request.text[:low], exact=has_tokenizer)

    def find_endpoint(self, identity: Identity) -> Endpoint:
        """The endpoint with this identity."""
        return next(endpoint for endpoint in self.endpoints.values() if endpoint.identity == identity)

    async def close(self) -> None:
        for endpoint in self.endpoints.values():
            await endpoint.close()
        await self.embedder.close()
        await self.python.close()
        if self.search is not None:
            await self.search.close()


def bind(config: RunConfig, home: Home) -> RunEndpoints:
    """Build the endpoints that a configuration uses. Each model is loaded at its first call.

    Raises:
        ConfigError: a key or url is missing.
        ModelsError: weights are not installed.
    """
    endpoint_configs = {name: config.endpoints[name] for name in sorted(config.role_endpoints)}
    try:
        endpoints = build_endpoints(endpoint_configs, home, config.concurrency)
        embedder = build_embedder(config.endpoints[config.embedder], home)
    except ModelNotFoundError:
        require_weights(config, home)  # raises an error that names all missing models, not only the first
        raise
    tools = list_needed_tools(config.judge)
    has_program_role = any(getattr(config.roles, role).endpoint == PROGRAM for role in ROLES)
    runs_programs = has_program_role or SANDBOX in tools
    search = build_search_tool(config.search, home.corpus) if SEARCH in tools else None
    return RunEndpoints(endpoints, embedder, PythonTool(), runs_programs=runs_programs, search=search)


def build_rules(config: RunConfig, identities: Mapping[str, Identity], home: Home) -> Rules:
    """Build the rules of a run. Only the identities of the endpoints are needed, so a replay can build the rules
    without endpoints.

    Raises:
        RefusedError: the domain or one of its prompts has changed since the run was started.
    """
    domain = load_domain(config.domain, home.root)
    _refuse_changed_domain(config, domain)
    stitches_seeds = config.roles.attacker.endpoint == PROGRAM
    datasets = config.datasets or list_seed_datasets(domain)
    source = build_seed_source(home.ledger, datasets, stitches_seeds)

    def build_player(role: str, name: str, answer_tokens: int, stop: tuple[str, ...] = ()) -> Player:
        endpoint = config.endpoints[name]
        max_tokens = answer_tokens + endpoint.reasoning_tokens
        sampling = config.sampling(role, max_tokens, () if endpoint.structured else stop)
        return Player(name, identities[name], sampling, endpoint.structured, thinks=endpoint.reasoning_tokens > 0)

    def build_attacker(name: str) -> Attacker:
        if name == PROGRAM:
            return StitchingAttacker(source, identities[SANDBOX], config.sandbox_wall_s)
        return ModelAttacker(domain, build_player("attacker", name, config.reply_tokens))

    def build_defender(name: str) -> Defender:
        player = build_player("defender", name, compute_reply_budget(domain, config.budgets), domain.stop)
        return Defender(domain, player, config.budgets, config.retries.parse)

    def build_judge_player(name: str) -> Player:
        return build_player("judge", name, config.reply_tokens)

    attacker_name, defender_name = config.roles.attacker.endpoint, config.roles.defender.endpoint
    judge = build_judge(config, domain, identities, build_judge_player)
    rater = build_rater(config, domain, build_judge_player)
    marker = Marker(domain, judge)
    role_groups = [TurnRoles(build_attacker(attacker_name), build_defender(defender_name), judge, rater, marker)]
    if config.roles_swap:
        role_groups.append(
            TurnRoles(build_attacker(defender_name), build_defender(attacker_name), judge, rater, marker)
        )
    questions_of_other_runs: tuple[str, ...] = ()
    if config.novel_against:
        with LedgerView(home.ledger) as view:
            questions_of_other_runs = load_questions(view, config.novel_against)
    held_out = _load_held_out(config, datasets, home)
    return Rules(config, source, role_groups, identities["embedder"], questions_of_other_runs, held_out)


def _refuse_changed_domain(config: RunConfig, domain: Domain) -> None:
    """Refuse a run whose domain or prompts have changed since it was started."""
    changed_prompts = [
        name
        for name, text in domain.prompts.items()
        if name in config.prompts and config.prompts[name] != digest(text)  # earlier versions recorded fewer prompts
    ]
    if changed_prompts:
        raise RefusedError(
            f"the prompt {changed_prompts[0]!r} of {domain.name!r} has changed since this run started",
            "resume the run with the version of NanoFlux that started it, or start a new run",
        )
    if config.domain_hash not in ("", domain.hash):  # earlier versions did not record it
        raise RefusedError(
            f"the domain {domain.name!r} has changed since this run was started",
            "restore its file, resume the run with the version of NanoFlux that started it, or start a new run",
        )


def _load_held_out(config: RunConfig, datasets: Sequence[str], home: Home) -> HeldOut:
    """The held-out items: the test items of the benchmarks in `config.held_out`."""
    items = [item for name in config.held_out for item in load_items(home.ledger, name, "test")]
    if not items:
        return HeldOut()
    # A generator, so that the training sets are read only if the index of phrases is built.
    training_texts = (seed.question for name in datasets for seed in load_items(home.ledger, name, "train"))
    return HeldOut(items, training_texts)


def describe_environment(identities: Mapping[str, Identity], repeatable: bool, forked_from: str = "") -> dict[str, Any]:
    """What a run records about its environment when it starts: the run that it was forked from, the identities of
    models and tools, whether they are repeatable, and the installed versions.
    """
    return {
        "forked_from": forked_from,
        "identities": {name: asdict(identity) for name, identity in identities.items()},
        "repeatable": repeatable,
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in ("nanoflux-local", "numpy", "torch", "transformers")},
    }


def read_recorded_identities(environment: Mapping[str, Any]) -> dict[str, Identity]:
    """The identities in a run's recorded environment."""
    return {name: Identity(**identity) for name, identity in environment["identities"].items()}


def refuse_drift(recorded: Mapping[str, Identity], current: Mapping[str, Identity]) -> None:
    """Refuse to resume a run with a different model, revision or sandbox, because its examples would then come from two
    setups.

    Raises:
        RefusedError: an identity differs from the one that the run was started with.
    """
    for name, identity in recorded.items():
        subject = f"the {name}" if name in ("embedder", SANDBOX, SEARCH) else f"endpoint {name}"
        fix = f"restore {subject}, or start a new run"
        if name not in current:
            raise RefusedError(f"{subject} is no longer configured", fix)
        if current[name] != identity:
            differences = _describe_differences(identity, current[name])
            raise RefusedError(f"{subject} has changed since this run started: {differences}", fix)


def _describe_differences(recorded: Identity, current: Identity) -> str:
    """The fields in which two identities differ, such as "revision was 3fa9, is now 77c1"."""
    recorded_fields, current_fields = asdict(recorded), asdict(current)
    return "; ".join(
        f"{field} was {value or 'empty'}, is now {current_fields[field] or 'empty'}"
        for field, value in recorded_fields.items()
        if current_fields[field] != value
    )
