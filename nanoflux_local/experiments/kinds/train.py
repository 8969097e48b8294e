"""Experiments that train: each condition is trained and evaluated, and declared pairs are compared (paper §4-5).

If a grid selects a condition, the condition is selected by its accuracy on dev items; accuracies on test items are only
reported.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np

from nanoflux_local.endpoints.base import Endpoint
from nanoflux_local.endpoints.build import build_model_endpoint
from nanoflux_local.errors import UsageError
from nanoflux_local.evaluate.comparison import Pair, Side, apply_holm_correction, compare_sides, load_side
from nanoflux_local.evaluate.statistics import accuracy_interval, split_folds, t_interval
from nanoflux_local.experiments.compute import compare_compute, measure_generation_cost
from nanoflux_local.experiments.evaluations import evaluate_items
from nanoflux_local.experiments.generation import find_runs
from nanoflux_local.experiments.grid import Condition, GridPlan, Scale
from nanoflux_local.experiments.items import load_evaluation_items
from nanoflux_local.experiments.kinds.base import (
    CellResult,
    ChosenCondition,
    ConditionComparison,
    ConditionEntry,
    ExperimentKind,
    OnStep,
    RecordedExperiment,
    StoredCell,
)
from nanoflux_local.experiments.rows import load_condition_rows
from nanoflux_local.experiments.tables import TableColumn, format_points
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.run import configs
from nanoflux_local.train import trainings
from nanoflux_local.train.settings import parse_train_settings
from nanoflux_local.train.summary import TrainingSummary

TRAINED_SOURCES = ("run", "benchmark")
"""The values of `Condition.source` for which a model is trained."""


class TrainKind:
    """Trains and evaluates each condition, and compares the declared pairs."""

    name: ClassVar[str] = "train"
    measures_accuracy: ClassVar[bool] = True
    columns: ClassVar[tuple[TableColumn, ...]] = (
        TableColumn("condition", 16, share=1),
        TableColumn("on", 13, from_width=90),
        TableColumn("rows", 5, right=True, from_width=56),
        TableColumn("items", 5, right=True, from_width=64),
        TableColumn("accuracy", 12, right=True),
        TableColumn("95% interval", 15, from_width=50),
        TableColumn("sd over seeds", 13, right=True, from_width=104),
    )

    def list_seeds(self, condition: Condition, scale: Scale) -> Sequence[int]:
        """Every training seed of the scale; only seed 0 for a condition that is not trained."""
        return scale.train_seeds if condition.source in TRAINED_SOURCES else (0,)

    def run_cell(self, home: Home, plan: GridPlan, condition: Condition, seed: int, on_step: OnStep) -> CellResult:
        training: CellResult = {}
        if condition.source in TRAINED_SOURCES:
            training = train_condition(home, plan, condition, seed, on_step)
        adapter = training.get("adapter", "")
        evaluations = asyncio.run(_evaluate_condition(home, plan, condition, adapter, on_step))
        return {**training, **evaluations}

    def measure_condition(self, experiment: RecordedExperiment, condition: Condition) -> Mapping[str, Any]:
        view, scale = experiment.view, experiment.plan.scale
        done_cells = experiment.done_cells(condition.name)
        if not done_cells:
            return {"test": {}, "dev": {}}
        measurements: dict[str, Any] = {
            "test": {data: asdict(_measure_accuracy(view, done_cells, "test", data)) for data in scale.test},
            "dev": {data: asdict(_measure_accuracy(view, done_cells, "dev", data)) for data in scale.dev},
        }
        if condition.source in TRAINED_SOURCES:
            measurements |= asdict(_summarize_trainings(done_cells))
        if condition.source == "run":
            cost = measure_generation_cost(experiment.home, view, experiment.runs[condition.run_key])
            measurements["generation"] = asdict(cost)
        return measurements

    def compare_conditions(
        self, experiment: RecordedExperiment, entries: Sequence[ConditionEntry]
    ) -> ConditionComparison:
        measurements_by_condition = {entry.condition: entry.measurements for entry in entries}
        return ConditionComparison(
            _compare_pairs(experiment),
            _choose_on_dev(experiment.plan, entries),
            compare_compute(measurements_by_condition.get("full"), measurements_by_condition.get("run")),
        )

    def list_rows(self, experiment_json: Mapping[str, Any]) -> list[list[object]]:
        table_rows: list[list[object]] = []
        for entry in experiment_json["conditions"]:
            row_count = f"{entry['rows']:.0f}" if "rows" in entry else ""
            for data in experiment_json["test"]:
                table_rows.append([entry["title"], data, row_count, *_format_accuracy(entry["test"].get(data))])
        return table_rows

    def write_answer(self, experiment_json: Mapping[str, Any]) -> list[str]:
        """A sentence for each declared pair: its difference, and whether the difference's interval excludes zero."""
        titles = {entry["condition"]: entry["title"] for entry in experiment_json["conditions"]}
        return [_format_pair(pair, titles) for pair in experiment_json["pairs"]]


def train_condition(home: Home, plan: GridPlan, condition: Condition, seed: int, on_step: OnStep) -> CellResult:
    """Train on the condition's rows with a training seed, and return the part of the cell's result that describes the
    training run. If the training run is finished, its result is read from the ledger.
    """
    data = load_condition_rows(home, plan, condition, seed, find_runs(home, plan))
    settings = parse_train_settings({**plan.scale.train, "seed": seed})
    training = trainings.create_training(home, plan.scale.base, settings, data)
    outcome = trainings.resume_training(home, training, lambda event: _report_step(event, on_step))
    if isinstance(outcome, TrainingSummary):
        raise KeyboardInterrupt  # a pause or stop of the training run was requested, so this cell ends too
    keys = ("adapter", "tokens", "steps", "truncated", "seconds", "flops", "train_loss", "val_loss", "val_losses")
    return {
        "training": training,
        "rows": len(data.rows),
        "source": data.source,
        **{key: outcome.document.get(key) for key in keys},
    }


def _report_step(event: Any, on_step: OnStep) -> None:
    """Report a training run's event as progress if it is a `StepEvent`."""
    if hasattr(event, "steps"):  # a StepEvent; other events have no number of steps
        on_step("steps", event.step, event.steps)


async def _evaluate_condition(
    home: Home, plan: GridPlan, condition: Condition, adapter: str, on_step: OnStep
) -> dict[str, dict[str, str]]:
    """Evaluate a condition on all benchmarks. Returns the evaluations' ids by split and benchmark."""
    benchmarks_by_split = {"test": plan.scale.test, "dev": plan.scale.dev}
    endpoint = _build_endpoint(home, plan, condition, adapter)
    try:
        return {
            split: {data: await _evaluate_split(home, plan, endpoint, data, split, on_step) for data in benchmarks}
            for split, benchmarks in benchmarks_by_split.items()
        }
    finally:
        await endpoint.close()


async def _evaluate_split(
    home: Home, plan: GridPlan, endpoint: Endpoint, data: str, split: str, on_step: OnStep
) -> str:
    """Evaluate on one split of the benchmark `data` and return the evaluation's id."""
    scale, items = plan.scale, load_evaluation_items(home, plan, data, split)
    on_progress = partial(on_step, f"{split} items")
    return await evaluate_items(home, plan, endpoint, data, split, items, scale.runs, scale.temperature, on_progress)


def _build_endpoint(home: Home, plan: GridPlan, condition: Condition, adapter: str) -> Endpoint:
    """The endpoint of a condition: the base with the cell's adapter, or the frontier model."""
    scale = plan.scale
    if condition.source == "endpoint":
        assert scale.frontier is not None
        return configs.build_profile_endpoint(scale.frontier.profile, scale.frontier.endpoint, home)[0]
    return build_model_endpoint(scale.base, adapter, home, scale.via, scale.args)


@dataclass(frozen=True, slots=True)
class TrainingMeans:
    """Means over a condition's training runs (one for each training seed), and the id, adapter and losses of each
    training run.
    """

    rows: float
    tokens: float
    seconds: float
    truncated: float
    flops: dict[str, float]
    trainings: list[str]
    adapters: list[str]
    val_losses: list[list[float]]


def _summarize_trainings(done_cells: Sequence[StoredCell]) -> TrainingMeans:
    """The means over the training runs of `done_cells`."""
    results = [cell.result for cell in done_cells]

    def compute_mean(key: str) -> float:
        return float(np.mean([result[key] for result in results]))

    def compute_mean_flops(method: str) -> float:
        return float(np.mean([result["flops"][method] for result in results]))

    return TrainingMeans(
        rows=compute_mean("rows"),
        tokens=compute_mean("tokens"),
        seconds=compute_mean("seconds"),
        truncated=compute_mean("truncated"),
        flops={method: compute_mean_flops(method) for method in ("6nd", "measured")},
        trainings=[result["training"] for result in results],
        adapters=[result["adapter"] for result in results],
        val_losses=[result["val_losses"] for result in results],
    )


def _load_condition_side(view: LedgerView, name: str, cells: Sequence[StoredCell], split: str, data: str) -> Side:
    """A condition as one side of a comparison. Each item has its marks under every training seed and repeat; only items
    that were scored under every training seed are included.
    """
    sides = [load_side(view, cell.result[split][data], partial=True) for cell in cells]
    items = set.intersection(*(set(side.marks) for side in sides))
    marks: dict[str, list[bool]] = {item: [] for item in sorted(items)}
    for side in sides:
        for item in marks:
            marks[item] += side.marks[item]

    def compute_accuracy(side: Side) -> float:
        return float(np.mean([np.mean(side.marks[item]) for item in items]))

    accuracy_by_seed = tuple(compute_accuracy(side) for side in sides)
    return Side(name, marks, accuracy_by_seed, sides[0].items_digest)


@dataclass(frozen=True, slots=True)
class FoldAccuracy:
    """The mean accuracy on each fold of the items, and the standard deviation and Student's interval of these means."""

    means: list[float]
    sd: float
    ci95: list[float]


@dataclass(frozen=True, slots=True)
class ConditionAccuracy:
    """A condition's mean accuracy over `n` items, its bootstrap interval, its standard deviation over training seeds
    (None for one seed), and the accuracies of five folds of the items (None if fewer than two folds have items).
    `by_seed` has the accuracy and `evaluations` the evaluation's id for each seed.
    """

    n: int
    mean: float
    sd: float | None
    ci95: list[float]
    by_seed: list[float]
    folds: FoldAccuracy | None
    evaluations: list[str]


def _measure_accuracy(view: LedgerView, cells: Sequence[StoredCell], split: str, data: str) -> ConditionAccuracy:
    """The accuracy of a condition's cells on one split of a benchmark, from their evaluations in the ledger."""
    side = _load_condition_side(view, "", cells, split, data)
    share_by_item = {item: float(np.mean(marks)) for item, marks in side.marks.items()}
    shares = list(share_by_item.values())
    return ConditionAccuracy(
        n=len(shares),
        mean=float(np.mean(shares)),
        sd=float(np.std(side.by_run, ddof=1)) if len(side.by_run) > 1 else None,
        ci95=list(accuracy_interval(shares)),
        by_seed=list(side.by_run),
        folds=_measure_folds(share_by_item),
        evaluations=[cell.result[split][data] for cell in cells],
    )


def _measure_folds(share_by_item: Mapping[str, float]) -> FoldAccuracy | None:
    """The accuracies of the folds of the items; None if fewer than two folds have items."""
    means: list[float] = []
    for fold in split_folds(list(share_by_item)):
        if fold:
            means.append(float(np.mean([share_by_item[item] for item in fold])))
    if len(means) < 2:
        return None
    return FoldAccuracy(means, float(np.std(means, ddof=1)), list(t_interval(means)))


def _format_accuracy(accuracy: dict[str, Any] | None) -> list[object]:
    """The table cells `items`, `accuracy`, `95% interval` and `sd over seeds`."""
    if accuracy is None:
        return ["", "not done yet", "", ""]
    low, high = accuracy["ci95"]
    spread = "" if accuracy["sd"] is None else f"{accuracy['sd']:.1%}"
    return [accuracy["n"], f"{accuracy['mean']:.1%}", f"{low:.1%} to {high:.1%}", spread]


def _compare_pairs(experiment: RecordedExperiment) -> tuple[Pair, ...]:
    """Compare the declared pairs whose cells are all done, on each test benchmark, with Holm's correction over all of
    these tests.
    """
    pairs: list[Pair] = []
    for data in experiment.plan.scale.test:
        for name_a, name_b in experiment.plan.compared_pairs:
            cells_a, cells_b = experiment.cells_if_all_done(name_a), experiment.cells_if_all_done(name_b)
            if cells_a and cells_b:
                a = _load_condition_side(experiment.view, name_a, cells_a, "test", data)
                b = _load_condition_side(experiment.view, name_b, cells_b, "test", data)
                with suppress(UsageError):  # a single item cannot be tested
                    pairs.append(compare_sides(a, b, data))
    return apply_holm_correction(pairs)


def _choose_on_dev(plan: GridPlan, entries: Sequence[ConditionEntry]) -> ChosenCondition | None:
    """The condition with the best accuracy on dev items among those that an `each` created, with its accuracy on test
    items. None if the grid selects no condition, or if no such condition is done.
    """
    candidates = {
        condition.name
        for condition in plan.conditions
        if condition.source == "run" and (condition.level or condition.seed_count or isinstance(condition.size, int))
    }
    measured_entries = [entry for entry in entries if entry.condition in candidates and entry.measurements.get("dev")]
    if not plan.grid.select or not measured_entries:
        return None

    def compute_dev_accuracy(entry: ConditionEntry) -> float:
        return float(np.mean([accuracy["mean"] for accuracy in entry.measurements["dev"].values()]))

    best = max(measured_entries, key=compute_dev_accuracy)
    test_accuracies = {data: accuracy["mean"] for data, accuracy in best.measurements["test"].items()}
    return ChosenCondition(best.condition, best.title, compute_dev_accuracy(best), test_accuracies)


def _format_pair(pair: dict[str, Any], titles: Mapping[str, str]) -> str:
    """A sentence on a declared pair. `titles` are the conditions' titles by name."""
    low, high = pair["ci95"]
    is_settled = low > 0 or high < 0
    if not is_settled:
        verdict = "the interval includes zero, so the difference is not settled"
    elif pair["holm_p"] >= 0.05:
        verdict = f"the interval excludes zero, though not after Holm's correction (p = {pair['holm_p']:.2g})"
    else:
        verdict = "the interval excludes zero"
    interval = f"95% interval {format_points(low)} to {format_points(high)}"
    difference = f"{format_points(pair['difference'])} points on {pair['data']} ({interval})"
    return f"{titles[pair['b']]} against {titles[pair['a']]}: {difference}; {verdict}."


KIND: ExperimentKind = TrainKind()
