"""Two runs or two trainings side by side: their figures, the settings in which they differ, and their curves."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Any

from nanoflux_local.ledger import board
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.run.sources import HASHES, list_leaves
from nanoflux_local.train.trainings import find_training


@dataclass(frozen=True, slots=True)
class Curve:
    """The points of one curve."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True, slots=True)
class Difference:
    """A setting by its dotted key, with its values on both sides; None if a side does not set it."""

    key: str
    first: Any
    second: Any


@dataclass(frozen=True, slots=True)
class SideBySide:
    """Two runs or trainings by their ids: figures by name, differing settings, and curves with the labels of their
    axes.
    """

    first: str
    second: str
    figures: dict[str, tuple[Any, Any]]
    settings: tuple[Difference, ...]
    curves: tuple[Curve, ...]
    x_label: str
    y_label: str

    def to_json(self) -> dict[str, Any]:
        """The keys of `run compare --json` and `trainings compare --json`."""
        return asdict(self)


def diff_settings(first: Mapping[str, Any], second: Mapping[str, Any]) -> tuple[Difference, ...]:
    """The settings in which two stored configurations differ, in the order of their keys. Hashes are left out."""
    sides = [dict(list_leaves(values)) for values in (first, second)]
    keys = [key for key in dict.fromkeys([*sides[0], *sides[1]]) if not HASHES.fullmatch(key)]
    pairs = ((key, sides[0].get(key), sides[1].get(key)) for key in keys)
    return tuple(Difference(key, left, right) for key, left, right in pairs if left != right)


def compare_runs(view: LedgerView, first: str, second: str) -> SideBySide:
    """Compare two runs, given by their ids, the beginnings of their ids, or their names. The curves count the kept
    examples by turn.

    Raises:
        NothingMatchedError: there is no such run.
    """
    rows = [view.find_run(name) for name in (first, second)]
    figures, curves = [], []
    for row in rows:
        turns = list(view.rows("SELECT number, kept FROM turns WHERE run = ? ORDER BY number", row["id"]))
        kept_counts = list(accumulate(turn["kept"] for turn in turns))
        curves.append(Curve(_describe_run(row["id"], row["name"]), [turn["number"] for turn in turns], kept_counts))
        usage = view.row(
            "SELECT count(*) AS calls, coalesce(sum(prompt_tokens + completion_tokens), 0) AS tokens,"
            " coalesce(sum(usd), 0.0) AS usd FROM calls WHERE run = ?",
            row["id"],
        )
        assert usage is not None
        funnel = view.funnel(row["id"])
        figures.append({
            "status": row["status"], "turns": len(turns), "kept": kept_counts[-1] if kept_counts else 0,
            **funnel, **dict(usage), "seconds": round(row["seconds"], 1),
        })  # fmt: skip
    settings = diff_settings(*(json.loads(row["config"]) for row in rows))
    return SideBySide(
        rows[0]["id"], rows[1]["id"], _pair_values(*figures), settings, tuple(curves), "turn", "kept examples"
    )  # fmt: skip


def _describe_run(run: str, name: str) -> str:
    """A run's id, after its name if it has one."""
    return run if name == run else f"{name} ({run})"


def compare_trainings(view: LedgerView, first: str, second: str) -> SideBySide:
    """Compare two trainings, given by their ids or the beginnings of their ids. The curves are the train and dev losses
    by step.

    Raises:
        NothingMatchedError: there is no such training.
    """
    trainings = [find_training(view, name) for name in (first, second)]
    figures, curves = [], []
    for training in trainings:
        train_curve, dev_curve = _load_loss_curves(view, training.id)
        curves += [curve for curve in (train_curve, dev_curve) if curve.x]
        last_step = board.last_step(view, training.id)
        figures.append({
            "status": training.status, "base": training.base, "data": training.run or "a file",
            "step": last_step.step, "steps": last_step.steps, "train loss": last_step.loss,
            "dev loss": dev_curve.y[-1] if dev_curve.y else None, "tokens/s": last_step.tokens_per_s,
            "seconds": round(training.seconds, 1),
        })  # fmt: skip
    settings = diff_settings(*(training.settings for training in trainings))
    ids = [training.id for training in trainings]
    return SideBySide(ids[0], ids[1], _pair_values(*figures), settings, tuple(curves), "step", "loss")


def _load_loss_curves(view: LedgerView, training: str) -> tuple[Curve, Curve]:
    """The train losses and the dev losses of a training by step."""
    curve_events = view.training_curve(training)
    steps = [event for kind, event in curve_events if kind == "step"]
    epochs = [event for kind, event in curve_events if kind == "epoch" and event.get("val_loss") is not None]
    return (
        Curve(f"{training} train", [event["step"] for event in steps], [event["loss"] for event in steps]),
        Curve(f"{training} dev", [event["step"] for event in epochs], [event["val_loss"] for event in epochs]),
    )


def _pair_values(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {key: (first[key], second[key]) for key in first}


def format_value(value: Any) -> str:
    """A value in a cell: text unchanged, a missing value as a dash, and everything else as JSON."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
