"""Computes the statistics of evaluations: intervals, paired tests, and corrections for multiple tests and for a
fallible judge. Each formula is cited; Student's test comes from scipy.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nanoflux_local.records import derive_seed

Floats = npt.NDArray[np.float64]
RESAMPLES = 10_000
"""The number of bootstrap resamples."""
CONFIDENCE = 0.95
"""The confidence level of all intervals."""
POWER = 0.8
"""The statistical power at which a difference counts as detectable."""
FOLDS = 5
"""The number of folds into which the paper splits test items."""
ROUNDING = 1e-12
"""Differences of accuracies that are closer than this count as equal: they differ only by rounding."""
POSTERIOR_DRAWS = 2_000
"""The number of pairs of specificity and sensitivity that are drawn to predict a share."""


@dataclass(frozen=True, slots=True)
class Paired:
    """The results of the paired tests of b minus a over the same `n` items. `minimum_detectable_difference` is
    the smallest true difference that a test detects with 80% power; None if all items have the same difference.
    """

    n: int
    difference: float
    ci95: tuple[float, float]
    bootstrap_p: float
    mcnemar_p: float
    minimum_detectable_difference: float | None


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """The 95% Wilson score interval of a proportion (Wilson 1927)."""
    from scipy.stats import binomtest

    interval = binomtest(successes, n).proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)


def bootstrap_interval(values: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """The 95% percentile bootstrap interval of a mean, from resampled values (Efron and Tibshirani 1993, ch. 13)."""
    means = _resample_means(np.asarray(values, dtype=np.float64), seed)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def accuracy_interval(shares: Sequence[float]) -> tuple[float, float]:
    """The 95% interval of an accuracy: the mean of the items' shares of right replies, each in [0, 1].

    The interval is the percentile bootstrap over items. If all items have the same share, resampling cannot show any
    uncertainty, and the Wilson interval for the same number of items is used instead (Wilson 1927).
    """
    if len(set(shares)) > 1:
        return bootstrap_interval(shares)
    return _wilson_bounds(shares[0], len(shares))


def _wilson_bounds(share: float, n: int) -> tuple[float, float]:
    """The 95% Wilson score interval of a share of `n` items. Unlike in `wilson_interval`, share × n need not be a whole
    number.
    """
    z = _two_sided_z(CONFIDENCE)
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half_width = z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    low, high = max(0.0, middle - half_width), min(1.0, middle + half_width)
    return min(share, low), max(share, high)  # rounding may put the share just outside the bounds


def _difference_interval(differences: Floats, means: Floats) -> tuple[float, float]:
    """The 95% interval of a mean difference of paired shares: the percentile bootstrap from the resampled `means`.

    If all items have the same difference, resampling cannot show any uncertainty. The adjusted Wald interval is used
    instead, which adds half an item to each of the four cells of the 2 × 2 table (Agresti and Min 2005, Statistics in
    Medicine 24:729).
    """
    if float(np.ptp(differences)) > 0.0:
        low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        return float(low), float(high)
    n = len(differences) + 2
    common_difference = float(differences[0])
    gained = len(differences) * max(0.0, common_difference) + 0.5
    lost = len(differences) * max(0.0, -common_difference) + 0.5
    middle = (gained - lost) / n
    half_width = _two_sided_z(CONFIDENCE) * math.sqrt(gained + lost - (gained - lost) ** 2 / n) / n
    return max(-1.0, middle - half_width), min(1.0, middle + half_width)


def _resample_means(values: Floats, seed: int) -> Floats:
    """The means of `RESAMPLES` resamples, shape (RESAMPLES,). They are computed in blocks to limit memory."""
    rng = np.random.default_rng(seed)
    block_size = max(1, 2_000_000 // max(1, len(values)))
    means: list[Floats] = []
    for start in range(0, RESAMPLES, block_size):
        resample_count = min(block_size, RESAMPLES - start)
        drawn_indices = rng.integers(0, len(values), (resample_count, len(values)))
        means.append(values[drawn_indices].mean(axis=1))
    return np.concatenate(means)


def mcnemar_exact(differences: Sequence[int]) -> float:
    """The p-value of the exact two-sided McNemar test (McNemar 1947) on the items' differences, given as integers
    (multiples of a common unit): the probability that their sum is at least as far from zero if each sign is random.
    With one mark per item, the differences are -1, 0 or 1, and this is the binomial test on the discordant pairs. With
    several marks, it is Fisher's exact test of random signs (Fisher 1935, The Design of Experiments, §21).
    """
    sizes = [abs(difference) for difference in differences if difference]
    # the probability of each possible sum, from the smallest sum in steps of two
    probabilities = np.ones(1, dtype=np.float64)
    for size in sizes:
        next_probabilities = np.zeros(len(probabilities) + size, dtype=np.float64)
        next_probabilities[: len(probabilities)] += probabilities / 2
        next_probabilities[size:] += probabilities / 2
        probabilities = next_probabilities
    sums = 2 * np.arange(len(probabilities)) - sum(sizes)
    return min(1.0, float(probabilities[np.abs(sums) >= abs(sum(differences))].sum()))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values (Holm 1979), in the order of `p_values`."""
    adjusted_p_values = [0.0] * len(p_values)
    running_maximum = 0.0
    ascending_indices = sorted(range(len(p_values)), key=lambda index: p_values[index])
    for rank, index in enumerate(ascending_indices):
        running_maximum = max(running_maximum, (len(p_values) - rank) * p_values[index])
        adjusted_p_values[index] = min(1.0, running_maximum)
    return adjusted_p_values


def minimum_detectable_difference(differences: Sequence[float]) -> float | None:
    """The smallest true mean difference that a two-sided 5% test on n pairs with the spread of `differences` detects
    with 80% power.

    It is (z₀.₉₇₅ + z₀.₈) · sd / √n, the normal approximation for paired means (Cohen 1988, §2.3). None if all
    differences are equal, for instance if no item differs, because their spread is then unknown.
    """
    spread = float(np.std(differences, ddof=1)) if len(differences) > 1 else 0.0
    if not spread:
        return None
    return (_two_sided_z(CONFIDENCE) + _two_sided_z(2 * POWER - 1)) * spread / math.sqrt(len(differences))


@dataclass(frozen=True, slots=True)
class PairedT:
    """Student's paired t-test of b minus a over `n` runs or training seeds: the mean difference with its 95% interval,
    the statistic `t` and its p-value.
    """

    n: int
    difference: float
    t: float
    p: float
    ci95: tuple[float, float]


def paired_t(a: Sequence[float], b: Sequence[float]) -> PairedT | None:
    """Student's t-test over paired runs (paper §5; Student 1908). None for fewer than two pairs, or if all pairs have
    the same difference.
    """
    from scipy.stats import ttest_rel

    differences = np.asarray(b, dtype=np.float64) - np.asarray(a, dtype=np.float64)
    if len(differences) < 2 or float(np.ptp(differences)) < ROUNDING:
        return None
    t_test = ttest_rel(b, a)
    interval = t_test.confidence_interval(CONFIDENCE)
    ci95 = float(interval.low), float(interval.high)
    return PairedT(len(differences), float(differences.mean()), float(t_test.statistic), float(t_test.pvalue), ci95)


def t_interval(values: Sequence[float]) -> tuple[float, float]:
    """Student's 95% interval of a mean over runs or folds: mean ± t₀.₉₇₅,ₙ₋₁ · sd / √n. (nan, nan) for one value."""
    from scipy.stats import t

    if len(values) < 2:
        return math.nan, math.nan
    mean, spread = float(np.mean(values)), float(np.std(values, ddof=1))
    half_width = float(t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * spread / math.sqrt(len(values))
    return mean - half_width, mean + half_width


def split_folds(names: Sequence[str], count: int = FOLDS) -> list[list[str]]:
    """Split names into `count` folds whose sizes differ by at most one. The folds do not depend on the order of
    `names`.
    """
    shuffled_names = sorted(names, key=lambda name: derive_seed("fold", name))
    return [sorted(shuffled_names[fold::count]) for fold in range(count)]


@dataclass(frozen=True, slots=True)
class Prevalence:
    """A share that is corrected for the errors of a judge, with its 95% interval; both lie in [0, 1]."""

    estimate: float
    ci95: tuple[float, float]


def correct_prevalence(
    positives: int, n: int, right_accepted: int, right_count: int, wrong_rejected: int, wrong_count: int
) -> Prevalence | None:
    """Correct an accuracy for the errors of the judge that measured it, as counted on items known to be right or wrong.

    The judge called `positives` of `n` replies right, a share of p. It accepted `right_accepted` of `right_count` items
    known to be right (sensitivity Se) and rejected `wrong_rejected` of `wrong_count` items known to be wrong
    (specificity Sp). The estimate is (p + Sp − 1) / (Se + Sp − 1) (Rogan and Gladen 1978, American Journal of
    Epidemiology 107:71). Its interval is the normal approximation with the variance of all three shares (ibid., eq. 6).
    Returns None if the judge is no better than chance.
    """
    p = positives / n
    sensitivity, specificity = right_accepted / right_count, wrong_rejected / wrong_count
    youden_index = sensitivity + specificity - 1
    if youden_index <= 0:
        return None
    estimate = (p + specificity - 1) / youden_index
    variance = (
        p * (1 - p) / n
        + estimate**2 * sensitivity * (1 - sensitivity) / right_count
        + (1 - estimate) ** 2 * specificity * (1 - specificity) / wrong_count
    ) / youden_index**2
    half_width = _two_sided_z(CONFIDENCE) * math.sqrt(variance)
    low, high = _clamp_to_share(estimate - half_width), _clamp_to_share(estimate + half_width)
    return Prevalence(_clamp_to_share(estimate), (low, high))


def _clamp_to_share(value: float) -> float:
    """The number in [0, 1] that is nearest to `value`."""
    return min(1.0, max(0.0, value))


def predict_right_share(
    right_accepted: tuple[int, int],
    wrong_rejected: tuple[int, int],
    accepted: tuple[int, int],
    kept: tuple[int, int] | None = None,
) -> tuple[Prevalence, Prevalence]:
    """Estimate the share of right questions among those that a fallible judge accepts, and among the accepted questions
    that are kept. Each argument is a pair (hits, n).

    Here, the judge is a test for wrong solutions. It accepted `right_accepted` of the solutions known to be right
    (specificity Sp), rejected `wrong_rejected` of the solutions known to be wrong (sensitivity Se), and accepted
    `accepted` of the questions of unknown correctness. If a share π of these questions is right, the judge accepts the
    share a = π·Sp + (1−π)·(1−Se), and by Bayes' rule the share ρ = π·Sp / a of the accepted questions is right. `kept`
    counts the accepted questions that become examples. These are assumed to include all wrong questions, so that of K
    questions kept out of A accepted ones, the share (K − (1−ρ)·A) / K is right. If `kept` is None, right and wrong
    questions are assumed to be kept equally often.

    The estimates are posterior medians with 95% credible intervals. The priors are uniform on π and Jeffreys on Sp and
    Se, and the likelihood of `accepted` is binomial. If `kept` is given, the prior on how often right questions are
    kept is uniform.
    """
    rng = np.random.default_rng(0)
    # axis 0: draws of specificity and sensitivity; axis 1: values of π
    specificity, sensitivity = _draw_shares(rng, *right_accepted), _draw_shares(rng, *wrong_rejected)
    prevalence = np.linspace(0, 1, 201)[np.newaxis]
    accepted_share = prevalence * specificity + (1 - prevalence) * (1 - sensitivity)
    right_share = prevalence * specificity / accepted_share
    accepted_count, question_count = accepted
    rejected_count = question_count - accepted_count
    log_weights = accepted_count * np.log(accepted_share) + rejected_count * np.log1p(-accepted_share)
    right_share_of_kept = right_share
    if kept is not None:
        kept_count, candidate_count = kept
        wrong_count = (1 - right_share) * candidate_count  # all wrong questions are assumed to be kept
        right_count = candidate_count - np.minimum(wrong_count, kept_count)
        log_weights += np.where(wrong_count <= kept_count, -np.log(right_count + 1), -np.inf)
        right_share_of_kept = (1 - wrong_count / kept_count).clip(0, 1)
    weights = np.exp(log_weights - log_weights.max())
    return _summarize_posterior(right_share, weights), _summarize_posterior(right_share_of_kept, weights)


# The annotation is quoted because evaluating it would import numpy.random when this module is imported.
def _draw_shares(rng: "np.random.Generator", hits: int, n: int) -> Floats:
    """Draw shares, shaped (POSTERIOR_DRAWS, 1), from the posterior of `hits` in `n` under Jeffreys' prior."""
    return rng.beta(hits + 0.5, n - hits + 0.5, (POSTERIOR_DRAWS, 1)).clip(1e-9, 1 - 1e-9)


def _summarize_posterior(values: Floats, weights: Floats) -> Prevalence:
    """The median and the 95% credible interval of weighted values."""
    low, median, high = _weighted_quantiles(values, weights)
    return Prevalence(median, (low, high))


def _weighted_quantiles(values: Floats, weights: Floats) -> list[float]:
    """The 2.5%, 50% and 97.5% quantiles of weighted values."""
    order = np.argsort(values, axis=None)
    cumulative_weights = np.cumsum(weights.ravel()[order])
    tail_probability = (1 - CONFIDENCE) / 2
    probabilities = np.array([tail_probability, 0.5, 1 - tail_probability])
    positions = np.searchsorted(cumulative_weights, probabilities * cumulative_weights[-1])
    return [float(value) for value in values.ravel()[order][positions]]


def _two_sided_z(confidence: float) -> float:
    """The z for which a standard normal value lies between -z and z with the probability `confidence`."""
    from scipy.stats import norm

    return float(norm.ppf((1 + confidence) / 2))


def compare_paired(a: Sequence[Sequence[bool]], b: Sequence[Sequence[bool]], seed: int = 0) -> Paired:
    """Compare two evaluations item by item, b minus a. Each element of `a` and `b` has an item's marks, one for each
    repeat.

    Both tests use the difference between an item's shares of right marks. All differences are multiples of
    1 / `denominator`, so that McNemar's test can count with whole numbers.
    """
    denominator = math.lcm(*(len(marks) for marks in (*a, *b)))
    numerators = [
        sum(marks_b) * (denominator // len(marks_b)) - sum(marks_a) * (denominator // len(marks_a))
        for marks_a, marks_b in zip(a, b, strict=True)
    ]
    differences = np.array(numerators, dtype=np.float64) / denominator
    means = _resample_means(differences, seed)
    tail_count = min(int((means <= 0).sum()), int((means >= 0).sum()))
    return Paired(
        n=len(differences),
        difference=float(differences.mean()),
        ci95=_difference_interval(differences, means),
        bootstrap_p=min(1.0, 2 * (tail_count + 1) / (RESAMPLES + 1)),
        mcnemar_p=mcnemar_exact(numerators),
        minimum_detectable_difference=minimum_detectable_difference(differences.tolist()),
    )
