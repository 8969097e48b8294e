"""Marks the defender's second and later answers as right or wrong. Only free-text answers need the judge."""

from dataclasses import dataclass

from nanoflux_local.domains.base import Domain
from nanoflux_local.ledger.calls import Call
from nanoflux_local.roles.base import Draw, Judge
from nanoflux_local.roles.judge import describe_comparison, is_same_answer
from nanoflux_local.roles.sections import Unparsed
from nanoflux_local.transcript import Attack, Defence, Doubt, Sample


@dataclass(frozen=True, slots=True)
class Marker:
    """Marks answers by comparing them with the attacker's answer. Free text is evaluated by the judge."""

    domain: Domain
    judge: Judge

    async def mark(self, attack: Attack, defence: Defence, draw: Draw, call: Call) -> Sample:
        """Mark one answer of the defender. The mark is None if the judge reaches no verdict."""
        is_right = is_same_answer(self.domain, defence.answer, attack.answer)
        if is_right is not None:
            return Sample(defence, is_right, describe_comparison(is_right))
        evaluation = await self.judge.evaluate(attack, defence, draw, call)
        if isinstance(evaluation, Doubt):
            return Sample(defence, None, "the judge stayed in doubt")
        if isinstance(evaluation, Unparsed):
            return Sample(defence, None, f"evaluation: {evaluation.reason}")
        return Sample(defence, evaluation.positive, evaluation.explanation)
