"""The blind check: solutions written from the question alone, some in words and some as programs run in the sandbox.

A check that follows the attacker's solution repeats its misreadings. A blind solution cannot, because its request
contains neither the attacker's solution nor the answer. This module builds the requests, reads the replies and draws
the conclusion. An unreadable solution counts neither for nor against the attacker.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from nanoflux_local.answers import same_short_text
from nanoflux_local.config import JudgeRules
from nanoflux_local.domains.base import Domain
from nanoflux_local.ledger.calls import Call
from nanoflux_local.quantities import format_quantity
from nanoflux_local.reasoning import strip_reasoning
from nanoflux_local.records import Identity, Message, storable
from nanoflux_local.roles.attacker import normalize_answer
from nanoflux_local.roles.base import Draw, Player, ask
from nanoflux_local.roles.checks.base import SANDBOX, Check, CheckContext, CheckStage, find_stage
from nanoflux_local.roles.checks.free_programs import read_free_program, run_free_program
from nanoflux_local.roles.judge import is_same_answer
from nanoflux_local.roles.sections import RefusedPrompt, Unparsed, read_sections
from nanoflux_local.transcript import Attack, Conclusion, Exhibit, Finding, Seed

CANNOT = "CANNOT BE ANSWERED"
"""The reply that the prompts demand if the question has no answer; also the outcome of such a solution."""
SECTIONS = ("SOLUTION", "ANSWER")
_REFUSAL = r"can(?:not|[ ]not|['’]t)[ ]be[ ](?:answered|determined|solved)"
_REFUSES = re.compile(rf"\b{_REFUSAL}\b", re.IGNORECASE)
"""`CANNOT`, or the same in other words, anywhere in a text."""
_UNANSWERABLE = re.compile(
    r"^(?:[^\w\n\\]|\\(?:boxed|text)\b|\\)*"  # markup, quotation marks, bullets
    r"(?:(?:it|this|(?:the|this)[ ](?:question|problem))[ ])?"
    rf"{_REFUSAL}\b[\s,.:;*_–—-]*(?:because\b)?(.*)",
    re.IGNORECASE | re.MULTILINE,
)
"""A line that says at its beginning that the question cannot be answered, and contains the reason after it."""


@dataclass(frozen=True, slots=True)
class Unanswerable:
    """A solver's statement that the question cannot be answered, with its reason."""

    reason: str


@dataclass(frozen=True, slots=True)
class Agreement:
    """How many blind solutions agree with the attacker, and how many disagree; the rest could not be read or compared.
    `opposition` is the largest group of disagreeing solutions with the same answer; "cannot be answered" counts as an
    answer.
    """

    solutions: int
    agreeing: int
    agreeing_programs: int
    disagreeing: int
    opposition: tuple[Exhibit, ...]


@dataclass(frozen=True, slots=True)
class BlindCheck:
    """Requests solutions until the conclusion is certain: at most `solutions`, and at most `programs` of them as
    programs. With `must_support`, programs come first, because they are shorter, and no solution is requested once the
    answer can no longer be supported.

    Supports the attacker's answer if at least `agreeing` solutions give it, including at least one program if programs
    are requested. Contradicts it if more than half of `solutions` agree on one different answer, or if more than half
    say that the question cannot be answered.
    """

    name: ClassVar[str] = "blind"
    title: ClassVar[str] = "blind check"
    stage: ClassVar[CheckStage] = "verifies"
    tools: ClassVar[tuple[str, ...]] = (SANDBOX,)
    objection: ClassVar[str] = "blind solutions disagree"
    asks_solvers: ClassVar[bool] = True

    domain: Domain
    solvers: tuple[Player, ...]
    sandbox: Identity | None
    timeout_s: float
    solutions: int
    programs: int
    agreeing: int
    must_support: bool = False

    @classmethod
    def build(cls, context: CheckContext) -> "BlindCheck":
        rules = context.config.judge
        programs = min(rules.programs, rules.solutions) if context.domain.answer == "number" else 0
        return cls(
            domain=context.domain,
            solvers=tuple(player.vary() for player in context.solvers),
            sandbox=context.find_tool(SANDBOX, "checks", '["blind"]') if programs else None,
            timeout_s=context.config.sandbox_wall_s,
            solutions=rules.solutions,
            programs=programs,
            agreeing=rules.agreeing or rules.solutions,
            must_support=find_stage(cls, context.config.keep) == "proves",
        )

    @classmethod
    def count_calls(cls, rules: JudgeRules) -> Mapping[str, int]:
        """An upper bound: the check stops once the conclusion is certain."""
        return {"chat": rules.solutions, "python": rules.programs}

    async def examine(self, attack: Attack, draw: Draw, call: Call, seeds: tuple[Seed, ...] = ()) -> Finding:
        """Request solutions to the question until no further solution can change the conclusion. Every solution is
        evidence.
        """
        del seeds  # a blind solver sees only the question
        assignments = self.assign_solutions()
        exhibits: list[Exhibit] = []
        while not self._is_certain(exhibits, assignments[len(exhibits) :]):
            number, is_program, solver = assignments[len(exhibits)]
            seed = draw.seed("blind", number)
            request_exhibit = self._request_program if is_program else self._request_worded_solution
            exhibit = await request_exhibit(attack.question, solver, seed, call)
            exhibits.append(self._compare(exhibit, attack.answer))
        agreement = self._measure_agreement(exhibits)
        conclusion = self._conclude(agreement)
        return Finding(self.name, conclusion, _explain(conclusion, agreement, attack.answer), tuple(exhibits))

    def assign_solutions(self) -> list[tuple[int, bool, Player]]:
        """The number of each solution, whether it is a program, and which solver writes it, in the order of requests.

        The numbers alternate between programs and solutions in words, which start with different solvers, so that the
        first two solutions differ in method and, if there are several solvers, in solver. The order follows the numbers
        unless the answer must be supported.
        """
        # Each entry is (position, is_program, solver number). Programs have even positions, other solutions odd ones.
        entries = [(2 * number, True, number) for number in range(self.programs)]
        entries += [(2 * number + 1, False, number + 1) for number in range(self.solutions - self.programs)]
        assignments = [
            (number, is_program, self.solvers[solver_number % len(self.solvers)])
            for number, (_, is_program, solver_number) in enumerate(sorted(entries))
        ]
        if self.must_support:
            assignments.sort(key=lambda assignment: not assignment[1])  # stable: each kind keeps its order
        return assignments

    async def _request_worded_solution(self, question: str, solver: Player, seed: int, call: Call) -> Exhibit:
        """Request a solution in words."""
        prompt = self.domain.render("blind", {"question": question})
        return await request_solution(self.domain, prompt, solver, seed, call)

    async def _request_program(self, question: str, solver: Player, seed: int, call: Call) -> Exhibit:
        """Request a program, and run it in the sandbox. Its outcome is the answer that it computes."""
        prompt = self.domain.render("blind_program", {"question": question})
        reply = await ask(solver.build_request((Message("user", prompt),), seed, ("CODE",)), call)
        if isinstance(reply, RefusedPrompt):
            return Exhibit("program", "", detail=reply.reason, author=solver.name)
        incomplete = solver.refuse_incomplete(reply)
        program = read_free_program(reply) if incomplete is None else incomplete
        if isinstance(program, str) and self.sandbox is not None:
            result = await run_free_program(program, self.domain, self.sandbox, self.timeout_s, call)
            answer, detail = _describe_result(result)
            return Exhibit("program", program, answer, detail, author=solver.name)
        text = storable(strip_reasoning(reply.text)).strip()
        sections = read_sections(text, ("CODE",))
        if not isinstance(sections, Unparsed):
            text = sections["CODE"]
        unparsed = program if isinstance(program, Unparsed) else Unparsed("no sandbox runs programs")
        unanswerable = read_unanswerable(text)
        answer, detail = _describe_result(unparsed if unanswerable is None else unanswerable)
        return Exhibit("program", text, answer, detail, author=solver.name)

    def _compare(self, exhibit: Exhibit, expected: str) -> Exhibit:
        """The exhibit with `agrees` set. `agrees` stays None if the words of two short texts do not decide it."""
        if not exhibit.outcome:
            return exhibit
        if exhibit.outcome == CANNOT:
            return replace(exhibit, agrees=False)
        agrees = self._is_same(exhibit.outcome, expected)
        return replace(exhibit, agrees=agrees, detail="it is worded differently" if agrees is None else exhibit.detail)

    def _measure_agreement(self, exhibits: Sequence[Exhibit]) -> Agreement:
        """Count the solutions that agree and disagree with the attacker."""
        agreeing = [exhibit for exhibit in exhibits if exhibit.agrees]
        disagreeing = [exhibit for exhibit in exhibits if exhibit.agrees is False]
        groups = []  # for each disagreeing solution: all solutions with the same answer
        for candidate in disagreeing:
            group = [exhibit for exhibit in disagreeing if self._is_same(exhibit.outcome, candidate.outcome)]
            groups.append(tuple(group))
        return Agreement(
            solutions=len(exhibits),
            agreeing=len(agreeing),
            agreeing_programs=sum(exhibit.kind == "program" for exhibit in agreeing),
            disagreeing=len(disagreeing),
            opposition=max(groups, key=len, default=()),
        )

    def _is_same(self, answer: str, other: str) -> bool | None:
        """Whether two outcomes are the same answer; None if the words of two short texts do not decide it."""
        if answer == other or CANNOT in (answer, other):
            return answer == other
        if self.domain.answer == "text":
            return same_short_text(answer, other)
        return is_same_answer(self.domain, answer, other)

    def _conclude(self, agreement: Agreement) -> Conclusion:
        """The conclusion from the solutions so far."""
        if 2 * len(agreement.opposition) > self.solutions:
            return "contradicts"
        has_required_program = agreement.agreeing_programs > 0 or self.programs == 0
        is_supported = agreement.agreeing >= self.agreeing and has_required_program
        return "supports" if is_supported else "not checked"

    def _is_certain(self, exhibits: Sequence[Exhibit], remaining: Sequence[tuple[int, bool, Player]]) -> bool:
        """Whether the remaining solutions cannot change the conclusion, whatever their answers. If the answer must be
        supported, it does not matter whether they could contradict it.
        """
        agreement = self._measure_agreement(exhibits)
        conclusion = self._conclude(agreement)
        could_oppose = 2 * (len(agreement.opposition) + len(remaining)) > self.solutions
        could_contradict = could_oppose and not self.must_support
        if conclusion == "contradicts" or not remaining:
            return True
        if conclusion == "supports":
            return not could_contradict
        program_remains = any(is_program for _, is_program, _ in remaining)
        could_have_required_program = agreement.agreeing_programs > 0 or self.programs == 0 or program_remains
        could_support = agreement.agreeing + len(remaining) >= self.agreeing and could_have_required_program
        return not could_contradict and not could_support


def _explain(conclusion: Conclusion, agreement: Agreement, expected: str) -> str:
    """The reason for a conclusion; `expected` is the attacker's answer."""
    agreeing, disagreeing, solutions = agreement.agreeing, agreement.disagreeing, agreement.solutions
    if conclusion == "supports":
        programs = agreement.agreeing_programs
        method = f"{programs} of them by a program" if agreeing != 1 else "by a program" if programs else "in words"
        return f"{_describe_share(agreeing, solutions, 'give')} {expected[:80]}, {method}"
    if conclusion == "contradicts":
        exhibit, opposing = agreement.opposition[0], len(agreement.opposition)
        if exhibit.outcome == CANNOT:
            share = _describe_share(opposing, solutions, "say")
            return f"{share} that the question cannot be answered: {exhibit.detail}"
        share = _describe_share(opposing, solutions, "give")
        return f"{share} {exhibit.outcome[:80]}, the author says {expected[:80]}"
    disagree = "disagrees" if disagreeing == 1 else "disagree"
    unreadable = solutions - agreeing - disagreeing
    share = _describe_share(agreeing, solutions, "agree")
    return f"{share}, {disagreeing} {disagree} and {unreadable} could not be read"


def _describe_share(count: int, solutions: int, verb: str) -> str:
    """How many of the solutions do something, such as "1 of 4 blind solutions gives" or "2 of 4 blind solutions give".
    `verb` is its plural form.
    """
    verb_form = f"{verb}s" if 1 in (count, solutions) else verb
    return f"{count} of {format_quantity(solutions, 'blind solution')} {verb_form}"


async def request_solution(domain: Domain, prompt: str, solver: Player, seed: int, call: Call) -> Exhibit:
    """Request a solution in words with a rendered `prompt`. The exhibit's outcome is the stated answer, `CANNOT`, or ""
    if the reply could not be read; the detail gives the reason for the last two.
    """
    reply = await ask(solver.build_request((Message("user", prompt),), seed, SECTIONS), call)
    if isinstance(reply, RefusedPrompt):
        return Exhibit("solution", "", detail=reply.reason, author=solver.name)
    text = storable(strip_reasoning(reply.text)).strip()
    incomplete = solver.refuse_incomplete(reply)
    answer, detail = _describe_result(read_answer(domain, text) if incomplete is None else incomplete)
    sections = read_sections(text, SECTIONS)
    solution = text if isinstance(sections, Unparsed) else sections["SOLUTION"]
    return Exhibit("solution", solution, answer, detail, author=solver.name)


def read_answer(domain: Domain, text: str) -> str | Unanswerable | Unparsed:
    """Read the normalized answer of a solution in words, or its statement that the question cannot be answered."""
    sections = read_sections(text, ("ANSWER",), once=("ANSWER",))
    if isinstance(sections, Unparsed):
        unanswerable = read_unanswerable(text)
        return sections if unanswerable is None else unanswerable
    stated_answer = sections["ANSWER"]
    if _REFUSES.search(stated_answer):
        opens_section = _UNANSWERABLE.match(stated_answer)
        unanswerable = read_unanswerable(stated_answer) if opens_section else None
        contradictory = Unparsed(f"ANSWER does not say clearly whether there is an answer: {stated_answer[:80]!r}")
        return contradictory if unanswerable is None else unanswerable
    answer = normalize_answer(domain, stated_answer)
    return Unparsed(f"ANSWER is not a {domain.answer}: {stated_answer[:80]!r}") if answer is None else answer


def read_unanswerable(text: str) -> Unanswerable | None:
    """Read a line that says that the question cannot be answered. A line with the reason "…" is ignored: it is copied
    from the prompt.
    """
    match = _UNANSWERABLE.search(text)
    if match is None:
        return None
    reason = match[1].strip(" *_`\"'}])”’")
    return None if reason in ("…", "...") else Unanswerable(reason[:300] or "no reason given")


def _describe_result(result: str | Unanswerable | Unparsed) -> tuple[str, str]:
    """The outcome and detail of an exhibit; the outcome is "" if the solution could not be read."""
    if isinstance(result, str):
        return result, ""
    return (CANNOT if isinstance(result, Unanswerable) else ""), result.reason


CHECK: type[Check] = BlindCheck
