"""Strict scoring (paper A.1): the exact letter, or the number within tolerance. A machine decides, or nobody.

"unanswered" (no answer could be read) counts as not right, and is reported apart. "unscored" (there was no reply, or
its answer is free text, which only a judge can hold against another) counts as nothing.
"""

from dataclasses import dataclass
from typing import Literal

from nanoflux_local.domains.base import Domain
from nanoflux_local.roles.attacker import plain_answer
from nanoflux_local.roles.judge import same_answer
from nanoflux_local.roles.sections import Unparsed, read_sections
from nanoflux_local.transcript import Seed

Mark = Literal["right", "wrong", "unanswered", "unscored"]


@dataclass(frozen=True, slots=True)
class Score:
    """What was read in a reply, and its mark."""

    reading: str
    mark: Mark


def score_reply(domain: Domain, reply: str, item: Seed) -> Score:
    """Strict: reads the ANSWER section alone, and holds it against the item's answer."""
    domain = domain.lettered(item.options)
    sections = read_sections(reply, ("ANSWER",), once=("ANSWER",))
    if isinstance(sections, Unparsed):
        return Score("", "unanswered")
    reading = plain_answer(domain, sections["ANSWER"])
    if reading is None:
        return Score("", "unanswered")
    same = same_answer(domain, reading, item.answer)
    return Score(reading, "unscored" if same is None else "right" if same else "wrong")
