"""Mixes benchmark rows into the training rows of a run: their number is proportional to the run's rows, and a random
seed decides which are drawn.

Only train items with a solution are drawn, and none that restates a dev or test item, a held-out item or another drawn
item.
"""

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from nanoflux_local.domains.base import Domain
from nanoflux_local.errors import NothingMatchedError, UsageError
from nanoflux_local.evaluate.evaluation import choose_domain
from nanoflux_local.paths import Home
from nanoflux_local.quantities import format_quantity
from nanoflux_local.records import derive_seed
from nanoflux_local.seeds.datasets import list_seed_datasets, load_available_items, load_items
from nanoflux_local.seeds.splits import extract_stem
from nanoflux_local.train.conversation import build_item_example
from nanoflux_local.train.data import TrainingExample, data_digest
from nanoflux_local.transcript import Seed


@dataclass(frozen=True, slots=True)
class Mix:
    """A benchmark, and how many of its rows are added for each row of the run."""

    dataset: str
    ratio: float


@dataclass(frozen=True, slots=True)
class MixedRows:
    """The rows that were drawn for one mix, and the number of train items from which they were drawn (`usable`)."""

    mix: Mix
    rows: tuple[TrainingExample, ...]
    usable: int

    def to_json(self) -> dict[str, Any]:
        """The record of the rows in the source of a training run."""
        return {
            "dataset": self.mix.dataset,
            "ratio": self.mix.ratio,
            "rows": len(self.rows),
            "usable": self.usable,
            "digest": data_digest(self.rows),
        }


def parse_mix(text: str) -> Mix:
    """Parse "DATASET=RATIO", or "DATASET" for a ratio of 1.

    Raises:
        UsageError: the ratio is not a positive number.
    """
    dataset, separator, ratio_text = text.partition("=")
    try:
        ratio = float(ratio_text) if separator else 1.0
    except ValueError:
        ratio = math.nan
    if not dataset or not (0 < ratio < math.inf):
        raise UsageError(f"--mix {text!r} is not DATASET=RATIO with a positive number", "write --mix gsm8k=1.0")
    return Mix(dataset, ratio)


def draw_mixed_rows(
    home: Home, mixes: Iterable[Mix], domain: Domain, budgets: dict[str, int], held_out: Iterable[str],
    run_row_count: int, seed: int,
) -> list[MixedRows]:  # fmt: skip
    """Draw `ratio` × `run_row_count` rows for each mix, rounded, and at least one. `held_out` names further benchmarks
    whose test items are excluded.

    Raises:
        NothingMatchedError: a benchmark is missing, or has too few usable rows.
    """
    excluded_stems = _list_excluded_stems(home, domain, held_out)
    drawn_questions: set[str] = set()  # the questions of all mixes so far
    mixed_rows: list[MixedRows] = []
    for mix in mixes:
        dataset_stems = _list_stems(home, [mix.dataset], ("dev", "test"))
        items = _select_unique_items(load_items(home.ledger, mix.dataset, "train"), excluded_stems | dataset_stems)
        usable_items = [item for item in items if _normalize(item.question) not in drawn_questions]
        size = max(1, round(mix.ratio * run_row_count))
        if size > len(usable_items):
            usable_rows = format_quantity(len(usable_items), "usable train row")
            raise NothingMatchedError(
                f"--mix {mix.dataset}={mix.ratio:g} asks for {format_quantity(size, 'row')}, but {mix.dataset} has "
                f"{usable_rows} (with a solution, and repeating no dev, test or other mixed item)",
                f"use a ratio of at most {len(usable_items) / run_row_count:.2f}, or import more items",
            )
        rng = random.Random(derive_seed(seed, "mix", mix.dataset))
        positions = rng.sample(range(len(usable_items)), size)
        drawn_items = [usable_items[position] for position in sorted(positions)]
        drawn_questions |= {_normalize(item.question) for item in drawn_items}
        rows = _build_rows(home, mix.dataset, drawn_items, domain, budgets)
        mixed_rows.append(MixedRows(mix, rows, len(usable_items)))
    return mixed_rows


def _list_excluded_stems(home: Home, domain: Domain, held_out: Iterable[str]) -> set[str]:
    """The stems (questions without numbers, see `extract_stem`) that no mixed row may share: those of the domain's dev
    and test items, and of the test items of the benchmarks `held_out`.
    """
    datasets = dict.fromkeys([*list_seed_datasets(domain), *domain.evaluates])
    return _list_stems(home, datasets, ("dev", "test")) | _list_stems(home, held_out, ("test",))


def _list_stems(home: Home, datasets: Iterable[str], splits: Sequence[str]) -> set[str]:
    """The stems of all available questions in the `splits` of the benchmarks `datasets`."""
    stems: set[str] = set()
    for dataset in datasets:
        for split in splits:
            stems |= {extract_stem(item.question) for item in load_available_items(home.ledger, dataset, split)}
    return stems


def _select_unique_items(items: Sequence[Seed], excluded_stems: set[str]) -> list[Seed]:
    """The items that have a solution and whose question's stem is not excluded, each question once."""
    first_item_by_question: dict[str, Seed] = {}
    for item in items:
        if item.solution and extract_stem(item.question) not in excluded_stems:
            first_item_by_question.setdefault(_normalize(item.question), item)
    return list(first_item_by_question.values())


def _normalize(question: str) -> str:
    """A question without differences of case and white space."""
    return " ".join(question.casefold().split())


def _build_rows(
    home: Home, dataset: str, items: Sequence[Seed], domain: Domain, budgets: dict[str, int]
) -> tuple[TrainingExample, ...]:
    """The items as rows, with the prompt of `domain` if it uses the benchmark, otherwise with that of a domain that
    uses it.
    """
    if dataset not in (*list_seed_datasets(domain), *domain.evaluates):
        domain = choose_domain(dataset, home.root)
        budgets = domain.budgets
    return tuple(build_item_example(domain, budgets, item) for item in items)
