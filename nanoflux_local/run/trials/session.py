"""Holds a run's trial before its first turn: the judge decides on solutions that are known to be right or wrong, and
each check examines them.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from nanoflux_local.domains.base import Domain
from nanoflux_local.ledger.calls import TRIAL, CachedCalls, Call, TracedCalls, acting_as
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.roles.base import Draw
from nanoflux_local.roles.checking import CheckingJudge
from nanoflux_local.run.trials.replies import TRIAL_TURN, run_bounded
from nanoflux_local.run.trials.solutions import KnownSolution, build_known_solutions
from nanoflux_local.run.turn import Rules
from nanoflux_local.transcript import Doubt, Finding, Verdict


async def hold_trial(
    ledger: Ledger, run: str, rules: Rules, domain: Domain, calls: CachedCalls, is_stopping: Callable[[], bool]
) -> None:
    """Let the judge decide on the solutions of the trial that it has not judged yet, concurrently, and commit each
    verdict when it arrives. Does nothing if the run has no trial.

    Raises:
        NanofluxError: an endpoint or the sandbox failed; the verdicts committed so far are kept.
    """
    if not rules.config.judge.trial:
        return
    judged_numbers = {row[0] for row in ledger.rows("SELECT number FROM trials WHERE run = ?", run)}
    with acting_as(TRIAL):
        solutions = await build_known_solutions(rules, domain, TracedCalls(calls), is_stopping)
    if solutions is None:  # the run is stopping
        return

    async def judge_and_commit(solution: KnownSolution) -> None:
        if is_stopping():
            return
        with acting_as(TRIAL):
            record = await judge_solution(rules, solution, TracedCalls(calls))
        ledger.add_trial(run, solution.number, "good" if solution.right else "bad", record.to_json())

    unjudged_solutions = [solution for solution in solutions if solution.number not in judged_numbers]
    functions = [partial(judge_and_commit, solution) for solution in unjudged_solutions]
    await run_bounded(functions, rules.config.concurrency)


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """A solution with the judge's verdict, which contains the findings of all checks. `decision` is the judge's own
    decision, before the checks; it is None if the judge made none, and `unjudged` is the reason.
    """

    solution: KnownSolution
    decision: bool | None
    verdict: Verdict
    unjudged: str = ""

    def to_json(self) -> dict[str, Any]:
        """The record as stored in the ledger."""
        return {
            "seed": self.solution.seed,
            "kind": self.solution.kind,
            "fault": "" if self.solution.right else self.solution.kind,
            "author": self.solution.author,
            "attack": asdict(self.solution.attack),
            "word": self.decision,
            "verdict": asdict(self.verdict),
            "unjudged": self.unjudged,
        }


async def judge_solution(rules: Rules, solution: KnownSolution, call: Call) -> TrialRecord:
    """Let the judge decide on a solution, and let each check examine it."""
    draw = Draw(rules.config.seed, TRIAL_TURN, solution.number)
    judge = rules.find_roles(0).judge
    findings: tuple[Finding, ...] = ()
    if isinstance(judge, CheckingJudge):
        result, findings = await judge.validate_and_examine(solution.attack, draw, call)
    else:
        result = await judge.validate(solution.attack, draw, call)
    if isinstance(result, Verdict):
        return TrialRecord(solution, result.positive, replace(result, findings=findings or result.findings))
    reason = "in doubt" if isinstance(result, Doubt) else result.reason
    verdict = Verdict(positive=False, confidence=0.0, explanation="", findings=findings)
    return TrialRecord(solution, None, verdict, reason)
