"""Computes agreement beyond chance: Krippendorff's alpha among the judges of a panel, and Cohen's kappa between a judge
and a person.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import permutations

Z95 = 1.959963984540054
"""The 97.5% quantile of the normal distribution."""


@dataclass(frozen=True, slots=True)
class ReviewerAgreement:
    """How one person's reviews compare with the judge's verdicts: to how many of the `reviewed` examples the person
    gave each verdict (keep, drop or fix), on how many the person agrees with the judge, and Cohen's kappa with its 95%
    interval (None if kappa is undefined).
    """

    reviewed: int
    keep: int
    drop: int
    fix: int
    agree: int
    kappa: float | None
    ci95: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class ReviewAgreement:
    """The agreement between a run's judge and each person who reviewed the run."""

    reviewers: dict[str, ReviewerAgreement]


def krippendorff_alpha(units: Sequence[Sequence[Hashable | None]]) -> float | None:
    """Krippendorff's alpha for nominal data (Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability").

    Each unit lists one value per observer; None stands for a missing value. Returns None if fewer than two values can
    be paired, or if all values are equal.
    """
    # how often each ordered pair of values occurs within a unit, weighted so that every value counts once
    coincidences: defaultdict[tuple[Hashable, Hashable], float] = defaultdict(float)
    for unit in units:
        values = [value for value in unit if value is not None]
        if len(values) > 1:
            for index, value in enumerate(values):
                for paired_value in values[:index] + values[index + 1 :]:
                    coincidences[value, paired_value] += 1 / (len(values) - 1)
    totals: defaultdict[Hashable, float] = defaultdict(float)
    for (value, _), count in coincidences.items():
        totals[value] += count
    n = sum(totals.values())
    expected = n * n - sum(count * count for count in totals.values())
    if n < 2 or expected <= 1e-9:
        return None
    observed = sum(count for (value, paired_value), count in coincidences.items() if value != paired_value)
    return float(1 - (n - 1) * observed / expected)


def cohen_kappa(pairs: Sequence[tuple[Hashable, Hashable]]) -> tuple[float, tuple[float, float]] | None:
    """Cohen's kappa of two raters, given each unit's pair of labels, and the 95% interval of kappa by the large-sample
    standard error (Fleiss, Cohen and Everitt 1969, formula 13). None if kappa is undefined: there are no pairs, or both
    raters always use the same label, so agreement by chance is certain.
    """
    n = len(pairs)
    labels = sorted({label for pair in pairs for label in pair}, key=repr)
    pair_counts = Counter(pairs)
    first_counts = Counter(first_label for first_label, _ in pairs)
    second_counts = Counter(second_label for _, second_label in pairs)
    chance_agreement = sum(first_counts[label] * second_counts[label] for label in labels) / n**2 if n else 1.0
    if chance_agreement >= 1:
        return None
    observed_agreement = sum(pair_counts[label, label] for label in labels) / n
    kappa = (observed_agreement - chance_agreement) / (1 - chance_agreement)
    agreement_terms: list[float] = []
    for label in labels:
        label_share = (first_counts[label] + second_counts[label]) / n
        weight = (1 - chance_agreement) - label_share * (1 - observed_agreement)
        agreement_terms.append(pair_counts[label, label] / n * weight**2)
    disagreement_terms: list[float] = []
    for first_label, second_label in permutations(labels, 2):
        weight = (second_counts[first_label] + first_counts[second_label]) / n
        disagreement_terms.append(pair_counts[first_label, second_label] / n * weight**2)
    variance = (
        sum(agreement_terms)
        + (1 - observed_agreement) ** 2 * sum(disagreement_terms)
        - (observed_agreement * chance_agreement - 2 * chance_agreement + observed_agreement) ** 2
    )
    standard_error = math.sqrt(max(0.0, variance) / n) / (1 - chance_agreement) ** 2
    return kappa, (max(-1.0, kappa - Z95 * standard_error), min(1.0, kappa + Z95 * standard_error))
