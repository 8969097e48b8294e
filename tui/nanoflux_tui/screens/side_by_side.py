"""Two runs or two training runs side by side: overlaid curves with axes, figures, and differing settings."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual_plotext import PlotextPlot

from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.run.side_by_side import Curve, SideBySide, format_value
from nanoflux_tui.base import BaseScreen
from nanoflux_tui.text import format_line, sanitize, truncate_start
from nanoflux_tui.theme import describe_outcome
from nanoflux_tui.widgets.columns import Column, compute_widths, format_table
from nanoflux_tui.widgets.panel import Panel

MAX_POINTS = 400
"""The maximum number of points of a drawn curve; no terminal has as many columns."""


class SideBySideScreen(BaseScreen):
    """Shows the comparison that the function `compare` reads from the ledger, and updates it after changes."""

    AUTO_FOCUS = "#parts"
    HELP = """Two runs or two training runs side by side. Above: their curves in one chart. Below: their figures, and
every setting whose value differs. Tab and the arrow keys scroll the lower part."""
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "back", "Back")]
    DEFAULT_CSS = """
    SideBySideScreen #both { height: 1fr; layout: vertical; }
    SideBySideScreen.-wide #both { layout: horizontal; }
    SideBySideScreen PlotextPlot { height: 1fr; width: 1fr; }
    SideBySideScreen.-flat PlotextPlot { display: none; }
    """

    def __init__(self, mode: str, compare: Callable[[LedgerView], SideBySide]) -> None:
        self.mode = mode  # type: ignore[misc]  # the tab from which the screen was opened
        super().__init__()
        self._compare = compare
        self._drawn_version: tuple[object, ...] = ()
        """The number of points of each curve, and the theme, when the curves were last drawn."""

    def compose_body(self) -> ComposeResult:
        with Horizontal(id="both"):
            yield PlotextPlot(id="plot")
            with VerticalScroll(id="parts"):
                yield Panel("Figures", id="figures")
                yield Panel("Settings that differ", id="settings")

    async def load(self) -> None:
        comparison = await self.read_ledger(self._compare)
        if comparison is None:
            return
        self.query_one("#figures", Panel).show(lambda width: self._format_figures(comparison, width))
        self.query_one("#settings", Panel).show(lambda width: self._format_settings(comparison, width))
        curve_version = (*(len(curve.x) for curve in comparison.curves), self.app.theme)
        if curve_version != self._drawn_version:
            self._drawn_version = curve_version
            self._draw_curves(comparison)

    def _format_figures(self, comparison: SideBySide, width: int) -> Text:
        rows = [[_format_name(name), *map(_format_cell, values)] for name, values in comparison.figures.items()]
        return self._format_table(Column("", 21), comparison, rows, width)

    def _format_settings(self, comparison: SideBySide, width: int) -> Text:
        if not comparison.settings:
            return Text("The settings of both are equal.", style=self.colours["muted"])
        rows = [
            [setting.key, _format_cell(setting.first), _format_cell(setting.second)] for setting in comparison.settings
        ]
        return self._format_table(Column("setting", 20), comparison, rows, width)

    def _format_table(
        self, first_column: Column, comparison: SideBySide, rows: Sequence[Sequence[str]], width: int
    ) -> Text:
        """A table with `first_column` and a column for each side. A side's title that does not fit loses its start."""
        side_columns = [Column(side, 10, share=1) for side in (comparison.first, comparison.second)]
        columns = [first_column, *side_columns]
        titled_columns = [
            replace(column, title=truncate_start(column.title, column_width))
            for column, column_width in compute_widths(columns, width, 0)
        ]
        return format_table(titled_columns, rows, width, f"bold {self.colours['secondary']}")

    def _draw_curves(self, comparison: SideBySide) -> None:
        plot = self.query_one(PlotextPlot)
        curves = [_thin_out(curve) for curve in comparison.curves if len(curve.x)]
        plot.display = bool(curves)
        plt = plot.plt
        plt.clear_data()
        plt.clear_figure()
        plt.xlabel(comparison.x_label)
        plt.ylabel(comparison.y_label)
        for curve in curves:
            marker = "●" if len(curve.x) < 8 else "braille"
            plt.plot(list(curve.x), list(curve.y), label=sanitize(curve.name, 60), marker=marker)
        plot.refresh()


def _format_name(figure: str) -> str:
    """The name of a figure as it is shown. A figure that counts an outcome has the name that a run's screen shows."""
    return describe_outcome(figure)[0].replace("_", " ")


def _format_cell(value: object) -> str:
    return format_line(format_value(value))


def _thin_out(curve: Curve) -> Curve:
    """The curve with every n-th of its points, so that at most `MAX_POINTS` remain."""
    stride = max(1, math.ceil(len(curve.x) / MAX_POINTS))
    return Curve(curve.name, curve.x[::stride], curve.y[::stride])
