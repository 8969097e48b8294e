"""Statistics match published examples and formulas, and have their nominal levels and coverage in simulations."""

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
    minimum_detectable_difference,
    paired_t,
    predict_right_share,
    split_folds,
    t_interval,
    wilson_interval,
)

Z_975 = 1.959963984540054
"""The 97.5% quantile of the standard normal distribution."""
Z_80 = 0.8416212335729143
"""The 80% quantile of the standard normal distribution."""


def compute_mcnemar_p(lost_count, gained_count):
    """McNemar's p-value for items with one mark per evaluation: `lost_count` items are right only in evaluation a,
    `gained_count` only in b, and seven have the same mark in both.
    """
    return mcnemar_exact([-1] * lost_count + [1] * gained_count + [0] * 7)


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
    ("successes", "n", "interval"),
    [  # statsmodels 0.15.0, proportion_confint(successes, n, method="wilson")
        (0, 20, (0.0, 0.1611251580528194)),
        (15, 148, (0.06238639953073628, 0.16048724172330803)),
        (81, 263, (0.2552885198782742, 0.36620957698280004)),
        (199, 200, (0.9722262956021069, 0.9991168312843989)),
    ],
)
def test_wilson_matches_statsmodels(successes, n, interval):
    assert wilson_interval(successes, n) == pytest.approx(interval, abs=1e-9)


@pytest.mark.parametrize(("successes", "n"), [(0, 1), (1, 1), (3, 7), (50, 100), (199, 200)])
def test_wilson_matches_its_formula(successes, n):
    z, p = Z_975, successes / n
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half_width = z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    expected_interval = max(0, centre - half_width), min(1, centre + half_width)
    assert wilson_interval(successes, n) == pytest.approx(expected_interval, abs=1e-9)


def compute_binomial_p(lost_count: int, gained_count: int) -> float:
    """The p-value of the two-sided binomial test: twice the smaller tail, by enumeration."""
    n = lost_count + gained_count
    tail_count = sum(math.comb(n, k) for k in range(min(lost_count, gained_count) + 1))
    return min(1.0, 2 * tail_count / 2**n)


@pytest.mark.parametrize(
    ("lost_count", "gained_count"), [(0, 0), (1, 0), (0, 5), (5, 5), (6, 16), (2, 12), (10, 21), (86, 150)]
)
def test_mcnemar_matches_the_binomial_test_and_is_symmetric(lost_count, gained_count):
    p = compute_mcnemar_p(lost_count, gained_count)
    assert p == pytest.approx(compute_binomial_p(lost_count, gained_count), rel=1e-9)
    assert p == compute_mcnemar_p(gained_count, lost_count)


def test_mcnemar_matches_hand_computed_values():
    assert compute_mcnemar_p(0, 6) == pytest.approx(1 / 32)  # 2 · 2⁻⁶
    assert compute_mcnemar_p(6, 16) == pytest.approx(0.0524788, abs=1e-6)
    assert compute_mcnemar_p(0, 0) == 1.0


@pytest.mark.parametrize(
    ("lost_count", "gained_count", "p"),
    [  # statsmodels 0.15.0, mcnemar([[0, lost_count], [gained_count, 0]], exact=True)
        (6, 16, 0.052478790283203125),
        (2, 12, 0.012939453125),
        (10, 21, 0.07075554598122835),
        (86, 150, 3.7159361395713866e-05),
    ],
)
def test_mcnemar_matches_statsmodels(lost_count, gained_count, p):
    assert compute_mcnemar_p(lost_count, gained_count) == pytest.approx(p, rel=1e-9)


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
        p_values = rng.uniform(0, 0.2, size=6).tolist()
        adjusted = holm(p_values)
        assert all(p <= adjusted_p <= 1 for p, adjusted_p in zip(p_values, adjusted, strict=True))
        ascending_indices = sorted(range(6), key=lambda index: p_values[index])
        adjusted_in_ascending_order = [adjusted[index] for index in ascending_indices]
        assert adjusted_in_ascending_order == sorted(adjusted)
        assert min(adjusted) == pytest.approx(min(1.0, 6 * min(p_values)))


def test_bootstrap_interval_is_seeded_and_contains_the_mean():
    values = np.random.default_rng(0).normal(5, 2, size=80).tolist()
    low, high = bootstrap_interval(values)
    assert low < np.mean(values) < high
    assert bootstrap_interval(values) == (low, high)
    assert bootstrap_interval(values, seed=1) != (low, high)
    normal_width = 2 * Z_975 * np.std(values) / math.sqrt(80)
    assert high - low == pytest.approx(normal_width, rel=0.05), (
        "the bootstrap interval of a mean must be close to the normal interval"
    )


def test_bootstrap_interval_of_equal_values_has_no_width():
    assert bootstrap_interval([0.5] * 7) == (0.5, 0.5)


def test_bootstrap_in_blocks_matches_the_normal_interval():
    """With so many values, the resamples are drawn in several blocks."""
    low, high = bootstrap_interval(np.random.default_rng(0).integers(0, 2, 1319).tolist())
    assert high - low == pytest.approx(2 * Z_975 * 0.5 / math.sqrt(1319), rel=0.05)


def test_bootstrap_interval_has_its_nominal_coverage():
    rng = np.random.default_rng(1)
    covering_count = 0
    for trial in range(100):
        low, high = bootstrap_interval((rng.random(60) < 0.3).astype(float), seed=trial)
        covering_count += low <= 0.3 <= high
    assert 88 <= covering_count <= 100


def test_minimum_detectable_difference_matches_its_formula():
    differences = [1.0, 0.0, 0.0, -1.0, 1.0, 0.0, 1.0, 0.0]
    mean = 0.25
    sd = math.sqrt(sum((difference - mean) ** 2 for difference in differences) / 7)
    assert minimum_detectable_difference(differences) == pytest.approx((Z_975 + Z_80) * sd / math.sqrt(8))


@pytest.mark.parametrize("differences", [[0.0] * 8, [0.5]])
def test_minimum_detectable_difference_of_equal_differences_is_unknown(differences):
    assert minimum_detectable_difference(differences) is None


def test_minimum_detectable_difference_has_80_percent_power():
    rng = np.random.default_rng(2)
    sd, n, trials = 0.7, 200, 400
    difference = (Z_975 + Z_80) * sd / math.sqrt(n)
    detected_count = sum(stats.ttest_1samp(rng.normal(difference, sd, n), 0).pvalue < 0.05 for _ in range(trials))
    assert detected_count / trials == pytest.approx(0.8, abs=0.06)
    assert minimum_detectable_difference(rng.normal(0, sd, n)) == pytest.approx(difference, rel=0.15)


def parse_marks(pattern: str) -> list[list[bool]]:
    """The items of a pattern such as "1 0 11 10", each with the marks of its repeats."""
    return [[mark == "1" for mark in item] for item in pattern.split()]


def test_compare_paired_difference_is_b_minus_a_per_item():
    a, b = parse_marks("1 1 0 0 0 0 0 0"), parse_marks("1 0 1 1 1 1 1 0")
    tests = compare_paired(a, b)
    assert (tests.n, tests.difference) == (8, pytest.approx(4 / 8))
    assert tests.mcnemar_p == pytest.approx(compute_mcnemar_p(1, 5))
    assert tests.minimum_detectable_difference == pytest.approx(
        minimum_detectable_difference([0, -1, 1, 1, 1, 1, 1, 0])
    )
    assert tests.ci95[0] < tests.difference < tests.ci95[1]
    reversed_tests = compare_paired(b, a)
    assert reversed_tests.difference == -tests.difference and reversed_tests.mcnemar_p == tests.mcnemar_p
    assert reversed_tests.ci95 == pytest.approx((-tests.ci95[1], -tests.ci95[0]))
    assert reversed_tests.bootstrap_p == tests.bootstrap_p


def test_compare_paired_averages_repeats():
    tests = compare_paired(parse_marks("111 000 100 110"), parse_marks("011 001 110 010"))
    assert tests.difference == pytest.approx(((2 - 3) + 1 + (2 - 1) + (1 - 2)) / 12)
    assert tests.mcnemar_p == mcnemar_exact([-1, 1, 1, -1]) == 1.0
    assert compare_paired(parse_marks("10 10 10"), parse_marks("11 11 11")).mcnemar_p == 1 / 4


def test_compare_paired_is_unbiased_for_unequal_run_counts():
    """The test compares shares of right replies. A majority vote would be biased: one right reply out of one makes an
    item right, but one out of two does not.
    """
    one_run = parse_marks("0 " * 40 + "1 " * 20)
    two_runs = parse_marks("10 " * 20 + "00 " * 20 + "10 " * 8 + "11 " * 12)
    tests = compare_paired(one_run, two_runs)
    assert tests.difference == pytest.approx((20 - 8) / 120)
    assert tests.mcnemar_p == pytest.approx(compute_mcnemar_p(20, 8)) and tests.mcnemar_p < 0.05


@pytest.mark.parametrize("seed", range(4))
def test_mcnemar_of_several_runs_matches_scipy_permutation_test(seed):
    rng = np.random.default_rng(seed)
    differences = rng.integers(-3, 5, 12)
    permutation_test = stats.permutation_test(
        (differences, np.zeros(12, dtype=int)), lambda x, y: np.sum(x - y), permutation_type="samples", vectorized=False
    )
    assert mcnemar_exact(differences.tolist()) == pytest.approx(permutation_test.pvalue, rel=1e-9)


@pytest.mark.parametrize(("runs_a", "runs_b"), [(1, 1), (1, 2), (3, 3), (5, 2)])
def test_mcnemar_has_its_nominal_level(runs_a, runs_b):
    """For equal models of any accuracy, p is below 0.05 at most one time in twenty, even if one model has more runs.
    The bound on the count allows for 2.6 standard deviations of a binomial distribution.
    """
    rng, trials = np.random.default_rng(7), 400
    rejection_count = 0
    for _ in range(trials):
        right_probability = rng.beta(0.5, 2.0, (120, 1))  # one per item, equal for both models
        a, b = rng.random((120, runs_a)) < right_probability, rng.random((120, runs_b)) < right_probability
        differences = runs_a * b.sum(axis=1).astype(int) - runs_b * a.sum(axis=1).astype(int)
        rejection_count += mcnemar_exact(differences.tolist()) < 0.05
    assert rejection_count <= 0.05 * trials + 2.6 * (0.05 * 0.95 * trials) ** 0.5


def test_compare_paired_of_equal_marks_has_a_p_value_of_one():
    tests = compare_paired(parse_marks("1 0 1 0 1"), parse_marks("1 0 1 0 1"))
    assert (tests.difference, tests.mcnemar_p, tests.bootstrap_p) == (0.0, 1.0, 1.0)
    assert tests.ci95[0] == -tests.ci95[1] < 0


def test_compare_paired_never_reports_a_p_value_of_zero():
    tests = compare_paired(parse_marks("0 " * 40), parse_marks("1 " * 39 + "0"))
    assert tests.mcnemar_p == pytest.approx(2 * 0.5**39)
    assert tests.bootstrap_p == pytest.approx(2 / (RESAMPLES + 1))
    assert tests.ci95[0] > 0.9


def test_bootstrap_test_has_its_nominal_level():
    """If the models are equal, p is below 0.05 about one time in twenty."""
    rng = np.random.default_rng(3)
    rejection_count = 0
    for trial in range(100):
        difficulty = rng.random((80, 1))
        a, b = difficulty + rng.random((80, 1)) < 1, difficulty + rng.random((80, 1)) < 1
        rejection_count += compare_paired(a.tolist(), b.tolist(), seed=trial).bootstrap_p < 0.05
    assert rejection_count <= 12


SLEEP_HOURS = (
    [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0],
    [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4],
)
"""Student 1908, Biometrika 6:1: the hours of sleep that each of ten patients gained on each of two drugs."""


def test_paired_t_matches_student_1908():
    t_test = paired_t(*SLEEP_HOURS)
    assert t_test is not None
    assert (t_test.n, t_test.difference) == (10, pytest.approx(1.58))
    assert (t_test.t, t_test.p) == pytest.approx((4.062127683382037, 0.002832890197384), abs=1e-9)
    assert t_test.ci95 == pytest.approx((0.7001142367230175, 2.459885763276983), abs=1e-9)
    reversed_t_test = paired_t(*SLEEP_HOURS[::-1])
    assert reversed_t_test is not None
    assert (reversed_t_test.t, reversed_t_test.p) == pytest.approx((-t_test.t, t_test.p))


def test_paired_t_is_undefined_for_one_pair_or_equal_differences():
    assert paired_t([0.5], [0.6]) is None
    assert paired_t([0.5, 0.25], [0.75, 0.5]) is None


def test_t_interval_of_one_value_is_undefined():
    assert all(math.isnan(bound) for bound in t_interval([0.5]))


@pytest.mark.parametrize(
    ("mean", "sd", "interval"),
    [(66.40, 4.30, (61.06, 71.74))],  # the paper, §5: MultiMedQA at 200 examples over five folds
)
def test_t_interval_over_five_folds_matches_the_paper(mean, sd, interval):
    values_with_mean_0_and_sd_1 = np.array([-1.0, -1.0, 0.0, 1.0, 1.0])
    fold_accuracies = mean + sd * values_with_mean_0_and_sd_1
    assert t_interval(fold_accuracies.tolist()) == pytest.approx(interval, abs=0.005)


def test_split_folds_is_a_partition_independent_of_order():
    names = [f"item-{number}" for number in range(23)]
    folds = split_folds(names)
    assert sorted(name for fold in folds for name in fold) == sorted(names)
    assert {len(fold) for fold in folds} == {4, 5}
    assert split_folds(names[::-1]) == folds


def test_correct_prevalence_matches_rogan_and_gladen():
    """The worked example of R's epiR, epi.prev(pos = 4, tested = 80, se = 0.90, sp = 0.99), is 4.5%. There, the
    sensitivity and specificity are exact, so here they are counts out of a billion items.
    """
    billion = 1_000_000_000
    corrected = correct_prevalence(4, 80, 9 * billion // 10, billion, 99 * billion // 100, billion)
    assert corrected is not None
    assert corrected.estimate == pytest.approx((0.05 + 0.99 - 1) / (0.90 + 0.99 - 1), abs=1e-9)
    assert round(100 * corrected.estimate, 1) == 4.5
    standard_error = math.sqrt(0.05 * 0.95 / 80) / 0.89
    assert corrected.ci95 == pytest.approx((0.0, corrected.estimate + Z_975 * standard_error), abs=1e-6)


def test_correct_prevalence_keeps_the_share_that_a_perfect_judge_measures():
    corrected = correct_prevalence(30, 100, 50, 50, 50, 50)
    assert corrected is not None and corrected.estimate == pytest.approx(0.3)
    half_width = Z_975 * math.sqrt(0.3 * 0.7 / 100)
    assert corrected.ci95 == pytest.approx((0.3 - half_width, 0.3 + half_width))


def test_correct_prevalence_is_undefined_for_a_guessing_judge():
    assert correct_prevalence(30, 100, 25, 50, 25, 50) is None


def test_correct_prevalence_interval_has_its_nominal_coverage():
    rng, trials = np.random.default_rng(4), 400
    right_share, sensitivity, specificity = 0.6, 0.9, 0.8
    positive_share = right_share * sensitivity + (1 - right_share) * (1 - specificity)
    covering_count = 0
    for _ in range(trials):
        right_accepted, wrong_rejected = int(rng.binomial(100, sensitivity)), int(rng.binomial(100, specificity))
        positives = int(rng.binomial(300, positive_share))
        corrected = correct_prevalence(positives, 300, right_accepted, 100, wrong_rejected, 100)
        covering_count += corrected is not None and corrected.ci95[0] <= right_share <= corrected.ci95[1]
    assert covering_count / trials == pytest.approx(0.95, abs=0.03)


def test_accuracy_interval_of_equal_shares_is_the_wilson_interval():
    """If all four answers are right, a bootstrap interval would have no width, because every resample is 100% right."""
    low, high = accuracy_interval([1.0] * 4)
    assert (low, high) == pytest.approx(wilson_interval(4, 4)) and low < 0.6 and high == 1.0
    assert accuracy_interval([0.0] * 10) == pytest.approx(wilson_interval(0, 10))
    assert accuracy_interval([0.5] * 8) == pytest.approx(wilson_interval(4, 8))


def test_accuracy_interval_of_different_shares_is_the_bootstrap_interval():
    shares = [0.0, 1.0, 1.0, 0.5]
    assert accuracy_interval(shares) == bootstrap_interval(shares)


def test_paired_interval_of_equal_differences_has_a_positive_width():
    """The interval of Agresti and Min shrinks with the number of items, and contains the difference."""
    few_items_interval = compare_paired([[True]] * 4, [[True]] * 4).ci95
    many_items_interval = compare_paired([[True]] * 400, [[True]] * 400).ci95
    assert few_items_interval == pytest.approx((-1.96 / 6, 1.96 / 6), abs=1e-3) and many_items_interval[1] < 0.005
    low, high = compare_paired([[False]] * 5, [[True]] * 5).ci95
    assert 0 < low < 1 and high == 1.0


def test_paired_t_of_differences_equal_up_to_rounding_is_not_computed():
    """1/12 and 3/12 − 2/12 differ in their last bit only; a t-test would divide by a standard deviation that is a
    rounding error.
    """
    assert paired_t([0.0, 2 / 12], [1 / 12, 3 / 12]) is None


def test_predict_right_share_matches_bayes_rule_for_large_counts():
    n, right_share, specificity, sensitivity = 10**6, 0.6, 0.9, 0.7
    accepted_share = right_share * specificity + (1 - right_share) * (1 - sensitivity)
    right_accepted, wrong_rejected = (round(n * specificity), n), (round(n * sensitivity), n)
    accepted_count = round(n * accepted_share)
    among_accepted, among_kept = predict_right_share(right_accepted, wrong_rejected, (accepted_count, n))
    assert among_kept == among_accepted, "the default must be that right and wrong questions are kept equally often"
    expected = right_share * specificity / accepted_share
    assert among_accepted.estimate == pytest.approx(expected, abs=0.01)
    assert among_accepted.ci95 == pytest.approx((expected, expected), abs=0.02)
    kept = (round(n * accepted_share / 2), accepted_count)  # half of the accepted questions
    _, among_kept = predict_right_share(right_accepted, wrong_rejected, (accepted_count, n), kept)
    assert among_kept.estimate == pytest.approx(1 - 2 * (1 - expected), abs=0.02), (
        "the prediction must assume that every wrong question is kept"
    )


def test_predict_right_share_of_a_guessing_judge_is_uncertain():
    among_accepted, _ = predict_right_share((50, 100), (50, 100), (50, 100))
    low, high = among_accepted.ci95
    assert low < 0.1 and high > 0.9


def test_predict_right_share_of_a_perfect_judge_is_near_one():
    among_accepted, _ = predict_right_share((200, 200), (200, 200), (50, 100))
    low, _ = among_accepted.ci95
    assert low > 0.95


def test_predict_right_share_interval_has_its_nominal_coverage():
    rng, trials = np.random.default_rng(5), 60

    def draw_count(share: float, n: int) -> tuple[int, int]:
        return int(rng.binomial(n, share)), n

    covering_count = 0
    for _ in range(trials):
        right_share, specificity, sensitivity = rng.uniform(0, 1), rng.uniform(0.6, 1), rng.uniform(0.6, 1)
        accepted_share = right_share * specificity + (1 - right_share) * (1 - sensitivity)
        among_accepted, _ = predict_right_share(
            draw_count(specificity, 50), draw_count(sensitivity, 50), draw_count(accepted_share, 80)
        )
        low, high = among_accepted.ci95
        covering_count += low <= right_share * specificity / accepted_share <= high
    assert covering_count / trials == pytest.approx(0.95, abs=0.06)
