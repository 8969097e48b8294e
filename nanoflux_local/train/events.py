"""The events and the result of a training run, as plain frozen records.

The training loop reports them to its listeners (a ledger, a terminal, a test). They hold no tensors.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class StepEvent:
    """One optimizer step. `loss` is the mean over its label tokens in nats; `step` counts from 1."""

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
    """The losses at the end of an epoch; epoch 0 is before the first step. `val_loss` is None if no row is held out."""

    epoch: int
    step: int
    train_loss: float | None
    val_loss: float | None


@dataclass(frozen=True, slots=True)
class CheckpointEvent:
    """A checkpoint was written: the same training run, started again, resumes after this step."""

    step: int
    path: str


@dataclass(frozen=True, slots=True)
class ResumeEvent:
    """The training run resumed from a checkpoint: the steps after `step` follow, and may repeat reported steps."""

    step: int
    path: str


TrainEvent = StepEvent | EpochEvent | CheckpointEvent | ResumeEvent
OnEvent = Callable[[TrainEvent], None]


@dataclass(frozen=True, slots=True)
class TrainResult:
    """The result of a training run. Losses are in nats per label token; `tokens` counts the tokens of all epochs,
    without padding.

    If the training run is `finished`, `adapter_dir` holds PEFT's two files; otherwise it was stopped on request and
    left a checkpoint. In the JSON, the three counts of FLOPs are grouped as `flops`; `flops_explained` has the expected
    count by component, and the "total".
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
        """Mean of the last epoch's steps."""
        return self.epoch_losses[-1] if self.epoch_losses else None

    @property
    def val_loss(self) -> float | None:
        return self.val_losses[-1] if self.val_losses else None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON: the promised keys of `train --json`, and all other fields."""
        record = asdict(self) | {"adapter_dir": str(self.adapter_dir), "tokens_per_s": self.tokens_per_s}
        record["train_loss"], record["val_loss"] = self.train_loss, self.val_loss
        record["flops"] = {name: record.pop(f"flops_{name}") for name in ("6nd", "measured", "explained")}
        return record
