"""A panel: several judges on the same thing, each by itself; its word is the majority's, or its least sure member's.

Each member's vote stands in the verdict. A member that could not judge has no vote; where the votes settle nothing, the
panel is in doubt.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from nanoflux_local.ledger.calls import Call
from nanoflux_local.roles.base import Draw, Judge
from nanoflux_local.roles.sections import Unparsed
from nanoflux_local.transcript import Attack, Defence, Doubt, Exhibit, Verdict, Vote

Rule = Literal["majority", "minimum"]


@dataclass(frozen=True, slots=True)
class PanelJudge:
    """Its members are asked one after another, so that a turn's calls stay in order."""

    members: tuple[Judge, ...]
    rule: Rule = "majority"

    @property
    def name(self) -> str:
        return " + ".join(member.name for member in self.members)

    async def validate(
        self, attack: Attack, draw: Draw, call: Call, evidence: tuple[Exhibit, ...] = ()
    ) -> Verdict | Doubt | Unparsed:
        return self._word([await member.validate(attack, draw, call, evidence) for member in self.members])

    async def evaluate(self, attack: Attack, defence: Defence, draw: Draw, call: Call) -> Verdict | Doubt | Unparsed:
        return self._word([await member.evaluate(attack, defence, draw, call) for member in self.members])

    def _word(self, heard: Sequence[Verdict | Doubt | Unparsed]) -> Verdict | Doubt | Unparsed:
        if all(isinstance(result, Unparsed) for result in heard):
            return heard[0]
        return combine_verdicts(self.rule, [member.name for member in self.members], heard)


def combine_verdicts(rule: Rule, names: Sequence[str], heard: Sequence[Verdict | Doubt | Unparsed]) -> Verdict | Doubt:
    """The panel's word. By majority: what more than half of all members say, with the mean of their confidences. By
    the least sure: positive where all say so, with the lowest confidence, and in doubt where any could not judge.
    """
    votes = tuple(_vote(name, result) for name, result in zip(names, heard, strict=True))
    verdicts = [result for result in heard if isinstance(result, Verdict)]
    positive = [verdict for verdict in verdicts if verdict.positive]
    negative = [verdict for verdict in verdicts if not verdict.positive]
    if rule == "minimum":
        if len(verdicts) < len(heard):
            return _doubt(heard)
        side, confidence = negative or positive, min(verdict.confidence for verdict in verdicts)
    else:
        side = max(positive, negative, key=len)
        if 2 * len(side) <= len(heard):
            return _doubt(heard)
        confidence = sum(verdict.confidence for verdict in side) / len(side)
    return Verdict(
        side is not negative and bool(positive),
        round(confidence, 4),
        side[0].explanation,
        soft=_most([verdict.soft for verdict in verdicts]),
        asked=max(verdict.asked for verdict in side),
        votes=votes,
    )


def _vote(name: str, result: Verdict | Doubt | Unparsed) -> Vote:
    if isinstance(result, Verdict):
        return Vote(name, result.positive, result.confidence, result.explanation)
    if isinstance(result, Doubt):
        return Vote(name, None, max(result.confidences), "in doubt to the end")
    return Vote(name, None, 0.0, result.reason)


def _doubt(heard: Sequence[Verdict | Doubt | Unparsed]) -> Doubt:
    return Doubt(tuple(
        result.confidence if isinstance(result, Verdict) else max(result.confidences)
        for result in heard if not isinstance(result, Unparsed)
    ))  # fmt: skip


def _most(readings: Sequence[bool | None]) -> bool | None:
    """The soft reading of more than half of those that read it at all; None where they are even."""
    read = [reading for reading in readings if reading is not None]
    yes = sum(read)
    return None if 2 * yes == len(read) else 2 * yes > len(read)
