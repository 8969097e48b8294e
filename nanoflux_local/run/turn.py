"""One turn of the paper's protocol (§3) as a pure function.

`run_turn` depends only on its arguments, and reaches models and tools only through `call`. Equal arguments always yield
equal records; resuming, concurrency and replay rely on that.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from nanoflux_local.config import PROGRAM, RunConfig
from nanoflux_local.errors import PromptRefusedError
from nanoflux_local.ledger.calls import Call, acting_as
from nanoflux_local.quantities import format_quantity
from nanoflux_local.records import EmbedRequest, Identity, Vector, similarity
from nanoflux_local.roles.base import Draw, Judge
from nanoflux_local.roles.sections import RefusedPrompt, Unparsed
from nanoflux_local.run.held_out import HeldOut
from nanoflux_local.seeds.source import SeedSource
from nanoflux_local.transcript import (
    KEPT,
    PROVING_CHECKS,
    Attack,
    Attempt,
    AttemptStep,
    Defence,
    Doubt,
    Finding,
    Outcome,
    Quality,
    Sample,
    Seed,
    TurnRecord,
    Verdict,
)

TRUSTED_PASS_RATES = {"provable": 0.0, "supported": 0.5, "confirmed": 1.0}
"""The pass rate above which the defender's answers count as support, by the setting `keep`. It is higher the more the
defender may share the attacker's mistakes; with "confirmed", its answers never count.
"""


class EarlierQuestions(Protocol):
    """The questions asked before an attempt: a `History`, or the `SpeculativeHistory` of a turn that runs ahead."""

    def nearest_similarity(self, vector: Vector) -> float | None:
        """The largest similarity of `vector` to an earlier question, or None if there is no earlier question."""

    def plus(self, vector: Vector) -> "EarlierQuestions":
        """These questions and the question with the unit vector `vector`."""


class Attacker(Protocol):
    """Writes a question with its solution and answer."""

    @property
    def name(self) -> str: ...

    async def attack(self, seeds: tuple[Seed, ...], draw: Draw, call: Call) -> Attack | Unparsed: ...


class Defender(Protocol):
    """Answers a question."""

    @property
    def name(self) -> str: ...

    async def defend(self, question: str, draw: Draw, call: Call) -> Defence | Unparsed: ...


class Marker(Protocol):
    """Marks one of the defender's later answers as right or wrong."""

    async def mark(self, attack: Attack, defence: Defence, draw: Draw, call: Call) -> Sample: ...


class Rater(Protocol):
    """Rates the reasoning of a kept example."""

    async def rate(self, attack: Attack, draw: Draw, call: Call) -> Quality | Unparsed: ...


@dataclass(frozen=True, slots=True)
class TurnRoles:
    """The models or programs that play the roles in a turn. Without a rater, the reasoning of kept examples is not
    rated; without a marker, the defender answers each question once.
    """

    attacker: Attacker
    defender: Defender
    judge: Judge
    rater: Rater | None = None
    marker: Marker | None = None


@dataclass(frozen=True, slots=True)
class Rules:
    """Everything that determines the result of a turn, except its number and history. If two models swap roles, there
    are two `role_groups`, which play alternate turns (paper §3). `questions_of_other_runs` count as earlier questions;
    `held_out` holds the evaluation items that no question may repeat.
    """

    config: RunConfig
    seeds: SeedSource
    role_groups: Sequence[TurnRoles]
    embedder: Identity
    questions_of_other_runs: tuple[str, ...] = ()
    held_out: HeldOut = field(default_factory=HeldOut)

    def find_roles(self, number: int) -> TurnRoles:
        """The models or programs that play the roles in turn `number`."""
        return self.role_groups[number % len(self.role_groups)]


async def run_turn(rules: Rules, number: int, history: EarlierQuestions, call: Call) -> TurnRecord:
    """Run turn `number`: let the attacker try until an attempt is not rejected or the retries are used up (paper §3;
    limits in A.1).
    """
    roles = rules.find_roles(number)
    attempts: list[Attempt] = []
    used_seed_ids: set[str] = set()
    for attempt_number in range(1 + rules.config.retries.validation):
        draw = Draw(rules.config.seed, number, attempt_number)
        seeds = draw_seeds(rules, draw, used_seed_ids)
        used_seed_ids.update(seed.id for seed in seeds)
        attempt, question_vector = await run_attempt(rules, roles, seeds, draw, history, call)
        attempts.append(attempt)
        if question_vector is not None:
            history = history.plus(question_vector)
        if not attempt.rejected:
            break
    return TurnRecord(number, roles.attacker.name, roles.defender.name, roles.judge.name, tuple(attempts))


def draw_seeds(rules: Rules, draw: Draw, used_seed_ids: set[str]) -> tuple[Seed, ...]:
    """Draw the seeds of an attempt (paper §3). Their number is uniformly random; the seeds are drawn uniformly, and
    those that earlier attempts of the turn used are not drawn again.
    """
    rng = draw.rng("seeds")
    count = rng.randint(rules.config.seeds.min, rules.config.seeds.max)
    return rules.seeds.draw(count, rng, used_seed_ids)


async def run_attempt(
    rules: Rules, roles: TurnRoles, seeds: tuple[Seed, ...], draw: Draw, history: EarlierQuestions, call: Call
) -> tuple[Attempt, Vector | None]:
    """Run one attempt. Returns the attempt and the unit vector of its question, which is None if no question was
    embedded.
    """
    attempt = Attempt(draw.attempt, tuple(seed.id for seed in seeds), "unparsed")

    # The attacker writes a question with its solution and answer.
    with acting_as("attacker"):
        attack = await roles.attacker.attack(seeds, draw, call)
    if isinstance(attack, Unparsed):
        return end_unreadable(attempt, "attack", attack), None
    attempt = replace(attempt, attack=attack)

    # Novelty, stage one: the question must not resemble an earlier question.
    try:
        vector = await embed(rules, attack.question, call)
    except PromptRefusedError as error:
        return end_unreadable(attempt, "embedding", RefusedPrompt(error.message)), None
    attempt = replace(attempt, nearest=history.nearest_similarity(vector))
    if attempt.nearest is not None and attempt.nearest > rules.config.novelty.question:
        return replace(attempt, outcome="novelty_rejected"), vector
    # The question must not repeat a held-out evaluation item.
    repeat = rules.held_out.find_repeat(attack, vector, rules.config.novelty.question)
    if repeat:
        return replace(attempt, outcome="contaminated", reason=repeat), vector

    # The judge validates the question and the attacker's solution.
    with acting_as("judge"):
        validation = await roles.judge.validate(attack, draw, call, seeds=seeds)
    if not isinstance(validation, Verdict):
        return end_unjudged(attempt, "validation", validation), vector
    attempt = replace(attempt, validation=validation)
    if not validation.positive:
        outcome = find_rejection(rules, attempt)
        return replace(attempt, outcome=outcome, reason=validation.explanation), vector

    # The defender answers. It sees only the question.
    with acting_as("defender"):
        defence = await roles.defender.defend(attack.question, draw, call)
    if isinstance(defence, Unparsed):
        return end_unreadable(attempt, "defence", defence), vector
    attempt = replace(attempt, defence=defence)

    # The judge evaluates the defence.
    with acting_as("judge"):
        evaluation = await roles.judge.evaluate(attack, defence, draw, call)
    if not isinstance(evaluation, Verdict):
        return end_unjudged(attempt, "evaluation", evaluation), vector
    attempt = replace(attempt, evaluation=evaluation)

    # The defender answers again, so that its pass rate is known.
    attempt = replace(attempt, samples=await sample_defences(rules, roles, attack, draw, call))

    # The rules decide whether the example is kept.
    try:
        attempt = await decide_outcome(rules, roles, attempt, attack, defence, call)
    except PromptRefusedError as error:
        return end_unreadable(attempt, "embedding", RefusedPrompt(error.message)), vector
    return await rate_reasoning(roles, attempt, attack, draw, call), vector


def find_rejection(rules: Rules, attempt: Attempt) -> Outcome:
    """The outcome of an attempt whose validation is negative: "unproven" if only the support is missing that the
    setting `keep` = "confirmed" demands before the judge is asked, otherwise "invalid".
    """
    proving_findings = list_proving_findings(attempt)
    findings = attempt.validation.findings if attempt.validation is not None else ()
    is_supported = any(finding.conclusion == "supports" for finding in proving_findings)
    is_contradicted = any(finding.conclusion == "contradicts" for finding in findings)
    needs_support = rules.config.keep == "confirmed" and bool(proving_findings)
    return "unproven" if needs_support and not is_supported and not is_contradicted else "invalid"


async def sample_defences(rules: Rules, roles: TurnRoles, attack: Attack, draw: Draw, call: Call) -> tuple[Sample, ...]:
    """The defender's second and later answers to the question, each sampled with a different seed and marked."""
    if roles.marker is None:
        return ()
    samples: list[Sample] = []
    for number in range(1, rules.config.samples):
        sample_draw = replace(draw, sample=number)
        with acting_as("defender"):
            defence = await roles.defender.defend(attack.question, sample_draw, call)
        if isinstance(defence, Unparsed):
            samples.append(Sample(None, None, defence.reason))
            continue
        with acting_as("judge"):
            samples.append(await roles.marker.mark(attack, defence, sample_draw, call))
    return tuple(samples)


async def decide_outcome(
    rules: Rules, roles: TurnRoles, attempt: Attempt, attack: Attack, defence: Defence, call: Call
) -> Attempt:
    """Set the attempt's outcome: whether the question becomes an example, by the rule that the setting `keep` names."""
    if rules.config.keep == "failed":
        return await decide_by_failure(rules, attempt, attack, defence, call)
    return decide_by_pass_rate(roles, attempt, TRUSTED_PASS_RATES[rules.config.keep])


def decide_by_pass_rate(roles: TurnRoles, attempt: Attempt, trusted_pass_rate: float) -> Attempt:
    """Keep a question that the defender does not always solve: without further proof if its pass rate is above
    `trusted_pass_rate`, because a question that was solved is answerable; otherwise only if its answer is proven,
    because the answer may be wrong or the question broken.
    """
    right_count, answer_count = attempt.pass_rate or (0, 0)  # never None here: the defence was evaluated
    if right_count == answer_count:
        return replace(attempt, outcome="defender_right")
    if right_count > trusted_pass_rate * answer_count or is_proven(roles, attempt):
        return replace(attempt, outcome="kept_failed")
    findings = list_proving_findings(attempt)
    reason = findings[0].reason if findings else "no blind solutions were written"
    right_share = f"{right_count} of {format_quantity(answer_count, 'answer')}"
    verb = "is" if 1 in (right_count, answer_count) else "are"
    return replace(attempt, outcome="unproven", reason=f"{right_share} {verb} right; {reason}")


def list_proving_findings(attempt: Attempt) -> list[Finding]:
    """The findings of those checks in `PROVING_CHECKS` that ran, in the same order."""
    findings = (attempt.finding(name) for name in PROVING_CHECKS)
    return [finding for finding in findings if finding is not None]


def is_proven(roles: TurnRoles, attempt: Attempt) -> bool:
    """Whether the attacker's answer was also reached without the attacker's solution: by blind solutions, or by a judge
    that is a program and computes the answer.
    """
    is_supported = any(finding.conclusion == "supports" for finding in list_proving_findings(attempt))
    return roles.judge.name == PROGRAM or is_supported


async def decide_by_failure(rules: Rules, attempt: Attempt, attack: Attack, defence: Defence, call: Call) -> Attempt:
    """Keep a question that the defender answered wrongly, or solved in a novel way: stage two of the novelty filter
    (paper §3).
    """
    if attempt.evaluation is not None and not attempt.evaluation.positive:
        return replace(attempt, outcome="kept_failed")
    attacker_vector = await embed(rules, attack.solution, call)
    defender_vector = await embed(rules, f"{defence.analysis}\n{defence.solution}".strip(), call)
    solution_similarity = similarity(attacker_vector, defender_vector)
    is_novel = solution_similarity < rules.config.novelty.solution
    outcome: Outcome = "kept_novel" if is_novel else "defender_right"
    return replace(attempt, solution_similarity=solution_similarity, outcome=outcome)


async def rate_reasoning(roles: TurnRoles, attempt: Attempt, attack: Attack, draw: Draw, call: Call) -> Attempt:
    """If the attempt's question is kept, let the rater rate its reasoning (paper A.4). The rating does not affect which
    examples are kept.
    """
    if roles.rater is None or attempt.outcome not in KEPT:
        return attempt
    with acting_as("judge"):
        quality = await roles.rater.rate(attack, draw, call)
    if isinstance(quality, Unparsed):
        return replace(attempt, unrated=quality.reason)
    return replace(attempt, quality=quality)


def end_unjudged(attempt: Attempt, step: Literal["validation", "evaluation"], result: Doubt | Unparsed) -> Attempt:
    """End an attempt on which the judge gave no verdict. A doubt discards the question; an unreadable reply fails the
    turn.
    """
    if isinstance(result, Doubt):
        confidences = ", ".join(f"{confidence:g}" for confidence in result.confidences)
        return replace(attempt, outcome="low_confidence", reason=f"{step}: confidence {confidences}")
    return end_unreadable(attempt, step, result)


def end_unreadable(attempt: Attempt, step: AttemptStep, result: Unparsed) -> Attempt:
    """End an attempt at a step whose reply could not be read, or whose prompt the endpoint refused.

    An unreadable attack ends only the attempt, since the next attack may be readable. Any other unreadable reply, and
    any refusal, fails the turn.
    """
    if isinstance(result, RefusedPrompt):
        return replace(attempt, outcome="failed", reason=f"{step}: {result.reason}", refused=step)
    if step == "attack":
        return replace(attempt, outcome="unparsed", reason=result.reason)
    return replace(attempt, outcome="failed", reason=f"{step}: {result.reason}")


async def embed(rules: Rules, text: str, call: Call) -> Vector:
    """The unit vector of `text`, shape (dimensions,)."""
    return (await call(EmbedRequest(rules.embedder, text))).vector
