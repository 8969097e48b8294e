"""The footer: the keys of the screen, in as many lines as the width of the terminal requires.

Textual's footer has a widget for each key and recreates all of them when the keys change, which costs more than
everything else on the screen. This footer is a single widget, whose layout is computed again only if its height
changes. It leaves out the rarest keys of the screen until the remaining keys fit in three lines.
"""

from dataclasses import dataclass

from rich.text import Text
from textual import events
from textual.geometry import Size
from textual.screen import Screen
from textual.widget import Widget

MAX_LINES = 3
"""Maximum number of lines of the footer. The rarest keys are left out until the remaining keys fit."""


@dataclass(frozen=True, slots=True)
class ShownKey:
    """A key in the footer: the action that it runs, the key that a click simulates, its displayed name, and the
    description of its action.
    """

    action: str
    key: str
    display: str
    description: str

    @property
    def width(self) -> int:
        return Text(f"{self.display} {self.description}").cell_len


class KeyBar(Widget):
    """The keys of the focused widget, the screen and the application. A click on a key presses it."""

    COMPONENT_CLASSES = {"key-bar--key"}  # noqa: RUF012 - the base class declares the type
    DEFAULT_CSS = """
    KeyBar { height: auto; max-height: 3; width: 100%; }
    KeyBar > .key-bar--key { color: $footer-key-foreground; text-style: bold; }
    """
    ALLOW_SELECT = False

    def __init__(self) -> None:
        super().__init__()
        self._keys: tuple[ShownKey, ...] = ()
        self._rare_actions: tuple[str, ...] = ()

    def on_mount(self) -> None:
        self.screen.bindings_updated_signal.subscribe(self, self._update)
        self.call_after_refresh(self._update, self.screen)

    def _update(self, screen: Screen[object]) -> None:
        """Show the keys that are active on `screen`; called whenever the active keys of a screen change."""
        if not self.is_attached or screen is not self.screen or not self.app.app_focus:
            return
        self._rare_actions = getattr(screen, "RARE_ACTIONS", ())
        key_by_action = {}
        for active_binding in screen.active_bindings.values():
            binding = active_binding.binding
            if binding.show and binding.action not in key_by_action:
                display = self.app.get_key_display(binding)
                key_by_action[binding.action] = ShownKey(binding.action, binding.key, display, binding.description)
        keys = tuple(key_by_action.values())
        if keys != self._keys:
            width = self.size.width
            previous_height = len(self._arrange_lines(width))
            self._keys = keys
            has_new_height = len(self._arrange_lines(width)) != previous_height
            self.refresh(layout=has_new_height)

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        del container, viewport
        return max(1, len(self._arrange_lines(width)))

    def _arrange_lines(self, width: int) -> list[list[ShownKey]]:
        """The keys in lines of at most `width` cells. Rare actions are left out while there are too many lines."""
        keys, lines = self._keys, _wrap_keys(self._keys, width)
        for action in self._rare_actions:
            if len(lines) <= MAX_LINES:
                break
            keys = tuple(key for key in keys if key.action != action)
            lines = _wrap_keys(keys, width)
        return lines

    def render(self) -> Text:
        style = self.get_component_rich_style("key-bar--key", partial=True)
        lines = [
            Text(" ").join(Text.assemble((key.display, style), f" {key.description}") for key in line)
            for line in self._arrange_lines(self.size.width)
        ]
        return Text("\n").join(lines)

    def on_click(self, event: events.Click) -> None:
        """Simulate the key that was clicked."""
        lines = self._arrange_lines(self.size.width)
        if event.y >= len(lines):
            return
        key_end = 0
        for key in lines[event.y]:
            key_end += key.width + 1
            if event.x < key_end:
                self.app.simulate_key(key.key)
                return


def _wrap_keys(keys: tuple[ShownKey, ...], width: int) -> list[list[ShownKey]]:
    """The keys in lines of at most `width` cells, with a space between two keys."""
    lines: list[list[ShownKey]] = []
    line_width = width  # as if the last line were full, so that the first key starts a line
    for key in keys:
        if line_width + 1 + key.width > width:
            lines.append([])
            line_width = -1  # no space precedes the first key of a line
        lines[-1].append(key)
        line_width += 1 + key.width
    return lines
