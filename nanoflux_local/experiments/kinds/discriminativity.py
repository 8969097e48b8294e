"""Measures example discriminativity (paper §5): the distance between right and wrong solutions to the same questions.

Right solutions are the reference solutions; wrong solutions are a model's replies that were scored as wrong. The
distance is the cosine distance of their embeddings. It is measured between the centres of all right and all wrong
solutions, as in the paper, and also between the right and the wrong solution to each question, because the topics of
the questions influence the distance of the centres, but not the distance within a pair.
"""

import asyncio
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from nanoflux_local.config import EndpointConfig, validate_model
from nanoflux_local.domains.own import load_domain
from nanoflux_local.endpoints.build import build_embedder, build_model_endpoint
from nanoflux_local.errors import NothingMatchedError
from nanoflux_local.evaluate.statistics import CONFIDENCE
from nanoflux_local.experiments.evaluations import evaluate_items
from nanoflux_local.experiments.generation import find_runs
from nanoflux_local.experiments.grid import DEFAULT_RUN, Condition, GridPlan, Scale
from nanoflux_local.experiments.items import load_train_items
from nanoflux_local.experiments.kinds.base import (
    NO_COMPARISON,
    CellResult,
    ConditionComparison,
    ConditionEntry,
    ExperimentKind,
    OnStep,
    RecordedExperiment,
)
from nanoflux_local.experiments.tables import TableColumn
from nanoflux_local.ledger.calls import CachedCalls
from nanoflux_local.ledger.packing import CALLS
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.quantities import format_quantity
from nanoflux_local.records import EmbedRequest, derive_seed
from nanoflux_local.roles.sections import Unparsed, read_sections
from nanoflux_local.run import configs
from nanoflux_local.train.solutions import list_wrong_defences

Matrix = npt.NDArray[np.float64]
KEYS = ("pairs", "centres", "each")
"""The keys of a cell's result that `experiment show --json` includes; "each" is the distance within pairs."""
RESAMPLES = 2000
"""The number of bootstrap resamples of the pairs."""
MIN_PAIRS = 4
"""The smallest number of pairs for which the distance of the centres is meaningful."""


class DiscriminativityKind:
    """Measures how far apart right and wrong solutions lie."""

    name: ClassVar[str] = "discriminativity"
    measures_accuracy: ClassVar[bool] = False
    columns: ClassVar[tuple[TableColumn, ...]] = (
        TableColumn("solutions", 16, share=1),
        TableColumn("pairs", 5, right=True, from_width=66),
        TableColumn("between centres", 25),
        TableColumn("within pairs", 25, from_width=80),
    )

    def list_seeds(self, condition: Condition, scale: Scale) -> Sequence[int]:
        del condition, scale  # nothing is trained, so one cell is enough
        return (0,)

    def run_cell(self, home: Home, plan: GridPlan, condition: Condition, seed: int, on_step: OnStep) -> CellResult:
        del seed, on_step  # embedding takes only seconds, so no progress is reported
        return measure_discriminativity(home, plan, condition, find_runs(home, plan)[DEFAULT_RUN])

    def measure_condition(self, experiment: RecordedExperiment, condition: Condition) -> Mapping[str, Any]:
        done_cells = experiment.done_cells(condition.name)
        result = done_cells[0].result if done_cells else {}
        return {key: result[key] for key in KEYS if key in result}

    def compare_conditions(
        self, experiment: RecordedExperiment, entries: Sequence[ConditionEntry]
    ) -> ConditionComparison:
        del experiment, entries  # the conditions have different questions, which cannot be paired
        return NO_COMPARISON

    def list_rows(self, experiment_json: Mapping[str, Any]) -> list[list[object]]:
        return [_format_row(entry) for entry in experiment_json["conditions"]]

    def write_answer(self, experiment_json: Mapping[str, Any]) -> list[str]:
        return [_format_sentence(entry) for entry in experiment_json["conditions"] if "centres" in entry]


@dataclass(frozen=True, slots=True)
class SolutionPair:
    """A right and a wrong solution to one question."""

    right: str
    wrong: str


def measure_discriminativity(home: Home, plan: GridPlan, condition: Condition, run: str) -> CellResult:
    """Both distances of a condition's solutions, with bootstrap intervals over questions.

    Raises:
        NothingMatchedError: there are fewer wrong solutions than `MIN_PAIRS`.
    """
    if condition.source == "run":
        pairs = load_run_solutions(home, run)
    else:
        pairs = asyncio.run(_collect_benchmark_solutions(home, plan, run))
    if len(pairs) < MIN_PAIRS:
        solutions = format_quantity(len(pairs), "wrong solution")
        raise NothingMatchedError(
            f"condition {condition.name} has {solutions}, but at least {MIN_PAIRS} are needed",
            "generate more examples",
        )
    right_vectors, wrong_vectors = asyncio.run(_embed_solutions(home, plan, pairs))
    distances = measure_distances(right_vectors, wrong_vectors)
    return {"pairs": len(pairs), "centres": asdict(distances.centres), "each": asdict(distances.within_pairs)}


def load_run_solutions(home: Home, run: str) -> list[SolutionPair]:
    """A pair for each example that was kept because the defender failed: the attacker's validated solution and the
    defender's first wrong one.
    """
    with LedgerView(home.ledger) as view:
        last_attempts = [record.last_attempt for record in view.turn_records(run)]
    attempts = [attempt for attempt in last_attempts if attempt.outcome == "kept_failed"]
    return [
        SolutionPair(attempt.attack.solution, wrong_defences[0].solution)
        for attempt in attempts
        if attempt.attack and (wrong_defences := list_wrong_defences(attempt))
    ]


async def _collect_benchmark_solutions(home: Home, plan: GridPlan, run: str) -> list[SolutionPair]:
    """Solutions to random train items that the base model answers wrong, at most as many as `load_run_solutions`
    returns.
    """
    domain = load_domain(plan.scale.domain, home.root)
    items, _ = load_train_items(home, plan, domain)
    solution_count = len(load_run_solutions(home, run))
    sample_size = min(len(items), 3 * solution_count)  # more items than needed, since the model answers many right
    sampled_items = random.Random(derive_seed(0, "discriminativity")).sample(items, sample_size)
    endpoint = build_model_endpoint(plan.scale.base, "", home)
    try:
        evaluation = await evaluate_items(
            home, plan, endpoint, sampled_items[0].dataset, "train", sampled_items, 1, 0.0
        )
    finally:
        await endpoint.close()
    reference_by_item = {item.id: item.solution for item in sampled_items}
    with LedgerView(home.ledger) as view:
        rows = view.rows(
            f"SELECT item, reply FROM evaluation_items JOIN {CALLS} AS replies ON replies.id = call"
            " WHERE evaluation = ? AND verdict = 'wrong' ORDER BY item",
            evaluation,
        )
        item_sections = [(row["item"], read_sections(json.loads(row["reply"])["text"], ("SOLUTION",))) for row in rows]
    pairs = [
        SolutionPair(reference_by_item[item], sections["SOLUTION"])
        for item, sections in item_sections
        if not isinstance(sections, Unparsed)
    ]
    return pairs[:solution_count]


async def _embed_solutions(home: Home, plan: GridPlan, pairs: Sequence[SolutionPair]) -> tuple[Matrix, Matrix]:
    """Unit vectors of the right and of the wrong solutions, each of shape (pairs, dimensions)."""
    profile = configs.load_profile(plan.scale.profile, home)
    name = profile["embedder"]
    embedder = build_embedder(validate_model(EndpointConfig, profile["endpoints"][name], f"endpoints.{name}"), home)
    try:
        with Ledger(home.ledger) as ledger:
            calls = CachedCalls(ledger, plan.id, {"embed": embedder.embed})
            texts = [text for pair in pairs for text in (pair.right, pair.wrong)]
            answers = await asyncio.gather(*(calls.ask(EmbedRequest(embedder.identity, text)) for text in texts))
            vectors = np.array([reply.vector for _, reply in answers], dtype=np.float64)
            await calls.close()
    finally:
        await embedder.close()
    right_vectors, wrong_vectors = vectors[::2], vectors[1::2]  # in `texts`, right and wrong solutions alternate
    return right_vectors, wrong_vectors


@dataclass(frozen=True, slots=True)
class Distance:
    """A cosine distance with its 95% interval."""

    distance: float
    ci95: list[float]


@dataclass(frozen=True, slots=True)
class Distances:
    """The distance between the centres of right and wrong solutions, and the mean distance within each pair."""

    centres: Distance
    within_pairs: Distance


def measure_distances(right_vectors: Matrix, wrong_vectors: Matrix) -> Distances:
    """The distance of the centres and the mean distance of the pairs, each with the 95% interval of a percentile
    bootstrap over the pairs. Row i of both arguments is the unit vector of a solution to question i.
    """
    rng = np.random.default_rng(0)
    pair_count = len(right_vectors)
    draws = rng.integers(0, pair_count, (RESAMPLES, pair_count))
    resampled_centres = [_measure_centre_distance(right_vectors[draw], wrong_vectors[draw]) for draw in draws]
    pair_distances = 1 - np.sum(right_vectors * wrong_vectors, axis=1)
    resampled_means = pair_distances[draws].mean(axis=1)
    return Distances(
        centres=Distance(_measure_centre_distance(right_vectors, wrong_vectors), _compute_interval(resampled_centres)),
        within_pairs=Distance(float(pair_distances.mean()), _compute_interval(resampled_means)),
    )


def _measure_centre_distance(right_vectors: Matrix, wrong_vectors: Matrix) -> float:
    """The cosine distance between the means of both sets of vectors."""
    return _cosine_distance(right_vectors.mean(axis=0), wrong_vectors.mean(axis=0))


def _cosine_distance(a: Matrix, b: Matrix) -> float:
    """One minus the cosine of the angle between two vectors, which need not have unit length."""
    return float(1 - a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def _compute_interval(values: Sequence[float] | Matrix) -> list[float]:
    """The 95% percentile interval of resampled values."""
    low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return [float(low), float(high)]


def _format_row(entry: Mapping[str, Any]) -> list[object]:
    """A condition's row in the table of conditions."""
    if "centres" not in entry:
        return [entry["title"], entry.get("pairs", ""), "not done yet", ""]
    return [entry["title"], entry["pairs"], _format_distance(entry["centres"]), _format_distance(entry["each"])]


def _format_distance(distance: Mapping[str, Any]) -> str:
    low, high = distance["ci95"]
    return f"{distance['distance']:.4f} ({low:.4f} to {high:.4f})"


def _format_sentence(entry: Mapping[str, Any]) -> str:
    """A sentence with both distances of a condition, as in the experiment's answer."""
    centres = entry["centres"]
    low, high = centres["ci95"]
    between_centres = f"{centres['distance']:.4f} between the centres ({low:.4f} to {high:.4f})"
    within_pairs = f"{entry['each']['distance']:.4f} within pairs"
    return f"{entry['title']}: {between_centres}, {within_pairs}, over {format_quantity(entry['pairs'], 'question')}."


KIND: ExperimentKind = DiscriminativityKind()
