"""Describes the rows of a training run or an export: whose solutions they contain, which rows were left out or mixed
in, and how many contain a test question.

`run_rows` and `mixing` record the origin in the source of a training run and in the choice of an export. This module
turns that record into text.
"""

from collections.abc import Mapping
from typing import Any

from nanoflux_local.quantities import format_quantity

_WRITERS = {"solver": "a blind solver", "own": "the defender"}
"""The writer of the solutions that a rule chooses, by the rule. Only these rules can leave out examples."""


def describe_origin(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The (name, description) pairs of the properties that differ from the default. If the list is empty, the rows
    contain the author's solutions, and no rows were left out or mixed in.
    """
    entries = []
    if solution := record.get("solution"):
        counts = ", ".join(f"{count} {origin}" for origin, count in solution["origins"].items())
        model = f" under {solution['model']}" if "model" in solution else ""
        entries.append(("solutions", f"{solution['rule']}{model}: {counts}"))
    entries += [("left out", phrase) for phrase in describe_left_out(record)]
    entries += [("included", phrase) for phrase in describe_included(record)]
    for mix in record.get("mix", ()):
        usable_rows = format_quantity(mix["usable"], "train row")
        text = f"{mix['rows']} of {usable_rows} of {mix['dataset']}, digest {mix['digest'][:12]}"
        entries.append(("mixed in", text))
    return entries


def describe_leaks(row_count: int) -> str:
    """How many training rows contain a question of the test items."""
    if not row_count:
        return "none"
    verb = "contains" if row_count == 1 else "contain"
    return f"{format_quantity(row_count, 'row')} {verb} a test question"


def describe_left_out(record: Mapping[str, Any]) -> list[str]:
    """A phrase for each reason why examples were left out."""
    phrases = []
    dropped, solution = record.get("dropped"), record.get("solution")
    if dropped and not dropped["included"]:
        phrases.append(f"{dropped['rows']} that a reviewer dropped")
    if solution and solution["without"]:
        total = record["matched"] + solution["without"]
        writer = _WRITERS[solution["rule"]]
        phrases.append(f"{solution['without']} of {total} without a right solution by {writer}")
    return phrases


def describe_included(record: Mapping[str, Any]) -> list[str]:
    """A phrase for each group of examples that are included although a reviewer objected to them."""
    phrases = []
    dropped, to_fix = record.get("dropped"), record.get("fix")
    if dropped and dropped["included"]:
        phrases.append(f"{dropped['rows']} that a reviewer dropped")
    if to_fix:
        pronoun = "it" if to_fix["rows"] == 1 else "them"
        phrases.append(f"{to_fix['rows']} that a reviewer marked `fix`: correct or drop {pronoun}")
    return phrases
