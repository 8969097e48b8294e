"""Texts of the core put a noun in the singular after the number 1."""

import ast
import re
from collections.abc import Iterator
from itertools import pairwise

from tests.language.project_sources import parse_sources

PLURAL_NOUN = re.compile(
    r" (?:attempts|calls|cells|checks|cores|errors|examples|files|items|passages|parts|questions|records|rows|runs"
    r"|settings|solutions|steps|turns|verdicts)\b(?!=)"
)
"""A space and a plural noun that a count often precedes."""
WORDS = {"' and '.join(common_splits)", "need", "profile", "source.run['id']", "split"}
"""Values before such a word that are not counts, for example the name of a split before "items"."""


def list_counts_with_plural_nouns(trees: dict[str, ast.Module]) -> Iterator[str]:
    """The f-strings in which a plural noun directly follows a value, which may be 1. A constant is never 1."""
    for path, tree in trees.items():
        for text in ast.walk(tree):
            pieces = text.values if isinstance(text, ast.JoinedStr) else []
            for value, following in pairwise(pieces):
                if not (isinstance(value, ast.FormattedValue) and isinstance(following, ast.Constant)):
                    continue
                expression = ast.unparse(value.value)
                if PLURAL_NOUN.match(str(following.value)) and expression not in WORDS and not expression.isupper():
                    yield f"{path}:{value.lineno}: {{{expression}}}{following.value}"


def test_counts_before_nouns_are_formatted_by_format_quantity() -> None:
    faults = list(list_counts_with_plural_nouns(parse_sources(("nanoflux_local",))))
    assert not faults, "use format_quantity:\n" + "\n".join(faults)


def test_counts_with_plural_nouns_are_detected() -> None:
    source = "f'{len(runs)} runs', f'{split} items', f'{MIN_TURNS} turns', f'{count} of {total} rows'"
    faults = list(list_counts_with_plural_nouns({"module.py": ast.parse(source)}))
    assert faults == ["module.py:1: {len(runs)} runs", "module.py:1: {total} rows"]
