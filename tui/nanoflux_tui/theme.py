"""The two themes, and a mark and a word for every status, so that no information depends on colour alone."""

from dataclasses import dataclass

from rich.text import Text
from textual.theme import Theme

DARK = Theme(
    name="nanoflux-dark",
    primary="#4cc9b0",
    secondary="#82aaff",
    accent="#f2b84b",
    foreground="#d5dbe5",
    background="#10141b",
    surface="#161b24",
    panel="#1f2733",
    success="#7bd88f",
    warning="#f2b84b",
    error="#ff7b83",
    dark=True,
    variables={
        "footer-key-foreground": "#f2b84b",
        "block-cursor-text-style": "bold",
        "border": "#33404f",
        "muted": "#8f9aab",
    },
)
LIGHT = Theme(
    name="nanoflux-light",
    primary="#0b6e69",
    secondary="#2a56a5",
    accent="#8a5200",
    foreground="#23262b",
    background="#fbfaf7",
    surface="#f3f1ec",
    panel="#e6e3da",
    success="#22692f",
    warning="#8a5200",
    error="#ab1f19",
    dark=False,
    variables={
        "footer-key-foreground": "#8a5200",
        "block-cursor-text-style": "bold",
        "border": "#bdb8ab",
        "muted": "#666a70",
    },
)
THEMES = (DARK, LIGHT)


@dataclass(frozen=True, slots=True)
class StatusMark:
    """The mark of a status, and the name of its colour in the theme."""

    mark: str
    colour: str


STATUS_MARKS = {
    "running": StatusMark("●", "success"),
    "done": StatusMark("✓", "primary"),
    "paused": StatusMark("‖", "warning"),
    "stopped": StatusMark("■", "foreground"),
    "created": StatusMark("○", "foreground"),
    "failed": StatusMark("✗", "error"),
    "interrupted": StatusMark("!", "error"),
    "partial": StatusMark("◑", "warning"),
    "stalled": StatusMark("!", "error"),
    "draining": StatusMark("◐", "warning"),
    "ready": StatusMark("●", "success"),
    "ended": StatusMark("■", "foreground"),
    "waiting": StatusMark("○", "foreground"),
    "left out": StatusMark("–", "warning"),
    "not answering": StatusMark("!", "error"),
}
"""The mark and the colour of each status of a job, a cell of an experiment, a server or a background command."""
BROKEN = ("failed", "interrupted", "stalled", "partial")
"""Statuses that need the user's attention."""
ENDED = ("done", "stopped")
"""Statuses of work that cannot be stopped, since it has ended."""
OUTCOME_WORDS = {
    "kept_failed": ("kept: defender failed", "success"),
    "kept_novel": ("kept: new solution", "success"),
    "defender_right": ("defender was correct", "secondary"),
    "unproven": ("answer unproven", "accent"),
    "novelty_rejected": ("too similar", "accent"),
    "contaminated": ("repeats held-out item", "accent"),
    "invalid": ("question invalid", "accent"),
    "low_confidence": ("judge unsure", "accent"),
    "unparsed": ("attack unreadable", "error"),
    "failed": ("no verdict", "error"),
}
"""Each outcome of an attempt in words, with the name of its colour in the theme."""


def describe_reason(reason: str) -> str:
    """The reason why an example was kept, in words: "defender failed" for `kept_failed`."""
    return describe_outcome(reason)[0].removeprefix("kept: ")


def describe_outcome(outcome: str) -> tuple[str, str]:
    """An outcome of an attempt in words, and the name of its colour. An unknown outcome is returned unchanged."""
    return OUTCOME_WORDS.get(outcome, (outcome, "foreground"))


class Colours:
    """The colours of a theme as styles for Rich texts, by name: `colours["error"]`; "" for an unknown name."""

    def __init__(self, variables: dict[str, str]) -> None:
        self._variables = variables

    def __getitem__(self, name: str) -> str:
        return self._variables.get(name, "")

    def format_status(self, status: str) -> Text:
        """The mark and the word of a status, in the colour of the status."""
        status_mark = STATUS_MARKS.get(status, StatusMark("·", "foreground"))
        return Text.assemble((f"{status_mark.mark} {status}", self[status_mark.colour]))


def draw_bar(done: float, total: float, width: int) -> str:
    """A bar of `width` cells, of which the share `done` / `total` is filled, rounded to half a cell."""
    share = min(1.0, max(0.0, done / total)) if total else 0.0
    full_cells, half_cells = divmod(round(share * width * 2), 2)
    return ("━" * full_cells + "╸" * half_cells).ljust(width, "─")
