"""Scores replies without a judge (paper A.1): a reply is right if its answer is the exact letter, or a number within
tolerance.

A reply is "unanswered" if no answer can be read from it; it counts as not right and is also reported separately. A
reply is "unscored" if it is missing, or if the answer is free text, which only a judge can compare. Unscored replies
are left out of the accuracy.
"""

from dataclasses import dataclass
from typing import Literal

from nanoflux_local.domains.base import Domain
from nanoflux_local.roles.attacker import normalize_answer
from nanoflux_local.roles.judge import is_same_answer
from nanoflux_local.roles.sections import Unparsed, read_sections
from nanoflux_local.transcript import Seed

Mark = Literal["right", "wrong", "unanswered", "unscored"]
"""The score of a reply, as described in this module's docstring."""


@dataclass(frozen=True, slots=True)
class Score:
    """The answer read from a reply ("" if none can be read), and the mark of the reply."""

    reading: str
    mark: Mark


def score_reply(domain: Domain, reply: str, item: Seed) -> Score:
    """Compare the ANSWER section of a reply with the item's answer."""
    domain = domain.with_letters(item.options)
    sections = read_sections(reply, ("ANSWER",), once=("ANSWER",))
    if isinstance(sections, Unparsed):
        return Score("", "unanswered")
    reading = normalize_answer(domain, sections["ANSWER"])
    if reading is None:
        return Score("", "unanswered")
    is_right = is_same_answer(domain, reading, item.answer)
    if is_right is None:
        return Score(reading, "unscored")
    return Score(reading, "right" if is_right else "wrong")
