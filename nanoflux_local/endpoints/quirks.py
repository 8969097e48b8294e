"""Quirks: what a hosted model takes, by its name. Sent to one that does not take it, a parameter is an error.

A model whose name is not known here takes everything, which is right for servers of one's own.
"""

import re
from dataclasses import dataclass

from nanoflux_local.records import Sampling

_OPENAI_REASONING = re.compile(r"^(?:.*/)?(?:o\d|gpt-[5-9])(?!.*-chat)")
_CLAUDE = re.compile(r"^(?:.*/)?claude-")
_CLAUDE_SAMPLED = re.compile(r"^(?:.*/)?claude-(?:[23]|instant|(?:opus|sonnet|haiku)-4(?:-[0-6])?(?:-\d{8}|$|@))")


@dataclass(frozen=True, slots=True)
class Takes:
    """`sampling`: temperature and top_p; `both`: the two together; `stop`: stop strings; `max_tokens`: by this name."""

    sampling: bool = True
    both: bool = True
    stop: bool = True
    max_tokens: str = "max_tokens"


def takes(model: str) -> Takes:
    """What a model takes."""
    if _OPENAI_REASONING.match(model):
        return Takes(sampling=False, stop=False, max_tokens="max_completion_tokens")
    if _CLAUDE.match(model):
        return Takes(sampling=bool(_CLAUDE_SAMPLED.match(model)), both=False)
    return Takes()


def sampled(model: str, sampling: Sampling) -> dict[str, float]:
    """The sampling parameters to send. Of the two, where only one may be sent, it is the one that says something."""
    what = takes(model)
    if not what.sampling:
        return {}
    if what.both:
        return {"temperature": sampling.temperature, "top_p": sampling.top_p}
    if sampling.temperature == 1.0 and sampling.top_p < 1.0:
        return {"top_p": sampling.top_p}
    return {"temperature": sampling.temperature}
