"""A judge with checks: some inform it before it judges, the others examine what it accepted.

Owns how findings change a verdict. Checks are independent of each other and of the judge.
"""

from dataclasses import dataclass, replace

from nanoflux_local.ledger.calls import Call
from nanoflux_local.roles.base import Draw, Judge
from nanoflux_local.roles.checks.base import Check
from nanoflux_local.roles.sections import Unparsed
from nanoflux_local.transcript import Attack, Defence, Doubt, Exhibit, Finding, Verdict


@dataclass(frozen=True, slots=True)
class CheckingJudge:
    """Wraps `judge`: adds the findings of `checks` to its verdicts, and rejects an attack that a check contradicts."""

    judge: Judge
    checks: tuple[Check, ...] = ()

    @property
    def name(self) -> str:
        return self.judge.name

    async def validate(
        self, attack: Attack, draw: Draw, call: Call, evidence: tuple[Exhibit, ...] = ()
    ) -> Verdict | Doubt | Unparsed:
        """Reject an attack that the judge rejects or that a check contradicts.

        The judge never sees the findings of the checks after it, so that verdict and findings stay independent.
        """
        informing = [check for check in self.checks if check.informs]
        findings = [await check.examine(attack, draw, call) for check in informing]
        evidence += tuple(exhibit for finding in findings for exhibit in finding.evidence)
        verdict = await self.judge.validate(attack, draw, call, evidence)
        if not isinstance(verdict, Verdict):
            return verdict
        rejected_by = "" if verdict.positive else "the judge"
        for check in self.checks:
            if check.informs:
                continue
            if rejected_by:
                findings.append(Finding(check.name, "not checked", f"{rejected_by} had rejected it already"))
                continue
            findings.append(await check.examine(attack, draw, call))
            if findings[-1].conclusion == "contradicts":
                rejected_by = f"the {check.title}"
                explanation = f"[{check.objection}] {verdict.explanation}"
                verdict = replace(verdict, positive=False, explanation=explanation)
        return replace(verdict, findings=tuple(findings))

    async def validate_and_examine(
        self, attack: Attack, draw: Draw, call: Call
    ) -> tuple[Verdict | Doubt | Unparsed, tuple[Finding, ...]]:
        """The judge's own verdict, and the findings of all checks, whatever the judge and the other checks conclude.

        A turn stops at the first rejection; to measure the judge and each check separately, all of them are needed.
        """
        findings = {check.name: await check.examine(attack, draw, call) for check in self.checks if check.informs}
        evidence = tuple(exhibit for finding in findings.values() for exhibit in finding.evidence)
        verdict = await self.judge.validate(attack, draw, call, evidence)
        for check in self.checks:
            if not check.informs:
                findings[check.name] = await check.examine(attack, draw, call)
        return verdict, tuple(findings.values())

    async def evaluate(self, attack: Attack, defence: Defence, draw: Draw, call: Call) -> Verdict | Doubt | Unparsed:
        return await self.judge.evaluate(attack, defence, draw, call)
