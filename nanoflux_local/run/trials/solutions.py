"""The solutions of a trial, each known to be right or wrong. The run's seed determines them.

Right solutions are those of the dataset ("reference"), and right replies of the run's models ("own"). Wrong solutions
are real mistakes of these models ("mistake"), solutions whose question lacks a needed quantity ("removed") or has a
different one ("changed"), and solutions with planted errors ("slip", "answer").
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Literal

from nanoflux_local.config import PROGRAM, RunConfig, TrialKind
from nanoflux_local.domains.base import Domain
from nanoflux_local.ledger.calls import Call
from nanoflux_local.roles.base import Draw
from nanoflux_local.run.trials.planted_errors import break_question, plant_error
from nanoflux_local.run.trials.replies import TRIAL_TURN, MarkedReply, Replies, collect_replies, draw_answered_seeds
from nanoflux_local.run.turn import Rules
from nanoflux_local.transcript import Attack, Seed

SolutionKind = Literal["reference"] | TrialKind
RIGHT_KINDS: tuple[SolutionKind, ...] = ("reference", "own")
"""The kinds of solutions that are right; all other kinds are wrong."""
PLANTED_KINDS: tuple[SolutionKind, ...] = ("slip", "answer")
"""The kinds of wrong solutions that are right solutions with a planted error."""


@dataclass(frozen=True, slots=True)
class KnownSolution:
    """A solution with its question and answer (`attack`); whether it is right or wrong follows from its `kind`. `seed`
    is the id of the benchmark item that it solves. `author` is the name of the model that wrote it, or "" if no model
    did.
    """

    number: int
    seed: str
    kind: SolutionKind
    attack: Attack
    author: str = ""

    @property
    def right(self) -> bool:
        return self.kind in RIGHT_KINDS


def list_kinds(config: RunConfig, domain: Domain) -> tuple[SolutionKind, ...]:
    """The kinds of solutions in a run's trial. A judge that is a program runs the programs of solutions. All wrong
    solutions of its trial therefore have planted errors: wrong solutions of the other kinds have no program, or a
    program that their error does not affect.
    """
    kinds: tuple[SolutionKind, ...] = tuple(kind for kind in config.judge.trial_kinds if kind in domain.trial_kinds)
    if config.roles.judge.endpoint == PROGRAM:
        kinds = tuple(kind for kind in kinds if kind in PLANTED_KINDS) or PLANTED_KINDS
    return ("reference", *kinds)


async def build_known_solutions(
    rules: Rules, domain: Domain, call: Call, is_stopping: Callable[[], bool]
) -> list[KnownSolution] | None:
    """Build `judge.trial` right solutions and the same number of wrong ones, or fewer if seeds or mistakes run out. The
    kinds alternate. Right solutions have even numbers, wrong ones odd numbers. Returns None if the run is stopped
    meanwhile.

    Raises:
        NanofluxError: an endpoint failed to reply.
    """
    rng = Draw(rules.config.seed, TRIAL_TURN, 0).rng("trial")
    seeds = draw_answered_seeds(rules.seeds, rules.config.judge.trial, rng)
    kinds = list_kinds(rules.config, domain)
    right_kinds = _repeat_in_turn([kind for kind in kinds if kind in RIGHT_KINDS], len(seeds))
    wrong_kinds = _repeat_in_turn([kind for kind in kinds if kind not in RIGHT_KINDS], len(seeds))
    replies = await collect_replies(
        rules, domain, wrong_kinds.count("mistake"), right_kinds.count("own"), call, is_stopping
    )
    if replies is None:
        return None
    right_solutions = _build_right(seeds, right_kinds, replies)
    wrong_solutions = _build_wrong(rules.config.seed, seeds, wrong_kinds, replies, rng)
    return sorted([*right_solutions, *wrong_solutions], key=lambda solution: solution.number)


def _repeat_in_turn(kinds: Sequence[SolutionKind], count: int) -> list[SolutionKind]:
    """A list of length `count` that cycles through the kinds."""
    return list(islice(cycle(kinds), count))


def _build_right(seeds: Sequence[Seed], kinds: Sequence[SolutionKind], replies: Replies) -> Iterator[KnownSolution]:
    """The right solutions. If the models gave too few right replies, the dataset's solutions replace them."""
    own_replies = iter(replies.right_replies)
    for index, (seed, kind) in enumerate(zip(seeds, kinds, strict=True)):
        number = 2 * index
        reply = next(own_replies, None) if kind == "own" else None
        if reply is not None:
            yield _make_solution(number, "own", reply)
        else:
            yield KnownSolution(number, seed.id, "reference", _make_attack(seed))


def _build_wrong(
    run_seed: int, seeds: Sequence[Seed], kinds: Sequence[SolutionKind], replies: Replies, rng: random.Random
) -> Iterator[KnownSolution]:
    """The wrong solutions. If the question of a seed cannot be broken, the next seed with a breakable question is used
    instead. No seed is broken twice in the same way.
    """
    mistakes = iter(replies.mistakes)
    used_pairs: set[tuple[str, SolutionKind]] = set()
    for index, kind in enumerate(kinds):
        number = 2 * index + 1
        if kind in PLANTED_KINDS:
            attack = plant_error(_make_attack(seeds[index]), seeds[index], kind, rng)
            yield KnownSolution(number, seeds[index].id, kind, attack)
        elif kind == "mistake":
            mistake = next(mistakes, None)
            if mistake is not None:
                yield _make_solution(number, kind, mistake)
        else:
            solution_rng = Draw(run_seed, TRIAL_TURN, number).rng("trial")
            for seed in [*seeds[index:], *seeds[:index]]:
                broken_attack = break_question(_make_attack(seed), seed, kind, solution_rng)
                if broken_attack is not None and (seed.id, kind) not in used_pairs:
                    used_pairs.add((seed.id, kind))
                    yield KnownSolution(number, seed.id, kind, broken_attack)
                    break


def _make_solution(number: int, kind: SolutionKind, reply: MarkedReply) -> KnownSolution:
    """The known solution that a model wrote as its reply."""
    return KnownSolution(number, reply.seed, kind, reply.attack, reply.author)


def _make_attack(seed: Seed) -> Attack:
    """The attack that states the question, solution and answer of a seed. If the seed has no solution, its program is
    used as the solution; if it has no program either, a sentence that states the answer.
    """
    option_text = seed.options.get(seed.answer, "")
    statement = f"The answer is {seed.answer}. {option_text}".strip()
    solution = seed.solution or seed.program or statement
    return Attack(seed.format_question(), solution, seed.answer, seed.program)
