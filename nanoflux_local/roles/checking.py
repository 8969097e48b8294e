"""A judge with tools: what it is to judge is looked up before, and what it accepts is calculated again after.

Adds to any judge; each tool is a look of its own, and none of them guesses.
"""

from dataclasses import dataclass, replace

from nanoflux_local.ledger.calls import Call
from nanoflux_local.roles.base import Draw, Judge
from nanoflux_local.roles.code_check import CodeCheck
from nanoflux_local.roles.fact_check import FactCheck
from nanoflux_local.roles.sections import Unparsed
from nanoflux_local.transcript import Attack, Defence, Doubt, Search, Verdict


@dataclass(frozen=True, slots=True)
class CheckingJudge:
    """Judges as `judge` does, by `facts` found and `code` run."""

    judge: Judge
    code: CodeCheck | None = None
    facts: FactCheck | None = None

    @property
    def name(self) -> str:
        return self.judge.name

    async def validate(
        self, attack: Attack, draw: Draw, call: Call, evidence: tuple[Search, ...] = ()
    ) -> Verdict | Doubt | Unparsed:
        """The judge is not told what its program gives, so that its word and the program stay two looks at one thing.
        What it rejects stays rejected; what it accepts falls where the program comes to another answer.
        """
        lookup = ""
        if self.facts is not None:
            evidence, lookup = await self.facts.look_up(attack, draw, call)
        verdict = await self.judge.validate(attack, draw, call, evidence)
        if not isinstance(verdict, Verdict):
            return verdict
        verdict = replace(verdict, searches=evidence, lookup=lookup)
        return verdict if self.code is None else await self._calculated(verdict, self.code, attack, draw, call)

    async def _calculated(self, verdict: Verdict, code: CodeCheck, attack: Attack, draw: Draw, call: Call) -> Verdict:
        if not verdict.positive:
            return replace(verdict, check_detail="the judge had rejected it already")
        found = await code.look(attack, draw, call)
        verdict = replace(verdict, check=found.check, check_detail=found.detail, program=found.program)
        if found.check != "disagrees":
            return verdict
        return replace(verdict, positive=False, explanation=f"[the program disagrees] {verdict.explanation}")

    async def evaluate(self, attack: Attack, defence: Defence, draw: Draw, call: Call) -> Verdict | Doubt | Unparsed:
        return await self.judge.evaluate(attack, defence, draw, call)
