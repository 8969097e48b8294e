"""A panel: several judges decide independently, and a rule combines their results into one verdict.

The verdict records each member's vote. A member without a verdict abstains. If the rule leads to no decision, the
panel's result is a `Doubt`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from nanoflux_local.ledger.calls import Call
from nanoflux_local.roles.base import Draw, Judge
from nanoflux_local.roles.sections import Unparsed
from nanoflux_local.transcript import Attack, Defence, Doubt, Exhibit, Seed, Verdict, Vote

Rule = Literal["majority", "minimum"]
"""How a panel combines its members' verdicts (see `combine_verdicts`)."""


@dataclass(frozen=True, slots=True)
class PanelJudge:
    """A judge that asks its members one after another, so that the calls of a turn always have the same order."""

    members: tuple[Judge, ...]
    rule: Rule = "majority"

    @property
    def name(self) -> str:
        return " + ".join(member.name for member in self.members)

    async def validate(
        self,
        attack: Attack,
        draw: Draw,
        call: Call,
        evidence: tuple[Exhibit, ...] = (),
        seeds: tuple[Seed, ...] = (),
    ) -> Verdict | Doubt | Unparsed:
        del seeds  # only checks use them
        return self._combine([await member.validate(attack, draw, call, evidence) for member in self.members])

    async def evaluate(self, attack: Attack, defence: Defence, draw: Draw, call: Call) -> Verdict | Doubt | Unparsed:
        results = [await member.evaluate(attack, defence, draw, call) for member in self.members]
        if isinstance(results[0], Verdict) and results[0].asked == 0:
            return results[0]  # a program grades, so nobody votes
        return self._combine(results)

    def _combine(self, results: Sequence[Verdict | Doubt | Unparsed]) -> Verdict | Doubt | Unparsed:
        """The panel's result; Unparsed if the replies of all members are unreadable."""
        if all(isinstance(result, Unparsed) for result in results):
            return results[0]
        return combine_verdicts(self.rule, [member.name for member in self.members], results)


def combine_verdicts(
    rule: Rule, names: Sequence[str], results: Sequence[Verdict | Doubt | Unparsed]
) -> Verdict | Doubt:
    """Combine the members' results. "majority": the decision of more than half of all members, with the mean of their
    confidences. "minimum": positive only if all verdicts are positive, with the lowest confidence. The result is a
    `Doubt` if there is no majority or, under "minimum", if any member has no verdict.
    """
    votes = tuple(_build_vote(name, result) for name, result in zip(names, results, strict=True))
    verdicts = [result for result in results if isinstance(result, Verdict)]
    positive = [verdict for verdict in verdicts if verdict.positive]
    negative = [verdict for verdict in verdicts if not verdict.positive]
    if rule == "minimum":
        if len(verdicts) < len(results):
            return _build_doubt(results)
        deciding_verdicts = negative if negative else positive
        confidence = min(verdict.confidence for verdict in verdicts)
    else:
        deciding_verdicts = max(positive, negative, key=len)
        if 2 * len(deciding_verdicts) <= len(results):
            return _build_doubt(results)
        confidence = sum(verdict.confidence for verdict in deciding_verdicts) / len(deciding_verdicts)
    return Verdict(
        deciding_verdicts[0].positive,
        round(confidence, 4),
        deciding_verdicts[0].explanation,
        soft=_combine_soft_values([verdict.soft for verdict in verdicts]),
        asked=max(verdict.asked for verdict in deciding_verdicts),
        votes=votes,
    )


def _build_vote(name: str, result: Verdict | Doubt | Unparsed) -> Vote:
    """A member's result as a vote; a member without a verdict abstains."""
    if isinstance(result, Verdict):
        return Vote(name, result.positive, result.confidence, result.explanation)
    if isinstance(result, Doubt):
        return Vote(name, None, max(result.confidences), "in doubt to the end")
    return Vote(name, None, 0.0, result.reason)


def _build_doubt(results: Sequence[Verdict | Doubt | Unparsed]) -> Doubt:
    """The doubt of a panel without a decision, with the highest confidence of each member whose reply was readable."""
    confidences: list[float] = []
    for result in results:
        if isinstance(result, Verdict):
            confidences.append(result.confidence)
        elif isinstance(result, Doubt):
            confidences.append(max(result.confidences))
    return Doubt(tuple(confidences))


def _combine_soft_values(soft_values: Sequence[bool | None]) -> bool | None:
    """The majority value among the members that give one; None if these members are evenly split."""
    given_values = [value for value in soft_values if value is not None]
    sound_count = sum(given_values)
    unsound_count = len(given_values) - sound_count
    return None if sound_count == unsound_count else sound_count > unsound_count
