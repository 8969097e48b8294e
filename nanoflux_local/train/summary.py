"""The state of a training at any time, and its outcome once it is done.

Both are read from the ledger's rows. This module also defines their JSON.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from nanoflux_local.jobs import TRAINING, Work, Worker, check_work
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home

_LAST_STEP = ("epoch", "loss", "learning_rate", "grad_norm", "tokens_per_s")


@dataclass(frozen=True, slots=True)
class TrainingSummary:
    """The state of a training, as `trainings show --json` prints it. `step` is the last of `steps` that is done; before
    the first step both are 0 and the fields of the last step are None. `val_losses` has one entry before the first step
    and one for each epoch. Losses are in nats per label token. `worker` is None unless a process works on the training.
    """

    training: str
    run: str
    base: str
    status: str
    message: str
    adapter: str
    step: int
    steps: int
    epoch: int | None
    loss: float | None
    learning_rate: float | None
    grad_norm: float | None
    tokens_per_s: float | None
    val_losses: list[float | None]
    seconds: float
    settings: Mapping[str, Any]
    source: Mapping[str, Any]
    started_at: str
    note: str
    worker: Worker | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class TrainingOutcome:
    """The outcome of a finished training, as `train --json` prints it; `document` is the whole record in the ledger."""

    adapter: str
    base: str
    examples: int
    truncated: int
    steps: int
    tokens: int
    tokens_per_s: float
    train_losses: tuple[float, ...]
    train_loss: float | None
    val_loss: float | None
    initial_val_loss: float | None
    flops: Mapping[str, Any]
    seconds: float
    document: Mapping[str, Any]

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        names = ("adapter", "base", "examples", "truncated", "steps", "tokens", "tokens_per_s", "train_loss",
                 "val_loss", "initial_val_loss", "flops", "seconds")  # fmt: skip
        fields = {name: document[name] for name in names}
        return cls(**fields, train_losses=tuple(document["train_losses"]), document=document)

    def to_json(self) -> dict[str, Any]:
        """The record without the loss of every step."""
        return {key: value for key, value in self.document.items() if key != "train_losses"}


def summarize_row(home: Home, view: LedgerView, row: Mapping[str, Any]) -> TrainingSummary:
    """The state of the training in this row of the ledger, with its last step, its epochs and its worker."""
    curve = view.training_curve(row["id"])
    last_step: dict[str, Any] = next((event for kind, event in reversed(curve) if kind == "step"), {})
    fields = {
        "training": row["id"],
        "run": row["run"],
        "base": row["base"],
        "status": row["status"],
        "message": row["message"],
        "adapter": row["adapter"],
        "step": last_step.get("step", 0),
        "steps": last_step.get("steps", 0),
        **{key: last_step.get(key) for key in _LAST_STEP},
        "val_losses": [event["val_loss"] for kind, event in curve if kind == "epoch"],
        "seconds": round(row["seconds"], 3),
        "settings": json.loads(row["settings"]),
        "source": json.loads(row["plan"]).get("source", {}),
        "started_at": row["started_at"],
        "note": view.note("training", row["id"]),
    }
    state = check_work(home, view, Work(TRAINING, row["id"]), fields)
    current = {"status": state.status, "message": state.message, "seconds": state.seconds, "worker": state.worker}
    return TrainingSummary(**{**fields, **current})
