"""Replies of a run's models to train items, marked right or wrong by the items' answers. A trial uses wrong replies as
real mistakes, and right replies as right solutions.

Items are sent in batches of a fixed size, so that the replies that a trial uses do not depend on the concurrency.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from nanoflux_local.domains.base import Domain
from nanoflux_local.evaluate.evaluation import format_question
from nanoflux_local.ledger.calls import Call
from nanoflux_local.roles.attacker import normalize_answer
from nanoflux_local.roles.base import Draw
from nanoflux_local.roles.judge import is_same_answer
from nanoflux_local.roles.sections import Unparsed
from nanoflux_local.run.turn import Defender, Rules
from nanoflux_local.seeds.source import SeedSource
from nanoflux_local.transcript import Attack, Seed

T = TypeVar("T")
TRIAL_TURN = -1
"""The turn number in the trial's draws. No turn of the run has it, so the trial's seeds differ from those of turns."""
MAX_ITEMS_PER_REPLY = 8
"""The maximum number of items sent for each reply that is needed. A strong model needs many items to make a mistake."""


@dataclass(frozen=True, slots=True)
class MarkedReply:
    """A model's solution of a train item, and whether its answer equals the item's."""

    seed: str
    author: str
    attack: Attack
    right: bool


@dataclass(frozen=True, slots=True)
class Replies:
    """The replies that a trial uses, in the order of their items, and how many items were sent to get them."""

    mistakes: tuple[MarkedReply, ...] = ()
    right_replies: tuple[MarkedReply, ...] = ()
    items_sent: int = 0


def draw_answered_seeds(source: SeedSource, count: int, rng: random.Random) -> list[Seed]:
    """Draw up to `count` different seeds that state an answer."""
    used_ids: set[str] = set()
    seeds: list[Seed] = []
    while len(seeds) < count:
        (seed,) = source.draw(1, rng, used_ids)
        if seed.id in used_ids:
            break  # every seed has been drawn
        used_ids.add(seed.id)
        if seed.answer:
            seeds.append(seed)
    return seeds


async def collect_replies(
    rules: Rules, domain: Domain, mistakes: int, right_replies: int, call: Call, is_stopping: Callable[[], bool]
) -> Replies | None:
    """Send train items to the run's models in turn, until there are `mistakes` wrong and `right_replies` right replies,
    or until `MAX_ITEMS_PER_REPLY` items were sent for each reply that is needed. None if the run stops meanwhile.

    Raises:
        NanofluxError: an endpoint failed.
    """
    batch_size = max(mistakes, right_replies)
    rng = Draw(rules.config.seed, TRIAL_TURN, 0).rng("trial-replies")
    items = draw_answered_seeds(rules.seeds, MAX_ITEMS_PER_REPLY * batch_size, rng)
    defender_by_name = {roles.defender.name: roles.defender for roles in rules.role_groups}
    defenders = list(defender_by_name.values())
    marked_replies: list[MarkedReply] = []
    items_sent = 0

    async def ask(number: int) -> MarkedReply | None:
        defender = defenders[number % len(defenders)]
        draw = Draw(rules.config.seed, TRIAL_TURN, number)
        return await _ask_and_mark(domain, defender, items[number], draw, call)

    def needs_more(count: int, right: bool) -> bool:
        is_enough = sum(reply.right is right for reply in marked_replies) >= count
        return not is_enough and items_sent < min(MAX_ITEMS_PER_REPLY * count, len(items))

    while needs_more(mistakes, right=False) or needs_more(right_replies, right=True):
        if is_stopping():
            return None
        numbers = range(items_sent, min(items_sent + batch_size, len(items)))
        replies = await run_bounded([partial(ask, number) for number in numbers], rules.config.concurrency)
        marked_replies += [reply for reply in replies if reply is not None]
        items_sent = numbers.stop
    wrong = [reply for reply in marked_replies if not reply.right]
    right = [reply for reply in marked_replies if reply.right]
    return Replies(tuple(wrong[:mistakes]), tuple(right[:right_replies]), items_sent)


async def _ask_and_mark(domain: Domain, defender: Defender, seed: Seed, draw: Draw, call: Call) -> MarkedReply | None:
    """Get a model's solution of an item and mark it. Returns None if the reply or its answer cannot be read."""
    question = format_question(seed)
    defence = await defender.defend(question, draw, call)
    if isinstance(defence, Unparsed):
        return None
    domain_of_item = domain.with_letters(seed.options)
    answer = normalize_answer(domain_of_item, defence.answer)
    if answer is None or not defence.solution.strip():
        return None
    right = is_same_answer(domain_of_item, answer, seed.answer)
    if right is None:
        return None
    return MarkedReply(seed.id, defender.name, Attack(question, defence.solution, answer), right)


async def run_bounded(functions: Sequence[Callable[[], Awaitable[T]]], limit: int) -> list[T]:
    """Call all functions, at most `limit` of them concurrently, and return their results in order. If one fails, the
    others are cancelled.
    """
    slots = asyncio.Semaphore(limit)

    async def run(function: Callable[[], Awaitable[T]]) -> T:
        async with slots:
            return await function()

    tasks = [asyncio.create_task(run(function)) for function in functions]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
