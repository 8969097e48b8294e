"""Suggestions for misspelt names: the most similar choice, ignoring case, or none if no choice is similar."""

import pytest

from nanoflux_local.suggestions import nearest, suggest

NAMES = ["gsm8k", "gsmhard", "starter", "SOLUTION"]


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [("gsmhrad", "gsmhard"), ("GSM8k", "gsm8k"), ("solutoin", "SOLUTION"), ("chess", ""), ("", "")],
)
def test_nearest_is_the_most_similar_choice(name: str, suggestion: str) -> None:
    assert nearest(name, NAMES) == suggestion


def test_suggest_lists_all_choices_in_order() -> None:
    assert suggest("stater", NAMES) == "did you mean 'starter'? choose one of: SOLUTION, gsm8k, gsmhard, starter"
    assert suggest("chess", NAMES, "known").startswith("known: SOLUTION")
    assert suggest("chess", []) == "choose one of: (none)"
