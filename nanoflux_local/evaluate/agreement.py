"""Agreement beyond chance: Krippendorff's alpha of a panel, and Cohen's kappa of a judge and a person."""

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

Z95 = 1.959963984540054
"""The 97.5% quantile of the normal distribution."""


@dataclass(frozen=True, slots=True)
class ReviewerAgreement:
    """How one person's reviews compare with the judge: how often they gave each verdict, how often they agreed with the
    judge among `reviewed`, and Cohen's kappa with its 95% interval (None: undefined).
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
    """The agreement of each person who reviewed a run with its judge."""

    reviewers: dict[str, ReviewerAgreement]


def krippendorff_alpha(units: Sequence[Sequence[Hashable | None]]) -> float | None:
    """Krippendorff's alpha for nominal data (Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability").

    Each unit has one value per observer, None if it is missing. Returns None if fewer than two values can be paired, or
    if all are equal.
    """
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
    """Kappa of two raters and its 95% interval by the large-sample standard error (Fleiss, Cohen and Everitt 1969,
    formula 13). None if kappa is undefined because the raters agree by chance alone, for example with a single label.
    """
    n = len(pairs)
    labels = sorted({label for pair in pairs for label in pair}, key=repr)
    joint = Counter(pairs)
    row_counts = Counter(row_label for row_label, _ in pairs)
    column_counts = Counter(column_label for _, column_label in pairs)
    chance_agreement = sum(row_counts[label] * column_counts[label] for label in labels) / n**2 if n else 1.0
    if chance_agreement >= 1:
        return None
    observed_agreement = sum(joint[label, label] for label in labels) / n
    kappa = (observed_agreement - chance_agreement) / (1 - chance_agreement)
    agreement_term = sum(
        joint[label, label]
        / n
        * ((1 - chance_agreement) - (row_counts[label] + column_counts[label]) / n * (1 - observed_agreement)) ** 2
        for label in labels
    )
    disagreement_term = sum(
        joint[row_label, column_label] / n * ((column_counts[row_label] + row_counts[column_label]) / n) ** 2
        for row_label in labels
        for column_label in labels
        if row_label != column_label
    )
    variance = (
        agreement_term
        + (1 - observed_agreement) ** 2 * disagreement_term
        - (observed_agreement * chance_agreement - 2 * chance_agreement + observed_agreement) ** 2
    )
    standard_error = math.sqrt(max(0.0, variance) / n) / (1 - chance_agreement) ** 2
    return kappa, (max(-1.0, kappa - Z95 * standard_error), min(1.0, kappa + Z95 * standard_error))
