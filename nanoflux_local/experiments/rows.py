"""Loads a condition's training rows: examples of a run or train items of a benchmark, by size and training seed."""

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

from nanoflux_local.domains.base import Domain
from nanoflux_local.domains.own import load_domain
from nanoflux_local.endpoints.local.tokens import TokenCounter
from nanoflux_local.errors import NothingMatchedError
from nanoflux_local.experiments.answers import choose_items, load_answers
from nanoflux_local.experiments.grid import Condition, GridPlan
from nanoflux_local.experiments.items import load_train_items
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.quantities import format_quantity
from nanoflux_local.records import derive_seed
from nanoflux_local.seeds.datasets import list_seed_datasets
from nanoflux_local.train.choice import Choice, choose_rows, find_turns_with_verdict
from nanoflux_local.train.conversation import build_item_example
from nanoflux_local.train.data import TrainingExample
from nanoflux_local.train.mixing import Mix
from nanoflux_local.train.trainings import TrainingData, load_run_data, load_validation_examples
from nanoflux_local.transcript import Seed
from nanoflux_models.weights import weights_dir


def load_condition_rows(
    home: Home, plan: GridPlan, condition: Condition, seed: int, runs: dict[str, str]
) -> TrainingData:
    """The rows of a condition under a training seed. `runs` are the experiment's runs by `Condition.run_key`.

    Raises:
        NothingMatchedError: there are fewer rows than the condition asks for.
        RefusedError: the condition asks for quality levels, but the run has none.
    """
    run = runs.get(condition.run_key, "")
    size = _count_rows(home, plan, condition, run)
    if condition.source == "run":
        return _load_run_rows(home, plan, condition, run, size, seed)
    domain = load_domain(plan.scale.domain, home.root)
    items, repeated_count = load_train_items(home, plan, domain)
    if condition.needs_answers:
        with LedgerView(home.ledger) as view:
            items = choose_items(condition, items, load_answers(view, plan.id), domain)
    if condition.equal == "tokens" and items:
        run_data = load_run_data(home, run, Choice(size=size, seed=seed))
        size = _count_rows_with_as_many_tokens(home, plan, items, domain, run_data)
    if size > len(items):
        fix = "choose a smaller size, or import more items"
        available_items = format_quantity(len(items), "training item")
        raise NothingMatchedError(
            f"the grid asks for {format_quantity(size, 'row')}, but the benchmark has only {available_items}", fix
        )
    # If the size is "all", the rows are the same for every training seed, and only the training varies.
    draw_seed = 0 if condition.size == "all" else seed
    rng = random.Random(derive_seed(draw_seed, "random", plan.scale.domain))
    drawn_indices = sorted(rng.sample(range(len(items)), size or len(items)))
    drawn_items = [items[index] for index in drawn_indices]
    source: dict[str, Any] = {
        "benchmark": list(plan.scale.benchmark or list_seed_datasets(domain)),
        "split": "train",
        "domain": domain.name,
    }
    if condition.solved:
        source["solved"] = condition.solved
    if condition.solution != "author":
        origins = {condition.solution: len(drawn_items)}
        source["solution"] = {"rule": condition.solution, "without": 0, "origins": origins}
    source |= {"rows": len(drawn_items), "of": len(items), "repeated": repeated_count, "seed": draw_seed}
    return TrainingData(_build_examples(domain, drawn_items), load_validation_examples(home, domain), "", source)


def _load_run_rows(home: Home, plan: GridPlan, condition: Condition, run: str, size: int, seed: int) -> TrainingData:
    """Examples of a run, with benchmark rows mixed in if the condition has a `mix`. `size` counts both, so that all
    conditions have the same number of rows.
    """
    run_row_count = round(size / (1 + condition.mix))
    choice = Choice(level=condition.level, size=run_row_count, seed=seed, solution=condition.solution)
    datasets = plan.scale.benchmark or list_seed_datasets(load_domain(plan.scale.domain, home.root))
    mixes = [Mix(dataset, condition.mix / len(datasets)) for dataset in datasets if condition.mix]
    return load_run_data(home, run, choice, plan.scale.base, mixes)


def _count_rows_with_as_many_tokens(
    home: Home, plan: GridPlan, items: Sequence[Seed], domain: Domain, reference: TrainingData
) -> int:
    """How many items of average length have about as many tokens as all rows of `reference`, counted with the base
    model's tokenizer.
    """
    counter = TokenCounter(weights_dir(plan.scale.base, home.root))

    def count_tokens(rows: Sequence[TrainingExample]) -> int:
        total = 0
        for row in rows:
            total += sum(counter.count(message.content) for message in row.prompt)
            total += counter.count(row.completion)
        return total

    mean_tokens = count_tokens(_build_examples(domain, items)) / len(items)
    return max(1, round(count_tokens(reference.rows) / mean_tokens))


def _build_examples(domain: Domain, items: Sequence[Seed]) -> list[TrainingExample]:
    """The items as training rows with the domain's prompt."""
    return [build_item_example(domain, domain.budgets, item) for item in items]


def _count_rows(home: Home, plan: GridPlan, condition: Condition, run: str) -> int:
    """The number of rows of a condition; 0 stands for all rows."""
    if isinstance(condition.size, int):
        return condition.size
    if condition.size == "all":
        return plan.scale.full if condition.source == "benchmark" else 0
    with LedgerView(home.ledger) as view:
        if condition.size == "run":
            rows, _ = choose_rows(view, view.find_run(run)["id"], Choice())
            return len(rows)
        return count_rarest_level(view, view.find_run(run)["id"], plan.scale.levels)


def count_rarest_level(view: LedgerView, run: str, levels: Sequence[int]) -> int:
    """The number of examples of the rarest quality level in `levels`: the levels are compared with this many rows each.
    Levels without examples and examples that a reviewer dropped do not count.

    Raises:
        NothingMatchedError: no example has a level.
    """
    dropped_turns = find_turns_with_verdict(view, run, "drop")
    rows = view.rows("SELECT turn, level FROM examples WHERE run = ? AND level > 0", run)
    counts = Counter(row["level"] for row in rows if row["turn"] not in dropped_turns)
    sizes = [counts[level] for level in levels if level in counts]
    if not sizes:
        fix = "generate with `--set judge.quality=true`, or pass a run that has quality levels with --run"
        raise NothingMatchedError(f"the examples of run {run} have no quality levels", fix)
    return min(sizes)
