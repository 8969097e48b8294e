"""The citation check: looks up the attacker's citations in the passages that the attacker was given. No model is
called.

A question about documents must rest on the words of at least two of its passages. The judge and other checks decide
whether the answer follows from these words.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from nanoflux_local.config import JudgeRules
from nanoflux_local.ledger.calls import Call
from nanoflux_local.quantities import format_quantity
from nanoflux_local.roles.base import Draw
from nanoflux_local.roles.checks.base import Check, CheckContext, CheckStage
from nanoflux_local.roles.checks.quotations import find_first_missing, find_passage, make_exhibit, read_quotations
from nanoflux_local.transcript import Attack, Finding, Seed

SECTION = "CITATIONS"
"""The section of an attack that lists its citations."""
MIN_PASSAGES = 2
"""The minimum number of passages that a question must cite."""
_PASSAGE_NUMBER = re.compile(r"\bpassages?\s+\d", re.IGNORECASE)
"""A reference to a passage by its number, such as "passage 2"."""


@dataclass(frozen=True, slots=True)
class CitedCheck:
    """Looks up each citation of an attack; calls no model."""

    name: ClassVar[str] = "cited"
    title: ClassVar[str] = "citation check"
    stage: ClassVar[CheckStage] = "screens"
    tools: ClassVar[tuple[str, ...]] = ()
    objection: ClassVar[str] = "its citations do not hold"
    asks_solvers: ClassVar[bool] = False

    @classmethod
    def build(cls, context: CheckContext) -> "CitedCheck":
        del context
        return cls()

    @classmethod
    def count_calls(cls, rules: JudgeRules) -> Mapping[str, int]:
        del rules
        return {}

    async def examine(self, attack: Attack, draw: Draw, call: Call, seeds: tuple[Seed, ...] = ()) -> Finding:
        """Contradict an attack that cites words that no passage contains, cites only one of several passages, or refers
        to a passage by its number. The citations are the evidence.
        """
        del draw, call
        if not seeds or SECTION not in attack.notes:
            missing_input = "no passages" if not seeds else f"no section {SECTION}"
            return Finding(self.name, "not checked", f"the question has {missing_input}")
        if _PASSAGE_NUMBER.search(attack.question):
            return Finding(
                self.name, "contradicts", "the question names a passage by its number, which no reader knows"
            )
        citations = read_quotations(attack.notes[SECTION])
        passages = [find_passage(citation, seeds) for citation in citations]
        exhibits = tuple(make_exhibit(citation, passage) for citation, passage in zip(citations, passages, strict=True))
        first_misquoted = find_first_missing(exhibits)
        if not citations or first_misquoted:
            reason = f"no passage says {first_misquoted!r}" if first_misquoted else "the attacker cites nothing"
            return Finding(self.name, "contradicts", reason, exhibits)
        cited_ids = {passage.id for passage in passages if passage is not None}
        if len(cited_ids) < min(MIN_PASSAGES, len(seeds)):
            return Finding(self.name, "contradicts", "a single passage is cited", exhibits)
        verb = "is" if len(citations) == 1 else "are"
        reason = f"the {format_quantity(len(citations), 'citation')} {verb} in {len(cited_ids)} of the passages"
        return Finding(self.name, "supports", reason, exhibits)


CHECK: type[Check] = CitedCheck
