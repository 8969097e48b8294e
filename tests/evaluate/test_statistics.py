"""Statistics are compared with published examples and formulas, and with their nominal levels in simulations."""

import math

import numpy as np
import pytest
from scipy import stats

from nanoflux_local.evaluate.statistics import (
    RESAMPLES,
    accuracy_interval,
    bootstrap_interval,
    compare_paired,
    correct_prevalence,
    holm,
    mcnemar_exact,
    minimum_detectable,
    paired_t,
    predict_right_share,
    split_folds,
    t_interval,
    wilson_interval,
)

Z = 1.959963984540054


def compute_mcnemar_p(only_a_count, only_b_count):
    """McNemar's p of the given numbers of discordant pairs, and of seven concordant pairs."""
    return mcnemar_exact([-1] * only_a_count + [1] * only_b_count + [0] * 7)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [  # Newcombe 1998, Statistics in Medicine 17, table I, method 3 (Wilson without correction)
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_matches_newcombe(successes, n, low, high):
    assert wilson_interval(successes, n) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(
    ("k", "n", "interval"),
    [  # statsmodels 0.15.0, proportion_confint(k, n, method="wilson")
        (0, 20, (0.0, 0.1611251580528194)),
        (15, 148, (0.06238639953073628, 0.16048724172330803)),
        (81, 263, (0.2552885198782742, 0.36620957698280004)),
        (199, 200, (0.9722262956021069, 0.9991168312843989)),
    ],
)
def test_wilson_matches_statsmodels(k, n, interval):
    assert wilson_interval(k, n) == pytest.approx(interval, abs=1e-9)


@pytest.mark.parametrize(("k", "n"), [(0, 1), (1, 1), (3, 7), (50, 100), (199, 200)])
def test_wilson_matches_its_formula(k, n):
    p, centre = k / n, (k / n + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half_width = Z * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2)) / (1 + Z**2 / n)
    assert wilson_interval(k, n) == pytest.approx((max(0, centre - half_width), min(1, centre + half_width)), abs=1e-9)


def compute_binomial_tail(b: int, c: int) -> float:
    """Twice the smaller binomial tail, by enumeration."""
    return min(1.0, 2 * sum(math.comb(b + c, k) for k in range(min(b, c) + 1)) / 2 ** (b + c))


@pytest.mark.parametrize(("b", "c"), [(0, 0), (1, 0), (0, 5), (5, 5), (6, 16), (2, 12), (10, 21), (86, 150)])
def test_mcnemar_matches_the_binomial_tail_and_is_symmetric(b, c):
    assert compute_mcnemar_p(b, c) == pytest.approx(compute_binomial_tail(b, c), rel=1e-9)
    assert compute_mcnemar_p(b, c) == compute_mcnemar_p(c, b)


def test_mcnemar_matches_hand_computed_values():
    assert compute_mcnemar_p(0, 6) == pytest.approx(1 / 32)  # 2 · 2⁻⁶
    assert compute_mcnemar_p(6, 16) == pytest.approx(0.0524788, abs=1e-6)
    assert compute_mcnemar_p(0, 0) == 1.0


@pytest.mark.parametrize(
    ("b", "c", "p"),
    [  # statsmodels 0.15.0, mcnemar([[0, b], [c, 0]], exact=True)
        (6, 16, 0.052478790283203125),
        (2, 12, 0.012939453125),
        (10, 21, 0.07075554598122835),
        (86, 150, 3.7159361395713866e-05),
    ],
)
def test_mcnemar_matches_statsmodels(b, c, p):
    assert compute_mcnemar_p(b, c) == pytest.approx(p, rel=1e-9)


def test_holm_matches_statsmodels_on_benjamini_and_hochberg():
    """Benjamini and Hochberg 1995, section 3.2; statsmodels 0.15.0, multipletests(p, method="holm")."""
    p = [0.0001, 0.0319, 0.0201, 0.7590, 0.0459, 0.0344, 0.0278, 0.0095, 0.0298, 0.0019, 0.6528, 0.3240, 0.5719, 0.4262]
    adjusted = [0.0015, 0.3058, 0.2412, 1, 0.3213, 0.3058, 0.3058, 0.1235, 0.3058, 0.0266, 1, 1, 1, 1, 1]
    assert holm([*p, 1.0]) == pytest.approx(adjusted, abs=1e-9)


@pytest.mark.parametrize(
    ("p_values", "adjusted"),
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),  # R: p.adjust(p, "holm")
        ([0.005, 0.011, 0.02, 0.04, 0.13], [0.025, 0.044, 0.06, 0.08, 0.13]),
        ([0.5, 0.6], [1.0, 1.0]),
        ([0.02, 0.02], [0.04, 0.04]),
        ([0.03], [0.03]),
        ([], []),
    ],
)
def test_holm_matches_r_p_adjust(p_values, adjusted):
    assert holm(p_values) == pytest.approx(adjusted)


def test_holm_is_monotone_and_keeps_the_order():
    rng = np.random.default_rng(0)
    for _ in range(50):
        p = rng.uniform(0, 0.2, size=6).tolist()
        adjusted = holm(p)
        assert all(raw <= corrected <= 1 for raw, corrected in zip(p, adjusted, strict=True))
        assert np.argsort(p, kind="stable").tolist() == sorted(range(6), key=lambda i: (adjusted[i], p[i]))
        assert min(adjusted) == pytest.approx(6 * min(p)) or 6 * min(p) > 1


def test_bootstrap_interval_is_seeded_and_contains_the_mean():
    values = np.random.default_rng(0).normal(5, 2, size=80).tolist()
    low, high = bootstrap_interval(values)
    assert low < np.mean(values) < high
    assert bootstrap_interval(values) == (low, high)
    assert bootstrap_interval(values, seed=1) != (low, high)
    normal_width = 2 * Z * np.std(values) / math.sqrt(80)
    assert high - low == pytest.approx(normal_width, rel=0.05), (
        "the bootstrap interval of a mean must be close to the normal interval"
    )


def test_bootstrap_of_equal_values_has_no_width():
    assert bootstrap_interval([0.5] * 7) == (0.5, 0.5)


def test_bootstrap_in_blocks_matches_the_normal_interval():
    """The resamples are drawn in blocks from one stream of random numbers."""
    low, high = bootstrap_interval(np.random.default_rng(0).integers(0, 2, 1319).tolist())
    assert high - low == pytest.approx(2 * Z * 0.5 / math.sqrt(1319), rel=0.05)


def test_bootstrap_interval_has_its_nominal_coverage():
    rng = np.random.default_rng(1)
    covered = 0
    for trial in range(100):
        low, high = bootstrap_interval((rng.random(60) < 0.3).astype(float), seed=trial)
        covered += low <= 0.3 <= high
    assert 88 <= covered <= 100


def test_minimum_detectable_matches_its_formula():
    differences = [1.0, 0.0, 0.0, -1.0, 1.0, 0.0, 1.0, 0.0]
    sd = math.sqrt(sum((x - 0.25) ** 2 for x in differences) / 7)
    assert minimum_detectable(differences) == pytest.approx((Z + 0.8416212335729143) * sd / math.sqrt(8))
    for equal in ([0.0] * 8, [0.5]):
        assert minimum_detectable(equal) is None, "the detectable difference is unknown if all differences are equal"


def test_minimum_detectable_difference_has_80_percent_power():
    rng = np.random.default_rng(2)
    sd, n = 0.7, 200
    effect = (Z + 0.8416212335729143) * sd / math.sqrt(n)
    detected = sum(stats.ttest_1samp(rng.normal(effect, sd, n), 0).pvalue < 0.05 for _ in range(400))
    assert detected / 400 == pytest.approx(0.8, abs=0.06)
    assert minimum_detectable(rng.normal(0, sd, n)) == pytest.approx(effect, rel=0.15)


def parse_marks(pattern: str) -> list[list[bool]]:
    """The items of a pattern such as "1 0 11 10", each with the marks of its repeats."""
    return [[mark == "1" for mark in item] for item in pattern.split()]


def test_compare_paired_is_b_minus_a_by_item():
    a, b = parse_marks("1 1 0 0 0 0 0 0"), parse_marks("1 0 1 1 1 1 1 0")
    paired = compare_paired(a, b)
    assert (paired.n, paired.difference) == (8, pytest.approx(4 / 8))
    assert paired.mcnemar_p == pytest.approx(compute_mcnemar_p(1, 5))
    assert paired.minimum_detectable == pytest.approx(minimum_detectable([0, -1, 1, 1, 1, 1, 1, 0]))
    assert paired.ci95[0] < paired.difference < paired.ci95[1]
    reversed_pair = compare_paired(b, a)
    assert reversed_pair.difference == -paired.difference and reversed_pair.mcnemar_p == paired.mcnemar_p
    assert reversed_pair.ci95 == pytest.approx((-paired.ci95[1], -paired.ci95[0]))
    assert reversed_pair.bootstrap_p == paired.bootstrap_p


def test_compare_paired_averages_repeats():
    paired = compare_paired(parse_marks("111 000 100 110"), parse_marks("011 001 110 010"))
    assert paired.difference == pytest.approx(((2 - 3) + 1 + (2 - 1) + (1 - 2)) / 12)
    assert paired.mcnemar_p == mcnemar_exact([-1, 1, 1, -1]) == 1.0
    assert compare_paired(parse_marks("10 10 10"), parse_marks("11 11 11")).mcnemar_p == 1 / 4


def test_compare_paired_is_unbiased_for_unequal_run_counts():
    """By a majority vote, an item would need two right replies in one evaluation, but only one in the other."""
    one_run = parse_marks("0 " * 40 + "1 " * 20)
    two_runs = parse_marks("10 " * 20 + "00 " * 20 + "10 " * 8 + "11 " * 12)
    paired = compare_paired(one_run, two_runs)
    assert paired.difference == pytest.approx((20 - 8) / 120)
    assert paired.mcnemar_p == pytest.approx(compute_mcnemar_p(20, 8)) and paired.mcnemar_p < 0.05


@pytest.mark.parametrize("seed", range(4))
def test_mcnemar_of_several_runs_matches_scipy_permutation_test(seed):
    rng = np.random.default_rng(seed)
    differences = rng.integers(-3, 5, 12)
    permutation = stats.permutation_test(
        (differences, np.zeros(12, dtype=int)), lambda x, y: np.sum(x - y), permutation_type="samples", vectorized=False
    )
    assert mcnemar_exact(differences.tolist()) == pytest.approx(permutation.pvalue, rel=1e-9)


@pytest.mark.parametrize(("runs_a", "runs_b"), [(1, 1), (1, 2), (3, 3), (5, 2)])
def test_mcnemar_has_its_nominal_level(runs_a, runs_b):
    """For equal models of any accuracy, p is below 0.05 at most one time in twenty, even if one model has more runs."""
    rng, trials = np.random.default_rng(7), 400
    rejected = 0
    for _ in range(trials):
        chance = rng.beta(0.5, 2.0, (120, 1))
        a, b = rng.random((120, runs_a)) < chance, rng.random((120, runs_b)) < chance
        differences = runs_a * b.sum(axis=1).astype(int) - runs_b * a.sum(axis=1).astype(int)
        rejected += mcnemar_exact(differences.tolist()) < 0.05
    assert rejected <= 0.05 * trials + 2.6 * (0.05 * 0.95 * trials) ** 0.5


def test_compare_paired_of_equal_conditions_has_a_p_value_of_one():
    paired = compare_paired(parse_marks("1 0 1 0 1"), parse_marks("1 0 1 0 1"))
    assert (paired.difference, paired.mcnemar_p, paired.bootstrap_p) == (0.0, 1.0, 1.0)
    assert paired.ci95[0] == -paired.ci95[1] < 0


def test_compare_paired_never_reports_a_p_value_of_zero():
    paired = compare_paired(parse_marks("0 " * 40), parse_marks("1 " * 39 + "0"))
    assert paired.mcnemar_p == pytest.approx(2 * 0.5**39)
    assert paired.bootstrap_p == pytest.approx(2 / (RESAMPLES + 1))
    assert paired.ci95[0] > 0.9


def test_bootstrap_test_has_its_nominal_level():
    """Without a difference, p is below 0.05 about one time in twenty."""
    rng = np.random.default_rng(3)
    rejected = 0
    for trial in range(100):
        shared = rng.random((80, 1))
        a, b = shared + rng.random((80, 1)) < 1, shared + rng.random((80, 1)) < 1
        rejected += compare_paired(a.tolist(), b.tolist(), seed=trial).bootstrap_p < 0.05
    assert rejected <= 12


SLEEP_HOURS = (
    [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0],
    [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4],
)
"""Student 1908, Biometrika 6:1: hours of sleep gained by ten patients on two drugs."""


def test_paired_t_matches_student_1908():
    t_test = paired_t(*SLEEP_HOURS)
    assert t_test is not None
    assert (t_test.n, t_test.difference) == (10, pytest.approx(1.58))
    assert (t_test.t, t_test.p) == pytest.approx((4.062127683382037, 0.002832890197384), abs=1e-9)
    assert t_test.ci95 == pytest.approx((0.7001142367230175, 2.459885763276983), abs=1e-9)
    reversed_t_test = paired_t(*SLEEP_HOURS[::-1])
    assert reversed_t_test is not None
    assert (reversed_t_test.t, reversed_t_test.p) == pytest.approx((-t_test.t, t_test.p))


def test_paired_t_is_undefined_without_variation():
    assert paired_t([0.5], [0.6]) is None
    assert paired_t([0.5, 0.25], [0.75, 0.5]) is None
    assert all(math.isnan(end) for end in t_interval([0.5]))


@pytest.mark.parametrize(
    ("mean", "sd", "interval"),
    [(66.40, 4.30, (61.06, 71.74))],  # the paper, §5: MultiMedQA at 200 examples over five folds
)
def test_t_interval_over_five_folds_matches_the_paper(mean, sd, interval):
    pattern = np.array([-1.0, -1.0, 0.0, 1.0, 1.0])  # its sd is 1
    assert t_interval((mean + sd * pattern).tolist()) == pytest.approx(interval, abs=0.005)


def test_split_folds_is_a_partition_independent_of_order():
    names = [f"item-{number}" for number in range(23)]
    parts = split_folds(names)
    assert sorted(name for part in parts for name in part) == sorted(names)
    assert {len(part) for part in parts} == {4, 5}
    assert split_folds(names[::-1]) == parts


def test_correct_prevalence_matches_rogan_and_gladen():
    """The worked example of R's epiR, epi.prev(pos = 4, tested = 80, se = 0.90, sp = 0.99): 4.5 in a hundred."""
    billion = 1_000_000_000  # so many known items that the rates are practically exact
    corrected = correct_prevalence(4, 80, 9 * billion // 10, billion, 99 * billion // 100, billion)
    assert corrected is not None
    assert corrected.estimate == pytest.approx((0.05 + 0.99 - 1) / (0.90 + 0.99 - 1), abs=1e-9)
    assert round(100 * corrected.estimate, 1) == 4.5
    sd = math.sqrt(0.05 * 0.95 / 80) / 0.89
    assert corrected.ci95 == pytest.approx((0.0, corrected.estimate + Z * sd), abs=1e-6)


def test_correct_prevalence_of_perfect_and_guessing_judges():
    corrected = correct_prevalence(30, 100, 50, 50, 50, 50)
    assert corrected is not None and corrected.estimate == pytest.approx(0.3)
    assert corrected.ci95 == pytest.approx((0.3 - Z * math.sqrt(0.21 / 100), 0.3 + Z * math.sqrt(0.21 / 100)))
    assert correct_prevalence(30, 100, 25, 50, 25, 50) is None


def test_correct_prevalence_interval_has_its_nominal_coverage():
    rng = np.random.default_rng(4)
    covered = 0
    for _ in range(400):
        calibration = int(rng.binomial(100, 0.9)), 100, int(rng.binomial(100, 0.8)), 100
        corrected = correct_prevalence(int(rng.binomial(300, 0.6 * 0.9 + 0.4 * 0.2)), 300, *calibration)
        covered += corrected is not None and corrected.ci95[0] <= 0.6 <= corrected.ci95[1]
    assert covered / 400 == pytest.approx(0.95, abs=0.03)


def test_accuracy_interval_of_equal_shares_is_wilsons():
    """If all four answers are right, a bootstrap interval would be exactly 100% to 100%."""
    low, high = accuracy_interval([1.0] * 4)
    assert (low, high) == pytest.approx(wilson_interval(4, 4)) and low < 0.6 and high == 1.0
    assert accuracy_interval([0.0] * 10) == pytest.approx(wilson_interval(0, 10))
    assert accuracy_interval([0.5] * 8) == pytest.approx(wilson_interval(4, 8))
    mixed = [0.0, 1.0, 1.0, 0.5]
    assert accuracy_interval(mixed) == bootstrap_interval(mixed)


def test_paired_interval_of_equal_differences_has_a_width():
    """The interval of Agresti and Min shrinks with the number of items, and contains the difference."""
    few_items_interval, many_items_interval = (compare_paired([[True]] * n, [[True]] * n).ci95 for n in (4, 400))
    assert few_items_interval == pytest.approx((-1.96 / 6, 1.96 / 6), abs=1e-3) and many_items_interval[1] < 0.005
    low, high = compare_paired([[False]] * 5, [[True]] * 5).ci95
    assert 0 < low < 1 and high == 1.0


def test_paired_t_of_differences_equal_up_to_rounding_is_not_computed():
    """1/12 and 3/12 − 2/12 differ in their last bit; a t-test would divide by this difference."""
    assert paired_t([0.0, 2 / 12], [1 / 12, 3 / 12]) is None


def test_predict_right_share_matches_bayes_rule_for_large_counts():
    n, right, specificity, sensitivity = 10**6, 0.6, 0.9, 0.7
    accepted = right * specificity + (1 - right) * (1 - sensitivity)
    counts = (round(n * specificity), n), (round(n * sensitivity), n)
    among_accepted, among_all_kept = predict_right_share(*counts, (round(n * accepted), n))
    assert among_all_kept == among_accepted
    expected = right * specificity / accepted
    assert among_accepted.estimate == pytest.approx(expected, abs=0.01)
    assert among_accepted.ci95 == pytest.approx((expected, expected), abs=0.02)
    kept_count = round(n * accepted / 2)
    _, among_kept = predict_right_share(*counts, (round(n * accepted), n), (kept_count, round(n * accepted)))
    assert among_kept.estimate == pytest.approx(1 - 2 * (1 - expected), abs=0.02), (
        "the prediction must assume that every wrong question is kept"
    )


def test_predict_right_share_of_a_guessing_judge_is_uncertain():
    low, high = predict_right_share((50, 100), (50, 100), (50, 100))[0].ci95
    assert low < 0.1 and high > 0.9


def test_predict_right_share_of_a_perfect_judge_is_near_one():
    assert predict_right_share((200, 200), (200, 200), (50, 100))[0].ci95[0] > 0.95


def test_predict_right_share_interval_has_its_nominal_coverage():
    rng, covered, trials = np.random.default_rng(5), 0, 60
    for _ in range(trials):
        right, specificity, sensitivity = rng.uniform(0, 1), rng.uniform(0.6, 1), rng.uniform(0.6, 1)
        accepted = right * specificity + (1 - right) * (1 - sensitivity)
        counts = [
            (int(rng.binomial(n, share)), n) for n, share in ((50, specificity), (50, sensitivity), (80, accepted))
        ]
        low, high = predict_right_share(*counts)[0].ci95
        covered += low <= right * specificity / accepted <= high
    assert covered / trials == pytest.approx(0.95, abs=0.06)
