"""Charts made of characters. Each function turns values into a labelled chart, most of them for a given width."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text

from nanoflux_local.evaluate.items import RULE, Flip
from nanoflux_local.experiments.tables import PAIR_COLUMNS, format_pair_rows
from nanoflux_local.ledger.tally import Event, Tally
from nanoflux_local.ledger.turn_steps import TurnInProgress
from nanoflux_local.run.trials.result import TrialResult, describe_share
from nanoflux_local.transcript import TurnRecord
from nanoflux_tui.text import format_clock, format_count, format_duration, format_line, format_quantity
from nanoflux_tui.theme import OUTCOMES, Colours, describe_outcome, draw_bar
from nanoflux_tui.widgets.columns import convert_columns, format_rows, format_table

MAX_FLIPS = 60
EIGHTHS = " ▁▂▃▄▅▆▇█"
MARKS = {
    "kept_failed": "✓",
    "kept_novel": "✓",
    "defender_right": "·",
    "novelty_rejected": "≈",
    "contaminated": "✗",
    "invalid": "✗",
    "low_confidence": "?",
    "unproven": "?",
}


def draw_outcomes(outcomes: Mapping[str, int], colours: Colours, width: int) -> Text:
    """The number and share of attempts with each outcome, those of kept questions first."""
    text = Text()
    total = sum(outcomes.values())
    if not total:
        return Text("No turn has finished yet.", style=colours["muted"])
    label_width = min(26, max(14, width - 24))
    bar_width = max(4, width - label_width - 13)
    for key, (name, colour) in OUTCOMES.items():
        count = outcomes.get(key, 0)
        text.append(f"{format_line(name, label_width):<{label_width}} ")
        text.append(draw_bar(count, total, bar_width).replace("─", " "), style=colours[colour])
        text.append(f" {count:>5} {count / total:>4.0%}\n")
    return text[:-1]


def draw_histogram(
    values: Sequence[float],
    low: float,
    high: float,
    colours: Colours,
    width: int,
    mark: float | None = None,
    rows: int = 5,
    below: bool = False,
) -> Text:
    """A histogram of values from `low` to `high`; values outside are counted at the edges. `mark` is a threshold: the
    bars above it (below it if `below`) get a different colour.
    """
    if not len(values):
        return Text("Nothing has been measured yet.", style=colours["muted"])
    cells = max(10, min(width, 60))
    bins = [0] * cells
    for value in values:
        bins[min(cells - 1, max(0, int((value - low) / (high - low) * cells)))] += 1
    tallest = max(bins)
    mark_cell = None if mark is None else min(cells - 1, max(0, int((mark - low) / (high - low) * cells)))
    text = Text()
    for row in range(rows, 0, -1):
        for cell, count in enumerate(bins):
            eighth = _draw_cell(count / tallest * rows * 8, row)
            if count and row == 1 and eighth == " ":
                eighth = "▁"
            if cell == mark_cell and eighth == " ":
                text.append("┆", style=colours["accent"])
            else:
                is_marked = mark_cell is not None and (cell < mark_cell if below else cell >= mark_cell)
                text.append(eighth, style=colours["accent" if is_marked else "primary"])
        text.append("\n")
    text.append(f"{low:<.2f}{'':─^{max(0, cells - 8)}}{high:>.2f}", style=colours["muted"])
    return text


def _draw_cell(height: float, row: int) -> str:
    """The part of a bar in one row of a chart: `height` is in eighths of a row, and rows count from 1 at the bottom."""
    return EIGHTHS[int(max(0, min(8, height - (row - 1) * 8)))]


def draw_turns(
    turns: Sequence[TurnInProgress], tally: Tally, names: tuple[str, str], colours: Colours, width: int
) -> Text:
    """A line for each turn in progress: its progress, the active role with its endpoint, and what that role does.
    `names` are the endpoints of attacker and defender that are shown until the first turn has been committed.
    """
    text = Text()
    for turn in turns:
        text.append(f"{turn.turn:>5}  ")
        text.append("●" * turn.answered, style=colours["success"])
        text.append("○" * (len(tally.steps) - turn.answered), style=colours["muted"])
        attempt = f"attempt {turn.attempt}, " if turn.attempt else ""
        action = _describe_action(turn, tally, names)
        text.append(f"  {format_line(f'{attempt}{action}', max(10, width - 10 - len(tally.steps)))}\n")
    return text[:-1]


def _describe_action(turn: TurnInProgress, tally: Tally, names: tuple[str, str]) -> str:
    """The player of a turn's next step, and what it does; all earlier steps have been answered."""
    if not tally.steps:
        return "in progress"
    if turn.answered >= len(tally.steps):
        return f"answered; waits for turn {tally.turns}" if turn.turn > tally.turns else "answered"
    step = tally.steps[turn.answered]
    players = dict(zip(("attacker", "defender"), tally.players.get(turn.turn % 2, names), strict=True))
    endpoint = step.endpoint or players.get(step.role, "")
    return f"{step.role} {endpoint}: {step.action}"


def draw_turn(record: TurnRecord, colours: Colours) -> Text:
    """A committed turn: the players, and the outcome and the question of each attempt."""
    text = Text(f"{format_line(record.attacker, 40)} against {format_line(record.defender, 40)}")
    for attempt in record.attempts:
        outcome, colour = describe_outcome(attempt.outcome)
        text.append(f"\nattempt {attempt.number}: ")
        text.append(outcome, style=colours[colour])
        text.append(f" · {format_line(attempt.reason, 200)}" if attempt.reason else "")
        if attempt.attack:
            text.append(f"\n  {format_line(attempt.attack.question, 160)}", style=colours["muted"])
    return text


def draw_kept_curve(kept_by_turn: Sequence[int], colours: Colours, width: int, rows: int = 4) -> Text:
    """The number of kept examples after each turn, as an area with its axes."""
    if not len(kept_by_turn):
        return Text("No turn has finished yet.", style=colours["muted"])
    turns, max_kept = len(kept_by_turn), max(1, kept_by_turn[-1])
    label_width = len(f"{max_kept:,}")
    cells = max(8, min(width - label_width - 2, 60))
    heights = [kept_by_turn[min(turns - 1, cell * turns // cells)] / max_kept * rows * 8 for cell in range(cells)]
    text = Text()
    for row in range(rows, 0, -1):
        value = f"{max_kept:,}" if row == rows else "0" if row == 1 else ""
        text.append(f"{value:>{label_width}} {'┤' if value else '│'}", style=colours["muted"])
        area = "".join(_draw_cell(height, row) for height in heights)
        text.append(area + "\n", style=colours["primary"])
    text.append(" " * (label_width + 1) + "0" + f"turn {turns - 1:,}".rjust(cells, "─"), style=colours["muted"])
    return text


def draw_events(latest: Sequence[Event], colours: Colours, width: int, rows: int) -> Text:
    """The newest events, latest first."""
    text = Text()
    for event in list(reversed(latest))[:rows]:
        name, outcome_colour = describe_outcome(event.kind)
        colour = "error" if event.kind == "fault" else outcome_colour
        text.append(f"{format_clock(event.time)} ", style=colours["muted"])
        text.append(f"{MARKS.get(event.kind, '!')} {name}", style=colours[colour])
        text.append(" · " + format_line(event.text, max(10, width - len(name) - 15)) + "\n")
    return text[:-1] if latest else Text("No events yet.", style=colours["muted"])


def draw_usage(tally: Tally, colours: Colours, worked_s: float) -> Text:
    """Calls, tokens, model time and cost of each role, and how many requests ran in parallel in `worked_s` seconds."""
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
    """The sum of all calls' times, which exceeds the working time if requests run in parallel."""
    model_s = sum(role_usage.seconds for role_usage in tally.usage.values())
    if worked_s <= 0 or model_s <= worked_s:
        return f"model time {format_duration(model_s)}: the sum over all requests"
    parallel = f"{model_s / worked_s:.1f} parallel requests on average"
    return f"model time {format_duration(model_s)} in {format_duration(worked_s)} of work: {parallel}"


def draw_trial(trial: TrialResult, colours: Colours) -> Text:
    """The judge's error rates on known solutions, its checks' findings, and the predicted share of right examples."""
    rates = trial.judge
    text = Text()
    for verb, share, noun in (("rejects", rates.sensitivity, "wrong"), ("accepts", rates.specificity, "right")):
        text.append(f"{verb} {describe_share(share, noun)}\n")
    for name, check in trial.checks.items():
        totals = [sum(counts[key] for counts in check.findings.values()) for key in ("supports", "contradicts")]
        text.append(f"{name}: {totals[0]} supported, {totals[1]} contradicted, of {trial.solutions}\n")
    for title, shares in trial.describe_prediction():
        text.append(f"{title}: {shares}\n", style=colours["secondary"])
    return text[:-1]


def draw_pairs(pairs: Sequence[Mapping[str, Any]], colours: Colours, width: int) -> Text:
    """The paired tests of a comparison in a table, and how many of them show a difference."""
    text = format_table(
        convert_columns(PAIR_COLUMNS), format_rows(format_pair_rows(pairs)), width, colours["secondary"]
    )
    shown_count = sum(pair["holm_p"] < 0.05 for pair in pairs)
    sentence = (
        f"{shown_count} of {format_quantity(len(pairs), 'difference')} shown (Holm p < 0.05)."
        if shown_count
        else "No difference was shown."
    )
    return text.append(f"\n{sentence}", style=colours["success" if shown_count else "warning"])


def draw_flips(flips: Sequence[Flip], base: str, other: str, colours: Colours) -> Text:
    """The items whose share of right replies fell or rose from `base` to `other`; lost items come first."""
    lost = sum(not flip.is_gained for flip in flips)
    noun = "item" if lost == 1 else "items"
    text = Text.assemble((f"{other} lost {lost} {noun} and gained {len(flips) - lost} against {base}\n", "bold"))
    for flip in flips[:MAX_FLIPS]:
        text.append(
            "▲ gained " if flip.is_gained else "▼ lost   ", style=colours["success" if flip.is_gained else "error"]
        )
        text.append(f"{format_line(flip.item, 40):<32} {flip.base:>4.0%} → {flip.other:>4.0%}\n")
    if len(flips) > MAX_FLIPS:
        text.append(f"… and {len(flips) - MAX_FLIPS} more\n")
    text.append(RULE, style=colours["muted"])
    return text


def draw_quality(counts: Mapping[int, int], colours: Colours, width: int) -> Text:
    """How many examples have each quality level."""
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
