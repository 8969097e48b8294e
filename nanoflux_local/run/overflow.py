"""Overflow: whether the prompt, the reasoning and the answer of each request fit into the context of its endpoint.

This is checked when a run starts, on seeds that the run could draw. A server that runs out of context truncates the
reply without reporting it, so a reasoning model would return its reasoning without an answer.
"""

from collections.abc import Iterator
from random import Random
from typing import NamedTuple

from nanoflux_local.config import PROGRAM, RunConfig
from nanoflux_local.domains.base import Domain
from nanoflux_local.endpoints.context import find_overflow
from nanoflux_local.endpoints.kinds.base import find_kind
from nanoflux_local.errors import ConfigError
from nanoflux_local.records import Message
from nanoflux_local.roles.attacker import build_attacker_messages
from nanoflux_local.roles.defender import build_defender_messages, compute_reply_budget
from nanoflux_local.run.binding import RunEndpoints
from nanoflux_local.run.turn import Rules
from nanoflux_local.transcript import Attack, Defence, Seed


class TypicalRequest(NamedTuple):
    """A representative request of a role. `endpoint` is the name of the endpoint that plays the role; `answer_tokens`
    is the token budget of the answer.
    """

    role: str
    endpoint: str
    messages: tuple[Message, ...]
    answer_tokens: int


def refuse_overflows(run_endpoints: RunEndpoints, rules: Rules, domain: Domain) -> None:
    """Refuse a run with a request that does not fit into its endpoint's context.

    Raises:
        ConfigError: a request does not fit; the fix names the endpoint's settings to change.
    """
    seeds = rules.seeds.draw(rules.config.seeds.max, Random(0), set())
    for request in make_typical_requests(rules.config, domain, seeds):
        overflow = find_overflow(run_endpoints.endpoints[request.endpoint], request.messages, request.answer_tokens)
        if not overflow:
            continue
        key = f"endpoints.{request.endpoint}"
        has_fixed_context = find_kind(rules.config.endpoints[request.endpoint].interface).fixed_context
        context_advice = "" if has_fixed_context else f"raise {key}.context as far as the model allows, or "
        raise ConfigError(f"{key} as the {request.role}: {overflow}", f"{context_advice}lower {key}.reasoning_tokens")


def make_typical_requests(config: RunConfig, domain: Domain, seeds: tuple[Seed, ...]) -> Iterator[TypicalRequest]:
    """A representative request of each role to each endpoint that plays the role. The attacker gets all `seeds`; the
    defender and the judges get the longest seed as their question.
    """
    attacker, defender = config.roles.attacker.endpoint, config.roles.defender.endpoint
    longest_seed = max(seeds, key=lambda seed: len(seed.question))
    attackers = (attacker, defender) if config.roles_swap else (attacker,)
    for name in attackers:
        if name != PROGRAM:
            messages = build_attacker_messages(domain, seeds)
            yield TypicalRequest("attacker", name, messages, config.reply_tokens)
    answer_tokens = compute_reply_budget(domain, config.budgets)
    defenders = (defender, attacker) if config.roles_swap else (defender,)
    for name in defenders:
        messages = build_defender_messages(domain, config.budgets, longest_seed.question)
        yield TypicalRequest("defender", name, messages, answer_tokens)
    attack = Attack(longest_seed.question, longest_seed.solution, longest_seed.answer)
    defence = Defence(longest_seed.solution, longest_seed.answer)
    evaluation_prompt = domain.render("evaluation", {"attack": attack, "defence": defence})
    judges_and_solvers = (config.roles.judge.endpoint, *config.judge.panel, *config.judge.solvers)
    for name in dict.fromkeys(judges_and_solvers):  # each endpoint once
        if name != PROGRAM:
            yield TypicalRequest("judge", name, (Message("user", evaluation_prompt),), config.reply_tokens)
