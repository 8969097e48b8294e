"""The open-book check: solvers that never see the solution answer a question with its passages and without them.

With the passages they must reach the attacker's answer. Without the passages they must not: otherwise the question does
not need its documents, because its answer can be guessed or is common knowledge.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from nanoflux_local.answers import same_short_text
from nanoflux_local.config import JudgeRules
from nanoflux_local.domains.base import Domain
from nanoflux_local.ledger.calls import Call
from nanoflux_local.roles.base import Draw, Player
from nanoflux_local.roles.checks.base import Check, CheckContext, CheckStage
from nanoflux_local.roles.checks.blind import CANNOT, request_solution
from nanoflux_local.roles.checks.grounded import require_prompt
from nanoflux_local.roles.judge import is_same_answer
from nanoflux_local.transcript import Attack, Exhibit, Finding, Seed

MAX_ANSWERS = 2
"""The maximum number of answers with the passages, and of answers without them. A question is rejected only if all
answers with the passages, or all without them, count against it: a single wrong letter or right guess may be due to
chance.
"""
WITH_PASSAGES, WITHOUT_PASSAGES = "with the passages", "without the passages"


@dataclass(frozen=True, slots=True)
class OpenBookCheck:
    """Requests up to `MAX_ANSWERS` answers with the passages, until one equals the attacker's. If one does, requests up
    to `MAX_ANSWERS` answers without the passages, until one differs from the attacker's. The solvers alternate.
    """

    name: ClassVar[str] = "open_book"
    title: ClassVar[str] = "open-book check"
    stage: ClassVar[CheckStage] = "verifies"
    tools: ClassVar[tuple[str, ...]] = ()
    objection: ClassVar[str] = "the passages do not decide it"
    asks_solvers: ClassVar[bool] = True

    domain: Domain
    solvers: tuple[Player, ...]

    @classmethod
    def build(cls, context: CheckContext) -> "OpenBookCheck":
        require_prompt(context.domain, cls.name)
        return cls(context.domain, tuple(player.vary() for player in context.solvers))

    @classmethod
    def count_calls(cls, rules: JudgeRules) -> Mapping[str, int]:
        """An upper bound: the check stops once the conclusion is certain."""
        del rules
        return {"chat": 2 * MAX_ANSWERS}

    async def examine(self, attack: Attack, draw: Draw, call: Call, seeds: tuple[Seed, ...] = ()) -> Finding:
        """Contradict a question if every answer with the passages differs from the attacker's, or if every answer
        without them equals it. Every answer is evidence.
        """
        if not seeds:
            return Finding(self.name, "not checked", "the question has no passages")
        with_passages: list[Exhibit] = []
        prompt = self.domain.render("open_book", {"question": attack.question, "passages": seeds})
        for number in range(MAX_ANSWERS):
            exhibit = await self._answer(prompt, WITH_PASSAGES, number, attack, draw, call)
            with_passages.append(exhibit)
            if exhibit.agrees:
                break
        if not with_passages[-1].agrees:
            return self._conclude_without_agreement(with_passages, attack.answer)
        without_passages: list[Exhibit] = []
        prompt = self.domain.render("blind", {"question": attack.question})
        for number in range(MAX_ANSWERS):
            exhibit = await self._answer(prompt, WITHOUT_PASSAGES, number, attack, draw, call)
            without_passages.append(exhibit)
            if exhibit.outcome and not exhibit.agrees:
                reason = f"the answer is {attack.answer[:80]} with the passages, and is not reached without them"
                return Finding(self.name, "supports", reason, (*with_passages, *without_passages))
        if all(exhibit.agrees for exhibit in without_passages):
            reason = f"all {MAX_ANSWERS} answers without the passages are {attack.answer[:80]} too"
            return Finding(self.name, "contradicts", reason, (*with_passages, *without_passages))
        reason = "an answer without the passages is unreadable"
        return Finding(self.name, "not checked", reason, (*with_passages, *without_passages))

    def _conclude_without_agreement(self, exhibits: Sequence[Exhibit], expected: str) -> Finding:
        """The finding if no answer with the passages equals the attacker's. If an answer is unreadable, or may be the
        same in other words, nothing is concluded.
        """
        differing = [exhibit for exhibit in exhibits if exhibit.agrees is False]
        if len(differing) < MAX_ANSWERS:
            reason = f"no answer with the passages could be compared with {expected[:80]}"
            return Finding(self.name, "not checked", reason, tuple(exhibits))
        answers = " and ".join(dict.fromkeys(exhibit.outcome[:80] for exhibit in differing))
        reason = f"with the passages the answer is {answers}, the author says {expected[:80]}"
        return Finding(self.name, "contradicts", reason, tuple(exhibits))

    async def _answer(self, prompt: str, method: str, number: int, attack: Attack, draw: Draw, call: Call) -> Exhibit:
        """Request an answer, and compare it with the attacker's. `agrees` is None if the two cannot be compared."""
        solver = self.solvers[number % len(self.solvers)]
        request_number = number if method == WITH_PASSAGES else MAX_ANSWERS + number
        seed = draw.seed(self.name, request_number)
        exhibit = await request_solution(self.domain, prompt, solver, seed, call)
        detail = f"{method}: {exhibit.detail}" if exhibit.detail else method
        return replace(exhibit, detail=detail, agrees=self._compare(exhibit.outcome, attack.answer))

    def _compare(self, answer: str, expected: str) -> bool | None:
        """Whether an answer equals the attacker's; None if it could not be read or compared."""
        if not answer:
            return None
        if answer == CANNOT:
            return False
        if self.domain.answer == "text":
            return same_short_text(answer, expected)
        return is_same_answer(self.domain, answer, expected)


CHECK: type[Check] = OpenBookCheck
