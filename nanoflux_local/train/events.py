"""The events and the result of a training run, as frozen dataclasses without tensors.

The training loop reports the events to its caller, which records them in the ledger or prints them.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class StepEvent:
    """One optimizer step: number `step`, counted from 1, of the planned `steps`. `loss` is the mean over its label
    tokens in nats, and `tokens` counts its tokens without padding.
    """

    step: int
    steps: int
    epoch: int
    loss: float
    learning_rate: float
    grad_norm: float
    tokens: int
    tokens_per_s: float


@dataclass(frozen=True, slots=True)
class EpochEvent:
    """The losses at the end of an epoch, in nats per label token. Epoch 0 is the state before the first step, without a
    `train_loss`. `val_loss` is None if no row is held out.
    """

    epoch: int
    step: int
    train_loss: float | None
    val_loss: float | None


@dataclass(frozen=True, slots=True)
class CheckpointEvent:
    """A checkpoint was written. If the training run is started again, it resumes after this step."""

    step: int
    path: str


@dataclass(frozen=True, slots=True)
class ResumeEvent:
    """The training run resumed from a checkpoint. The next step is `step` + 1, which may have been reported before."""

    step: int
    path: str


TrainEvent = StepEvent | EpochEvent | CheckpointEvent | ResumeEvent
OnEvent = Callable[[TrainEvent], None]
"""A function to which the training loop reports its events."""


@dataclass(frozen=True, slots=True)
class TrainResult:
    """The result of a training run. Losses are in nats per label token; `tokens` counts the tokens of all epochs,
    without padding. `train_losses` has the loss of each step, `epoch_losses` and `val_losses` have one loss for each
    epoch, and `initial_val_loss` was measured before the first step. `truncated` and `dropped` are numbers of rows.
    `flops_explained` has the expected FLOPs of each component and their "total". If `padding_free` is true, the rows of
    a batch were joined instead of padded.

    If `finished` is true, `adapter_dir` holds PEFT's two files; otherwise the training run was stopped on request and
    left a checkpoint.
    """

    finished: bool
    adapter_dir: Path
    examples: int
    validation_examples: int
    truncated: int
    dropped: int
    steps: int
    tokens: int
    train_losses: tuple[float, ...]
    epoch_losses: tuple[float, ...]
    val_losses: tuple[float | None, ...]
    initial_val_loss: float | None
    flops_6nd: float
    flops_measured: float
    flops_explained: dict[str, float]
    seconds: float
    dtype: str
    device: str
    processes: int
    attention: str
    padding_free: bool
    data_digest: str

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0

    @property
    def train_loss(self) -> float | None:
        """The mean loss of the last epoch's steps; None if no epoch is complete."""
        return self.epoch_losses[-1] if self.epoch_losses else None

    @property
    def val_loss(self) -> float | None:
        return self.val_losses[-1] if self.val_losses else None

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON, with the losses and speed that `train --json` prints. The three figures of FLOPs are
        grouped under "flops".
        """
        record = asdict(self) | {"adapter_dir": str(self.adapter_dir), "tokens_per_s": self.tokens_per_s}
        record["train_loss"], record["val_loss"] = self.train_loss, self.val_loss
        record["flops"] = {name: record.pop(f"flops_{name}") for name in ("6nd", "measured", "explained")}
        return record
