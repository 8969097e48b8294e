"""One example in full: the question, both solutions side by side, the verdicts, and its origin."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll

from nanoflux_local.examples.review import VERDICTS
from nanoflux_local.ledger import board
from nanoflux_local.transcript import Attack, Attempt, TurnRecord
from nanoflux_tui.screens.attempt import format_defence
from nanoflux_tui.screens.dialogs import Field, FormDialog
from nanoflux_tui.screens.entry import EntryScreen
from nanoflux_tui.text import format_line, sanitize
from nanoflux_tui.theme import describe_outcome
from nanoflux_tui.widgets.panel import Panel
from nanoflux_tui.widgets.verdict import SAMPLE_WORDS, format_verdict

MISSING_RECORD = TurnRecord(0, "?", "?", "?", (Attempt(0, (), "failed"),))
"""What the screen shows for an example whose turn is missing from the ledger."""


@dataclass(frozen=True, slots=True)
class EarlierReview:
    """The review that the example with the id `example` had before the user changed it, and the example's position in
    the list.
    """

    position: int
    example: str
    verdict: str
    note: str


class ExampleScreen(EntryScreen[int]):
    """The example at one position of a list of examples; the arrow keys show the previous and the next example."""

    mode = "examples"
    NOUN = "example"
    HELP = """One example in full: the question, the attacker's solution next to the defender's reply, the judge's
verdicts on both, the documents that the question cites, the programs that ran with their output, and the
seeds. Your review (keep, drop, fix, a note) is added to the ledger and changes nothing that was recorded."""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "back", "Back"),
        # These keys have priority over sideways scrolling, since nothing here is wider than the screen.
        Binding("left,p", "show_neighbour(-1)", "Prev", priority=True),
        Binding("right,space", "show_neighbour(1)", "Next", priority=True),
        Binding("w", "next_unreviewed", "Next unreviewed"),
        Binding("k", "review('keep')", "Keep"),
        Binding("d", "review('drop')", "Drop"),
        Binding("f", "review('fix')", "Fix"),
        Binding("m", "note", "Note"),
        Binding("u", "undo", "Undo"),
    ]

    def __init__(self, keys: Sequence[int], position: int, in_queue: bool = False) -> None:
        """If `in_queue` is true, saving a review opens the next example that has no review."""
        super().__init__(keys, position)
        self._in_queue = in_queue
        self._example: board.FullExample | None = None
        self._undo_stack: list[EarlierReview] = []
        self._review_lock = asyncio.Lock()
        self._review_count = 0

    def compose_body(self) -> ComposeResult:
        yield Panel(id="head", classes="plain")
        with VerticalScroll(id="parts"):
            yield Panel("Question", id="question")
            yield Panel("Citations", id="citations")
            yield from self.compose_sides()
            yield Panel("Programs and searches", id="tools")
            yield Panel("Origin", id="origin")

    async def load(self) -> None:
        key = self._keys[self._position]
        example = await self.read_ledger(lambda view: board.load_example(view, key))
        if example == self._example and example is not None:
            return
        self._example = example
        if example is None:
            self.query_one("#head", Panel).show("This example no longer exists: the ledger was replaced.")
            return
        self._show(example)

    def _show(self, example: board.FullExample) -> None:
        self.query_one("#head", Panel).show(self._format_head(example))
        record = example.record or MISSING_RECORD
        last_attempt = record.last_attempt
        attacker_text = f"{example.solution}\n\n= {example.answer}"
        first_answer = format_defence(last_attempt.defence) if last_attempt.defence else "–\n\n= –"
        defender_text = f"{first_answer}{_format_samples(last_attempt)}"
        text_and_title_by_panel: dict[str, tuple[str | Text, str | None]] = {
            "question": (sanitize(example.question), None),
            "attacker": (
                sanitize(attacker_text.strip()),
                f"{format_line(record.attacker, 40)} attacks: its own solution",
            ),
            "defender": (sanitize(defender_text.strip()), f"{format_line(record.defender, 40)} defends: its reply"),
            "validation": (
                format_verdict(last_attempt.validation, self.colours, checkable=True),
                f"Is the question valid? ({record.judge})",
            ),
            "evaluation": (
                format_verdict(last_attempt.evaluation, self.colours),
                f"Is the reply correct? ({record.judge})",
            ),
            "citations": (self._format_citations(last_attempt), None),
            "tools": (self._format_tools(example.tool_calls), None),
            "origin": (self._format_origin(example, record), None),
        }
        for panel_id, (text, title) in text_and_title_by_panel.items():
            self.query_one(f"#{panel_id}", Panel).show(text, title)
        self.query_one("#tools").display = bool(example.tool_calls)
        self.query_one("#citations").display = bool(text_and_title_by_panel["citations"][0])

    def _format_head(self, example: board.FullExample) -> Text:
        """The example's position in the list, its turn, the reason for keeping it, its pass rate and its review."""
        reason, colour = describe_outcome(example.reason)
        queue_label = "queue: " if self._in_queue else ""
        text = Text.assemble(
            (f"{queue_label}example {self._position + 1:,} of {len(self._keys):,}", "bold"),
            f"  turn {example.turn}  ",
            (f"✓ {reason}", self.colours[colour]),
        )
        if (example.tries or 1) > 1:
            text.append(f"  defender was correct {example.passes} of {example.tries} times")
        if example.review:
            text.append(f"   your review: {example.review}", style=f"bold {self.colours['accent']}")
        if example.note:
            text.append(f" ({format_line(example.note, 100)})")
        return text

    def _format_citations(self, attempt: Attempt) -> Text:
        """The statements in documents on which the question is based; empty if it is not based on documents."""
        text = Text()
        for citation in attempt.citations:
            text.append(f"{format_line(citation.source, 60)}, {format_line(citation.place, 80)}\n",
                        style=self.colours["secondary"])  # fmt: skip
            text.append(f"  “{sanitize(citation.quotation, 2_000)}”\n")
        text.rstrip()
        return text

    def _format_tools(self, tool_calls: Sequence[board.ToolCall]) -> Text:
        """The tool calls of a turn: programs with their output, and searches."""
        text = Text()
        for tool_call in tool_calls:
            request, reply = tool_call.request, tool_call.reply
            if tool_call.kind == "python":
                text.append(f"program, {reply.get('status', '?')}\n", style=f"bold {self.colours['secondary']}")
                text.append(f"{sanitize(request.get('code', ''), 6_000)}\n")
                output = (str(reply.get("stdout", "")) + str(reply.get("stderr", ""))).strip()
                text.append(f"→ {sanitize(output, 2_000) or '(no output)'}\n\n", style=self.colours["accent"])
            else:
                shown_request = {key: value for key, value in request.items() if key != "endpoint"}
                heading = f"{tool_call.kind}: {format_line(shown_request, 300)}\n"
                text.append(heading, style=f"bold {self.colours['secondary']}")
                text.append(f"{sanitize(str(reply), 3_000)}\n\n")
        text.rstrip()
        return text

    def _format_origin(self, example: board.FullExample, record: TurnRecord) -> Text:
        """Where the example comes from: its seeds, its turn's attempts, its similarities, its run and its id."""
        last_attempt = record.last_attempt
        question_similarity, solution_similarity = last_attempt.nearest, last_attempt.solution_similarity
        outcomes = [describe_outcome(attempt.outcome)[0] for attempt in record.attempts]
        rows = [
            ("seeds", ", ".join(last_attempt.seeds)),
            ("attempts", f"{len(outcomes)}: {'; '.join(outcomes)}"),
            ("similarity to the nearest question", _format_similarity(question_similarity)),
        ]
        if solution_similarity is not None:
            rows.append(("similarity of both solutions", _format_similarity(solution_similarity)))
        for name, section_text in _list_other_sections(last_attempt.attack):
            rows.append((name.lower().replace("_", " "), section_text))
        rows += [("run", example.run), ("id", example.id)]
        text = Text()
        for name, value in rows:
            text.append(f"{format_line(name, 40)}: ", style=self.colours["secondary"])
            text.append(f"{sanitize(str(value), 2_000)}\n")
        text.rstrip()
        return text

    def action_back(self) -> None:
        self.dismiss(None)

    async def action_next_unreviewed(self) -> None:
        """Go to the next example without a review; after the last example, the search continues from the first."""
        other_keys = [*self._keys[self._position + 1 :], *self._keys[: self._position]]
        unreviewed = await self.read_ledger(lambda view: board.find_unreviewed(view, other_keys))
        if unreviewed is not None:
            self.go_to(list(self._keys).index(unreviewed))
        else:
            self.notify("All other examples in this list have a review.")

    def action_review(self, verdict: str) -> None:
        if self._example is not None:
            self._push_undo(self._example)
            self._save_review(self._example.id, verdict, "")

    def action_note(self) -> None:
        """Ask for a verdict and a note, and save both as the review of the example."""
        if self._example is not None:
            fields = (
                Field("verdict", "verdict", self._example.review or "", "keep, drop or fix", VERDICTS),
                Field("note", "note", self._example.note or "", "an optional remark", multiline=True),
            )
            self.app.push_screen(FormDialog("Review this example", fields, "Save"), self._save_note)

    def _save_note(self, values: dict[str, str] | None) -> None:
        if values and self._example is not None:
            self._push_undo(self._example)
            self._save_review(self._example.id, values["verdict"], values["note"])

    def action_undo(self) -> None:
        """Restore the review that the user's latest change replaced."""
        if not self._undo_stack:
            self.notify("There is no review to undo.")
            return
        earlier = self._undo_stack.pop()
        self._position = earlier.position
        self._save_review(earlier.example, earlier.verdict, earlier.note, advances=False)

    def _push_undo(self, example: board.FullExample) -> None:
        """Store the example's current review for `action_undo`. An example without a review has the verdict `open`."""
        review, note = example.review or "open", example.note or ""
        self._undo_stack.append(EarlierReview(self._position, example.id, review, note))

    @work(group="review", exit_on_error=False)
    async def _save_review(self, example: str, verdict: str, note: str, advances: bool = True) -> None:
        """Save a review. In the review queue, a review that `advances` then opens the next example."""
        self._review_count += 1
        review_number = self._review_count
        arguments = ["examples", "review", example, "--verdict", verdict]
        if note:
            arguments += ["--note", note]
        async with self._review_lock:  # so that an undo is stored after the review that it undoes
            result = await self.commands.run(*arguments)
        if not result.ok:
            self.application.show_failure(result)
        elif self._in_queue and advances and review_number == self._review_count:
            # Only after the user's latest review: the user may have entered another while this one was being saved.
            await self.action_next_unreviewed()
        await self.refresh_content()


def _list_other_sections(attack: Attack | None) -> list[tuple[str, str]]:
    """The names and texts of an attack's additional sections, except its citations, which have a separate panel."""
    return [(name, text) for name, text in attack.notes.items() if name != "CITATIONS"] if attack else []


def _format_similarity(similarity: float | None) -> str:
    return "none" if similarity is None else f"{similarity:.3f}"


def _format_samples(attempt: Attempt) -> str:
    """The defender's answers after the first, each marked as right, wrong or not judged."""
    answers: list[str] = []
    for sample in attempt.samples:
        answer = sample.defence.answer if sample.defence else "unreadable"
        answers.append(f"{answer} ({SAMPLE_WORDS[sample.right]})")
    return f"\n\nfurther answers: {', '.join(answers)}" if answers else ""
