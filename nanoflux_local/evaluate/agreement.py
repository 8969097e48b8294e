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
                for other in values[:index] + values[index + 1 :]:
                    coincidences[value, other] += 1 / (len(values) - 1)
    totals: defaultdict[Hashable, float] = defaultdict(float)
    for (value, _), count in coincidences.items():
        totals[value] += count
    n = sum(totals.values())
    expected = n * n - sum(count * count for count in totals.values())
    if n < 2 or expected <= 1e-9:
        return None
    observed = sum(count for (one, other), count in coincidences.items() if one != other)
    return float(1 - (n - 1) * observed / expected)


def cohen_kappa(pairs: Sequence[tuple[Hashable, Hashable]]) -> tuple[float, tuple[float, float]] | None:
    """Kappa of two raters and its 95% interval by the large-sample standard error (Fleiss, Cohen and Everitt 1969,
    formula 13). None if kappa is undefined, because the raters would agree by chance alone.
    """
    n = len(pairs)
    labels = sorted({label for pair in pairs for label in pair}, key=repr)
    joint = Counter(pairs)
    rows, columns = Counter(one for one, _ in pairs), Counter(other for _, other in pairs)
    chance = sum(rows[label] * columns[label] for label in labels) / n**2 if n else 1.0
    if chance >= 1:
        return None
    agreed = sum(joint[label, label] for label in labels) / n
    kappa = (agreed - chance) / (1 - chance)
    agreement_term = sum(
        joint[label, label] / n * ((1 - chance) - (rows[label] + columns[label]) / n * (1 - agreed)) ** 2
        for label in labels
    )
    disagreement_term = sum(
        joint[one, other] / n * ((columns[one] + rows[other]) / n) ** 2
        for one in labels
        for other in labels
        if one != other
    )
    variance = agreement_term + (1 - agreed) ** 2 * disagreement_term - (agreed * chance - 2 * chance + agreed) ** 2
    error = math.sqrt(max(0.0, variance) / n) / (1 - chance) ** 2
    return kappa, (max(-1.0, kappa - Z95 * error), min(1.0, kappa + Z95 * error))
