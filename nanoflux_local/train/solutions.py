"""Collects the right solutions of a kept example, and lists those that a rule may choose for training.

Besides the author's solution, a run records solutions that reach the same answer and were written by blind solvers or
by the defender.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from nanoflux_local.answers import same_number
from nanoflux_local.roles.sections import drop_section
from nanoflux_local.transcript import PROVING_CHECKS, Attempt, Defence

Origin = Literal["author", "solver", "own"]
"""Who wrote a solution: the attacker, a blind solver, or the defender."""
SolutionRule = Literal["author", "solver", "own", "shortest", "likeliest"]
"""A rule that chooses the solution to train on: by its origin, or the shortest or the likeliest of all."""
SOLUTION_RULES: tuple[SolutionRule, ...] = SolutionRule.__args__  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class RightSolution:
    """A solution with the right answer. `author` is the endpoint that wrote the solution, "" if the endpoint was not
    recorded.
    """

    origin: Origin
    text: str
    answer: str
    author: str = ""


def collect_right_solutions(attempt: Attempt, attacker: str = "", defender: str = "") -> tuple[RightSolution, ...]:
    """The right solutions of a kept attempt, the author's first. Of solutions that have the same origin and the same
    words, only the first is listed. `attacker` and `defender` are the names of the endpoints.
    """
    first_by_origin_and_text: dict[tuple[Origin, str], RightSolution] = {}
    for solution in _yield_right_solutions(attempt, attacker, defender):
        if solution.text.strip() and solution.answer.strip():
            first_by_origin_and_text.setdefault((solution.origin, _join_words(solution.text)), solution)
    return tuple(first_by_origin_and_text.values())


def _yield_right_solutions(attempt: Attempt, attacker: str, defender: str) -> Iterator[RightSolution]:
    """Every right solution of an attempt, including blank and repeated ones."""
    if attempt.attack is not None:
        yield RightSolution("author", attempt.attack.solution, attempt.attack.answer, attacker)
    for finding in filter(None, map(attempt.finding, PROVING_CHECKS)):
        for exhibit in finding.evidence:
            if exhibit.kind == "solution" and exhibit.agrees:
                # A reply without the heading SOLUTION is recorded with its answer; without the answer it may be blank.
                text = drop_section(exhibit.text, "ANSWER")
                yield RightSolution("solver", text, exhibit.outcome, exhibit.author)
    if attempt.defence is not None and attempt.evaluation is not None and attempt.evaluation.positive:
        yield from _yield_own_solution(attempt.defence, defender)
    for sample in attempt.samples:
        if sample.right and sample.defence is not None:
            yield from _yield_own_solution(sample.defence, defender)


def _yield_own_solution(defence: Defence, defender: str) -> Iterator[RightSolution]:
    """Yield the defence as a solution, unless it is incomplete because it was truncated at a token budget."""
    if not defence.cut:
        yield RightSolution("own", defence.solution, defence.answer, defender)


def list_wrong_defences(attempt: Attempt) -> tuple[Defence, ...]:
    """The defender's wrong answers to a kept question in order, without repeated answers. A defence that the judge
    rejected although it gives the attacker's answer is not among them.
    """
    defences = [sample.defence for sample in attempt.samples if sample.right is False and sample.defence is not None]
    if attempt.defence is not None and attempt.evaluation is not None and not attempt.evaluation.positive:
        defences.insert(0, attempt.defence)
    right_answer = attempt.attack.answer if attempt.attack else ""
    return tuple(
        defence
        for defence in dict.fromkeys(defences)
        if defence.answer != right_answer and not same_number(defence.answer, right_answer)
    )


def list_candidates(solutions: Sequence[RightSolution], rule: SolutionRule) -> tuple[RightSolution, ...]:
    """The solutions that a rule may choose. "shortest" and "likeliest" may choose any solution, each text once; every
    other rule chooses from the solutions of its origin.
    """
    if rule not in ("shortest", "likeliest"):
        return tuple(solution for solution in solutions if solution.origin == rule)
    first_by_text: dict[str, RightSolution] = {}
    for solution in solutions:
        first_by_text.setdefault(_join_words(solution.text), solution)
    return tuple(first_by_text.values())


def _join_words(text: str) -> str:
    """A text with single spaces between its words, so that texts that differ only in white space are equal."""
    return " ".join(text.split())
