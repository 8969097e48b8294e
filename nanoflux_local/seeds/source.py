"""Seed sources: draw seed questions for a turn, and chain their programs for the built-in stitching attacker."""

import itertools
import random
from collections.abc import Collection, Sequence
from typing import Protocol, TypeVar

from nanoflux_local.answers import plain_number
from nanoflux_local.domains.starter.templates import Template
from nanoflux_local.errors import NothingMatchedError
from nanoflux_local.quantities import format_quantity
from nanoflux_local.seeds.part import Part, split_into_parts
from nanoflux_local.transcript import Seed

CHAIN_TRIES = 200
"""The number of unsuccessful draws after which seeds are considered impossible to chain."""
LINK_RANGE = 8
"""A starter template accepts an earlier result in a slot up to this multiple of the slot's highest value."""

T = TypeVar("T")


class SeedSource(Protocol):
    """Draws seeds uniformly without replacement (paper §3), and chains them."""

    def draw(self, count: int, rng: random.Random, excluded_ids: Collection[str] = ()) -> tuple[Seed, ...]:
        """`count` different seeds. Seeds in `excluded_ids` are drawn only if fewer than `count` others are left."""
        ...

    def chain(self, seeds: Sequence[Seed], rng: random.Random) -> tuple[Part, ...] | None:
        """The seeds as parts, in an order in which each part can use the previous part's result; None if no order
        works.
        """
        ...


class Items:
    """The train items of benchmarks; with `chainable`, only those whose programs can be chained: the answer of one
    question becomes a number in the next.

    All benchmarks contribute about the same number of seeds, whatever their sizes, as the seven of MultiMedQA do in the
    paper (§4).
    """

    def __init__(self, items: Sequence[Seed], chainable: bool = False) -> None:
        self._parts_by_id: dict[str, list[Part]] = {}
        self._items_by_benchmark: dict[str, list[Seed]] = {}
        for item in items:
            if chainable:
                self._parts_by_id[item.id] = split_into_parts(item.id, item.question, item.program)
            if not chainable or self._parts_by_id[item.id]:
                self._items_by_benchmark.setdefault(item.dataset, []).append(item)
        if not self._items_by_benchmark:
            raise NothingMatchedError(
                "there are no training items to draw seeds from",
                "see `nanoflux data list`, and import a benchmark with `nanoflux data import DATASET PATH`",
            )

    def draw(self, count: int, rng: random.Random, excluded_ids: Collection[str] = ()) -> tuple[Seed, ...]:
        if len(self._items_by_benchmark) == 1:
            (items,) = self._items_by_benchmark.values()
            return tuple(_sample_items(items, count, rng, excluded_ids))
        drawn_seeds: list[Seed] = []
        for name, benchmark_count in self._divide_among_benchmarks(count, rng).items():
            drawn_seeds += _sample_items(self._items_by_benchmark[name], benchmark_count, rng, excluded_ids)
        return tuple(rng.sample(drawn_seeds, count))

    def _divide_among_benchmarks(self, count: int, rng: random.Random) -> dict[str, int]:
        """How many seeds each benchmark contributes. The benchmarks contribute one seed at a time, round-robin in a
        random order, until `count` is reached; a benchmark with no seeds left is skipped.
        """
        refuse_shortage(count, sum(map(len, self._items_by_benchmark.values())))
        names = rng.sample(list(self._items_by_benchmark), len(self._items_by_benchmark))
        seed_counts = dict.fromkeys(names, 0)
        next_names = itertools.cycle(names)
        while sum(seed_counts.values()) < count:
            name = next(next_names)
            if seed_counts[name] < len(self._items_by_benchmark[name]):
                seed_counts[name] += 1
        return seed_counts

    def chain(self, seeds: Sequence[Seed], rng: random.Random) -> tuple[Part, ...] | None:
        """The seeds in a random order, each as one of its parts. Every order works, since the built-in attacker fits a
        result into the slot if necessary.
        """
        shuffled_seeds = rng.sample(list(seeds), len(seeds))
        return tuple(rng.choice(self._parts_by_id[seed.id]) for seed in shuffled_seeds)


class StarterTemplates:
    """The train templates of the starter domain; each seed is a template with drawn numbers."""

    def __init__(self, templates: Sequence[Template]) -> None:
        self._templates = {template.id: template for template in templates}

    def draw(self, count: int, rng: random.Random, excluded_ids: Collection[str] = ()) -> tuple[Seed, ...]:
        template_ids = list(self._templates)
        drawn_ids = _sample(template_ids, template_ids, count, rng, excluded_ids)
        return tuple(instantiate(self._templates[template_id], rng) for template_id in drawn_ids)

    def chain(self, seeds: Sequence[Seed], rng: random.Random) -> tuple[Part, ...] | None:
        """Draw orders and numbers until each problem makes sense with the previous problem's result. None if that has
        not succeeded after `CHAIN_TRIES` draws.
        """
        templates = [self._templates[seed.id] for seed in seeds]
        for _ in range(CHAIN_TRIES):
            parts = self._try_chain(rng.sample(templates, len(templates)), rng)
            if parts is not None:
                return parts
        return None

    def _try_chain(self, templates: Sequence[Template], rng: random.Random) -> tuple[Part, ...] | None:
        """Draw numbers and slots for the templates in this order. None if a problem does not make sense with the
        previous problem's result.
        """
        parts: list[Part] = []
        previous_result: float | None = None
        for template in templates:
            values: dict[str, float] = dict(template.draw(rng))
            slot = rng.choice([quantity for quantity in template.quantities if quantity.link])
            if previous_result is not None:
                values[slot.name] = previous_result
                if previous_result > LINK_RANGE * slot.high or not template.admits(values):
                    return None
            parts.append(make_template_part(template, values, slot.name))
            previous_result = template.solve(values)["answer"]
        return tuple(parts)


def make_template_part(template: Template, values: dict[str, float], slot: str) -> Part:
    """The part made from a template with these values; `slot` is the variable of the part's slot."""
    slot_mark = "\0"
    before, after = template.build_question_text({**values, slot: slot_mark}).split(slot_mark)
    statements = [(name, str(value)) for name, value in values.items()]
    for line in template.program.strip().splitlines():
        name, expression = line.split("=", 1)
        statements.append((name.strip(), expression.strip()))
    return Part(
        seed=template.id, before=before, after=after, ask=template.ask, result=template.result, slot_variable=slot,
        value=str(values[slot]), statements=tuple(statements), lines=template.solution, made_for_chains=True,
    )  # fmt: skip


def instantiate(
    template: Template, rng: random.Random, number: int | None = None, share: float = 1.0, dataset: str = "starter"
) -> Seed:
    """Draw numbers for a template, and return it as a complete question. `number` distinguishes several draws from the
    same template in their ids, `share` is passed to `Template.draw`, and `dataset` is the benchmark to which the
    question belongs.
    """
    values = template.draw(rng, share)
    variables = template.solve(values)
    assignments = [f"{name} = {value}" for name, value in values.items()]
    program = "\n".join([*assignments, template.program, "print(answer)"])
    return Seed(
        id=template.id if number is None else f"{template.id}#{number}",
        dataset=dataset,
        question=f"{template.build_question_text(values)} {template.ask}",
        answer=plain_number(variables["answer"]),
        solution=" ".join(template.solution_lines(variables)),
        program=program,
    )


def refuse_shortage(count: int, available: int) -> None:
    """Raise NothingMatchedError if there are fewer than `count` seeds."""
    if count > available:
        verb = "is" if available == 1 else "are"
        raise NothingMatchedError(
            f"a question needs {format_quantity(count, 'seed')}, but there {verb} only {available}",
            "lower seeds.max, or import more data",
        )


def leave_out(pool: Sequence[T], ids: Sequence[str], count: int, excluded_ids: Collection[str]) -> list[T]:
    """The members of `pool` whose ids are not in `excluded_ids`; all members if fewer than `count` would be left.

    Raises:
        NothingMatchedError: the pool has fewer than `count` members.
    """
    refuse_shortage(count, len(pool))
    remaining_members = [member for member, member_id in zip(pool, ids, strict=True) if member_id not in excluded_ids]
    return remaining_members if len(remaining_members) >= count else list(pool)


def _sample_items(items: Sequence[Seed], count: int, rng: random.Random, excluded_ids: Collection[str]) -> list[Seed]:
    """Draw `count` items without replacement; see `leave_out`."""
    return _sample(items, [item.id for item in items], count, rng, excluded_ids)


def _sample(
    pool: Sequence[T], ids: Sequence[str], count: int, rng: random.Random, excluded_ids: Collection[str]
) -> list[T]:
    """Draw `count` members of `pool` without replacement; `ids` are the members' ids. See `leave_out`."""
    return rng.sample(leave_out(pool, ids, count, excluded_ids), count)
