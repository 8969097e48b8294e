"""The paper's protocol, top to bottom: one turn as a pure function (§3).

Reads nothing but its arguments and reaches the outside only through `call`. Running a turn again with the same
arguments gives the same record: that is what resuming, concurrency and replay rest on.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from nanoflux_local.config import RunConfig
from nanoflux_local.errors import PromptRefusedError
from nanoflux_local.ledger.calls import Call, acting_as
from nanoflux_local.records import EmbedRequest, Identity, Vector
from nanoflux_local.roles.base import Draw, Judge
from nanoflux_local.roles.sections import Refused, Unparsed
from nanoflux_local.run.held_out import HeldOut
from nanoflux_local.run.novelty import similarity
from nanoflux_local.seeds.source import SeedSource
from nanoflux_local.transcript import KEPT, Attack, Attempt, Defence, Doubt, Quality, Seed, Step, TurnRecord, Verdict


class Known(Protocol):
    """The questions before an attempt: a `History`, or an engine's guess at one."""

    def nearest(self, vector: Vector) -> float | None: ...

    def plus(self, vector: Vector) -> "Known": ...


class Attacker(Protocol):
    @property
    def name(self) -> str: ...

    async def attack(self, seeds: tuple[Seed, ...], draw: Draw, call: Call) -> Attack | Unparsed: ...


class Defender(Protocol):
    @property
    def name(self) -> str: ...

    async def defend(self, question: str, draw: Draw, call: Call) -> Defence | Unparsed: ...


class Rater(Protocol):
    async def rate(self, attack: Attack, draw: Draw, call: Call) -> Quality | Unparsed: ...


@dataclass(frozen=True, slots=True)
class Cast:
    """Who plays in one turn; without a rater the reasoning of what is kept is not rated."""

    attacker: Attacker
    defender: Defender
    judge: Judge
    rater: Rater | None = None


@dataclass(frozen=True, slots=True)
class Rules:
    """What a turn is played by. `casts` take turns: two models that swap roles are two casts (paper §3). `before` are
    the questions of other runs that count as asked, `held_out` the evaluation items that no question may repeat.
    """

    config: RunConfig
    seeds: SeedSource
    casts: Sequence[Cast]
    embedder: Identity
    before: tuple[str, ...] = ()
    held_out: HeldOut = field(default_factory=HeldOut)

    def cast(self, number: int) -> Cast:
        return self.casts[number % len(self.casts)]


async def run_turn(rules: Rules, number: int, history: Known, call: Call) -> TurnRecord:
    """Play turn `number` against the questions of `history` (paper §3; A.1 for the bounds)."""
    cast = rules.cast(number)
    attempts: list[Attempt] = []
    used: set[str] = set()
    for attempt_number in range(1 + rules.config.retries.validation):
        draw = Draw(rules.config.seed, number, attempt_number)
        seeds = draw_seeds(rules, draw, used)
        used.update(seed.id for seed in seeds)
        attempt, vector = await play_attempt(rules, cast, seeds, draw, history, call)
        attempts.append(attempt)
        if vector is not None:
            history = history.plus(vector)
        if not attempt.rejected:
            break
    return TurnRecord(number, cast.attacker.name, cast.defender.name, cast.judge.name, tuple(attempts))


def draw_seeds(rules: Rules, draw: Draw, used: set[str]) -> tuple[Seed, ...]:
    """A uniform number of seeds, uniformly, without replacement within the turn (paper §3)."""
    rng = draw.rng("seeds")
    count = rng.randint(rules.config.seeds.min, rules.config.seeds.max)
    return rules.seeds.draw(count, rng, used)


async def play_attempt(
    rules: Rules, cast: Cast, seeds: tuple[Seed, ...], draw: Draw, history: Known, call: Call
) -> tuple[Attempt, Vector | None]:
    """Attack → novelty → held-out items → validation → defence → evaluation → solution novelty. The vector is the
    question's.
    """
    attempt = Attempt(draw.attempt, tuple(seed.id for seed in seeds), "unparsed")
    with acting_as("attacker"):
        attack = await cast.attacker.attack(seeds, draw, call)
    if isinstance(attack, Unparsed):
        return end_unread(attempt, "attack", attack), None
    attempt = replace(attempt, attack=attack)
    try:
        vector = await embed(rules, attack.question, call)
    except PromptRefusedError as error:
        return end_unread(attempt, "embedding", Refused(error.message)), None
    attempt = replace(attempt, nearest=history.nearest(vector))
    if attempt.nearest is not None and attempt.nearest > rules.config.novelty.question:
        return replace(attempt, outcome="novelty_rejected"), vector
    repeated = rules.held_out.repeated(attack, vector, rules.config.novelty.question)
    if repeated:
        return replace(attempt, outcome="contaminated", reason=repeated), vector
    with acting_as("judge"):
        validation = await cast.judge.validate(attack, draw, call)
    if not isinstance(validation, Verdict):
        return unjudged(attempt, "validation", validation), vector
    attempt = replace(attempt, validation=validation)
    if not validation.positive:
        return replace(attempt, outcome="invalid", reason=validation.explanation), vector
    with acting_as("defender"):
        defence = await cast.defender.defend(attack.question, draw, call)
    if isinstance(defence, Unparsed):
        return end_unread(attempt, "defence", defence), vector
    attempt = replace(attempt, defence=defence)
    with acting_as("judge"):
        evaluation = await cast.judge.evaluate(attack, defence, draw, call)
    if not isinstance(evaluation, Verdict):
        return unjudged(attempt, "evaluation", evaluation), vector
    attempt = replace(attempt, evaluation=evaluation)
    try:
        attempt = await decide(rules, attempt, attack, defence, call)
    except PromptRefusedError as error:
        return end_unread(attempt, "embedding", Refused(error.message)), vector
    return await rated(cast, attempt, attack, draw, call), vector


async def decide(rules: Rules, attempt: Attempt, attack: Attack, defence: Defence, call: Call) -> Attempt:
    """Keep what the defender failed, or solved by a novel way: stage two of the novelty filter (paper §3)."""
    if attempt.evaluation is not None and not attempt.evaluation.positive:
        return replace(attempt, outcome="kept_failed")
    theirs = await embed(rules, attack.solution, call)
    ours = await embed(rules, f"{defence.analysis}\n{defence.solution}".strip(), call)
    attempt = replace(attempt, solution_similarity=similarity(theirs, ours))
    novel = attempt.solution_similarity is not None and attempt.solution_similarity < rules.config.novelty.solution
    return replace(attempt, outcome="kept_novel" if novel else "defender_right")


async def rated(cast: Cast, attempt: Attempt, attack: Attack, draw: Draw, call: Call) -> Attempt:
    """The attempt with the quality of its reasoning, if it is kept (paper A.4): the dataset does not depend on it."""
    if cast.rater is None or attempt.outcome not in KEPT:
        return attempt
    with acting_as("judge"):
        quality = await cast.rater.rate(attack, draw, call)
    if isinstance(quality, Unparsed):
        return replace(attempt, unrated=quality.reason)
    return replace(attempt, quality=quality)


def unjudged(attempt: Attempt, step: Literal["validation", "evaluation"], result: Doubt | Unparsed) -> Attempt:
    """No judgement was reached: doubt discards the question, an unreadable judge fails the turn (SPEC §6)."""
    if isinstance(result, Doubt):
        confidences = ", ".join(f"{confidence:g}" for confidence in result.confidences)
        return replace(attempt, outcome="low_confidence", reason=f"{step}: confidence {confidences}")
    return end_unread(attempt, step, result)


def end_unread(attempt: Attempt, step: Step, result: Unparsed) -> Attempt:
    """End an attempt at a step that gave nothing to read. Another attack may be readable, so that the turn goes on; a
    prompt that an endpoint refuses fails the turn, as does whatever else cannot be read.
    """
    if isinstance(result, Refused):
        return replace(attempt, outcome="failed", reason=f"{step}: {result.reason}", refused=step)
    if step == "attack":
        return replace(attempt, outcome="unparsed", reason=result.reason)
    return replace(attempt, outcome="failed", reason=f"{step}: {result.reason}")


async def embed(rules: Rules, text: str, call: Call) -> Vector:
    return (await call(EmbedRequest(rules.embedder, text))).vector
