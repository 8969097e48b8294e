"""A panel: a titled frame around a text that is rendered for the panel's width."""

from collections.abc import Callable

from rich.text import Text
from textual.app import RenderResult
from textual.geometry import Size
from textual.widget import Widget

DrawText = Callable[[int], Text]
"""Returns the text of a panel for a width in cells."""


class Panel(Widget):
    """A titled frame around a text. `show` sets the text, and may set the title."""

    DEFAULT_CSS = """
    Panel { height: auto; border: round $border; border-title-color: $secondary; border-title-style: bold;
            border-subtitle-color: $muted; padding: 0 1; background: $background; }
    Panel.plain { border: none; padding: 0 1; }
    """

    def __init__(self, title: str = "", *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self.border_title = title
        self._draw: DrawText = lambda _width: Text("")

    def show(self, content: DrawText | Text | str, title: str | None = None) -> None:
        """Show a text, or the text that a function returns for the panel's width. `title` replaces the current title
        unless it is None.
        """
        if callable(content):
            self._draw = content
        else:
            text = Text(content) if isinstance(content, str) else content
            self._draw = lambda _width: text
        if title is not None:
            self.border_title = title
        self.refresh(layout=True)

    def render_text(self, width: int) -> Text:
        """The text of the panel for a content width of `width` cells; a smaller width than 8 counts as 8."""
        return self._draw(max(8, width))

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        del container, viewport
        text = self.render_text(width)
        return max(1, len(text.wrap(self.app.console, max(8, width))))

    def render(self) -> RenderResult:
        return self.render_text(self.content_size.width)
