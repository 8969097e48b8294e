"""Measures of agreement match published values: Krippendorff's examples and a table from Fleiss et al."""

import random

import pytest

from nanoflux_local.evaluate.agreement import cohen_kappa, krippendorff_alpha


def group_by_unit(*observers: str) -> list[list[str | None]]:
    """The values of each unit. Each argument is one observer's values, one character per unit ("." is missing)."""
    return [[None if value == "." else value for value in unit] for unit in zip(*observers, strict=True)]


FOUR_OBSERVERS = group_by_unit("123321412..", "1233224125.", ".3332342251", "12332441251")
"""Krippendorff, Content Analysis, chapter 12: some values are missing."""
THREE_OBSERVERS = group_by_unit(".....34121133.3", "1.213343.......", "..21344.21133.4")
"""Wikipedia, "Krippendorff's alpha": most values are missing."""


@pytest.mark.parametrize(
    ("units", "published_alpha"), [(FOUR_OBSERVERS, 0.743), (THREE_OBSERVERS, 0.691)], ids=["four", "three"]
)
def test_alpha_matches_published_values(units: list[list[str | None]], published_alpha: float) -> None:
    alpha = krippendorff_alpha(units)
    assert alpha is not None and round(alpha, 3) == published_alpha


def test_alpha_is_one_for_full_agreement_and_undefined_without_variation() -> None:
    assert krippendorff_alpha(group_by_unit("ab", "ab")) == 1
    assert krippendorff_alpha(group_by_unit("aa", "aa")) is None
    assert krippendorff_alpha(group_by_unit("a.", ".b")) is None
    assert krippendorff_alpha([]) is None


def list_pairs(table: list[list[int]]) -> list[tuple[int, int]]:
    """The pairs of ratings that a table of counts summarizes: the first rater's label is the row, the second's the
    column.
    """
    pairs = []
    for row, counts in enumerate(table):
        for column, count in enumerate(counts):
            pairs += [(row, column)] * count
    return pairs


def test_kappa_and_its_standard_error_match_published_values() -> None:
    """Fleiss, Levin and Paik 2003, table 18.1."""
    result = cohen_kappa(list_pairs([[75, 1, 4], [5, 4, 1], [0, 0, 10]]))
    assert result is not None
    kappa, (low, high) = result
    assert round(kappa, 3) == 0.676
    assert round((high - low) / 2 / 1.96, 4) == 0.0877


def test_kappa_interval_matches_the_bootstrap() -> None:
    pairs = list_pairs([[40, 10], [5, 45]])
    result = cohen_kappa(pairs)
    assert result is not None
    _, interval = result
    rng = random.Random(1)
    resampled_kappas = sorted(cohen_kappa(rng.choices(pairs, k=len(pairs)))[0] for _ in range(1500))
    bootstrap_interval = resampled_kappas[37], resampled_kappas[1462]  # the 2.5% and 97.5% quantiles
    assert interval == pytest.approx(bootstrap_interval, abs=0.03)


def test_kappa_is_undefined_without_pairs_or_with_a_single_label() -> None:
    assert cohen_kappa([]) is None
    assert cohen_kappa([("a", "a")] * 5) is None
