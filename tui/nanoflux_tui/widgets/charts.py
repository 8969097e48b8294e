"""Draws charts with characters. Each function returns a labelled chart, which in most cases is `width` cells wide."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text

from nanoflux_local.evaluate.items import FLIP_RULE, Flip
from nanoflux_local.experiments.tables import PAIR_COLUMNS, format_pair_rows
from nanoflux_local.ledger.tally import Event, Tally
from nanoflux_local.ledger.turn_steps import TurnInProgress
from nanoflux_local.run.trials.result import TrialResult, describe_share
from nanoflux_local.transcript import TurnRecord
from nanoflux_tui.text import format_clock, format_count, format_duration, format_line, format_quantity
from nanoflux_tui.theme import OUTCOME_WORDS, Colours, describe_outcome, draw_bar
from nanoflux_tui.widgets.columns import convert_columns, format_rows, format_table

MAX_FLIPS = 60
"""Maximum number of flipped items in a list."""
EIGHTHS = " ▁▂▃▄▅▆▇█"
"""The characters of cells that are filled to 0, 1, …, 8 eighths of their height."""
OUTCOME_MARKS = {
    "kept_failed": "✓",
    "kept_novel": "✓",
    "defender_right": "·",
    "novelty_rejected": "≈",
    "contaminated": "✗",
    "invalid": "✗",
    "low_confidence": "?",
    "unproven": "?",
}
"""The mark of an event that ends an attempt; all other events have the mark "!"."""


def draw_outcomes(outcomes: Mapping[str, int], colours: Colours, width: int) -> Text:
    """The number and share of attempts with each outcome, those of kept questions first."""
    text = Text()
    total = sum(outcomes.values())
    if not total:
        return Text("No turn has finished yet.", style=colours["muted"])
    label_width = min(26, max(14, width - 24))
    bar_width = max(4, width - label_width - 13)
    for outcome, (name, colour) in OUTCOME_WORDS.items():
        count = outcomes.get(outcome, 0)
        text.append(f"{format_line(name, label_width):<{label_width}} ")
        text.append(draw_bar(count, total, bar_width).replace("─", " "), style=colours[colour])
        text.append(f" {count:>5} {count / total:>4.0%}\n")
    return text[:-1]


def draw_histogram(
    values: Sequence[float],
    colours: Colours,
    width: int,
    threshold: float,
    height: int = 5,
    highlights_below: bool = False,
) -> Text:
    """A histogram of values from 0 to 1 with `height` rows. A value outside this range is counted at the nearer end.

    A line marks the `threshold`. The bars at and above the threshold are highlighted in a different colour, or, if
    `highlights_below` is true, the bars below it.
    """
    if not len(values):
        return Text("Nothing has been measured yet.", style=colours["muted"])
    bin_count = max(10, min(width, 60))

    def find_bin(value: float) -> int:
        return min(bin_count - 1, max(0, int(value * bin_count)))

    counts = [0] * bin_count
    for value in values:
        counts[find_bin(value)] += 1
    max_count, threshold_bin = max(counts), find_bin(threshold)
    text = Text()
    for row in range(height, 0, -1):
        for index, count in enumerate(counts):
            cell = _draw_cell(count / max_count * height * 8, row)
            if count and row == 1 and cell == " ":
                cell = "▁"  # a bin with few values stays visible
            if index == threshold_bin and cell == " ":
                text.append("┆", style=colours["accent"])
            else:
                is_highlighted = index < threshold_bin if highlights_below else index >= threshold_bin
                text.append(cell, style=colours["accent" if is_highlighted else "primary"])
        text.append("\n")
    text.append(f"0.00{'─' * (bin_count - 8)}1.00", style=colours["muted"])
    return text


def _draw_cell(bar_height: float, row: int) -> str:
    """The part of a bar in one row of a chart. `bar_height` is in eighths of a row, and row 1 is at the bottom."""
    eighths_in_row = max(0, min(8, bar_height - (row - 1) * 8))
    return EIGHTHS[int(eighths_in_row)]


def draw_turns(
    turns: Sequence[TurnInProgress], tally: Tally, first_endpoints: tuple[str, str], colours: Colours, width: int
) -> Text:
    """A line for each turn in progress: its answered and open steps as dots, the role of its current step with the
    endpoint, and what that role does. `first_endpoints` are the endpoints of the attacker and the defender that are
    shown until the first turn has been committed.
    """
    text = Text()
    for turn in turns:
        text.append(f"{turn.turn:>5}  ")
        text.append("●" * turn.answered, style=colours["success"])
        text.append("○" * (len(tally.steps) - turn.answered), style=colours["muted"])
        attempt_note = f"attempt {turn.attempt}, " if turn.attempt else ""
        action = _describe_action(turn, tally, first_endpoints)
        action_width = max(10, width - 10 - len(tally.steps))
        text.append(f"  {format_line(attempt_note + action, action_width)}\n")
    return text[:-1]


def _describe_action(turn: TurnInProgress, tally: Tally, first_endpoints: tuple[str, str]) -> str:
    """The role of a turn's first unanswered step, the role's endpoint, and what the role does."""
    if not tally.steps:
        return "in progress"
    if turn.answered >= len(tally.steps):
        return f"answered, waiting for turn {tally.turns}" if turn.turn > tally.turns else "answered"
    step = tally.steps[turn.answered]
    # Attacker and defender may swap after each turn, so the endpoints depend on whether the turn's number is even.
    attacker, defender = tally.role_endpoints.get(turn.turn % 2, first_endpoints)
    endpoint_by_role = {"attacker": attacker, "defender": defender}
    endpoint = step.endpoint or endpoint_by_role.get(step.role, "")
    return f"{step.role} {endpoint}: {step.action}"


def draw_turn(record: TurnRecord, colours: Colours) -> Text:
    """A committed turn: its attacker and defender, and the outcome and the question of each attempt."""
    text = Text(f"{format_line(record.attacker, 40)} against {format_line(record.defender, 40)}")
    for attempt in record.attempts:
        outcome, colour = describe_outcome(attempt.outcome)
        text.append(f"\nattempt {attempt.number}: ")
        text.append(outcome, style=colours[colour])
        text.append(f" · {format_line(attempt.reason, 200)}" if attempt.reason else "")
        if attempt.attack:
            text.append(f"\n  {format_line(attempt.attack.question, 160)}", style=colours["muted"])
    return text


def draw_kept_curve(kept_by_turn: Sequence[int], colours: Colours, width: int, height: int = 4) -> Text:
    """The number of kept examples after each turn, as an area of `height` rows with its axes."""
    if not len(kept_by_turn):
        return Text("No turn has finished yet.", style=colours["muted"])
    turn_count, max_kept = len(kept_by_turn), max(1, kept_by_turn[-1])
    label_width = len(f"{max_kept:,}")
    cell_count = max(8, min(width - label_width - 2, 60))
    drawn_turns = [min(turn_count - 1, cell * turn_count // cell_count) for cell in range(cell_count)]
    bar_heights = [kept_by_turn[turn] / max_kept * height * 8 for turn in drawn_turns]
    label_by_row = {1: "0", height: f"{max_kept:,}"}
    text = Text()
    for row in range(height, 0, -1):
        label = label_by_row.get(row, "")
        text.append(f"{label:>{label_width}} {'┤' if label else '│'}", style=colours["muted"])
        area = "".join(_draw_cell(bar_height, row) for bar_height in bar_heights)
        text.append(area + "\n", style=colours["primary"])
    turn_axis = "0" + f"turn {turn_count - 1:,}".rjust(cell_count, "─")
    text.append(" " * (label_width + 1) + turn_axis, style=colours["muted"])
    return text


def draw_events(latest: Sequence[Event], colours: Colours, width: int, max_events: int) -> Text:
    """The newest `max_events` of the events `latest`, the newest first, with a line for each event."""
    text = Text()
    newest_first = list(reversed(latest))
    for event in newest_first[:max_events]:
        name, outcome_colour = describe_outcome(event.kind)
        colour = "error" if event.kind == "fault" else outcome_colour
        text.append(f"{format_clock(event.time)} ", style=colours["muted"])
        text.append(f"{OUTCOME_MARKS.get(event.kind, '!')} {name}", style=colours[colour])
        text.append(" · " + format_line(event.text, max(10, width - len(name) - 15)) + "\n")
    return text[:-1] if latest else Text("No events yet.", style=colours["muted"])  # without the last line break


def draw_usage(tally: Tally, colours: Colours, worked_s: float) -> Text:
    """The calls, tokens, model time and cost of each role, and the mean number of parallel requests. `worked_s` is the
    time in seconds for which the run has worked, or 0 if that time is not known.
    """
    if not tally.usage:
        return Text("No call has been answered yet.", style=colours["muted"])
    titles = f"{'role':<9}{'calls':>6}{'prompt':>7}{'output':>8}{'time':>7}{'usd':>8}\n"
    text = Text.assemble((titles, colours["secondary"]))
    for role, role_usage in sorted(tally.usage.items()):
        prompt, output = format_count(role_usage.prompt_tokens), format_count(role_usage.completion_tokens)
        text.append(
            f"{format_line(role or 'embedder', 8):<9}{format_count(role_usage.calls):>6}{prompt:>7}{output:>8}"
            f"{format_duration(role_usage.seconds):>7}{role_usage.usd:>8.2f}\n"
        )
    text.append(_describe_model_time(tally, worked_s), style=colours["muted"])
    return text


def _describe_model_time(tally: Tally, worked_s: float) -> str:
    """The model time, which is the sum of the times of all calls. If it exceeds the working time, requests ran in
    parallel, and the mean number of parallel requests is stated too.
    """
    model_s = sum(role_usage.seconds for role_usage in tally.usage.values())
    if worked_s <= 0 or model_s <= worked_s:
        return f"model time {format_duration(model_s)}: the sum over all requests"
    parallelism = f"{model_s / worked_s:.1f} parallel requests on average"
    return f"model time {format_duration(model_s)} in {format_duration(worked_s)} of work: {parallelism}"


def draw_trial(trial: TrialResult, colours: Colours) -> Text:
    """The result of the judge's trial: its rates on wrong and on right solutions, the conclusions of each check, and
    the predicted share of right examples.
    """
    rates = trial.judge
    text = Text()
    for verb, share, noun in (("rejects", rates.sensitivity, "wrong"), ("accepts", rates.specificity, "right")):
        text.append(f"{verb} {describe_share(share, noun)}\n")
    for name, check in trial.checks.items():
        supported = sum(counts["supports"] for counts in check.findings.values())
        contradicted = sum(counts["contradicts"] for counts in check.findings.values())
        text.append(f"{name}: {supported} supported, {contradicted} contradicted, of {trial.solutions}\n")
    for title, shares in trial.describe_prediction():
        text.append(f"{title}: {shares}\n", style=colours["secondary"])
    return text[:-1]


def draw_pairs(pairs: Sequence[Mapping[str, Any]], colours: Colours, width: int) -> Text:
    """The paired tests of a comparison in a table, and how many of their differences are significant."""
    text = format_table(
        convert_columns(PAIR_COLUMNS), format_rows(format_pair_rows(pairs)), width, colours["secondary"]
    )
    significant_count = sum(pair["holm_p"] < 0.05 for pair in pairs)
    sentence = "No difference is significant."
    if significant_count:
        sentence = f"{significant_count} of {format_quantity(len(pairs), 'difference')} significant (Holm p < 0.05)."
    return text.append(f"\n{sentence}", style=colours["success" if significant_count else "warning"])


def draw_flips(flips: Sequence[Flip], base: str, other: str, colours: Colours) -> Text:
    """The flipped items, in the order of `flips`, and how many were lost and gained from `base` to `other`, which are
    the displayed names of the two evaluations.
    """
    lost_count = sum(not flip.is_gained for flip in flips)
    gained_count = len(flips) - lost_count
    noun = "item" if lost_count == 1 else "items"
    text = Text.assemble((f"{other} lost {lost_count} {noun} and gained {gained_count} against {base}\n", "bold"))
    for flip in flips[:MAX_FLIPS]:
        mark, colour = ("▲ gained ", "success") if flip.is_gained else ("▼ lost   ", "error")
        text.append(mark, style=colours[colour])
        text.append(f"{format_line(flip.item, 40):<32} {flip.base:>4.0%} → {flip.other:>4.0%}\n")
    if len(flips) > MAX_FLIPS:
        text.append(f"… and {len(flips) - MAX_FLIPS} more\n")
    text.append(FLIP_RULE, style=colours["muted"])
    return text


def draw_quality(counts: Mapping[int, int], colours: Colours, width: int) -> Text:
    """The number of examples at each quality level, L1 to L5."""
    max_count = max(counts.values(), default=0)
    if not max_count:
        return Text("Reasoning was not scored in this run.", style=colours["muted"])
    text = Text()
    for level in range(1, 6):
        count = counts.get(level, 0)
        text.append(f"L{level} ")
        text.append(draw_bar(count, max_count, max(4, width - 10)).replace("─", " "), style=colours["primary"])
        text.append(f" {count:>5}\n")
    return text[:-1]
