"""Saves and loads checkpoints: the whole state of a training run in one file, which is written atomically.

A checkpoint needs no random state: every step derives its seed from (seed, step), so the number of steps is enough.
"""

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nanoflux_local.errors import NanofluxError, RefusedError
from nanoflux_local.files import write_atomically

NAME = "checkpoint.pt"
"""The name of the checkpoint file in the folder of a training run."""


@dataclass
class TrainingProgress:
    """The number of steps that a training run has taken, and everything measured so far.

    `flops` were measured in the first epoch, over `counted` tokens. `losses` has the loss of each step, in nats per
    label token; `epoch_losses` has the mean of each epoch, and `val_losses` starts with the loss before the first step.
    Only early stopping uses `best_weights`. Checkpoints store these fields under their names.
    """

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    flops: int = 0
    counted: int = 0
    losses: list[float] = field(default_factory=list)
    epoch_losses: list[float] = field(default_factory=list)
    val_losses: list[float | None] = field(default_factory=list)
    best_epoch: int = 0
    best_weights: dict[str, Tensor] | None = None


def save(
    folder: Path, fingerprint: str, progress: TrainingProgress, weights: dict[str, Tensor], optimizer: dict[str, Any]
) -> Path:
    """Write the checkpoint in `folder`. The previous checkpoint is replaced once the new one is complete.

    Raises:
        OSError: the file cannot be written.
    """
    buffer = io.BytesIO()
    state = {"fingerprint": fingerprint, "progress": vars(progress), "weights": weights, "optimizer": optimizer}
    torch.save(state, buffer)
    write_atomically(folder / NAME, buffer.getvalue())
    return folder / NAME


def load(folder: Path, fingerprint: str) -> tuple[TrainingProgress, dict[str, Tensor], dict[str, Any]] | None:
    """Load the checkpoint in `folder`: (progress, weights, optimizer state), or None if there is no checkpoint.

    Raises:
        RefusedError: the checkpoint was written with different settings, data or base weights.
        NanofluxError: the checkpoint cannot be read.
    """
    path = folder / NAME
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        progress = TrainingProgress(**state["progress"])
    except Exception as error:
        fix = "delete it to train from the start"
        raise NanofluxError(f"checkpoint {path} cannot be read: {error}", fix) from error
    if state["fingerprint"] != fingerprint:
        raise RefusedError(
            f"checkpoint {path} belongs to a training run with other settings, data or base model",
            "use another folder, or delete the checkpoint to train from the start",
        )
    return progress, state["weights"], state["optimizer"]
