"""Plots for the report as SVG text, in colours that suit both the light and the dark page."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

INK, GREY, BLUE, ORANGE = "#6b7280", "#9ca3af", "#2563eb", "#d97706"
"""Colours of the plots; `INK` is the colour of text and error bars."""
COLOURS = (BLUE, ORANGE, "#059669", "#9333ea", GREY)
"""The colours of the lines of a plot, in the order of their use; the third is green and the fourth purple."""
AccuracyPoint = tuple[float, float, float, float]
"""A position on the horizontal axis, the accuracy there, and the bounds of its 95% interval."""
LossPoint = tuple[float, float]
"""A step or an epoch, and the loss there in nats per token."""


def _make_figure(width: float = 6.4, height: float = 3.0) -> tuple[Any, Any]:
    """An empty matplotlib figure of `width` × `height` inches with a transparent background, and its axes."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(width, height), layout="constrained")
    figure.patch.set_alpha(0)
    axes.patch.set_alpha(0)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("bottom", "left"):
        axes.spines[side].set_color(GREY)
    axes.tick_params(colors=INK)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    return figure, axes


def _render_svg(figure: Any) -> str:
    """Close the figure and return it as an <svg> element. Figures of the same data yield identical elements."""
    import matplotlib
    from matplotlib import pyplot

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "nanoflux", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    pyplot.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def draw_losses_by_step(training: Sequence[LossPoint], dev: Sequence[LossPoint]) -> str:
    """Plot the losses of one training run: the training loss of each step, and the dev loss at the end of each epoch,
    both by step.
    """
    figure, axes = _make_figure()
    axes.plot([step for step, _ in training], [loss for _, loss in training], color=BLUE, linewidth=1, label="training")
    if dev:
        axes.plot([step for step, _ in dev], [loss for _, loss in dev], color=ORANGE, marker="o", label="dev")
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats per token)")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, labelcolor=INK)
    return _render_svg(figure)


def draw_accuracies(rows: Sequence[tuple[str, float, float, float]]) -> str:
    """Plot rows of (name, accuracy, low, high) as horizontal bars, each with its 95% interval from `low` to `high`."""
    figure, axes = _make_figure(height=0.7 + 0.55 * len(rows))
    names = [name for name, *_ in rows]
    accuracies = [accuracy for _, accuracy, _, _ in rows]
    error_lengths = _compute_error_lengths([row[1:] for row in rows])
    positions = range(len(rows))
    palette = (GREY, *COLOURS)  # grey for the untuned model, then the colours of `draw_losses_by_epoch`
    colours = [palette[index % len(palette)] for index in positions]
    axes.barh(positions, accuracies, xerr=error_lengths, color=colours, ecolor=INK, capsize=4, height=0.55)
    axes.set_yticks(list(positions), names)
    axes.invert_yaxis()
    highest_bound = max(high for *_, high in rows)
    axes.set_xlim(0, min(1.0, max(0.1, 1.2 * highest_bound)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set_xlabel("strict accuracy on held-out items, with 95% intervals")
    return _render_svg(figure)


def _compute_error_lengths(estimates: Sequence[tuple[float, float, float]]) -> list[list[float]]:
    """The lengths of the error bars of estimates (accuracy, low, high), as matplotlib expects them: a list of the
    lengths towards `low`, and a list of the lengths towards `high`.
    """
    lower_lengths = [max(0.0, accuracy - low) for accuracy, low, _ in estimates]
    upper_lengths = [max(0.0, high - accuracy) for accuracy, _, high in estimates]
    return [lower_lengths, upper_lengths]


def draw_accuracy_lines(points_by_name: Mapping[str, Sequence[AccuracyPoint]], x_label: str) -> str:
    """Plot each named series of accuracies as a line with its 95% intervals."""
    figure, axes = _make_figure()
    for colour, (name, points) in zip(COLOURS, points_by_name.items(), strict=False):
        positions = [position for position, *_ in points]
        accuracies = [accuracy for _, accuracy, _, _ in points]
        error_lengths = _compute_error_lengths([point[1:] for point in points])
        axes.errorbar(
            positions, accuracies, yerr=error_lengths, color=colour, marker="o", capsize=4, linewidth=1.5, label=name
        )
    axes.set_xlabel(x_label)
    axes.set_ylabel("strict accuracy")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(frameon=False, labelcolor=INK)
    return _render_svg(figure)


def draw_losses_by_epoch(training: Mapping[str, Sequence[LossPoint]], dev: Mapping[str, Sequence[LossPoint]]) -> str:
    """Plot the training loss of each condition by epoch as a line, and its dev loss after each epoch as points."""
    figure, axes = _make_figure()
    for colour, (name, points) in zip(COLOURS, training.items(), strict=False):
        epochs, losses = [epoch for epoch, _ in points], [loss for _, loss in points]
        axes.plot(epochs, losses, color=colour, linewidth=1, alpha=0.7, label=name)
        dev_points = dev.get(name, ())
        axes.plot(
            [epoch for epoch, _ in dev_points],
            [loss for _, loss in dev_points],
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
