"""Two runs or two training runs side by side: their figures, the settings that differ, and their curves.

A screen that shows a comparison refreshes it repeatedly, and passes the same `cache` each time. A run or training is
then read again only if the ledger has new rows for it; its status and working time are always current.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Any

from nanoflux_local.jobs import RUN, TRAINING, Job, load_job_state
from nanoflux_local.ledger import board
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.run.sources import HASHES, list_leaves
from nanoflux_local.train.trainings import find_training


@dataclass(frozen=True, slots=True)
class Curve:
    """A named curve: the coordinates of its points."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True, slots=True)
class Difference:
    """A setting that differs, by its dotted key, with its value in each configuration (None if it is not set there)."""

    key: str
    first: Any
    second: Any


@dataclass(frozen=True, slots=True)
class SideBySide:
    """The comparison of two runs or training runs with the ids `first` and `second`. `figures` maps the name of each
    figure to its two values, `settings` lists the settings that differ, and `x_label` and `y_label` are the axis labels
    of the `curves`.
    """

    first: str
    second: str
    figures: dict[str, tuple[Any, Any]]
    settings: tuple[Difference, ...]
    curves: tuple[Curve, ...]
    x_label: str
    y_label: str

    def to_json(self) -> dict[str, Any]:
        """The JSON object that `run compare --json` and `trainings compare --json` print."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class CachedSide:
    """The figures and curves of one run or training, and the ids of the newest rows from which they were read."""

    newest_row_ids: tuple[object, ...]
    figures: dict[str, Any]
    curves: tuple[Curve, ...]


def diff_settings(first: Mapping[str, Any], second: Mapping[str, Any]) -> tuple[Difference, ...]:
    """The settings that differ between two stored configurations, in the order of their keys. Hashes are left out."""
    first_settings, second_settings = dict(list_leaves(first)), dict(list_leaves(second))
    all_keys = dict.fromkeys([*first_settings, *second_settings])
    differences = [
        Difference(key, first_settings.get(key), second_settings.get(key))
        for key in all_keys
        if not HASHES.fullmatch(key)
    ]
    return tuple(difference for difference in differences if difference.first != difference.second)


def compare_runs(
    home: Home, view: LedgerView, first: str, second: str, cache: dict[str, CachedSide] | None = None
) -> SideBySide:
    """Compare two runs, given by their ids, the beginnings of their ids, or their names. The curves count the kept
    examples by turn.

    Raises:
        NothingMatchedError: there is no such run.
    """
    cache = {} if cache is None else cache
    rows = [view.find_run(name) for name in (first, second)]
    figures_of_both = []
    for row in rows:
        run_id = row["id"]
        newest_row_ids = _find_newest_row_ids(
            view, run_id, "SELECT max(number) FROM turns WHERE run = ?", "SELECT max(id) FROM calls WHERE run = ?"
        )
        if run_id not in cache or cache[run_id].newest_row_ids != newest_row_ids:
            cache[run_id] = _read_run(view, run_id, _describe_run(run_id, row["name"]), newest_row_ids)
        state = load_job_state(home, view, Job(RUN, run_id), dict(row))
        figures_of_both.append({"status": state.status, **cache[run_id].figures, "seconds": round(state.seconds, 1)})
    settings = diff_settings(*(json.loads(row["config"]) for row in rows))
    ids = [row["id"] for row in rows]
    curves = tuple(curve for run_id in ids for curve in cache[run_id].curves)
    return SideBySide(ids[0], ids[1], _pair_values(*figures_of_both), settings, curves, "turn", "kept examples")


def _find_newest_row_ids(view: LedgerView, job_id: str, *queries: str) -> tuple[object, ...]:
    """The ids of the newest rows of a run or training, one for each query."""
    rows = (view.row(query, job_id) for query in queries)
    return tuple(row[0] if row else None for row in rows)


def _read_run(view: LedgerView, run: str, label: str, newest_row_ids: tuple[object, ...]) -> CachedSide:
    """Read the figures of a run, and its curve of kept examples, which is named `label`."""
    turns = list(view.rows("SELECT number, kept FROM turns WHERE run = ? ORDER BY number", run))
    kept_counts = list(accumulate(turn["kept"] for turn in turns))
    usage = view.row(
        "SELECT count(*) AS calls, coalesce(sum(prompt_tokens + completion_tokens), 0) AS tokens,"
        " coalesce(sum(usd), 0.0) AS usd FROM calls WHERE run = ?",
        run,
    )
    assert usage is not None
    kept = kept_counts[-1] if kept_counts else 0
    figures = {"turns": len(turns), "kept": kept, **view.funnel(run), **dict(usage)}
    curve = Curve(label, [turn["number"] for turn in turns], kept_counts)
    return CachedSide(newest_row_ids, figures, (curve,))


def _describe_run(run: str, name: str) -> str:
    """A run's name followed by its id, or its id alone if the run has no name."""
    return run if name == run else f"{name} ({run})"


def compare_trainings(
    home: Home, view: LedgerView, first: str, second: str, cache: dict[str, CachedSide] | None = None
) -> SideBySide:
    """Compare two training runs, given by their ids or the beginnings of their ids. The curves are the train and dev
    losses by step.

    Raises:
        NothingMatchedError: there is no such training run.
    """
    cache = {} if cache is None else cache
    trainings = [find_training(view, name) for name in (first, second)]
    figures_of_both = []
    for training in trainings:
        training_id = training.id
        newest_row_ids = _find_newest_row_ids(
            view, training_id, "SELECT max(id) FROM training_events WHERE training = ?"
        )
        if training_id not in cache or cache[training_id].newest_row_ids != newest_row_ids:
            cache[training_id] = _read_training(view, training_id, newest_row_ids)
        state = load_job_state(home, view, Job(TRAINING, training_id), asdict(training))
        figures_of_both.append({
            "status": state.status, "base": training.base, "data": training.run or "a file",
            **cache[training_id].figures, "seconds": round(state.seconds, 1),
        })  # fmt: skip
    settings = diff_settings(*(training.settings for training in trainings))
    ids = [training.id for training in trainings]
    curves = tuple(curve for training_id in ids for curve in cache[training_id].curves)
    return SideBySide(ids[0], ids[1], _pair_values(*figures_of_both), settings, curves, "step", "loss")


def _read_training(view: LedgerView, training: str, newest_row_ids: tuple[object, ...]) -> CachedSide:
    """Read the figures of a training run and its loss curves; a curve without points is left out."""
    train_curve, dev_curve = _load_loss_curves(view, training)
    last_step = board.load_last_step(view, training)
    figures = {
        "step": last_step.step, "steps": last_step.steps, "train loss": last_step.loss,
        "dev loss": dev_curve.y[-1] if dev_curve.y else None, "tokens/s": last_step.tokens_per_s,
    }  # fmt: skip
    return CachedSide(newest_row_ids, figures, tuple(curve for curve in (train_curve, dev_curve) if curve.x))


def _load_loss_curves(view: LedgerView, training: str) -> tuple[Curve, Curve]:
    """The train losses and the dev losses of a training run by step."""
    curve = view.training_curve(training)
    steps, dev_losses = curve.steps, curve.dev_losses
    return (
        Curve(f"{training} train", [step.step for step in steps], [step.loss for step in steps]),
        Curve(f"{training} dev", [step for step, _ in dev_losses], [loss for _, loss in dev_losses]),
    )


def _pair_values(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The two values of each key; both mappings have the same keys."""
    return {key: (first[key], second[key]) for key in first}


def format_value(value: Any) -> str:
    """The text of a table cell: strings are unchanged, floats rounded, None is a dash, and other values are JSON."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
