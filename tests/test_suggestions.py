"""Suggestions for misspelt names: the nearest choice ignoring case, none if nothing is similar."""

import pytest

from nanoflux_local.suggestions import nearest, suggest

NAMES = ["gsm8k", "gsmhard", "starter", "SOLUTION"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("gsmhrad", "gsmhard"), ("GSM8k", "gsm8k"), ("solutoin", "SOLUTION"), ("chess", ""), ("", "")],
)
def test_nearest_is_the_most_similar_choice(name: str, expected: str) -> None:
    assert nearest(name, NAMES) == expected


def test_suggest_lists_all_choices_in_order() -> None:
    assert suggest("stater", NAMES) == "did you mean 'starter'? choose one of: SOLUTION, gsm8k, gsmhard, starter"
    assert suggest("chess", NAMES, "known").startswith("known: SOLUTION")
    assert suggest("chess", []) == "choose one of: (none)"
