"""Loads the benchmark items of an experiment: the items to train on, and the items to evaluate on.

Train items that restate a test item are left out and counted. Dev and test items are never training rows.
"""

from nanoflux_local.domains.base import Domain
from nanoflux_local.domains.own import load_domain
from nanoflux_local.errors import NothingMatchedError
from nanoflux_local.experiments.grid import GridPlan
from nanoflux_local.paths import Home
from nanoflux_local.seeds.datasets import list_seed_datasets, load_available_items, load_items
from nanoflux_local.seeds.splits import extract_stem
from nanoflux_local.transcript import Seed


def load_train_items(home: Home, plan: GridPlan, domain: Domain) -> tuple[list[Seed], int]:
    """The benchmark's train items with a solution, and the number of items left out because they restate a test item.

    Raises:
        NothingMatchedError: no item is left.
    """
    datasets = plan.scale.benchmark or list_seed_datasets(domain)
    items: list[Seed] = []
    for dataset in datasets:
        items += [item for item in load_items(home.ledger, dataset, "train") if item.solution]
    test_stems: set[str] = set()
    for dataset in plan.scale.test:
        test_stems |= {extract_stem(item.question) for item in load_items(home.ledger, dataset, "test")}
    kept_items = [item for item in items if extract_stem(item.question) not in test_stems]
    if not kept_items:
        fix = "set another `benchmark` in the grid: training needs solutions"
        raise NothingMatchedError(f"no train item of {', '.join(datasets)} has a solution", fix)
    return kept_items, len(items) - len(kept_items)


def load_evaluation_items(home: Home, plan: GridPlan, data: str, split: str) -> list[Seed]:
    """The items of the benchmark `data` that do not restate a seed of the domain (GSM-Hard restates items of GSM8K), at
    most `limit` of them (a setting of the scale).

    Raises:
        NothingMatchedError: no item is left.
    """
    seed_stems: set[str] = set()
    for dataset in list_seed_datasets(load_domain(plan.scale.domain, home.root)):
        seed_stems |= {extract_stem(item.question) for item in load_available_items(home.ledger, dataset, "train")}
    items = [item for item in load_items(home.ledger, data, split) if extract_stem(item.question) not in seed_stems]
    if not items:
        raise NothingMatchedError(
            f"every {split} item of benchmark {data} repeats a seed of domain {plan.scale.domain}",
            "import more items, or choose another benchmark from `nanoflux data list`",
        )
    return items[: plan.scale.limit] if plan.scale.limit else items
