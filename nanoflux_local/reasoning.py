"""Finds and removes the reasoning blocks of raw replies.

Some models put their reasoning into tags or channels. Some servers send the reasoning separately; `with_reasoning` then
puts it into tags in the raw reply.
"""

import re
from collections.abc import Sequence

TAGS = ("think", "thinking", "reasoning")
"""The tags of reasoning blocks; `with_reasoning` writes one of them."""
CUT_IN_REASONING = "cut inside its reasoning"
"""The reason shown for a reply that reached its token limit before its answer."""
_FURTHER_TAGS = ("thought", "thoughts", "seed:think")
"""Tags that some models write, but `with_reasoning` does not."""
_TAG_PAIRS = (
    *((f"<{tag}>", f"</{tag}>") for tag in (*TAGS, *_FURTHER_TAGS)),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
)
"""The opening and the closing tag of each kind of block; case does not matter."""
_BLOCK = re.compile(
    "|".join(rf"{re.escape(opening)}.*?(?:{re.escape(closing)}|\Z)" for opening, closing in _TAG_PAIRS),
    re.DOTALL | re.IGNORECASE,
)
"""A reasoning block with its tags; an unclosed block reaches to the end of the text."""
_OPENING_AT_END = re.compile(rf"(?:{'|'.join(re.escape(opening) for opening, _ in _TAG_PAIRS)})\s*\Z", re.IGNORECASE)
"""An opening tag at the end of a prompt."""
_CLOSING_TAG = re.compile("|".join(re.escape(closing) for _, closing in _TAG_PAIRS), re.IGNORECASE)
_HEADING = re.compile(r"[ \t]*#{1,6}[ \t]+\S.*")
"""A line that is a Markdown heading."""
_CHANNEL = re.compile(
    r"(?:<\|start\|>\w*)?<\|channel\|>\s*(?P<name>\w+)[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>"
    r"(?P<text>.*?)(?=<\|(?:end|return|call|start|channel)\|>|\Z)(?P<end>(?:<\|(?:end|return|call)\|>)?)",
    re.DOTALL,
)
"""A message in OpenAI's harmony format, which gpt-oss writes: its channel (`name`), its text and its end token."""
_BARE_CHANNELS = re.compile(r"\A\s*analysis(?=[A-Z\s]).*?assistantfinal", re.DOTALL)
"""The reasoning of a reply in the harmony format whose special tokens the server has dropped."""


def strip_reasoning(text: str) -> str:
    """Remove the reasoning blocks of a reply; an unclosed block hides everything after it.

    Some chat templates open the block in the prompt; the reply then contains only the closing tag. If a reply has
    channels, only the final one is kept.
    """
    visible = _BLOCK.sub("", _remove_other_channels(text))
    closing_tag = _CLOSING_TAG.search(visible)
    return visible[closing_tag.end() :] if closing_tag else visible


def with_reasoning(reasoning: str, text: str) -> str:
    """The raw reply that combines separately sent reasoning with the text after it; `strip_reasoning` undoes this.

    The reasoning may itself mention a tag, so the function uses a tag whose closing form is not in the reasoning.
    """
    if not reasoning:
        return text
    unmentioned_tags = [tag for tag in TAGS if f"</{tag}>" not in reasoning.lower()]
    tag = unmentioned_tags[0] if unmentioned_tags else TAGS[0]
    return f"<{tag}>\n{reasoning}\n</{tag}>\n{text}"


def find_opening_tag(prompt: str) -> str:
    """The tag at the end of a prompt that opens the reply's reasoning (some chat templates add one); "" if there is
    none.
    """
    opening_tag = _OPENING_AT_END.search(prompt)
    return opening_tag[0] if opening_tag else ""


def find_answer_start(text: str) -> int:
    """The index at which a raw reply's answer begins: after its reasoning and the whitespace that follows. 0 for a
    reply without reasoning; the length of the text if the reasoning is not closed.
    """
    visible = strip_reasoning(text)
    if visible == text:
        return 0
    answer = visible.lstrip()
    return len(text) - len(answer) if text.endswith(answer) else 0


def cut_answer(text: str, stop: Sequence[str]) -> str:
    """A raw reply up to the first stop string of its answer. Stop strings inside the reasoning are skipped, since they
    can occur there: models reason in paragraphs, and a blank line is a common stop string. A blank line directly below
    a heading ("## ANSWER") is skipped as well.
    """
    start = find_answer_start(text)
    stop_indices = [_find_stop(text, stop_string, start) for stop_string in stop]
    end = min((index for index in stop_indices if index >= 0), default=len(text))
    return text[:end]


def _find_stop(text: str, stop_string: str, start: int) -> int:
    """The index of the first occurrence of `stop_string` that ends the answer, or -1. `start` is the index at which the
    answer begins.
    """
    index = text.find(stop_string, start)
    is_blank_line = not stop_string.strip()
    while index >= 0 and is_blank_line:
        line_before = text[start:index].rpartition("\n")[2]
        if not _HEADING.fullmatch(line_before):
            break
        index = text.find(stop_string, index + len(stop_string))
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
    return _CHANNEL.sub(_keep_final_message, text)


def _keep_final_message(message: re.Match[str]) -> str:
    """The replacement of a message that `_CHANNEL` matches: its text and end token in the final channel, else ""."""
    return message["text"] + message["end"] if message["name"] == "final" else ""
