"""The footer: the keys of the screen, in as many lines as the terminal's width requires."""

from textual.geometry import NULL_OFFSET, Region, Size
from textual.layout import ArrangeResult, Layout, WidgetPlacement
from textual.widget import Widget
from textual.widgets import Footer


class FlowLayout(Layout):
    """Places widgets from left to right, and starts a new line where the next widget does not fit."""

    name = "flow"

    def arrange(self, parent: Widget, children: list[Widget], size: Size, greedy: bool = True) -> ArrangeResult:
        del greedy
        viewport = parent.app.viewport_size
        x = y = 0
        placements: ArrangeResult = []
        for child in children:
            margin = child.styles.margin
            width = child.get_content_width(size, viewport) + child.gutter.width
            if x and x + width > size.width:
                x, y = 0, y + 1
            placements.append(WidgetPlacement(Region(x, y, width, 1), NULL_OFFSET, margin, child))
            x += width + margin.right
        return placements


class KeyBar(Footer):
    """A footer that hides no key on a narrow terminal."""

    DEFAULT_CSS = """
    KeyBar { height: auto; max-height: 3; dock: none; }
    """

    def __init__(self) -> None:
        super().__init__(show_command_palette=False, compact=True)
        self._layout = FlowLayout()

    @property
    def layout(self) -> Layout:
        return self._layout
