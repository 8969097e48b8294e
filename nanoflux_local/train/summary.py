"""The state of a training run at any time, and the outcome of a finished training run. Both are read from the ledger
and printed as JSON.
"""

import sqlite3
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from nanoflux_local.jobs import TRAINING, Job, Worker, load_job_state
from nanoflux_local.ledger.board import LastStep
from nanoflux_local.ledger.views import LedgerView, decode_row
from nanoflux_local.paths import Home


@dataclass(frozen=True, slots=True)
class StoredTraining:
    """The row of a training run in the ledger, decoded. `message` is the error of a failed training run, otherwise "".
    `data_hash` is the digest of the training rows. `plan` is written when the training run is created: it has the
    revision of the base, the source of the rows, the digest of the validation rows and TensorBoard's folder. `result`
    is {} until the training run is done.
    """

    id: str
    run: str
    base: str
    status: str
    message: str
    adapter: str
    data_hash: str
    settings: Mapping[str, Any]
    plan: Mapping[str, Any]
    result: Mapping[str, Any]
    seconds: float
    started_at: str

    @classmethod
    def from_row(cls, row: sqlite3.Row) -> Self:
        return decode_row(cls, row, ("settings", "plan", "result"))


@dataclass(frozen=True, slots=True)
class TrainingSummary:
    """The state of a training run, as `trainings show --json` prints it. `step` of the planned `steps` are done; before
    the first step both are 0, and the fields that describe the last step are None. `val_losses` has the loss before the
    first step and after each epoch. Losses are in nats per label token. `message` says why the training run has its
    status, or is "". `note` is the user's newest note, and `worker` is None if no process executes the training run.
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
    """The outcome of a finished training run, as `train --json` prints it; `document` is the whole record in the
    ledger.
    """

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
        field_names = ("adapter", "base", "examples", "truncated", "steps", "tokens", "tokens_per_s", "train_loss",
                       "val_loss", "initial_val_loss", "flops", "seconds")  # fmt: skip
        values = {name: document[name] for name in field_names}
        return cls(**values, train_losses=tuple(document["train_losses"]), document=document)

    def to_json(self) -> dict[str, Any]:
        """The record without the loss of every step."""
        return {key: value for key, value in self.document.items() if key != "train_losses"}


def summarize_stored(home: Home, view: LedgerView, stored: StoredTraining) -> TrainingSummary:
    """The state of a training run, with its last step, its epochs and its worker."""
    curve = view.training_curve(stored.id)
    steps = curve.steps
    last_step = LastStep.from_event(steps[-1].event if steps else {})
    recorded_state = {"status": stored.status, "message": stored.message, "seconds": round(stored.seconds, 3)}
    state = load_job_state(home, view, Job(TRAINING, stored.id), recorded_state)
    return TrainingSummary(
        training=stored.id,
        run=stored.run,
        base=stored.base,
        status=state.status,
        message=state.message,
        adapter=stored.adapter,
        **asdict(last_step),
        val_losses=[epoch.val_loss for epoch in curve.epochs],
        seconds=state.seconds,
        settings=stored.settings,
        source=stored.plan.get("source", {}),
        started_at=stored.started_at,
        worker=state.worker,
        note=view.note("training", stored.id),
    )
