"""Replies of SmolLM2-135M, Qwen2.5-Coder 0.5B and Qwen2.5-Coder 1.5B to the prompts of the roles are parsed as
recorded. The test lists each reply that a changed parser reads differently.
"""

import json
import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from nanoflux_local.domains.own import load_domain
from nanoflux_local.records import ChatReply
from nanoflux_local.roles.attacker import read_attack
from nanoflux_local.roles.checks.programs import read_program
from nanoflux_local.roles.judge import read_verdict
from nanoflux_local.roles.sections import Unparsed, read_sections

RECORDED_FILE = Path(__file__).parent / "recorded.jsonl"
DECISION_WORDS = {"validation": ("VALID", "INVALID"), "evaluation": ("CORRECT", "INCORRECT")}
"""The positive and the negative decision in each kind of reply of the judge."""


def parse_reply(row: dict[str, Any]) -> dict[str, Any]:
    """The content that the parser of the row's role reads: an answer, a decision or a program, or why there is none."""
    domain = load_domain(row["domain"])
    text = row["text"]
    if row["role"] == "attacker":
        attack = read_attack(domain, text)
        return {"unread": attack.reason} if isinstance(attack, Unparsed) else {"answer": attack.answer}
    if row["role"] == "code":
        program = read_program(ChatReply(text, "stop"))
        return {"unread": program.reason} if isinstance(program, Unparsed) else {"lines": len(program.splitlines())}
    names_given_once = ("ANSWER",) if row["role"] == "defender" else ("DECISION", "CONFIDENCE")
    sections = read_sections(text, getattr(domain.sections, row["role"]), names_given_once)
    if isinstance(sections, Unparsed):
        return {"unread": sections.reason}
    if row["role"] == "defender":
        return {"answer": sections["ANSWER"]}
    verdict = read_verdict(sections, *DECISION_WORDS[row["role"]])
    if isinstance(verdict, Unparsed):
        return {"unread": verdict.reason}
    return {"decision": verdict.positive, "confidence": verdict.confidence}


@cache
def load_recorded() -> list[dict[str, Any]]:
    """The recorded replies, each with its model, domain and role, and its parsed content under "read"."""
    return [json.loads(line) for line in RECORDED_FILE.read_text(encoding="utf-8").splitlines()]


def test_recorded_replies_are_parsed_as_before() -> None:
    """A parser that reads more replies than before fails too, since this change must also be reviewed."""
    changes = []
    for line_number, row in enumerate(load_recorded(), 1):
        parsed_content = parse_reply(row)
        if parsed_content != row["read"]:
            changes.append((line_number, row["read"], parsed_content))
    assert changes == []


def test_recorded_replies_match_the_counts_in_the_log() -> None:
    rows = load_recorded()
    readable_rows = [row for row in rows if "unread" not in row["read"]]
    assert len({row["text"] for row in rows}) == len(rows) >= 100
    assert {row["model"] for row in rows} == {
        "smollm2-135m", "qwen2.5-coder-0.5b-instruct", "qwen2.5-coder-1.5b-instruct",
    }  # fmt: skip
    total_by_model = Counter(row["model"] for row in rows)
    readable_by_model = Counter(row["model"] for row in readable_rows)
    log = (Path(__file__).parents[2] / "docs" / "log.md").read_text(encoding="utf-8")
    for model, total in total_by_model.items():
        assert f"| {model} | {readable_by_model[model]} of {total} |" in log, model


@pytest.mark.parametrize(
    "row", [row for row in load_recorded() if row["role"] in DECISION_WORDS], ids=lambda row: row["text"][:20]
)
def test_recorded_decision_is_the_only_one_in_its_section(row: dict[str, Any]) -> None:
    """The line of the section DECISION contains the decision that was read, and not the opposite decision."""
    if "unread" in row["read"]:
        return
    yes, no = DECISION_WORDS[row["role"]]
    decision_match = re.search(r"DECISION\W*(.*)", row["text"], re.IGNORECASE)
    assert decision_match is not None
    decisions = re.findall(rf"\b(?:{yes}|{no})\b", decision_match[1].upper())
    assert decisions == [yes if row["read"]["decision"] else no]
