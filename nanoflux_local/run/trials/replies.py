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
from nanoflux_local.ledger.calls import Call
from nanoflux_local.roles.attacker import normalize_answer
from nanoflux_local.roles.base import Draw
from nanoflux_local.roles.judge import is_same_answer
from nanoflux_local.roles.sections import Unparsed
from nanoflux_local.run.turn import Defender, Rules
from nanoflux_local.seeds.source import SeedSource
from nanoflux_local.transcript import Attack, Seed

Result = TypeVar("Result")
TRIAL_TURN = -1
"""The turn number in the draws of a trial. No turn of a run has this number, so the random choices and the sampling
seeds of the trial differ from those of all turns.
"""
MAX_ITEMS_PER_REPLY = 8
"""The maximum number of items that are sent for each reply that the trial needs. A strong model solves many items
before it makes a mistake.
"""


@dataclass(frozen=True, slots=True)
class MarkedReply:
    """A model's solution of the train item `seed` (its id), and whether the answer is right. `author` is the name of
    the model.
    """

    seed: str
    author: str
    attack: Attack
    right: bool


@dataclass(frozen=True, slots=True)
class Replies:
    """The wrong and the right replies that a trial uses, in the order of their items, and the number of items that were
    sent to get them.
    """

    mistakes: tuple[MarkedReply, ...] = ()
    right_replies: tuple[MarkedReply, ...] = ()
    items_sent: int = 0


def draw_answered_seeds(source: SeedSource, count: int, rng: random.Random) -> list[Seed]:
    """Draw `count` different seeds that state an answer, or fewer if the source has fewer."""
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
    rules: Rules, domain: Domain, mistake_count: int, right_count: int, call: Call, is_stopping: Callable[[], bool]
) -> Replies | None:
    """Send train items to the run's models in rotation until there are `mistake_count` wrong and `right_count` right
    replies, or until `MAX_ITEMS_PER_REPLY` items were sent for each reply that is needed. Returns None if the run is
    stopped meanwhile.

    Raises:
        NanofluxError: an endpoint failed.
    """
    batch_size = max(mistake_count, right_count)
    rng = Draw(rules.config.seed, TRIAL_TURN, 0).rng("trial-replies")
    items = draw_answered_seeds(rules.seeds, MAX_ITEMS_PER_REPLY * batch_size, rng)
    defender_by_name = {roles.defender.name: roles.defender for roles in rules.role_groups}
    defenders = list(defender_by_name.values())
    marked_replies: list[MarkedReply] = []
    items_sent = 0

    async def ask(item_index: int) -> MarkedReply | None:
        defender = defenders[item_index % len(defenders)]
        draw = Draw(rules.config.seed, TRIAL_TURN, item_index)
        return await _ask_and_mark(domain, defender, items[item_index], draw, call)

    def needs_more(count: int, right: bool) -> bool:
        """Whether there are fewer than `count` replies that are right (or wrong), and more items may be sent."""
        has_enough = sum(reply.right is right for reply in marked_replies) >= count
        max_items = min(MAX_ITEMS_PER_REPLY * count, len(items))
        return not has_enough and items_sent < max_items

    while needs_more(mistake_count, right=False) or needs_more(right_count, right=True):
        if is_stopping():
            return None
        batch = range(items_sent, min(items_sent + batch_size, len(items)))
        replies = await run_bounded([partial(ask, item_index) for item_index in batch], rules.config.concurrency)
        marked_replies += [reply for reply in replies if reply is not None]
        items_sent = batch.stop
    wrong_replies = [reply for reply in marked_replies if not reply.right]
    right_replies = [reply for reply in marked_replies if reply.right]
    return Replies(tuple(wrong_replies[:mistake_count]), tuple(right_replies[:right_count]), items_sent)


async def _ask_and_mark(domain: Domain, defender: Defender, seed: Seed, draw: Draw, call: Call) -> MarkedReply | None:
    """Ask a model to solve an item, and mark its reply. Returns None if the reply or its answer cannot be read."""
    question = seed.format_question()
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


async def run_bounded(functions: Sequence[Callable[[], Awaitable[Result]]], limit: int) -> list[Result]:
    """Call all functions, at most `limit` of them concurrently, and return their results in order. If one of them
    raises an error, the others are cancelled.
    """
    slots = asyncio.Semaphore(limit)

    async def run(function: Callable[[], Awaitable[Result]]) -> Result:
        async with slots:
            return await function()

    tasks = [asyncio.create_task(run(function)) for function in functions]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
