"""A judge with checks. Some checks screen attacks, prove their answers or inform the judge before it decides; others
verify the attacks that it accepted.

This module decides how findings change a verdict. The checks do not depend on each other or on the judge.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from nanoflux_local.ledger.calls import Call
from nanoflux_local.roles.base import Draw, Judge
from nanoflux_local.roles.checks.base import Check, RunStage, find_stage
from nanoflux_local.roles.sections import Unparsed
from nanoflux_local.transcript import Attack, Defence, Doubt, Exhibit, Finding, Seed, Verdict


@dataclass(frozen=True, slots=True)
class CheckingJudge:
    """Wraps `judge`: adds the findings of `checks` to its verdicts, and rejects an attack that a check contradicts. If
    the run's setting `keep` is "confirmed", also rejects an attack that no proving check supports.
    """

    judge: Judge
    checks: tuple[Check, ...] = ()
    keep: str = "failed"

    @property
    def name(self) -> str:
        return self.judge.name

    async def validate(
        self,
        attack: Attack,
        draw: Draw,
        call: Call,
        evidence: tuple[Exhibit, ...] = (),
        seeds: tuple[Seed, ...] = (),
    ) -> Verdict | Doubt | Unparsed:
        """The verdict on an attack, with the findings of all checks. It is negative if the judge rejects the attack, a
        check contradicts it, or no check supports an attack that needs support.

        The judge never sees the findings of "verifies" checks, so that its verdict is independent of them.
        """
        preceding_findings: list[Finding] = []
        stages: tuple[RunStage, ...] = ("screens", "proves")
        for stage in stages:
            stage_findings, objector = await self._examine(stage, attack, draw, call, seeds)
            preceding_findings += stage_findings
            if objector is not None:
                contradiction = next(finding for finding in stage_findings if finding.check == objector.name)
                explanation = f"[{objector.objection}] {contradiction.reason}"
                return self._reject_unasked(explanation, preceding_findings, f"the {objector.title}")
            is_supported = any(finding.conclusion == "supports" for finding in stage_findings)
            if stage == "proves" and stage_findings and not is_supported:
                explanation = "; ".join(finding.reason for finding in stage_findings)
                return self._reject_unasked(explanation, preceding_findings, "the lack of support")
        informing_findings = [
            await check.examine(attack, draw, call, seeds) for check in self._list_checks_at("informs")
        ]
        evidence += tuple(exhibit for finding in informing_findings for exhibit in finding.evidence)
        verdict = await self.judge.validate(attack, draw, call, evidence)
        if not isinstance(verdict, Verdict):
            return verdict
        if not verdict.positive:
            skipped_findings = self._skip_stages(("verifies",), "the judge")
            return replace(verdict, findings=(*preceding_findings, *informing_findings, *skipped_findings))
        verifying_findings, objector = await self._examine("verifies", attack, draw, call, seeds)
        if objector is not None:
            verdict = replace(verdict, positive=False, explanation=f"[{objector.objection}] {verdict.explanation}")
        return replace(verdict, findings=(*preceding_findings, *informing_findings, *verifying_findings))

    async def validate_and_examine(
        self, attack: Attack, draw: Draw, call: Call
    ) -> tuple[Verdict | Doubt | Unparsed, tuple[Finding, ...]]:
        """The judge's own verdict, and the findings of all checks. No check is skipped because of a rejection.

        `validate` stops at the first rejection, but a trial measures the judge and each check separately, and so needs
        all results.
        """
        verifying_checks = self._list_checks_at("verifies")
        preceding_checks = [check for check in self.checks if check not in verifying_checks]
        findings = {check.name: await check.examine(attack, draw, call) for check in preceding_checks}
        evidence = tuple(
            exhibit for check in self._list_checks_at("informs") for exhibit in findings[check.name].evidence
        )
        verdict = await self.judge.validate(attack, draw, call, evidence)
        for check in verifying_checks:
            findings[check.name] = await check.examine(attack, draw, call)
        return verdict, tuple(findings.values())

    def _list_checks_at(self, stage: RunStage) -> list[Check]:
        """The checks that run at this stage, in order."""
        return [check for check in self.checks if find_stage(check, self.keep) == stage]

    async def _examine(
        self, stage: RunStage, attack: Attack, draw: Draw, call: Call, seeds: tuple[Seed, ...]
    ) -> tuple[list[Finding], Check | None]:
        """The findings of a stage's checks, and the check that contradicts the attack, if any. The checks after that
        check are skipped.
        """
        findings: list[Finding] = []
        objector: Check | None = None
        for check in self._list_checks_at(stage):
            if objector is not None:
                findings.append(_skip_check(check, f"the {objector.title}"))
                continue
            finding = await check.examine(attack, draw, call, seeds)
            findings.append(finding)
            if finding.conclusion == "contradicts":
                objector = check
        return findings, objector

    def _reject_unasked(self, explanation: str, findings: Sequence[Finding], rejected_by: str) -> Verdict:
        """The negative verdict on an attack that `rejected_by` has rejected before the judge was asked."""
        examined_checks = {finding.check for finding in findings}
        later_findings = self._skip_stages(("proves", "informs", "verifies"), rejected_by)
        skipped_findings = [finding for finding in later_findings if finding.check not in examined_checks]
        return Verdict(False, 1.0, explanation, asked=0, findings=(*findings, *skipped_findings))

    def _skip_stages(self, stages: Sequence[RunStage], rejected_by: str) -> list[Finding]:
        """The findings of the checks of these stages, which do not run because the attack is already rejected."""
        return [_skip_check(check, rejected_by) for stage in stages for check in self._list_checks_at(stage)]

    async def evaluate(self, attack: Attack, defence: Defence, draw: Draw, call: Call) -> Verdict | Doubt | Unparsed:
        """The judge's own verdict: checks examine only attacks."""
        return await self.judge.evaluate(attack, defence, draw, call)


def _skip_check(check: Check, rejected_by: str) -> Finding:
    """The finding of a check that does not run because `rejected_by` has rejected the attack."""
    return Finding(check.name, "not checked", f"{rejected_by} had rejected it already")
