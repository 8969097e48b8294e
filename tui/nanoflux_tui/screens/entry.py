"""The base class of the screens that show one entry of a list, with attacker and defender side by side."""

from collections.abc import Sequence
from typing import ClassVar, Generic, TypeVar

from textual.app import ComposeResult
from textual.containers import Horizontal

from nanoflux_tui.base import BaseScreen
from nanoflux_tui.widgets.panel import Panel

K = TypeVar("K")
"""The type of the keys of the entries."""


class EntryScreen(BaseScreen, Generic[K]):
    """The entry at one position of a list of keys; the arrow keys show the previous and the next entry."""

    AUTO_FOCUS = "#parts"
    NOUN: ClassVar[str]
    """The word for an entry in messages, such as "attempt"."""
    DEFAULT_CSS = """
    EntryScreen .sides { height: auto; layout: vertical; }
    EntryScreen.-wide .sides { layout: horizontal; }
    EntryScreen .sides Panel { width: 1fr; }
    """

    def __init__(self, keys: Sequence[K], position: int) -> None:
        super().__init__()
        self._keys, self._position = keys, position

    def compose_sides(self) -> ComposeResult:
        """Create the panels of the attacker, the defender and the two verdicts. On a wide terminal, they are arranged
        in pairs side by side.
        """
        with Horizontal(classes="sides"):
            yield Panel("Attacker", id="attacker")
            yield Panel("Defender", id="defender")
        with Horizontal(classes="sides"):
            yield Panel("Is the question valid?", id="validation")
            yield Panel("Is the reply correct?", id="evaluation")

    def action_show_neighbour(self, offset: int) -> None:
        """Show the entry that is `offset` positions after the current one; a negative offset goes back."""
        position = self._position + offset
        if 0 <= position < len(self._keys):
            self.go_to(position)
        else:
            self.notify(f"This is the {'last' if offset > 0 else 'first'} {self.NOUN}.")

    def go_to(self, position: int) -> None:
        """Show the entry at another position, from its top."""
        self._position = position
        self.query_one("#parts").scroll_home(animate=False)
        self.reload()
