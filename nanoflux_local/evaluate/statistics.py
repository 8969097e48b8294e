"""The statistics of a comparison: intervals, paired tests, corrections. Formulas are cited; scipy where it has them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
RESAMPLES = 10_000
CONFIDENCE = 0.95
POWER = 0.8


@dataclass(frozen=True, slots=True)
class Paired:
    """A paired comparison, b minus a, over the same items."""

    n: int
    difference: float
    ci95: tuple[float, float]
    bootstrap_p: float
    mcnemar_p: float
    minimum_detectable: float


def wilson(successes: int, n: int) -> tuple[float, float]:
    """The 95% Wilson score interval of a proportion (Wilson 1927)."""
    from scipy.stats import binomtest

    interval = binomtest(successes, n).proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)


def bootstrap_interval(values: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """The 95% percentile bootstrap interval of a mean, items resampled (Efron and Tibshirani 1993, ch. 13)."""
    means = _resampled_means(np.asarray(values, dtype=np.float64), seed)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def _resampled_means(values: Floats, seed: int) -> Floats:
    """Means of `RESAMPLES` resamples, shape (RESAMPLES,); in blocks, so that memory stays small at any n."""
    rng = np.random.default_rng(seed)
    block = max(1, 2_000_000 // max(1, len(values)))
    means = [
        values[rng.integers(0, len(values), (min(block, RESAMPLES - start), len(values)))].mean(axis=1)
        for start in range(0, RESAMPLES, block)
    ]
    return np.concatenate(means)


def mcnemar_exact(only_a: int, only_b: int) -> float:
    """The exact two-sided McNemar test on the discordant pairs (McNemar 1947; binomial with p = 1/2)."""
    from scipy.stats import binomtest

    discordant = only_a + only_b
    return float(binomtest(only_a, discordant, 0.5).pvalue) if discordant else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values (Holm 1979), in the order given."""
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        running = max(running, (len(p_values) - rank) * p_values[index])
        adjusted[index] = min(1.0, running)
    return adjusted


def minimum_detectable(differences: Sequence[float]) -> float:
    """The smallest true mean difference that a two-sided 5% test on these n pairs finds with 80% power.

    (z₀.₉₇₅ + z₀.₈) · sd / √n, the normal approximation for paired means (Cohen 1988, §2.3).
    """
    from scipy.stats import norm

    spread = float(np.std(differences, ddof=1)) if len(differences) > 1 else math.nan
    return float((norm.ppf((1 + CONFIDENCE) / 2) + norm.ppf(POWER)) * spread / math.sqrt(len(differences)))


def compare_paired(a: Sequence[Sequence[bool]], b: Sequence[Sequence[bool]], seed: int = 0) -> Paired:
    """Compare two conditions item by item; each item holds one mark per repeat.

    Differences are between an item's mean marks; McNemar's test takes each item's majority over the repeats.
    """
    rates_a = np.array([np.mean(marks) for marks in a], dtype=np.float64)
    rates_b = np.array([np.mean(marks) for marks in b], dtype=np.float64)
    differences = rates_b - rates_a
    means = _resampled_means(differences, seed)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    tail = min(int((means <= 0).sum()), int((means >= 0).sum()))
    right_a, right_b = rates_a > 0.5, rates_b > 0.5
    return Paired(
        n=len(differences),
        difference=float(differences.mean()),
        ci95=(float(low), float(high)),
        bootstrap_p=min(1.0, 2 * (tail + 1) / (RESAMPLES + 1)),
        mcnemar_p=mcnemar_exact(int((right_a & ~right_b).sum()), int((~right_a & right_b).sum())),
        minimum_detectable=minimum_detectable(differences.tolist()),
    )
