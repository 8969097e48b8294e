"""Formats experiments and their paired tests as table columns, rows and sentences.

The command line, the terminal application and the report share this module, which depends neither on a terminal nor on
HTML.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class TableColumn:
    """A column with its title and its width in characters. `share` is its share of the remaining width, and
    `from_width` is the smallest width of the table at which it is shown. `right` aligns it to the right.
    """

    title: str
    width: int
    share: int = 0
    from_width: int = 0
    right: bool = False


PAIR_COLUMNS = (
    TableColumn("pair", 14, share=1),
    TableColumn("on", 13, from_width=96),
    TableColumn("difference", 10, right=True),
    TableColumn("95% interval", 18, from_width=56),
    TableColumn("McNemar p", 9, right=True, from_width=82),
    TableColumn("Holm p", 6, right=True),
    TableColumn("t over seeds p", 14, right=True, from_width=112),
    TableColumn("detectable", 10, right=True, from_width=72),
)
"""The columns of the table of paired tests."""


def format_pair_rows(pairs: Sequence[Mapping[str, Any]]) -> list[list[object]]:
    """A row of `PAIR_COLUMNS` for each paired test."""
    return [
        [
            f"{pair['b']} − {pair['a']}",
            pair["data"],
            f"{pair['difference']:+.1%}",
            f"{pair['ci95'][0]:+.1%} to {pair['ci95'][1]:+.1%}",
            f"{pair['mcnemar_p']:.3g}",
            f"{pair['holm_p']:.3g}",
            "" if pair["paired_t_p"] is None else f"{pair['paired_t_p']:.3g}",
            format_detectable_difference(pair["minimum_detectable"]),
        ]
        for pair in pairs
    ]


def format_detectable_difference(difference: float | None) -> str:
    """The smallest true difference that the test detects with 80% power, as a percentage."""
    return "not known" if difference is None else f"{difference:.1%}"


def list_notes(results: Mapping[str, Any]) -> list[str]:
    """Sentences on the condition chosen on dev items and on the compute that the run's examples saved."""
    notes = []
    if chosen := results["chosen"]:
        test_accuracies = ", ".join(f"{mean:.1%} on {data}" for data, mean in chosen["test"].items())
        notes.append(f"chosen on dev: {chosen['title']} ({chosen['dev']:.1%} on dev; on test {test_accuracies})")
    if ratios := results["less_compute"]:
        notes.append(format_compute(ratios))
    return notes


def format_compute(ratios: Mapping[str, float]) -> str:
    """A sentence on how many times less compute training on the run's examples took than on the full set."""
    sentence = (
        f"training on the run's examples took {_format_savings(ratios['training_6nd'])} compute than on the full set"
        f" (6ND; {_format_savings(ratios['training_measured'])} as measured)"
    )
    if "with_generation" in ratios:
        return f"{sentence}; with the generation of the examples {_format_savings(ratios['with_generation'])}"
    return f"{sentence}; generating them is not included, as the size of a model is unknown"


def _format_savings(ratio: float) -> str:
    """How a compute compares with one that is `ratio` times as large, in words."""
    return f"{ratio:.1f} times less" if ratio >= 1 else f"{1 / ratio:.1f} times more"


def format_percent(share: float) -> str:
    """A share as a percentage: 0.4812 is "48.1%"."""
    return f"{100 * share:.1f}%"


def format_points(difference: float) -> str:
    """A difference of shares in percentage points, with its sign: 0.0481 is "+4.8"."""
    return f"{100 * difference:+.1f}"
