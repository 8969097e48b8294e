"""Seed sources: draw seed questions for a turn, and chain their programs for the built-in stitching attacker."""

import itertools
import random
from collections.abc import Collection, Sequence
from typing import Protocol, TypeVar

from nanoflux_local.answers import plain_number
from nanoflux_local.domains.starter.templates import Template
from nanoflux_local.errors import NothingMatchedError
from nanoflux_local.seeds.part import Part, split_into_parts
from nanoflux_local.transcript import Seed

CHAIN_TRIES = 200
"""The number of draws after which seeds count as impossible to chain."""
LINK_RANGE = 8
"""A starter template accepts an earlier result in a slot up to this multiple of the slot's highest value."""

T = TypeVar("T")


class SeedSource(Protocol):
    """Draws uniformly without replacement (paper §3; SPEC §1)."""

    def draw(self, count: int, rng: random.Random, excluded_ids: Collection[str] = ()) -> tuple[Seed, ...]:
        """`count` different seeds. Seeds in `excluded_ids` are drawn only if fewer than `count` others are left."""
        ...

    def chain(self, seeds: Sequence[Seed], rng: random.Random) -> tuple[Part, ...] | None:
        """The seeds as parts, in an order in which each part can use the previous part's result; None if no order
        works.
        """
        ...


class Items:
    """The train items of benchmarks; with `chainable`, only those whose programs can be chained.

    All benchmarks contribute about the same number of seeds, whatever their sizes (paper §4: the seven of MultiMedQA).
    """

    def __init__(self, items: Sequence[Seed], chainable: bool = False) -> None:
        self._parts = {item.id: split_into_parts(item.id, item.question, item.program) for item in items if chainable}
        self._pools: dict[str, list[Seed]] = {}
        for item in items:
            if not chainable or self._parts[item.id]:
                self._pools.setdefault(item.dataset, []).append(item)
        if not self._pools:
            raise NothingMatchedError(
                "there are no training items to draw seeds from",
                "see `nanoflux data list`, and import a benchmark with `nanoflux data import DATASET PATH`",
            )

    def draw(self, count: int, rng: random.Random, excluded_ids: Collection[str] = ()) -> tuple[Seed, ...]:
        if len(self._pools) == 1:
            (pool,) = self._pools.values()
            return tuple(_sample(pool, [item.id for item in pool], count, rng, excluded_ids))
        drawn_seeds = [
            seed
            for name, share in self._divide_among_benchmarks(count, rng).items()
            for seed in _sample(self._pools[name], [item.id for item in self._pools[name]], share, rng, excluded_ids)
        ]
        return tuple(rng.sample(drawn_seeds, count))

    def _divide_among_benchmarks(self, count: int, rng: random.Random) -> dict[str, int]:
        """How many seeds each benchmark contributes. In a random order, the benchmarks take turns contributing one
        seed, until `count` is reached; a benchmark with no seeds left is skipped.
        """
        refuse_shortage(count, sum(map(len, self._pools.values())))
        shares = dict.fromkeys(rng.sample(list(self._pools), len(self._pools)), 0)
        names = (name for name in itertools.cycle(list(shares)) if shares[name] < len(self._pools[name]))
        while sum(shares.values()) < count:
            shares[next(names)] += 1
        return shares

    def chain(self, seeds: Sequence[Seed], rng: random.Random) -> tuple[Part, ...] | None:
        order = rng.sample(list(seeds), len(seeds))
        return tuple(rng.choice(self._parts[seed.id]) for seed in order)


class StarterTemplates:
    """The train templates of the starter domain; each seed is a template with drawn numbers."""

    def __init__(self, templates: Sequence[Template]) -> None:
        self._templates = {template.id: template for template in templates}

    def draw(self, count: int, rng: random.Random, excluded_ids: Collection[str] = ()) -> tuple[Seed, ...]:
        ids = list(self._templates)
        return tuple(instantiate(self._templates[name], rng) for name in _sample(ids, ids, count, rng, excluded_ids))

    def chain(self, seeds: Sequence[Seed], rng: random.Random) -> tuple[Part, ...] | None:
        """Draw orders and numbers until each problem makes sense with the previous problem's result."""
        templates = [self._templates[seed.id] for seed in seeds]
        for _ in range(CHAIN_TRIES):
            parts = self._try_chain(rng.sample(templates, len(templates)), rng)
            if parts is not None:
                return parts
        return None

    def _try_chain(self, templates: Sequence[Template], rng: random.Random) -> tuple[Part, ...] | None:
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
    before, after = template.build_question_text({**values, slot: "\0"}).split("\0")
    assignments = [(name, str(value)) for name, value in values.items()]
    steps = [tuple(map(str.strip, line.split("=", 1))) for line in template.program.strip().splitlines()]
    return Part(
        template.id, before, after, template.ask, template.result, slot, str(values[slot]),
        tuple(assignments) + tuple((name, expression) for name, expression in steps), template.solution,
        made_for_chains=True,
    )  # fmt: skip


def instantiate(
    template: Template, rng: random.Random, number: int | None = None, share: float = 1.0, dataset: str = "starter"
) -> Seed:
    """Draw numbers for a template, and return it as a complete question. `number` distinguishes several draws in the
    seed's id, `share` is passed to `Template.draw`, and `dataset` is the benchmark to which the question belongs.
    """
    values = template.draw(rng, share)
    variables = template.solve(values)
    program = "\n".join([*(f"{name} = {value}" for name, value in values.items()), template.program, "print(answer)"])
    return Seed(
        template.id if number is None else f"{template.id}#{number}",
        dataset,
        f"{template.build_question_text(values)} {template.ask}",
        plain_number(variables["answer"]),
        " ".join(template.solution_lines(variables)),
        program,
    )


def refuse_shortage(count: int, available: int) -> None:
    """Raise NothingMatchedError if there are fewer than `count` seeds."""
    if count > available:
        raise NothingMatchedError(
            f"a question asks for {count} seeds, but there are only {available}",
            "lower seeds.max, or import more data",
        )


def leave_out(pool: Sequence[T], ids: Sequence[str], count: int, excluded_ids: Collection[str]) -> list[T]:
    """The members of `pool` whose ids are not in `excluded_ids`; all members if fewer than `count` would be left.

    Raises:
        NothingMatchedError: the pool has fewer than `count` members.
    """
    refuse_shortage(count, len(pool))
    not_excluded = [item for item, name in zip(pool, ids, strict=True) if name not in excluded_ids]
    return not_excluded if len(not_excluded) >= count else list(pool)


def _sample(
    pool: Sequence[T], ids: Sequence[str], count: int, rng: random.Random, excluded_ids: Collection[str]
) -> list[T]:
    return rng.sample(leave_out(pool, ids, count, excluded_ids), count)
