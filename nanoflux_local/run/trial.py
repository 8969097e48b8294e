"""The judge's trial: in every run it judges solutions known to be right or wrong, so that its errors are known.

Seeds of the train split are the right ones; the wrong ones are theirs with one fault put in by a fixed draw. A judge's
own word and its word with the code check come from the same verdicts: sensitivity is the share of wrong solutions that
were rejected, specificity that of right ones that were accepted. What was not judged counts in neither, and is told.
Of a panel it also tells the agreement.
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
from nanoflux_local.evaluate.evaluation import with_options
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
"""Stands for a turn's number in the draws of the trial, so that they are no turn's."""


@dataclass(frozen=True, slots=True)
class KnownSolution:
    """A solution of known worth. A "slip" is wrong from its last result on; "answer" states another answer than its
    steps do.
    """

    number: int
    seed: str
    fault: Fault
    attack: Attack


def known_solutions(rules: Rules) -> list[KnownSolution]:
    """`judge.trial` right solutions and as many wrong ones, always the same for a run's seed; fewer where there are
    fewer seeds.
    """
    rng = Draw(rules.config.seed, TURN, 0).rng("trial")
    used: set[str] = set()
    chosen: list[Seed] = []
    while len(chosen) < rules.config.judge.trial:
        (seed,) = rules.seeds.draw(1, rng, used)
        if seed.id in used:
            break  # all of them were drawn
        used.add(seed.id)
        chosen += [seed] if seed.answer else []
    solutions = []
    for number, seed in enumerate(chosen):
        right = Attack(with_options(seed), _solution(seed), seed.answer, seed.program)
        fault: Fault = "answer" if number % 2 else "slip"
        wrong = with_fault(right, seed, fault, rng)
        solutions += [
            KnownSolution(2 * number, seed.id, "", right),
            KnownSolution(2 * number + 1, seed.id, fault, wrong),
        ]
    return solutions


def _solution(seed: Seed) -> str:
    """The seed's own solution; where it has none, what its program calculates or its option says."""
    if seed.solution:
        return seed.solution
    return seed.program or f"The answer is {seed.answer}. {seed.options.get(seed.answer, '')}".strip()


def with_fault(right: Attack, seed: Seed, fault: Fault, rng: random.Random) -> Attack:
    """The solution with another answer; a slip is also made where the solution states its result."""
    if seed.options:
        wrong = rng.choice([letter for letter in seed.options if letter != seed.answer])
        stated = f"The answer is {wrong}. {seed.options[wrong]}"
        return replace(right, answer=wrong, solution=f"{right.solution}\n{stated}" if fault == "answer" else stated)
    value = read_number(right.answer)
    if value is None:
        return replace(right, answer=f"not {right.answer}", solution=f"{right.solution}\nSo the opposite holds.")
    wrong = plain_number(_other(value, rng))
    return replace(right, answer=wrong, solution=_with_slip(right, wrong) if fault == "slip" else right.solution)


def _other(value: float, rng: random.Random) -> float:
    """Another number of the same kind, near enough to be made by a slip."""
    shift = rng.choice([-1, 1]) * rng.uniform(0.02, 0.3) * abs(value)
    if value == int(value):
        return int(value) + (round(shift) or rng.choice([-2, -1, 1, 2]))
    return round(value + shift, 2) if round(value + shift, 2) != round(value, 2) else value + 1


def _with_slip(right: Attack, wrong: str) -> str:
    """The solution with its last statement of the answer changed, or the wrong answer stated at its end."""
    stated = re.escape(right.answer) if "," in right.answer else "(?:,?)".join(map(re.escape, right.answer))
    places = list(re.finditer(rf"(?<![\d.,]){stated}(?![\d]|[.,]\d)", right.solution))
    if not places:
        return f"{right.solution}\nSo the answer is {wrong}."
    return right.solution[: places[-1].start()] + wrong + right.solution[places[-1].end() :]


async def hold_trial(
    ledger: Ledger, run: str, rules: Rules, calls: RememberedCalls, stopping: Callable[[], bool]
) -> None:
    """Judge what the run's trial has not judged yet, at the run's concurrency; each verdict is committed as it comes.

    Raises:
        NanofluxError: the judge's endpoint or the sandbox failed; what was judged stays.
    """
    done = {row[0] for row in ledger.rows("SELECT number FROM trials WHERE run = ?", run)}
    places = asyncio.Semaphore(rules.config.concurrency)

    async def judge_solution(solution: KnownSolution) -> None:
        async with places:
            if stopping():
                return
            with acting_as(TRIAL):
                record = await _record(rules, solution, TracedCalls(calls))
            ledger.add_trial(run, solution.number, "bad" if solution.fault else "good", record)

    solutions = known_solutions(rules) if rules.config.judge.trial else []
    tasks = [asyncio.create_task(judge_solution(solution)) for solution in solutions if solution.number not in done]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _record(rules: Rules, solution: KnownSolution, call: Call) -> dict[str, Any]:
    draw = Draw(rules.config.seed, TURN, solution.number)
    result = await rules.cast(0).judge.validate(solution.attack, draw, call)
    entry = {"seed": solution.seed, "fault": solution.fault, "attack": asdict(solution.attack)}
    if isinstance(result, Verdict):
        return {**entry, "verdict": asdict(result), "unjudged": ""}
    return {**entry, "verdict": None, "unjudged": "in doubt" if isinstance(result, Doubt) else result.reason}


def trial_result(view: LedgerView, run: str) -> dict[str, Any] | None:
    """What `run show --json` tells of a run's trial, under `judge_trial`; None where none was held."""
    rows = view.rows("SELECT record FROM trials WHERE run = ? ORDER BY number", run)
    records = [json.loads(row["record"]) for row in rows]
    if not records:
        return None
    config = json.loads(view.find_run(run)["config"])
    checks = config["judge"].get("code_check", False) or config["judge"].get("checks")
    both = bool(checks) and config["roles"]["judge"]["endpoint"] != "program"
    judged: list[Judged] = [
        (record["fault"], verdict_from_json(**record["verdict"])) for record in records if record["verdict"]
    ]
    return {
        "solutions": len(records),
        "unjudged": len(records) - len(judged),
        "checked": sum(_concluded(verdict, "code") for _, verdict in judged),
        "without_check": _rates(judged, lambda verdict: verdict.accepted_by_judge) if both else None,
        "with_check": _rates(judged, lambda verdict: verdict.positive) if both else None,
        "judge": _rates(judged, lambda verdict: verdict.positive),
        "checks": {name: _check_rates(judged, name) for name in _check_names(judged)},
    }


def _check_names(judged: Sequence[Judged]) -> list[str]:
    """The checks that concluded anything in this trial."""
    findings = [finding for _, verdict in judged for finding in verdict.findings]
    return sorted({finding.check for finding in findings if finding.conclusion != "not checked"})


def _check_rates(judged: Sequence[Judged], check: str) -> dict[str, Any]:
    """What one check alone would reject and accept, among the solutions that it reached a conclusion on."""
    concluded = [(fault, verdict) for fault, verdict in judged if _concluded(verdict, check)]

    def supports(verdict: Verdict) -> bool:
        finding = verdict.finding(check)
        return finding is not None and finding.conclusion == "supports"

    return {"concluded": len(concluded), **_rates(concluded, supports)}


def _concluded(verdict: Verdict, check: str) -> bool:
    finding = verdict.finding(check)
    return finding is not None and finding.conclusion != "not checked"


def _rates(judged: Sequence[Judged], accepts: Callable[[Verdict], bool]) -> dict[str, Any]:
    caught = [not accepts(verdict) for fault, verdict in judged if fault]
    passed = [accepts(verdict) for fault, verdict in judged if not fault]
    return {
        "sensitivity": _share(caught),
        "specificity": _share(passed),
        "errors": caught.count(False) + passed.count(False),
        "caught": {
            kind: _share(not accepts(verdict) for fault, verdict in judged if fault == kind)
            for kind in ("slip", "answer")
        },
    }


def _share(hits: Iterable[bool]) -> dict[str, Any]:
    """A share with its 95% Wilson interval; of nothing there is none."""
    outcomes = list(hits)
    if not outcomes:
        return {"n": 0, "share": None, "ci95": None}
    return {
        "n": len(outcomes),
        "share": sum(outcomes) / len(outcomes),
        "ci95": list(wilson(sum(outcomes), len(outcomes))),
    }


def describe_rates(rates: dict[str, Any]) -> str:
    """Sensitivity and specificity in words, with their intervals."""
    parts = (("rejects", "sensitivity", "wrong"), ("accepts", "specificity", "right"))
    return ", ".join(f"{verb} {_describe_share(rates[name], noun)}" for verb, name, noun in parts)


def _describe_share(share: dict[str, Any], noun: str) -> str:
    if not share["n"]:
        return f"0 of 0 {noun}"
    low, high = share["ci95"]
    return f"{round(share['share'] * share['n'])} of {share['n']} {noun} ({low:.0%} to {high:.0%})"


def panel_result(view: LedgerView, run: str) -> dict[str, Any] | None:
    """How far a run's panel agrees: `panel` in `run show --json`; None where one judge judges alone."""
    row = view.find_run(run)
    if not json.loads(row["config"])["judge"].get("panel"):
        return None
    attempts = [attempt for record in view.turn_records(row["id"]) for attempt in record.attempts]
    verdicts = [verdict for attempt in attempts for verdict in (attempt.validation, attempt.evaluation) if verdict]
    votes = [[vote.positive for vote in verdict.votes] for verdict in verdicts]
    return {
        "judgements": len(votes),
        "split": sum(len({vote for vote in each if vote is not None}) > 1 for each in votes),
        "alpha": krippendorff_alpha(votes),
    }
