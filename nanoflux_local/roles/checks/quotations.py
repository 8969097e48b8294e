"""Quotations from passages: reads them from a reply, and looks them up in the passages.

Each quotation is on a line with the number of its passage: `2: "at most 5 litres"`. The number is only a hint: any
passage may contain the words.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from nanoflux_local.roles.checks.answerable import is_quoted_from
from nanoflux_local.transcript import Exhibit, Seed, Source

FOUND, NOT_FOUND = "in a passage", "in no passage"
"""Whether a quotation was found: the values of `Exhibit.outcome` for quotations."""
MIN_WORDS = 3
"""The minimum number of words of a quotation. A shorter one ("the patient") is in many texts and proves nothing."""
_DIVIDING_HYPHEN = re.compile(r"(?<=[^\W\d_])-\s+(?=[^\W\d_])")
"""A hyphen between letters that is followed by white space: a PDF may divide a word this way at the end of a line."""
_NUMBER = re.compile(
    r"^[\s>*•-]*(?:passages?\s*)?[\[(]?\s*(\d{1,3})\s*[\])]?\s*[:.)\]–—-]*\s*(?=[\"“”«'‘(\w])", re.IGNORECASE
)
"""The number of a passage before a quotation, in any of its forms: `2:`, `[2]`, `passage 2 -`."""
_MARKED = re.compile(r"^[\s>*•-]*(?:passages?\s*\d|[\[(]\s*\d{1,3}\s*[\])]|\d{1,3}\s*[:.)])", re.IGNORECASE)
"""A line whose leading number is marked as that of a passage; other numbers are part of the quotation."""
_QUOTED = re.compile(r"[\"“”«](.+)[\"“”»]")
_INLINE_SEPARATOR = re.compile(r"(?<=[\"”»])[\s,;]+(?=[\[(]?\d{1,3}[\])]?\s*:?\s*[\"“«])")
"""The separator between two numbered quotations on one line."""


@dataclass(frozen=True, slots=True)
class Quotation:
    """Words that a passage is said to contain. `number` is the number of the passage, from 1, or 0 if none is given."""

    text: str
    number: int = 0


def read_quotations(text: str) -> tuple[Quotation, ...]:
    """The quotations of a section, one per line: the words between quotation marks, or else the whole line."""
    return tuple(dict.fromkeys(_read_lines(text)))


def _read_lines(text: str) -> Iterator[Quotation]:
    """Yield the quotation of each entry. A line is one entry, or several if it has several numbered quotations."""
    for line in text.splitlines():
        for entry in _INLINE_SEPARATOR.split(line):
            number_match = _NUMBER.match(entry) if _MARKED.match(entry) else None
            statement = entry[number_match.end() :] if number_match else entry.strip(" \t>*•-")
            quoted_match = _QUOTED.search(statement)
            words = (quoted_match[1] if quoted_match else statement).strip()
            if words:
                yield Quotation(words, int(number_match[1]) if number_match else 0)


def find_passage(quotation: Quotation, passages: Sequence[Seed]) -> Seed | None:
    """The passage that contains a quotation, preferably the passage with its number; None if no passage contains it or
    it has fewer than `MIN_WORDS` words. The text of a passage is the `question` of its seed.
    """
    if len(re.findall(r"\w+", quotation.text)) < MIN_WORDS:
        return None
    numbered_passages = passages[quotation.number - 1 : quotation.number] if quotation.number else ()
    for passage in (*numbered_passages, *passages):
        if _contains(passage.question, quotation.text):
            return passage
    return None


def _contains(passage: str, quotation: str) -> bool:
    """Whether a passage contains a quotation, also if a line-break hyphen splits words in either text."""
    return is_quoted_from(quotation, passage) or is_quoted_from(_join_words(quotation), _join_words(passage))


def _join_words(text: str) -> str:
    """The text without the hyphens that divide words at the end of a line."""
    return _DIVIDING_HYPHEN.sub("", text)


def make_exhibit(quotation: Quotation, passage: Seed | None) -> Exhibit:
    """A quotation as evidence, with the passage that contains it."""
    if passage is None:
        return Exhibit("quotation", quotation.text, NOT_FOUND)
    source = Source(passage.source, passage.place, passage.question)
    return Exhibit("quotation", quotation.text, FOUND, results=(source,))


def make_exhibits(quotations: Iterable[Quotation], passages: Sequence[Seed]) -> tuple[Exhibit, ...]:
    """Look up each quotation in the passages, and return it as evidence."""
    return tuple(make_exhibit(quotation, find_passage(quotation, passages)) for quotation in quotations)


def find_first_missing(exhibits: Iterable[Exhibit]) -> str:
    """The beginning of the first quotation that is in no passage; "" if all are in a passage."""
    return next((exhibit.text[:120] for exhibit in exhibits if exhibit.outcome == NOT_FOUND), "")
