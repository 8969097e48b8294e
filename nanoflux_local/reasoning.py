"""Reasoning blocks: how they stand in a raw reply, whoever wrote them there, and the reply without them.

Some models think in tags; some servers take the thoughts out and send them apart. A raw reply holds both in tags.
"""

import re
from collections.abc import Sequence

TAGS = ("think", "thinking", "reasoning")
CUT_IN_REASONING = "cut inside its reasoning"
"""How the reason reads of a reply that had no room left to come to its answer."""
_BLOCK = re.compile(rf"<({'|'.join(TAGS)})>.*?(?:</\1>|\Z)", re.DOTALL | re.IGNORECASE)
_OPENED = re.compile(rf"<(?:{'|'.join(TAGS)})>\s*\Z", re.IGNORECASE)
_CLOSED = re.compile(rf"</(?:{'|'.join(TAGS)})>", re.IGNORECASE)


def strip_reasoning(text: str) -> str:
    """The reply without its reasoning blocks; one that never closes hides everything after it.

    Chat templates that open the block themselves leave only its closing tag in the reply.
    """
    visible = _BLOCK.sub("", text)
    closed = _CLOSED.search(visible)
    return visible[closed.end() :] if closed else visible


def with_reasoning(thoughts: str, text: str) -> str:
    """A raw reply of thoughts that came apart and the text that they led to; `strip_reasoning` takes them out again."""
    if not thoughts:
        return text
    tag = next((tag for tag in TAGS if f"</{tag}>" not in thoughts.lower()), TAGS[0])  # thoughts may speak of tags
    return f"<{tag}>\n{thoughts}\n</{tag}>\n{text}"


def opened_block(prompt: str) -> str:
    """The tag with which a prompt opens the reply's reasoning, as some chat templates do; "" if it opens none."""
    opened = _OPENED.search(prompt)
    return opened[0] if opened else ""


def answer_start(text: str) -> int:
    """The index at which a raw reply's answer begins: after its reasoning and the blank that follows it, 0 for a reply
    without reasoning, its length while the reasoning is not closed.
    """
    visible = strip_reasoning(text)
    if visible == text:
        return 0
    answer = visible.lstrip()
    return len(text) - len(answer) if text.endswith(answer) else 0


def cut_answer(text: str, stop: Sequence[str]) -> str:
    """A raw reply up to the first stop string of its answer. A stop string inside the reasoning ends nothing: it says
    where an answer ends, and models think in paragraphs.
    """
    start = answer_start(text)
    ends = [index for string in stop if (index := text.find(string, start)) >= 0]
    return text[: min(ends, default=len(text))]


def ends_in_reasoning(text: str, finish: str) -> bool:
    """Whether a raw reply ended before its answer began: it holds reasoning alone, or no character and yet was cut at
    its limit (`finish` "length"), as by servers that count thoughts and keep them to themselves.
    """
    visible = strip_reasoning(text)
    return not visible.strip() and (visible != text or (finish == "length" and not text))
