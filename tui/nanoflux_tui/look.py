"""How things look: two themes, and for every status a sign and a word, so that nothing is told by colour alone."""

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
class Sign:
    """A status at a glance: a sign, and the name of its colour in the theme."""

    mark: str
    colour: str


SIGNS = {
    "running": Sign("●", "success"),
    "done": Sign("✓", "primary"),
    "paused": Sign("‖", "warning"),
    "stopped": Sign("■", "foreground"),
    "created": Sign("○", "foreground"),
    "failed": Sign("✗", "error"),
    "interrupted": Sign("!", "error"),
    "partial": Sign("◑", "warning"),
    "stalled": Sign("!", "error"),
    "draining": Sign("◐", "warning"),
    "ready": Sign("●", "success"),
    "ended": Sign("■", "foreground"),
    "waiting": Sign("○", "foreground"),
    "left out": Sign("–", "warning"),
    "not answering": Sign("!", "error"),
}
BROKEN = ("failed", "interrupted", "stalled", "partial")
"""States in which something needs somebody."""
OUTCOMES = {
    "kept_failed": ("kept: the defender failed", "success"),
    "kept_novel": ("kept: solved in a new way", "success"),
    "defender_right": ("the defender was right", "secondary"),
    "novelty_rejected": ("too like an earlier one", "accent"),
    "contaminated": ("it repeats a held-out item", "accent"),
    "invalid": ("the judge found it invalid", "accent"),
    "low_confidence": ("the judge was not sure", "accent"),
    "unparsed": ("the attack was unreadable", "error"),
    "failed": ("no judgement was reached", "error"),
}
"""How an attempt may end, in the words of people, with its colour."""


class Ink:
    """The theme's colours for texts that are built by hand. `Ink(app)["error"]` is a style."""

    def __init__(self, variables: dict[str, str]) -> None:
        self._variables = variables

    def __getitem__(self, name: str) -> str:
        return self._variables.get(name, "")

    def sign(self, status: str) -> Text:
        """A status as its sign and its word."""
        sign = SIGNS.get(status, Sign("·", "foreground"))
        return Text.assemble((f"{sign.mark} {status}", self[sign.colour]))


def bar(done: float, total: float, width: int) -> str:
    """A bar of `width` cells, filled by halves."""
    share = min(1.0, max(0.0, done / total)) if total else 0.0
    full, half = divmod(round(share * width * 2), 2)
    return ("━" * full + "╸" * half).ljust(width, "─")
