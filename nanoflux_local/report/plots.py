"""Plots for the report as SVG text, in colours that suit both the light and the dark page."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

INK, MUTED, FIRST, SECOND = "#6b7280", "#9ca3af", "#2563eb", "#d97706"
COLOURS = (FIRST, SECOND, "#059669", "#9333ea", MUTED)


def _make_figure(width: float = 6.4, height: float = 3.0) -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(width, height), layout="constrained")
    figure.patch.set_alpha(0)
    axes.patch.set_alpha(0)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("bottom", "left"):
        axes.spines[side].set_color(MUTED)
    axes.tick_params(colors=INK)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    return figure, axes


def _render_svg(figure: Any) -> str:
    """The figure as an <svg> element; equal data gives equal bytes."""
    import matplotlib
    from matplotlib import pyplot

    out = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "nanoflux", "svg.fonttype": "none"}):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    pyplot.close(figure)
    text = out.getvalue()
    return text[text.index("<svg") :]


def draw_loss_curves(steps: Sequence[tuple[int, float]], validation: Sequence[tuple[int, float]]) -> str:
    """Training loss by step, and dev loss at the end of each epoch, both in nats per token."""
    figure, axes = _make_figure()
    axes.plot([step for step, _ in steps], [loss for _, loss in steps], color=FIRST, linewidth=1, label="training")
    if validation:
        axes.plot(
            [step for step, _ in validation], [loss for _, loss in validation], color=SECOND, marker="o", label="dev"
        )
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats per token)")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, labelcolor=INK)
    return _render_svg(figure)


def draw_accuracies(rows: Sequence[tuple[str, float, float, float]]) -> str:
    """Rows of (name, accuracy, low, high) as bars with their 95% intervals."""
    figure, axes = _make_figure(height=0.7 + 0.55 * len(rows))
    names = [name for name, *_ in rows]
    values = [value for _, value, _, _ in rows]
    errors = [[max(0.0, v - low) for _, v, low, _ in rows], [max(0.0, high - v) for _, v, _, high in rows]]
    positions = range(len(rows))
    palette = (MUTED, *COLOURS)  # grey for the untuned model, then the colours of `draw_losses`
    colours = [palette[index % len(palette)] for index in positions]
    axes.barh(positions, values, xerr=errors, color=colours, ecolor=INK, capsize=4, height=0.55)
    axes.set_yticks(list(positions), names)
    axes.invert_yaxis()
    axes.set_xlim(0, min(1.0, max(0.1, 1.2 * max(high for *_, high in rows))))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set_xlabel("strict accuracy on held-out items, with 95% intervals")
    return _render_svg(figure)


def draw_lines(series: Mapping[str, Sequence[tuple[float, float, float, float]]], x_label: str) -> str:
    """Named series of (x, accuracy, low, high) as lines with their 95% intervals."""
    figure, axes = _make_figure()
    for colour, (name, points) in zip(COLOURS, series.items(), strict=False):
        positions, values = [position for position, *_ in points], [value for _, value, _, _ in points]
        errors = [[max(0.0, v - low) for _, v, low, _ in points], [max(0.0, high - v) for _, v, _, high in points]]
        axes.errorbar(positions, values, yerr=errors, color=colour, marker="o", capsize=4, linewidth=1.5, label=name)
    axes.set_xlabel(x_label)
    axes.set_ylabel("strict accuracy")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(frameon=False, labelcolor=INK)
    return _render_svg(figure)


def draw_losses(
    series: Mapping[str, Sequence[tuple[float, float]]], dev: Mapping[str, Sequence[tuple[float, float]]]
) -> str:
    """Training loss by epoch as one line for each condition; its dev loss after each epoch as points."""
    figure, axes = _make_figure()
    for colour, (name, points) in zip(COLOURS, series.items(), strict=False):
        axes.plot([x for x, _ in points], [y for _, y in points], color=colour, linewidth=1, alpha=0.7, label=name)
        dev_points = dev.get(name, ())
        axes.plot(
            [x for x, _ in dev_points],
            [y for _, y in dev_points],
            color=colour,
            marker="o",
            linestyle="--",
            linewidth=1,
        )
    axes.set_xlabel("epoch")
    axes.set_ylabel("loss (nats per token)")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, labelcolor=INK)
    return _render_svg(figure)
