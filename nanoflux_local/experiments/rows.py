"""The training rows of a condition: the run's examples or the benchmark's train split, by size and seed.

Rows that repeat a test item are left out and counted. Dev and test items are never training rows.
"""

import random
from collections.abc import Sequence
from typing import Any

from nanoflux_local.domains.base import Domain
from nanoflux_local.domains.own import load_domain
from nanoflux_local.errors import NothingMatchedError
from nanoflux_local.evaluate.evaluation import format_question
from nanoflux_local.experiments.grid import Condition, GridPlan
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.records import derive_seed
from nanoflux_local.seeds.datasets import items_here, load_items, seed_datasets
from nanoflux_local.seeds.splits import stem
from nanoflux_local.train.choice import Choice
from nanoflux_local.train.conversation import build_training_example
from nanoflux_local.train.data import TrainingExample
from nanoflux_local.train.trainings import TrainingData, load_run_data, load_validation_examples
from nanoflux_local.transcript import Seed


def rows_of(home: Home, plan: GridPlan, condition: Condition, seed: int, runs: dict[int, str]) -> TrainingData:
    """The rows of a condition under a training seed. `runs` are the runs by their fixed number of seed questions.

    Raises:
        NothingMatchedError: there are fewer rows than the condition asks for.
        RefusedError: it asks for quality levels and the run has none.
    """
    run = runs.get(condition.seed_count, "")
    size = _size(home, plan, condition, run)
    if condition.source == "run":
        return load_run_data(home, run, Choice(level=condition.level, size=size, seed=seed))
    domain = load_domain(plan.scale.domain, home.root)
    items, repeated = train_items(home, plan, domain)
    if size > len(items):
        fix = "choose a smaller size, or import more items"
        raise NothingMatchedError(
            f"the grid asks for {size} rows, but the benchmark has only {len(items)} training items", fix
        )
    whole = condition.size == "all"  # the same rows for every seed, which then varies only the training
    drawn = random.Random(derive_seed(0 if whole else seed, "random", plan.scale.domain))
    taken = [items[index] for index in sorted(drawn.sample(range(len(items)), size or len(items)))]
    source: dict[str, Any] = {
        "benchmark": list(plan.scale.benchmark or seed_datasets(domain)),
        "split": "train",
        "domain": domain.name,
    }
    source |= {"rows": len(taken), "of": len(items), "repeated": repeated, "seed": 0 if whole else seed}
    return TrainingData(_examples(domain, taken), load_validation_examples(home, domain), "", source)


def train_items(home: Home, plan: GridPlan, domain: Domain) -> tuple[list[Seed], int]:
    """The benchmark's train items with a solution, and how many were left out because they repeat a test item."""
    datasets = plan.scale.benchmark or seed_datasets(domain)
    items = [item for dataset in datasets for item in load_items(home.ledger, dataset, "train") if item.solution]
    held = {stem(item.question) for data in plan.scale.test for item in load_items(home.ledger, data, "test")}
    kept = [item for item in items if stem(item.question) not in held]
    if not kept:
        fix = "set another `benchmark` in the grid: training needs solutions"
        raise NothingMatchedError(f"no train item of {', '.join(datasets)} has a solution", fix)
    return kept, len(items) - len(kept)


def asked_items(home: Home, plan: GridPlan, data: str, split: str) -> list[Seed]:
    """The items of a benchmark to ask: those that repeat no seed of the domain (GSM-Hard restates GSM8K).

    Raises:
        NothingMatchedError: no item is left.
    """
    seeds = seed_datasets(load_domain(plan.scale.domain, home.root))
    seen = {stem(item.question) for dataset in seeds for item in items_here(home.ledger, dataset, "train")}
    items = [item for item in load_items(home.ledger, data, split) if stem(item.question) not in seen]
    if not items:
        raise NothingMatchedError(
            f"every {split} item of benchmark {data} was used by a run",
            "import more items, or use another benchmark of `nanoflux data list`",
        )
    return items[: plan.scale.limit] if plan.scale.limit else items


def _examples(domain: Domain, items: Sequence[Seed]) -> list[TrainingExample]:
    return [
        build_training_example(domain, domain.budgets, format_question(item), item.solution, item.answer, item.id)
        for item in items
    ]


def _size(home: Home, plan: GridPlan, condition: Condition, run: str) -> int:
    """The number of rows of a condition; 0 for all."""
    if isinstance(condition.size, int):
        return condition.size
    if condition.size == "all":
        return plan.scale.full if condition.source == "benchmark" else 0
    with LedgerView(home.ledger) as view:
        if condition.size == "run":
            return len(view.examples(view.find_run(run)["id"]))
        return least(view, view.find_run(run)["id"], plan.scale.levels)


def least(view: LedgerView, run: str, levels: Sequence[int]) -> int:
    """How many examples the rarest of these quality levels has, among those that occur: the equal size of all.

    Raises:
        NothingMatchedError: no example has a level.
    """
    sql = "SELECT level, count(*) AS n FROM examples WHERE run = ? AND level > 0 GROUP BY level"
    counts = {row["level"]: row["n"] for row in view.rows(sql, run)}
    sizes = [int(counts[level]) for level in levels if level in counts]
    if not sizes:
        fix = "generate with a judge that scores reasoning, or pass such a run with --run"
        raise NothingMatchedError(f"the examples of run {run} have no quality levels", fix)
    return min(sizes)
