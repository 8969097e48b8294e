"""Reasoning quality (paper A.4): five dimensions rated from 1 to 5, their weighted mean, and its level, L1 to L5.

The solutions of kept examples are rated. Ratings do not affect which examples are kept. An example without a readable
rating has no level.
"""

import re
from dataclasses import dataclass

from nanoflux_local.domains.base import Domain
from nanoflux_local.ledger.calls import Call
from nanoflux_local.records import ChatReply, Message
from nanoflux_local.roles.base import Draw, Player, ask_until_read
from nanoflux_local.roles.sections import Unparsed, read_sections
from nanoflux_local.transcript import Attack, Quality

WEIGHTS = {"ORGANIZATION": 1.2, "TRANSITIONS": 1.0, "VERIFICATION": 1.0, "ELABORATION": 0.8, "CLARITY": 0.9}
"""The weight of each dimension, by the name of its section."""
SECTIONS = (*WEIGHTS, "EXPLANATION")
LEVEL_THRESHOLDS = (1.5, 2.5, 3.5, 4.5)
"""The lowest scores of L2, L3, L4 and L5."""
MIN_ACCEPTABLE_SCORE = 3.0
_RATING = re.compile(r"[\s*_`(]*([1-5](?:\.\d+)?)(?![\d.]*\d|\s*(?:-|–|to)\s*\d)(?:\s*(?:/|out\s+of)\s*5\b)?(?!\s*/)")
"""A number from 1 to 5, perhaps in markup or "out of 5", that is not part of a longer number, a range or another
fraction.
"""


@dataclass(frozen=True, slots=True)
class Rater:
    """Asks the judge's endpoint to rate reasoning."""

    domain: Domain
    player: Player
    retries: int

    @property
    def name(self) -> str:
        return self.player.name

    async def rate(self, attack: Attack, draw: Draw, call: Call) -> Quality | Unparsed:
        """Request a rating of the solution's reasoning. Returns the rating, or why there is none."""
        prompt = self.domain.render("quality", {"attack": attack})
        make_request = self.player.request_builder((Message("user", prompt),), SECTIONS)
        return await ask_until_read(self.player, make_request, self._read_rating, draw, "quality", self.retries, call)

    @staticmethod
    def _read_rating(reply: ChatReply) -> Quality | Unparsed:
        """Read the rating of each dimension, and compute score and level."""
        sections = read_sections(reply.text, SECTIONS, once=tuple(WEIGHTS))
        if isinstance(sections, Unparsed):
            return sections
        scores: dict[str, float] = {}
        for name in WEIGHTS:
            rating = read_rating(sections[name])
            if rating is None:
                return Unparsed(f"{name} is not a number from 1 to 5: {sections[name][:60]!r}")
            scores[name.lower()] = rating
        score = compute_weighted_mean(scores)
        return Quality(scores, score, find_level(score), sections["EXPLANATION"])


def read_rating(text: str) -> float | None:
    """Read a rating from 1 to 5 ("4", "4.5", "**4**", "4/5"). None if the text does not state one, as in "3-4", "4/10"
    or "very good".
    """
    match = _RATING.match(text)
    if match is None:
        return None
    value = float(match[1])
    return value if value <= 5 else None


def compute_weighted_mean(scores: dict[str, float]) -> float:
    """The mean of the five dimensions weighted by `WEIGHTS`, rounded to four decimal places; names in `scores` are
    lower-case.
    """
    weighted_sum = sum(weight * scores[name.lower()] for name, weight in WEIGHTS.items())
    return round(weighted_sum / sum(WEIGHTS.values()), 4)


def find_level(score: float) -> int:
    """The level of a score, from 1 to 5: L1 < 1.5 ≤ L2 < 2.5 ≤ L3 < 3.5 ≤ L4 < 4.5 ≤ L5."""
    return 1 + sum(score >= threshold for threshold in LEVEL_THRESHOLDS)
