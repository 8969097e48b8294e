"""Agreement, compared with published values: Krippendorff's examples and the table of Fleiss."""

import random

import pytest

from nanoflux_local.evaluate.agreement import cohen_kappa, krippendorff_alpha


def units(*observers: str) -> list[list[str | None]]:
    """Each observer's values as one string; "." stands for a missing value."""
    return [[None if value == "." else value for value in unit] for unit in zip(*observers, strict=True)]


PUBLISHED = {
    "four observers, values missing (Krippendorff, Content Analysis, chapter 12)": (
        units("123321412..", "1233224125.", ".3332342251", "12332441251"), 0.743,
    ),
    "three observers, most values missing (the example of its encyclopedia's article)": (
        units(".....3412113" "3.3", "1.21334" "3.......", "..2134" "4.21133.4"), 0.691,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_alpha_matches_published_values(name: str) -> None:
    alpha, published = krippendorff_alpha(PUBLISHED[name][0]), PUBLISHED[name][1]
    assert alpha is not None and round(alpha, 3) == published


def test_alpha_is_one_in_full_agreement_and_undefined_without_variation() -> None:
    assert krippendorff_alpha(units("ab", "ab")) == 1
    assert krippendorff_alpha(units("aa", "aa")) is None
    assert krippendorff_alpha(units("a.", ".b")) is None
    assert krippendorff_alpha([]) is None


def pairs(table: list[list[int]]) -> list[tuple[int, int]]:
    return [(one, other) for one, row in enumerate(table) for other, n in enumerate(row) for _ in range(n)]


def test_kappa_matches_the_published_value_and_error() -> None:
    result = cohen_kappa(pairs([[75, 1, 4], [5, 4, 1], [0, 0, 10]]))  # Fleiss, Levin and Paik 2003, table 18.1
    assert result is not None
    kappa, (low, high) = result
    assert round(kappa, 3) == 0.676
    assert round((high - low) / 2 / 1.96, 4) == 0.0877


def test_kappa_interval_matches_the_bootstrap() -> None:
    table = pairs([[40, 10], [5, 45]])
    result = cohen_kappa(table)
    rng = random.Random(1)
    resampled = sorted(cohen_kappa(rng.choices(table, k=len(table)))[0] for _ in range(1500))
    assert result is not None
    assert result[1] == pytest.approx((resampled[37], resampled[1462]), abs=0.03)
    assert cohen_kappa([]) is None and cohen_kappa([("a", "a")] * 5) is None
