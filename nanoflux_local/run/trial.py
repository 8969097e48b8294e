"""The judge's trial: every run has its judge judge solutions known to be right or wrong, to measure its error rates.

Seeds of the train split are the right solutions; the wrong ones are copies with one fault planted by a seeded draw.
The judge's rates without and with its checks come from the same verdicts. Sensitivity is the share of wrong solutions
that were rejected, specificity the share of right solutions that were accepted. Solutions without a verdict count in
neither and are reported separately. This module also measures how far a panel's members agree.
"""

import asyncio
import json
import random
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from nanoflux_local.answers import plain_number, read_number
from nanoflux_local.evaluate.agreement import krippendorff_alpha
from nanoflux_local.evaluate.evaluation import format_question
from nanoflux_local.evaluate.statistics import wilson
from nanoflux_local.ledger.calls import TRIAL, Call, RememberedCalls, TracedCalls, acting_as
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.roles.base import Draw
from nanoflux_local.run.turn import Rules
from nanoflux_local.transcript import Attack, Doubt, Seed, Verdict, verdict_from_json

Fault = Literal["", "slip", "answer"]
Judged = tuple[Fault, Verdict]
"""A solution's fault ("" if it is right), and the verdict on it."""
TURN = -1
"""The turn number in the trial's draws: no turn of the run has it, so the draws differ from every turn's."""


@dataclass(frozen=True, slots=True)
class KnownSolution:
    """A solution known to be right or wrong. `fault` is "" for a right one; with "slip" the last result is wrong, with
    "answer" the stated answer contradicts the steps.
    """

    number: int
    seed: str
    fault: Fault
    attack: Attack


def build_known_solutions(rules: Rules) -> list[KnownSolution]:
    """Build `judge.trial` right and as many wrong solutions, determined by the run's seed; fewer if seeds run out."""
    rng = Draw(rules.config.seed, TURN, 0).rng("trial")
    used: set[str] = set()
    chosen: list[Seed] = []
    while len(chosen) < rules.config.judge.trial:
        (seed,) = rules.seeds.draw(1, rng, used)
        if seed.id in used:
            break  # every seed has been drawn
        used.add(seed.id)
        chosen += [seed] if seed.answer else []
    solutions = []
    for number, seed in enumerate(chosen):
        right = Attack(format_question(seed), _solution_text(seed), seed.answer, seed.program)
        fault: Fault = "answer" if number % 2 else "slip"
        wrong = plant_fault(right, seed, fault, rng)
        solutions += [
            KnownSolution(2 * number, seed.id, "", right),
            KnownSolution(2 * number + 1, seed.id, fault, wrong),
        ]
    return solutions


def _solution_text(seed: Seed) -> str:
    """The seed's solution, else its program, else a sentence that states its answer."""
    if seed.solution:
        return seed.solution
    return seed.program or f"The answer is {seed.answer}. {seed.options.get(seed.answer, '')}".strip()


def plant_fault(right: Attack, seed: Seed, fault: Fault, rng: random.Random) -> Attack:
    """The solution with a wrong answer. A slip also changes the result that the solution states."""
    if seed.options:
        wrong = rng.choice([letter for letter in seed.options if letter != seed.answer])
        stated = f"The answer is {wrong}. {seed.options[wrong]}"
        return replace(right, answer=wrong, solution=f"{right.solution}\n{stated}" if fault == "answer" else stated)
    value = read_number(right.answer)
    if value is None:
        return replace(right, answer=f"not {right.answer}", solution=f"{right.solution}\nSo the opposite holds.")
    wrong = plain_number(_draw_wrong_number(value, rng))
    return replace(right, answer=wrong, solution=_replace_result(right, wrong) if fault == "slip" else right.solution)


def _draw_wrong_number(value: float, rng: random.Random) -> float:
    """A different number of the same kind (integer or 2 decimals), close enough to come from a slip."""
    shift = rng.choice([-1, 1]) * rng.uniform(0.02, 0.3) * abs(value)
    if value == int(value):
        return int(value) + (round(shift) or rng.choice([-2, -1, 1, 2]))
    return round(value + shift, 2) if round(value + shift, 2) != round(value, 2) else value + 1


def _replace_result(right: Attack, wrong: str) -> str:
    """The solution with the last occurrence of its answer replaced, or with the wrong answer appended."""
    stated = re.escape(right.answer) if "," in right.answer else "(?:,?)".join(map(re.escape, right.answer))
    places = list(re.finditer(rf"(?<![\d.,]){stated}(?![\d]|[.,]\d)", right.solution))
    if not places:
        return f"{right.solution}\nSo the answer is {wrong}."
    return right.solution[: places[-1].start()] + wrong + right.solution[places[-1].end() :]


async def hold_trial(
    ledger: Ledger, run: str, rules: Rules, calls: RememberedCalls, stopping: Callable[[], bool]
) -> None:
    """Judge the trial's remaining solutions at the run's concurrency. Each verdict is committed when it arrives.

    Raises:
        NanofluxError: the judge's endpoint or the sandbox failed; committed verdicts stay.
    """
    judged_numbers = {row[0] for row in ledger.rows("SELECT number FROM trials WHERE run = ?", run)}
    slots = asyncio.Semaphore(rules.config.concurrency)

    async def judge_solution(solution: KnownSolution) -> None:
        async with slots:
            if stopping():
                return
            with acting_as(TRIAL):
                record = await _judge_solution(rules, solution, TracedCalls(calls))
            ledger.add_trial(run, solution.number, "bad" if solution.fault else "good", record)

    solutions = build_known_solutions(rules) if rules.config.judge.trial else []
    tasks = [
        asyncio.create_task(judge_solution(solution)) for solution in solutions if solution.number not in judged_numbers
    ]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _judge_solution(rules: Rules, solution: KnownSolution, call: Call) -> dict[str, Any]:
    """The trial record to store: the solution, its fault, and the verdict or the reason why there is none."""
    draw = Draw(rules.config.seed, TURN, solution.number)
    result = await rules.cast(0).judge.validate(solution.attack, draw, call)
    entry = {"seed": solution.seed, "fault": solution.fault, "attack": asdict(solution.attack)}
    if isinstance(result, Verdict):
        return {**entry, "verdict": asdict(result), "unjudged": ""}
    return {**entry, "verdict": None, "unjudged": "in doubt" if isinstance(result, Doubt) else result.reason}


@dataclass(frozen=True, slots=True)
class Share:
    """A share of `n` solutions with its 95% Wilson interval; both are None if `n` is 0."""

    n: int
    share: float | None
    ci95: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class Rates:
    """A judge's error rates; `caught` has the share of rejected solutions by kind of planted fault."""

    sensitivity: Share
    specificity: Share
    errors: int
    caught: dict[str, Share]

    def describe(self) -> str:
        """Sensitivity and specificity in words, with their intervals."""
        rejected, accepted = _describe_share(self.sensitivity, "wrong"), _describe_share(self.specificity, "right")
        return f"rejects {rejected}, accepts {accepted}"


@dataclass(frozen=True, slots=True)
class CheckRates(Rates):
    """The rates of one check by itself, among the solutions that it reached a conclusion on."""

    concluded: int


@dataclass(frozen=True, slots=True)
class TrialResult:
    """The outcome of a run's trial. `judge` has the rates that count; `without_check` and `with_check` are None if
    the judge has no checks, or is a program.
    """

    solutions: int
    unjudged: int
    checked: int
    without_check: Rates | None
    with_check: Rates | None
    judge: Rates
    checks: dict[str, CheckRates]


@dataclass(frozen=True, slots=True)
class PanelAgreement:
    """How many judgements a panel made, over how many its members split, and Krippendorff's alpha (None: undefined)."""

    judgements: int
    split: int
    alpha: float | None


def summarize_trial(view: LedgerView, run: str) -> TrialResult | None:
    """The result of a run's trial, or None if the run held none: `judge_trial` in `run show --json`."""
    rows = view.rows("SELECT record FROM trials WHERE run = ? ORDER BY number", run)
    records = [json.loads(row["record"]) for row in rows]
    if not records:
        return None
    config = json.loads(view.find_run(run)["config"])
    checks = config["judge"].get("code_check", False) or config["judge"].get("checks")
    has_checks = bool(checks) and config["roles"]["judge"]["endpoint"] != "program"
    judged: list[Judged] = [
        (record["fault"], verdict_from_json(**record["verdict"])) for record in records if record["verdict"]
    ]
    rates = _measure_rates(judged, lambda verdict: verdict.positive)
    return TrialResult(
        solutions=len(records),
        unjudged=len(records) - len(judged),
        checked=sum(_has_conclusion(verdict, "code") for _, verdict in judged),
        without_check=_measure_rates(judged, lambda verdict: verdict.accepted_by_judge) if has_checks else None,
        with_check=rates if has_checks else None,
        judge=rates,
        checks={name: _measure_check(judged, name) for name in _check_names(judged)},
    )


def _check_names(judged: Sequence[Judged]) -> list[str]:
    """The checks that reached a conclusion on any solution of the trial."""
    findings = [finding for _, verdict in judged for finding in verdict.findings]
    return sorted({finding.check for finding in findings if finding.conclusion != "not checked"})


def _measure_check(judged: Sequence[Judged], check: str) -> CheckRates:
    concluded = [(fault, verdict) for fault, verdict in judged if _has_conclusion(verdict, check)]

    def supports(verdict: Verdict) -> bool:
        finding = verdict.finding(check)
        return finding is not None and finding.conclusion == "supports"

    rates = _measure_rates(concluded, supports)
    return CheckRates(rates.sensitivity, rates.specificity, rates.errors, rates.caught, len(concluded))


def _has_conclusion(verdict: Verdict, check: str) -> bool:
    finding = verdict.finding(check)
    return finding is not None and finding.conclusion != "not checked"


def _measure_rates(judged: Sequence[Judged], accepts: Callable[[Verdict], bool]) -> Rates:
    rejected_wrong = [not accepts(verdict) for fault, verdict in judged if fault]
    accepted_right = [accepts(verdict) for fault, verdict in judged if not fault]
    return Rates(
        sensitivity=_share(rejected_wrong),
        specificity=_share(accepted_right),
        errors=rejected_wrong.count(False) + accepted_right.count(False),
        caught={
            kind: _share(not accepts(verdict) for fault, verdict in judged if fault == kind)
            for kind in ("slip", "answer")
        },
    )


def _share(hits: Iterable[bool]) -> Share:
    outcomes = list(hits)
    if not outcomes:
        return Share(0, None, None)
    return Share(len(outcomes), sum(outcomes) / len(outcomes), wilson(sum(outcomes), len(outcomes)))


def _describe_share(share: Share, noun: str) -> str:
    if share.share is None or share.ci95 is None:
        return f"0 of 0 {noun}"
    low, high = share.ci95
    return f"{round(share.share * share.n)} of {share.n} {noun} ({low:.0%} to {high:.0%})"


def summarize_panel(view: LedgerView, run: str) -> PanelAgreement | None:
    """How far a run's panel agrees, or None if a single judge judges: `panel` in `run show --json`."""
    row = view.find_run(run)
    if not json.loads(row["config"])["judge"].get("panel"):
        return None
    attempts = [attempt for record in view.turn_records(row["id"]) for attempt in record.attempts]
    verdicts = [verdict for attempt in attempts for verdict in (attempt.validation, attempt.evaluation) if verdict]
    votes = [[vote.positive for vote in verdict.votes] for verdict in verdicts]
    return PanelAgreement(
        judgements=len(votes),
        split=sum(len({vote for vote in unit if vote is not None}) > 1 for unit in votes),
        alpha=krippendorff_alpha(votes),
    )
