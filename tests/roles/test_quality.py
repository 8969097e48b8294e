"""Reasoning quality: the weights and levels of the paper's appendix A.4, and how a rating is read."""

import pytest

from nanoflux_local.domains.base import load_built_in
from nanoflux_local.roles.base import Draw
from nanoflux_local.roles.quality import (
    MIN_ACCEPTABLE_SCORE,
    WEIGHTS,
    Rater,
    compute_weighted_mean,
    find_level,
    read_rating,
)
from nanoflux_local.roles.sections import Unparsed
from nanoflux_local.transcript import Attack

ATTACK = Attack("Q?", "the steps", "42")
DRAW = Draw(run_seed=1, turn=2, attempt=3)


def make_reply(*ratings: object) -> str:
    """A rater's reply with these ratings, in the order of `WEIGHTS`."""
    lines = [f"{name}: {rating}" for name, rating in zip(WEIGHTS, ratings, strict=True)]
    return "\n".join([*lines, "EXPLANATION: it checks nothing"])


def test_quality_score_matches_the_example_in_the_spec():
    names = [name.lower() for name in WEIGHTS]
    score = compute_weighted_mean(dict(zip(names, (4, 4, 3, 4, 4), strict=True)))
    assert (round(score, 1), find_level(score)) == (3.8, 4)
    assert sum(WEIGHTS.values()) == pytest.approx(4.9)


@pytest.mark.parametrize(
    ("score", "level"),
    [(1, 1), (1.4999, 1), (1.5, 2), (2.4999, 2), (2.5, 3), (3.4999, 3), (3.5, 4), (4.4999, 4), (4.5, 5), (5, 5)],
)
def test_quality_level_changes_at_its_thresholds(score, level):
    assert find_level(score) == level


RATING_BY_TEXT = {
    "4": 4, "4.5": 4.5, "**4**": 4, "4/5": 4, "5 out of 5": 5,
    "3, since": 3, "(2)": 2, "1.": 1, "4 - well ordered": 4, "4 – 5": None,
    "4: clear": 4, "0": None, "6": None, "5.5": None, "3-4": None, "3 to 4": None, "4/10": None, "14": None,
    "good": None, "": None, "-3": None,
}  # fmt: skip
"""Texts of a rating, each with the number that is read from it, or None if it is unreadable."""


@pytest.mark.parametrize(("text", "rating"), RATING_BY_TEXT.items())
def test_rating_is_one_number_from_1_to_5(text, rating):
    assert read_rating(text) == rating


async def test_unreadable_rating_is_requested_again(player, script_call):
    call = script_call(["no", make_reply(4, 4, "6", 4, 4), make_reply(4, 4, "3/5", 4, 4)])
    quality = await Rater(load_built_in("gsmhard"), player, 2).rate(ATTACK, DRAW, call)
    assert (quality.level, quality.explanation) == (4, "it checks nothing")
    assert quality.scores["verification"] == 3 and quality.score >= MIN_ACCEPTABLE_SCORE
    assert len({request.seed for request in call.requests}) == 3


async def test_rating_that_stays_unreadable_is_unparsed(player, script_call):
    call = script_call(lambda _: make_reply(4, 4, "?", 4, 4))
    rating = await Rater(load_built_in("gsmhard"), player, 1).rate(ATTACK, DRAW, call)
    assert isinstance(rating, Unparsed) and "VERIFICATION is not a number from 1 to 5" in rating.reason
