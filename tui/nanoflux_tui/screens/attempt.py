"""One attempt in full: the question, every reply, the verdicts, and a key that opens the raw calls."""

from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll

from nanoflux_local.run.attempts import AttemptKey, load_turn
from nanoflux_local.transcript import Attempt, Defence, Sample, TurnRecord
from nanoflux_tui.screens.calls import CallsScreen
from nanoflux_tui.screens.entry import EntryScreen
from nanoflux_tui.text import format_line, sanitize
from nanoflux_tui.theme import describe_outcome
from nanoflux_tui.widgets.panel import Panel
from nanoflux_tui.widgets.verdict import SAMPLE_WORDS, format_verdict

UNREADABLE_NOTE = "The reply could not be read; c shows it."


class AttemptScreen(EntryScreen[AttemptKey]):
    """The attempt at one position of a list of attempts; the arrow keys show the previous and the next attempt."""

    mode = "home"
    NOUN = "attempt"
    HELP = """One attempt in full, kept or not: its question, the attacker's solution, the defender's replies, and the
judge's verdicts with the findings of the checks. An attempt ends at its outcome, so later parts may be missing. c shows
the requests and replies as they were sent."""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "back", "Back"),
        Binding("left,p", "show_neighbour(-1)", "Prev"),
        Binding("right,space", "show_neighbour(1)", "Next"),
        Binding("c", "calls", "Raw calls"),
    ]

    def __init__(self, run: str, keys: Sequence[AttemptKey], position: int) -> None:
        super().__init__(keys, position)
        self._run = run

    def compose_body(self) -> ComposeResult:
        yield Panel(id="head", classes="plain")
        with VerticalScroll(id="parts"):
            yield Panel("Question", id="question")
            yield from self.compose_sides()
            yield Panel("Rating of the reasoning", id="rating")

    async def load(self) -> None:
        turn_number, attempt_number = self._keys[self._position]
        record = await self.read_ledger(lambda view: load_turn(view, self._run, turn_number))
        if record is None:
            self.query_one("#head", Panel).show("This attempt no longer exists: the ledger was replaced.")
            return
        self._show(record, record.attempts[attempt_number])

    def _show(self, record: TurnRecord, attempt: Attempt) -> None:
        self.query_one("#head", Panel).show(self._format_head(record, attempt))
        attack, quality = attempt.attack, attempt.quality
        question = attack.question if attack else UNREADABLE_NOTE
        solution = f"{attack.solution}\n\n= {attack.answer}" if attack else UNREADABLE_NOTE
        self.query_one("#question", Panel).show(sanitize(question))
        self.query_one("#attacker", Panel).show(
            sanitize(solution.strip()), f"{format_line(record.attacker, 40)} attacks: its own solution"
        )
        self.query_one("#defender", Panel).show(
            sanitize(_format_defences(attempt)), f"{format_line(record.defender, 40)} defends: its reply"
        )
        self.query_one("#validation", Panel).show(format_verdict(attempt.validation, self.colours, checkable=True))
        self.query_one("#evaluation", Panel).show(format_verdict(attempt.evaluation, self.colours))
        rating = self.query_one("#rating", Panel)
        rating.display = quality is not None or bool(attempt.unrated)
        if quality is not None:
            scores = ", ".join(f"{name} {score:g}" for name, score in quality.scores.items())
            rating.show(sanitize(f"L{quality.level}, {quality.score:g}: {scores}\n\n{quality.explanation}"))
        elif attempt.unrated:
            rating.show(sanitize(f"Not rated: {attempt.unrated}"))

    def _format_head(self, record: TurnRecord, attempt: Attempt) -> Text:
        """The attempt's number, outcome, reason and seeds, and its position in the list."""
        outcome, colour = describe_outcome(attempt.outcome)
        count_note = f" ({len(record.attempts)} in this turn)" if len(record.attempts) > 1 else ""
        text = Text.assemble(
            (f"turn {record.number}", "bold"),
            f", attempt {attempt.number}{count_note}  ",
            (outcome, self.colours[colour]),
            (f"   {self._position + 1:,} of {len(self._keys):,}", self.colours["muted"]),
        )
        if attempt.reason:
            text.append(f"\n{format_line(attempt.reason, 300)}")
        origin = f"\nseeds: {format_line(', '.join(attempt.seeds), 200)}"
        if attempt.nearest is not None:
            origin += f"; similarity to the nearest earlier question {attempt.nearest:.2f}"
        text.append(origin, style=self.colours["muted"])
        return text

    def action_calls(self) -> None:
        self.app.push_screen(CallsScreen(self._run, *self._keys[self._position]))


def _format_defences(attempt: Attempt) -> str:
    """The defender's first answer, then its further answers, each marked as right, wrong or not judged."""
    if attempt.defence is None:
        return "The defender was not asked." if attempt.rejected else UNREADABLE_NOTE
    parts = [format_defence(attempt.defence)]
    for number, sample in enumerate(attempt.samples, 1):
        parts.append(f"— further answer {number}: {_format_sample(sample)}")
    return "\n\n".join(parts)


def format_defence(defence: Defence) -> str:
    """One answer of the defender with its reasoning."""
    return f"{defence.analysis}\n\n{defence.solution}\n\n= {defence.answer}".strip()


def _format_sample(sample: Sample) -> str:
    """A further answer of the defender, after its mark."""
    answer = format_defence(sample.defence) if sample.defence else "unreadable"
    return f"{SAMPLE_WORDS[sample.right]}\n{answer}"
