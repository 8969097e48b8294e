"""A count is formatted with its noun, in the singular only for one."""

import pytest

from nanoflux_local.quantities import format_quantity


@pytest.mark.parametrize(("count", "text"), [(0, "0 turns"), (1, "1 turn"), (2, "2 turns"), (2000, "2000 turns")])
def test_format_quantity_adds_an_s_unless_the_count_is_one(count: int, text: str) -> None:
    assert format_quantity(count, "turn") == text


def test_format_quantity_uses_an_irregular_plural() -> None:
    assert format_quantity(1, "reply", "replies") == "1 reply"
    assert format_quantity(3, "reply", "replies") == "3 replies"
