"""A panel: a titled frame around a text that is rendered for the panel's width."""

from collections.abc import Callable

from rich.text import Text
from textual.app import RenderResult
from textual.geometry import Size
from textual.widget import Widget

DrawText = Callable[[int], Text]


class Panel(Widget):
    """Shows the text that a function returns for the panel's width. `show` sets the function and the title."""

    DEFAULT_CSS = """
    Panel { height: auto; border: round $border; border-title-color: $secondary; border-title-style: bold;
            border-subtitle-color: $muted; padding: 0 1; background: $background; }
    Panel.plain { border: none; padding: 0 1; }
    """

    def __init__(self, title: str = "", *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self.border_title = title
        self._draw: DrawText = lambda _: Text("")

    def show(self, draw: DrawText | Text | str, title: str | None = None) -> None:
        if isinstance(draw, str):
            draw = Text(draw)
        self._draw = (lambda _, text=draw: text) if isinstance(draw, Text) else draw  # type: ignore[misc]
        if title is not None:
            self.border_title = title
        self.refresh(layout=True)

    def text(self, width: int) -> Text:
        return self._draw(max(8, width))

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        del container, viewport
        text = self.text(width)
        return max(1, len(text.wrap(self.app.console, max(8, width))))

    def render(self) -> RenderResult:
        return self.text(self.content_size.width)
