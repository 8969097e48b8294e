"""Finds and removes the reasoning blocks of raw replies.

Some models put their reasoning into tags or channels. Some servers send the reasoning separately; the raw reply then
contains it in tags.
"""

import re
from collections.abc import Sequence

TAGS = ("think", "thinking", "reasoning")
CUT_IN_REASONING = "cut inside its reasoning"
"""The reason shown for a reply that reached its token limit before its answer."""
_FURTHER_TAGS = ("thought", "thoughts", "seed:think")
_TAG_PAIRS = (
    *((f"<{tag}>", f"</{tag}>") for tag in (*TAGS, *_FURTHER_TAGS)),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
)
"""The tags that open and close a block; case does not matter."""
_BLOCK = re.compile(
    "|".join(rf"{re.escape(opening)}.*?(?:{re.escape(closing)}|\Z)" for opening, closing in _TAG_PAIRS),
    re.DOTALL | re.IGNORECASE,
)
_OPENING_AT_END = re.compile(rf"(?:{'|'.join(re.escape(opening) for opening, _ in _TAG_PAIRS)})\s*\Z", re.IGNORECASE)
_CLOSING_TAG = re.compile("|".join(re.escape(closing) for _, closing in _TAG_PAIRS), re.IGNORECASE)
_HEADING = re.compile(r"[ \t]*#{1,6}[ \t]+\S.*")
_CHANNEL = re.compile(
    r"(?:<\|start\|>\w*)?<\|channel\|>\s*(?P<name>\w+)[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>"
    r"(?P<text>.*?)(?=<\|(?:end|return|call|start|channel)\|>|\Z)(?P<end>(?:<\|(?:end|return|call)\|>)?)",
    re.DOTALL,
)
"""A message of OpenAI's harmony format, which gpt-oss writes."""
_BARE_CHANNELS = re.compile(r"\A\s*analysis(?=[A-Z\s]).*?assistantfinal", re.DOTALL)
"""The same format from a server that drops the special tokens."""


def strip_reasoning(text: str) -> str:
    """Remove the reasoning blocks of a reply; an unclosed block hides everything after it.

    Some chat templates open the block in the prompt, so that the reply contains only the closing tag. If a reply has
    channels, only the final one is kept.
    """
    visible = _BLOCK.sub("", _remove_other_channels(text))
    closing_tag = _CLOSING_TAG.search(visible)
    return visible[closing_tag.end() :] if closing_tag else visible


def with_reasoning(reasoning: str, text: str) -> str:
    """The raw reply that combines separately sent reasoning with the text after it; `strip_reasoning` undoes this."""
    if not reasoning:
        return text
    tag = next((tag for tag in TAGS if f"</{tag}>" not in reasoning.lower()), TAGS[0])  # reasoning may mention tags
    return f"<{tag}>\n{reasoning}\n</{tag}>\n{text}"


def find_opening_tag(prompt: str) -> str:
    """The tag with which a prompt opens the reply's reasoning, as some chat templates do; "" if it opens none."""
    opening_tag = _OPENING_AT_END.search(prompt)
    return opening_tag[0] if opening_tag else ""


def answer_start(text: str) -> int:
    """The index at which a raw reply's answer begins: after its reasoning and the whitespace that follows. 0 for a
    reply without reasoning; the length of the text if the reasoning is not closed.
    """
    visible = strip_reasoning(text)
    if visible == text:
        return 0
    answer = visible.lstrip()
    return len(text) - len(answer) if text.endswith(answer) else 0


def cut_answer(text: str, stop: Sequence[str]) -> str:
    """A raw reply up to the first stop string of its answer. Stop strings inside the reasoning are skipped, since
    models reason in paragraphs; a blank line directly below a heading ("## ANSWER") is skipped as well.
    """
    start = answer_start(text)
    stop_indices = [_find_stop(text, string, start) for string in stop]
    end = min((index for index in stop_indices if index >= 0), default=len(text))
    return text[:end]


def _find_stop(text: str, string: str, start: int) -> int:
    """The index of the first occurrence of `string` that ends the answer, or -1."""
    index = text.find(string, start)
    is_blank_line = not string.strip()
    while index >= 0 and is_blank_line:
        line_before = text[start:index].rpartition("\n")[2]
        if not _HEADING.fullmatch(line_before):
            break
        index = text.find(string, index + len(string))
    return index


def ends_in_reasoning(text: str, finish: str) -> bool:
    """Whether a raw reply ended before its answer: it contains only reasoning, or it is empty although it reached its
    token limit (`finish` "length"), as with servers that count reasoning tokens but do not send them.
    """
    visible = strip_reasoning(text)
    return not visible.strip() and (visible != text or (finish == "length" and not text))


def _remove_other_channels(text: str) -> str:
    """The text without the messages of all channels but `final`, whose messages keep their end tokens."""
    if "<|channel|>" not in text:
        return _BARE_CHANNELS.sub("", text, count=1)
    return _CHANNEL.sub(lambda match: match["text"] + match["end"] if match["name"] == "final" else "", text)
