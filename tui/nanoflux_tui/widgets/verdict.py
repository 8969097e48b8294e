"""Formats a verdict: the decision, each check's finding with its evidence, and the explanation."""

from rich.text import Text

from nanoflux_local.transcript import Exhibit, Verdict
from nanoflux_tui.text import format_line, sanitize
from nanoflux_tui.theme import Colours

AGREEMENT_MARKS = {True: "✓", False: "✗", None: "–"}
"""The mark of a blind solver's answer: whether it agrees with the attacker's answer; None if it was not comparable."""
REASONING_WORDS = {True: "sound", False: "unsound", None: "not judged"}
"""The judge's rating of the defender's reasoning, in words."""
SAMPLE_WORDS = {True: "right", False: "wrong", None: "not judged"}
"""Whether a further answer of the defender is right, in words; None if the judge did not judge it."""


def format_verdict(verdict: Verdict | None, colours: Colours, checkable: bool = False) -> Text:
    """A verdict in several lines. If the verdict is `checkable`, as those on questions are, and no check was run, the
    text says so.
    """
    if verdict is None:
        return Text("Not judged.", style=colours["muted"])
    mark, colour = ("✓ yes", "success") if verdict.positive else ("✗ no", "error")
    confidence = f"  confidence {verdict.confidence:.2f}" if verdict.asked else "  the judge was not asked"
    text = Text.assemble((mark, colours[colour]), confidence)
    if verdict.soft is not None:
        text.append(f"  reasoning {REASONING_WORDS[verdict.soft]}")
    if verdict.asked > 1:
        text.append(f"  asked {verdict.asked} times")
    text.append("\nno check was run" if checkable and not verdict.findings else "")
    for finding in verdict.findings:
        text.append(f"\n{finding.check.replace('_', '-')} check: {finding.conclusion}")
        text.append(f" ({format_line(finding.reason, 200)})" if finding.reason else "")
        for exhibit in finding.evidence:
            if exhibit.author:
                text.append(f"\n  {_format_solver_answer(exhibit)}")
    text.append(f"\n\n{sanitize(verdict.explanation)}")
    return text


def _format_solver_answer(exhibit: Exhibit) -> str:
    """A blind solver's answer, the way in which it was found (by a program or in words), and whether it agrees with the
    attacker's answer.
    """
    answer = format_line(exhibit.outcome or f"not read: {exhibit.detail}", 100)
    method = "a program" if exhibit.kind == "program" else "in words"
    if exhibit.outcome and exhibit.kind == "solution" and exhibit.detail:
        method += f", {format_line(exhibit.detail, 100)}"
    return f"{AGREEMENT_MARKS[exhibit.agrees]} {format_line(exhibit.author, 40)}, {method}: {answer}"
