"""Reasoning blocks: how they stand in a raw reply, whoever wrote them there, and the reply without them.

Some models think in tags; some servers take the thoughts out and send them apart. A raw reply holds both in tags.
"""

import re

TAGS = ("think", "thinking", "reasoning")
_BLOCK = re.compile(rf"<({'|'.join(TAGS)})>.*?(?:</\1>|\Z)", re.DOTALL | re.IGNORECASE)
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
