"""Describes the origin of the rows of a training run or an export: whose solutions they contain, what was left out or
mixed in.

The descriptions are made from the record that `run_rows` and `mixing` write into the source of a training run and the
choice of an export.
"""

from collections.abc import Mapping
from typing import Any

_WRITERS = {"solver": "a blind solver", "own": "the defender"}


def describe_origin(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The name and a description of each property that differs from the default. If the list is empty, the rows
    contain the author's solutions, and nothing was left out or mixed in.
    """
    entries = []
    if solution := record.get("solution"):
        counts = ", ".join(f"{count} {origin}" for origin, count in solution["origins"].items())
        model = f" under {solution['model']}" if "model" in solution else ""
        entries.append(("solutions", f"{solution['rule']}{model}: {counts}"))
    entries += [("left out", phrase) for phrase in describe_left_out(record)]
    entries += [("included", phrase) for phrase in describe_included(record)]
    for mix in record.get("mix", ()):
        text = f"{mix['rows']} of {mix['usable']} train rows of {mix['dataset']}, digest {mix['digest'][:12]}"
        entries.append(("mixed in", text))
    return entries


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
    if (dropped := record.get("dropped")) and dropped["included"]:
        phrases.append(f"{dropped['rows']} that a reviewer dropped")
    if to_fix := record.get("fix"):
        pronoun = "it" if to_fix["rows"] == 1 else "them"
        phrases.append(f"{to_fix['rows']} that a reviewer marked `fix`: correct or drop {pronoun}")
    return phrases
