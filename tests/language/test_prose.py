"""Docstrings, comments, error texts and pages avoid phrases that read like a translation."""

import re

import pytest

from tests.language.project_sources import PROJECT, SOURCES, list_prose, list_raised_errors

BANNED = {
    r"\bwhoever\b": "name who it is",
    r"\b(?:is|are|was|were) told\b|\btold (?:of|as|to|by|once)\b": "report, show, record",
    r"\b(?:go|goes|gone|going|went) on with\b": "resume, continue with",
    r"\bbegun\b": "started",
    r"\bof (?:its|their|his|your) own(?=[.,;:)]|$| (?:and|or|that|which|with|for|in|on|to)\b)": "separate",
    r"\bas (?:it|they) (?:is|are|was|were|stands?)(?=[.,;:)]|$)": "unchanged",
    r"\bwhat there is\b": "name it",
    r"\bto be had\b": "available",
    r"\band (?:is|are) none\b": "and is empty",
    r"\bmourn": "handle the exit",
    r"\bobey": "follow, apply",
    r"\banew\b": "again, new",
    r"\bbeside\b": "next to, compared with, besides",
    r"\bheld against\b": "compared with",
    r"\bwhere (?:there|none|nothing|nobody) (?:is|are|was|were|can|could)\b": "if, when",
}
"""Regular expressions for banned phrases, each with the words to write instead."""
PAGES = [path for path in (PROJECT / "docs").rglob("*.md") if path.name != "log.md"]


def find_banned(text: str) -> list[str]:
    """The banned phrases in `text`, each with the words to write instead."""
    return [
        f"{match[0]!r}, write: {replacement}"
        for pattern, replacement in BANNED.items()
        for match in re.finditer(pattern, text, re.IGNORECASE)
    ]


def test_docstrings_and_comments_avoid_banned_phrases() -> None:
    faults = [f"{location}: {fault}" for location, text in list_prose(SOURCES) for fault in find_banned(text)]
    assert not faults, "\n".join(faults)


def test_error_texts_avoid_banned_phrases() -> None:
    faults = [
        f"{error.location}: {fault}"
        for error in list_raised_errors()
        for text in (*error.messages, *(error.fixes or ()))
        for fault in find_banned(text)
    ]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("path", [PROJECT / "README.md", *PAGES], ids=lambda path: path.name)
def test_pages_avoid_banned_phrases(path) -> None:
    assert find_banned(" ".join(path.read_text("utf-8").split())) == []


def test_find_banned_names_the_replacement() -> None:
    assert find_banned("It runs in a process of its own.") == ["'of its own', write: separate"]
    assert find_banned("A separate process runs it.") == []
