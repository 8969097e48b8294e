"""Drawings made of characters: each is a function of numbers and a width, and says in words what it shows."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text

from nanoflux_local.ledger.tally import STEPS, Event, Tally, UnderWay
from nanoflux_tui.look import OUTCOMES, Ink, bar
from nanoflux_tui.text import clock, count, duration, line

SHOWN_FLIPS = 60
EIGHTHS = " ▁▂▃▄▅▆▇█"
MARKS = {
    "kept_failed": "✓",
    "kept_novel": "✓",
    "defender_right": "·",
    "novelty_rejected": "≈",
    "contaminated": "✗",
    "invalid": "✗",
    "low_confidence": "?",
}
NEXT = {
    "": "writing a question",
    "attack": "new? valid?",
    "validation-0": "being solved",
    "defence": "judging the reply",
    "evaluation-0": "judged",
}
"""What is done after the step that was answered last."""


def funnel(outcomes: Mapping[str, int], ink: Ink, width: int) -> Text:
    """How every attempt ended, the most kept first, each with its share."""
    text = Text()
    total = sum(outcomes.values())
    if not total:
        return Text("No turn has ended yet.", style=ink["muted"])
    label = min(26, max(14, width - 24))
    room = max(4, width - label - 13)
    for key, (name, colour) in OUTCOMES.items():
        many = outcomes.get(key, 0)
        text.append(f"{line(name, label):<{label}} ")
        text.append(bar(many, total, room).replace("─", " "), style=ink[colour])
        text.append(f" {many:>5} {many / total:>4.0%}\n")
    return text[:-1]


def histogram(
    values: Sequence[float],
    low: float,
    high: float,
    ink: Ink,
    width: int,
    mark: float | None = None,
    rows: int = 5,
    below: bool = False,
) -> Text:
    """How often each value occurs from `low` to `high`, with `mark` as a line above which (or below which) values are
    others; what lies outside counts at the edge."""
    if not len(values):
        return Text("Nothing measured yet.", style=ink["muted"])
    cells = max(10, min(width, 60))
    bins = [0] * cells
    for value in values:
        bins[min(cells - 1, max(0, int((value - low) / (high - low) * cells)))] += 1
    tallest = max(bins)
    marked = None if mark is None else min(cells - 1, max(0, int((mark - low) / (high - low) * cells)))
    text = Text()
    for row in range(rows, 0, -1):
        for cell, many in enumerate(bins):
            height = many / tallest * rows * 8
            eighth = EIGHTHS[int(max(0, min(8, height - (row - 1) * 8)))]
            if many and row == 1 and eighth == " ":
                eighth = "▁"
            if cell == marked and eighth == " ":
                text.append("┆", style=ink["accent"])
            else:
                over = marked is not None and (cell < marked if below else cell >= marked)
                text.append(eighth, style=ink["accent" if over else "primary"])
        text.append("\n")
    text.append(f"{low:<.2f}{'':─^{max(0, cells - 8)}}{high:>.2f}", style=ink["muted"])
    return text


def under_way(turns: Sequence[UnderWay], tally: Tally, names: tuple[str, str], ink: Ink, width: int) -> Text:
    """A line for each turn that is being played: who attacks, who defends, and what is done now."""
    text = Text()
    for turn in turns:
        attacker, defender = tally.players.get(turn.turn % 2, names)
        action = NEXT[turn.step]
        done = STEPS.index(turn.step) + 1 if turn.step else 0
        text.append(f"{turn.turn:>5}  ")
        text.append("●" * done, style=ink["success"])
        text.append("○" * (len(STEPS) - done), style=ink["muted"])
        tries = f"try {turn.attempt + 1}, " if turn.attempt else ""
        text.append(f"  {line(f'{tries}{action}: {attacker} → {defender}', max(10, width - 14))}\n")
    return text[:-1]


def events(latest: Sequence[Event], ink: Ink, width: int, rows: int) -> Text:
    """The newest events, the last one first."""
    text = Text()
    for event in list(reversed(latest))[:rows]:
        colour = "error" if event.kind == "fault" else OUTCOMES.get(event.kind, ("", "foreground"))[1]
        name = OUTCOMES.get(event.kind, (event.kind, ""))[0]
        text.append(f"{clock(event.at)} ", style=ink["muted"])
        text.append(f"{MARKS.get(event.kind, '!')} {name}", style=ink[colour])
        text.append(" · " + line(event.text, max(10, width - len(name) - 15)) + "\n")
    return text[:-1] if latest else Text("Nothing has happened yet.", style=ink["muted"])


def usage(tally: Tally, ink: Ink) -> Text:
    """What each role's calls took."""
    if not tally.usage:
        return Text("No call was answered yet.", style=ink["muted"])
    head = f"{'role':<10}{'calls':>8}{'read':>8}{'written':>9}{'time':>8}{'usd':>9}\n"
    text = Text.assemble((head, ink["secondary"]))
    for role, used in sorted(tally.usage.items()):
        text.append(
            f"{line(role or 'embedder', 9):<10}{count(used.calls):>8}{count(used.prompt_tokens):>8}"
            f"{count(used.completion_tokens):>9}{duration(used.seconds):>8}{used.usd:>9.2f}\n"
        )
    return text[:-1]


def flips(rows: Sequence[Mapping[str, Any]], a: str, b: str, ink: Ink) -> Text:
    """The items whose share of right replies `b` lost or gained against `a`, those that it lost first."""
    lost, gained = (sum((row["b"] > row["a"]) == up for row in rows) for up in (False, True))
    items = "item" if lost == 1 else "items"
    text = Text.assemble((f"{b} lost {lost} {items} and gained {gained} against {a}\n", "bold"))
    for row in rows[:SHOWN_FLIPS]:
        up = row["b"] > row["a"]
        text.append("▲ gained " if up else "▼ lost   ", style=ink["success" if up else "error"])
        text.append(f"{line(row['item'], 40):<32} {row['a']:>4.0%} → {row['b']:>4.0%}\n")
    if len(rows) > SHOWN_FLIPS:
        text.append(f"… and {len(rows) - SHOWN_FLIPS} more")
    text.rstrip()
    return text


def levels(counts: Mapping[int, int], ink: Ink, width: int) -> Text:
    """How many examples are of each quality level."""
    most = max(counts.values(), default=0)
    if not most:
        return Text("Reasoning was not scored in this run.", style=ink["muted"])
    text = Text()
    for level in range(1, 6):
        many = counts.get(level, 0)
        text.append(f"L{level} ")
        text.append(bar(many, most, max(4, width - 10)).replace("─", " "), style=ink["primary"])
        text.append(f" {many:>5}\n")
    return text[:-1]
