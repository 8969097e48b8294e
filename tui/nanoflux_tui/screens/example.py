"""One example, whole and side by side: what was asked, how both sides answered, and why it was kept."""

from collections.abc import Sequence
from typing import Any, ClassVar

from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll

from nanoflux_local.ledger import board
from nanoflux_local.transcript import verdict_from_json
from nanoflux_tui.look import OUTCOMES
from nanoflux_tui.room import Room
from nanoflux_tui.screens.dialogs import Field, Fill
from nanoflux_tui.text import harmless, line
from nanoflux_tui.widgets.panel import Panel

SOFT = {True: "sound", False: "unsound", None: "not judged"}


class ExampleRoom(Room):
    """The example at `at` of some keys; the neighbours are one key away."""

    mode = "examples"
    HELP = """One example with everything that made it: the seeds, the question, the attacker's solution beside
the defender's reply, what the judge said to both, and the programs that were run with what they printed.
Your word on it (keep, drop, fix, a note) is written to the ledger and changes nothing that was recorded."""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "back", "Back"),
        Binding("left,p", "next(-1)", "Prev"),
        Binding("right,space", "next(1)", "Next"),
        Binding("k", "review('keep')", "Keep"),
        Binding("d", "review('drop')", "Drop"),
        Binding("f", "review('fix')", "Fix"),
        Binding("m", "note", "Note"),
        Binding("u", "undo", "Undo"),
    ]
    DEFAULT_CSS = """
    ExampleRoom #parts { height: 1fr; overflow-y: auto; scrollbar-size-vertical: 1; }
    ExampleRoom .sides { height: auto; layout: vertical; }
    ExampleRoom.-wide .sides { layout: horizontal; }
    ExampleRoom .sides Panel { width: 1fr; }
    """

    def __init__(self, keys: Sequence[int], position: int) -> None:
        super().__init__()
        self._keys, self._at = keys, position
        self._example: dict[str, Any] | None = None
        self._undo_stack: list[tuple[str, str, str]] = []

    def body(self) -> ComposeResult:
        yield Panel(id="head", classes="plain")
        with VerticalScroll(id="parts"):
            yield Panel("Question", id="question")
            with Horizontal(classes="sides"):
                yield Panel("Attacker", id="attacker")
                yield Panel("Defender", id="defender")
            with Horizontal(classes="sides"):
                yield Panel("Is the question valid?", id="validation")
                yield Panel("Is the reply right?", id="evaluation")
            yield Panel("Programs and searches", id="tools")
            yield Panel("Where it came from", id="origin")

    async def load(self) -> None:
        key = self._keys[self._at]
        example = await self.ask(lambda view: board.example_whole(view, key))
        if example == self._example and example is not None:
            return
        self._example = example
        if example is None:
            self.query_one("#head", Panel).show("This example is gone: its ledger was replaced.")
            return
        self._show(example)

    def _show(self, example: dict[str, Any]) -> None:
        self.query_one("#head", Panel).show(self._head(example))
        record = example["record"] or {"attempts": [{}], "attacker": "?", "defender": "?", "judge": "?"}
        last = record["attempts"][-1]
        attack, defence = last.get("attack") or {}, last.get("defence") or {}
        theirs = f"{example['solution']}\n\n= {example['answer']}"
        ours = f"{defence.get('analysis', '')}\n\n{defence.get('solution', '–')}\n\n= {defence.get('answer', '–')}"
        panels: dict[str, tuple[str | Text, str | None]] = {
            "question": (harmless(example["question"]), None),
            "attacker": (harmless(theirs.strip()), f"{line(record['attacker'], 40)} attacks; its own solution"),
            "defender": (harmless(ours.strip()), f"{line(record['defender'], 40)} defends"),
            "validation": (
                self._verdict(last.get("validation"), checkable=True),
                f"Is the question valid? ({record['judge']})",
            ),
            "evaluation": (self._verdict(last.get("evaluation")), f"Is the reply right? ({record['judge']})"),
            "tools": (self._tools(example["tools"]), None),
            "origin": (self._origin(example, record, attack), None),
        }
        for name, (text, title) in panels.items():
            self.query_one(f"#{name}", Panel).show(text, title)
        self.query_one("#tools").display = bool(example["tools"])

    def _head(self, example: dict[str, Any]) -> Text:
        reason, colour = OUTCOMES.get(example["reason"], (example["reason"], "foreground"))
        text = Text.assemble(
            (f"example {self._at + 1:,} of {len(self._keys):,}", "bold"),
            f"  turn {example['turn']}  ",
            (f"✓ {reason}", self.ink[colour]),
        )
        if example.get("review"):
            text.append(f"   your word: {example['review']}", style=f"bold {self.ink['accent']}")
        if example.get("note"):
            text.append(f" ({line(example['note'], 100)})")
        return text

    def _verdict(self, verdict: dict[str, Any] | None, checkable: bool = False) -> Text:
        if verdict is None:
            return Text("It was not judged.", style=self.ink["muted"])
        mark, colour = ("✓ yes", "success") if verdict["positive"] else ("✗ no", "error")
        text = Text.assemble((mark, self.ink[colour]), f"  confidence {verdict['confidence']:.2f}")
        if verdict.get("soft") is not None:
            text.append(f"  reasoning {SOFT[verdict['soft']]}")
        if verdict.get("asked", 1) > 1:
            text.append(f"  asked {verdict['asked']} times")
        findings = verdict_from_json(**verdict).findings
        text.append("\nno check was run" if checkable and not findings else "")
        for finding in findings:
            text.append(f"\n{finding.check} check: {finding.conclusion}")
            text.append(f" ({line(finding.reason, 200)})" if finding.reason else "")
        text.append(f"\n\n{harmless(verdict['explanation'])}")
        return text

    def _tools(self, tools: Sequence[tuple[str, dict[str, Any], dict[str, Any]]]) -> Text:
        text = Text()
        for kind, asked, reply in tools:
            if kind == "python":
                text.append(f"program, {reply.get('status', '?')}\n", style=f"bold {self.ink['secondary']}")
                text.append(f"{harmless(asked.get('code', ''), 6_000)}\n")
                printed = (str(reply.get("stdout", "")) + str(reply.get("stderr", ""))).strip()
                text.append(f"→ {harmless(printed, 2_000) or '(it printed nothing)'}\n\n", style=self.ink["accent"])
            else:
                asked = {key: value for key, value in asked.items() if key != "endpoint"}
                text.append(f"{kind}: {line(asked, 300)}\n", style=f"bold {self.ink['secondary']}")
                text.append(f"{harmless(str(reply), 3_000)}\n\n")
        text.rstrip()
        return text

    def _origin(self, example: dict[str, Any], record: dict[str, Any], attack: dict[str, Any]) -> Text:
        last = record["attempts"][-1]
        nearest, similar = last.get("nearest"), last.get("solution_similarity")
        rows = [
            ("seeds", ", ".join(last.get("seeds", ()))),
            ("attempts", f"{len(record['attempts'])}: {'; '.join(_outcome_name(a) for a in record['attempts'])}"),
            ("nearest earlier question", "none" if nearest is None else f"{nearest:.3f}"),
            *([("likeness of both solutions", f"{similar:.3f}")] if similar is not None else []),
            *((name.lower().replace("_", " "), value) for name, value in (attack.get("notes") or {}).items()),
            ("run", example["run"]),
            ("id", example["id"]),
        ]
        text = Text()
        for name, value in rows:
            text.append(f"{line(name, 40)}: ", style=self.ink["secondary"])
            text.append(f"{harmless(str(value), 2_000)}\n")
        text.rstrip()
        return text

    def action_back(self) -> None:
        self.dismiss(None)

    def action_next(self, by: int) -> None:
        to = self._at + by
        if 0 <= to < len(self._keys):
            self._at = to
            self.query_one("#parts").scroll_home(animate=False)
            self.reload()
        else:
            self.notify("That was the last one." if by > 0 else "That was the first one.")

    def action_review(self, verdict: str) -> None:
        if self._example is not None:
            self._remember(self._example)
            self._say(self._example["id"], verdict, "")

    def action_note(self) -> None:
        if self._example is not None:
            fields = (
                Field("verdict", "your word", self._example.get("review") or "fix", options=("keep", "drop", "fix")),
                Field("note", "note", self._example.get("note") or "", "what is to be known about it"),
            )
            self.app.push_screen(Fill("Your word on this example", fields, "Write it down"), self._save_note)

    def _save_note(self, values: dict[str, str] | None) -> None:
        if values and self._example is not None:
            self._remember(self._example)
            self._say(self._example["id"], values["verdict"], values["note"])

    def action_undo(self) -> None:
        if not self._undo_stack:
            self.notify("There is nothing to take back here.")
            return
        self._say(*self._undo_stack.pop())

    def _remember(self, example: dict[str, Any]) -> None:
        """What was said until now, to be taken back to; `open` where nothing was."""
        self._undo_stack.append((example["id"], example.get("review") or "open", example.get("note") or ""))

    @work(group="review", exit_on_error=False)
    async def _say(self, example: str, verdict: str, note: str) -> None:
        words = ["examples", "review", example, "--verdict", verdict, *(["--note", note] if note else [])]
        ended = await self.bridge.do(*words)
        if not ended.ok:
            self.control.complain(ended)
        await self.refreshed()


def _outcome_name(attempt: dict[str, Any]) -> str:
    """How an attempt ended, in words."""
    outcome = str(attempt.get("outcome", "?"))
    return OUTCOMES.get(outcome, (outcome, ""))[0]
