"""Compares finished evaluations item by item, with paired tests, Holm's correction and the detectable difference.

Both sides must have the same items. An item that one side could not score is left out on both sides and counted. Each
difference is an evaluation minus its base (`items.order_base_first`).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any

from nanoflux_local.errors import NothingMatchedError, RefusedError, UsageError
from nanoflux_local.evaluate.evaluation import PARTIAL
from nanoflux_local.evaluate.items import Flip, find_flips, order_base_first
from nanoflux_local.evaluate.statistics import compare_paired, holm, paired_t
from nanoflux_local.evaluate.summary import describe_missing, read_missing_causes
from nanoflux_local.ledger.views import LedgerView

ItemMarks = Mapping[str, Sequence[bool]]
"""Whether each scored repeat of an item is right, by item."""


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a comparison: its marks, the accuracy of each of its repeats (or training seeds), and the digest of
    all its items, scored or not.
    """

    name: str
    marks: ItemMarks
    by_run: tuple[float, ...] = ()
    items_digest: str = ""


@dataclass(frozen=True, slots=True)
class Pair:
    """The paired tests of two sides, b minus its base a, over the `n` items that both sides scored, and the `flips`.

    `left_out` counts the items that only one side scored. `holm_p` is McNemar's p corrected over the pairs of one
    comparison. `paired_t_p` is None if there is no t-test over runs; `minimum_detectable` is the minimum detectable
    difference, None if all items have the same difference. `data` names the benchmark in an experiment, which may have
    several benchmarks.
    """

    a: str
    b: str
    n: int
    difference: float
    ci95: tuple[float, float]
    bootstrap_p: float
    mcnemar_p: float
    minimum_detectable: float | None
    paired_t_p: float | None
    left_out: int
    holm_p: float
    data: str = ""
    flips: tuple[Flip, ...] = ()

    @property
    def gained(self) -> int:
        """The number of items on which b is better than a."""
        return sum(flip.is_gained for flip in self.flips)

    @property
    def lost(self) -> int:
        """The number of items on which b is worse than a."""
        return len(self.flips) - self.gained

    @property
    def is_settled(self) -> bool:
        """Whether the interval of the difference excludes zero."""
        low, high = self.ci95
        return low > 0 or high < 0

    def to_json(self) -> dict[str, Any]:
        """The pair as `experiment show --json` prints it, without flips; "data" is left out if it is empty."""
        values = {**asdict(self), "ci95": list(self.ci95), "gained": self.gained, "lost": self.lost}
        del values["data"], values["flips"]
        return {"data": self.data, **values} if self.data else values


@dataclass(frozen=True, slots=True)
class Comparison:
    """The pairs of one comparison, with Holm's correction over all of them."""

    pairs: tuple[Pair, ...]

    def to_json(self) -> dict[str, Any]:
        """The JSON object that `compare --json` prints."""
        pair_entries = []
        for pair in self.pairs:
            flip_entries = [{"item": flip.item, "a": flip.base, "b": flip.other} for flip in pair.flips]
            pair_entries.append({**pair.to_json(), "flips": flip_entries})
        return {"pairs": pair_entries}


def compare(view: LedgerView, evaluations: Sequence[str], partial: bool = False) -> Comparison:
    """Compare all pairs of evaluations with paired tests and Holm's correction over these pairs.

    Evaluations without an adapter are the bases of the others, whatever the order of `evaluations`. If `partial` is
    true, items whose replies are missing are left out on both sides; otherwise evaluations with missing replies are
    refused.

    Raises:
        NothingMatchedError: an evaluation is unknown or not finished.
        UsageError: there are fewer than two evaluations, they have different items, or they share only one item.
        RefusedError: replies are missing, and `partial` is false.
    """
    if len(set(evaluations)) < 2:
        raise UsageError("a comparison needs two different evaluations", "list evaluations with `nanoflux eval list`")
    ordered_evaluations = order_base_first(view, list(dict.fromkeys(evaluations)))
    sides = [load_side(view, name, partial) for name in ordered_evaluations]
    uncorrected_pairs = [compare_sides(a, b) for a, b in combinations(sides, 2)]
    return Comparison(apply_holm_correction(uncorrected_pairs))


def compare_sides(a: Side, b: Side, data: str = "") -> Pair:
    """Test one pair, b minus a. Its `holm_p` is not corrected yet: `apply_holm_correction` corrects it.

    Raises:
        UsageError: the sides have different items or share only one.
    """
    shared_items = sorted(a.marks.keys() & b.marks.keys())
    all_items = a.marks.keys() | b.marks.keys()
    if a.items_digest and b.items_digest:
        have_same_items = a.items_digest == b.items_digest
    else:
        have_same_items = len(shared_items) == len(all_items)
    if not have_same_items or not shared_items:
        raise UsageError(
            f"evaluations {a.name} and {b.name} have different items", "evaluate both with the same --data and --limit"
        )
    if len(shared_items) == 1:
        raise UsageError(
            f"evaluations {a.name} and {b.name} share only one item, too few for a test", "evaluate at least two items"
        )
    marks_a, marks_b = [a.marks[item] for item in shared_items], [b.marks[item] for item in shared_items]
    tests = compare_paired(marks_a, marks_b)
    t_test = paired_t(a.by_run, b.by_run) if len(a.by_run) == len(b.by_run) else None
    return Pair(
        a=a.name,
        b=b.name,
        n=tests.n,
        difference=tests.difference,
        ci95=tests.ci95,
        bootstrap_p=tests.bootstrap_p,
        mcnemar_p=tests.mcnemar_p,
        minimum_detectable=tests.minimum_detectable_difference,
        paired_t_p=t_test.p if t_test else None,
        left_out=len(all_items) - len(shared_items),
        holm_p=tests.mcnemar_p,
        data=data,
        flips=tuple(find_flips(_compute_shares(a.marks), _compute_shares(b.marks))),
    )


def _compute_shares(marks: ItemMarks) -> dict[str, float]:
    """The share of right replies, for each item that has a mark."""
    return {item: sum(item_marks) / len(item_marks) for item, item_marks in marks.items() if item_marks}


def apply_holm_correction(pairs: Sequence[Pair]) -> tuple[Pair, ...]:
    """The pairs, each with a `holm_p` that is corrected over all `pairs`."""
    adjusted_p_values = holm([pair.mcnemar_p for pair in pairs])
    return tuple(replace(pair, holm_p=p) for pair, p in zip(pairs, adjusted_p_values, strict=True))


def load_side(view: LedgerView, evaluation: str, partial: bool = False) -> Side:
    """Load a finished or partial evaluation as one side of a comparison.

    Raises:
        NothingMatchedError: the evaluation is unknown, or neither finished nor partial.
        RefusedError: replies are missing, and `partial` is false.
    """
    row = view.row("SELECT status, settings, result FROM evaluations WHERE id = ?", evaluation)
    if row is None or row["status"] not in ("done", PARTIAL):
        raise NothingMatchedError(f"no finished evaluation {evaluation!r} in this home", "run `nanoflux eval` first")
    result = json.loads(row["result"])
    causes = read_missing_causes(result)
    if causes and not partial:
        raise RefusedError(
            f"evaluation {evaluation} is partial: {describe_missing(causes)}",
            "complete it with the same `nanoflux eval` command, or compare the scored items with --partial",
        )
    marks: dict[str, list[bool]] = {}
    rows = view.rows(
        "SELECT item, verdict FROM evaluation_items WHERE evaluation = ? AND verdict <> 'unscored'"
        " ORDER BY item, repeat",
        evaluation,
    )
    for item_row in rows:
        marks.setdefault(item_row["item"], []).append(item_row["verdict"] == "right")
    items_digest = json.loads(row["settings"]).get("items", "")
    return Side(evaluation, marks, tuple(result.get("by_run", ())), items_digest)
