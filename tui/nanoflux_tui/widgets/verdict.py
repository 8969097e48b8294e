"""A verdict as a text: the decision, each check's finding with its evidence, and the explanation."""

from rich.text import Text

from nanoflux_local.transcript import Verdict
from nanoflux_tui.text import format_line, sanitize
from nanoflux_tui.theme import Colours

AGREEMENT = {True: "✓", False: "✗", None: "–"}
REASONING = {True: "sound", False: "unsound", None: "not judged"}
SAMPLE_MARKS = {True: "right", False: "wrong", None: "not judged"}
"""Whether an answer of the defender after the first is right, in words."""


def format_verdict(verdict: Verdict | None, colours: Colours, checkable: bool = False) -> Text:
    """A verdict. For a verdict on a question (`checkable`), the text also says if no check was run."""
    if verdict is None:
        return Text("Not judged.", style=colours["muted"])
    mark, colour = ("✓ yes", "success") if verdict.positive else ("✗ no", "error")
    text = Text.assemble((mark, colours[colour]), f"  confidence {verdict.confidence:.2f}")
    if verdict.soft is not None:
        text.append(f"  reasoning {REASONING[verdict.soft]}")
    if verdict.asked > 1:
        text.append(f"  asked {verdict.asked} times")
    text.append("\nno check was run" if checkable and not verdict.findings else "")
    for finding in verdict.findings:
        text.append(f"\n{finding.check.replace('_', '-')} check: {finding.conclusion}")
        text.append(f" ({format_line(finding.reason, 200)})" if finding.reason else "")
        for exhibit in finding.evidence:
            if exhibit.author:  # a solution or program by a solver
                outcome = format_line(exhibit.outcome or f"not read: {exhibit.detail}", 100)
                method = "a program" if exhibit.kind == "program" else "in words"
                if exhibit.outcome and exhibit.kind == "solution" and exhibit.detail:
                    method += f", {format_line(exhibit.detail, 100)}"
                text.append(f"\n  {AGREEMENT[exhibit.agrees]} {format_line(exhibit.author, 40)}, {method}: {outcome}")
    text.append(f"\n\n{sanitize(verdict.explanation)}")
    return text
