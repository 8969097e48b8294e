"""Finds where a reply ends: at a control token that the server left in its text, or at a next turn that the model
invents.

Models that miss their stop token continue with an invented user message, which is not part of the reply.
"""

import re
from collections.abc import Collection

# Labels of invented turns, as alternatives of a regular expression.
_SPEAKER_LABELS = "human|user|assistant|system"
_TASK_LABELS = "q|question|problem|exercise|task|instruction|input"
_CONTROL_TOKEN = re.compile(
    r"<[|｜][^<>|｜\n]{1,40}[|｜]>|</s>|<s>|<(?:eos|bos|pad|start_of_turn|end_of_turn)>|\[/?INST\]", re.IGNORECASE
)
"""A control token that a server left in the text of a reply."""
_OPENING_TOKENS = re.compile(rf"(?:\s*(?:{_CONTROL_TOKEN.pattern})(?:(?:assistant|model)\b)?)+\s*", re.IGNORECASE)
"""Control tokens before the reply's text, each optionally followed by the name of the role that speaks."""


def _compile_next_turn(labels: str) -> re.Pattern[str]:
    """Compile a pattern for a control token, or for the beginning of a line with one of the `labels` and a colon."""
    return re.compile(
        rf"{_CONTROL_TOKEN.pattern}|^[ \t#*>]*(?P<label>{labels})(?:[ \t]*\d+)?[ \t*]*[:：]",
        re.IGNORECASE | re.MULTILINE,
    )


_NEXT_SPEAKER = _compile_next_turn(_SPEAKER_LABELS)
"""A control token, or the label of an invented speaker."""
_NEXT_TURN = _compile_next_turn(f"{_SPEAKER_LABELS}|{_TASK_LABELS}")
"""A control token, or the label of an invented speaker or task."""


def cut_at_next_turn(text: str, sections: Collection[str] = (), speakers_only: bool = False) -> str:
    """The text up to its first control token or invented next turn ("Human:", "Question 2:" at a line's start).

    Control tokens before the first word are dropped. `sections` are the names of the reply's sections in upper case; a
    label that is one of these names opens a section and does not end the text. With `speakers_only`, labels of tasks do
    not end the text, since prose uses them too ("Problem: …").
    """
    opening = _OPENING_TOKENS.match(text)
    text = text[opening.end() :] if opening else text
    first_word = re.search(r"\w", text)
    if first_word is None:
        return text
    next_turn = _NEXT_SPEAKER if speakers_only else _NEXT_TURN
    for match in next_turn.finditer(text, first_word.end()):
        label = match["label"]  # None if the match is a control token
        if label is None or label.upper() not in sections:
            return text[: match.start()].rstrip()
    return text
