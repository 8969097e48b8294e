"""Checkpoints: the whole state of a training in one file that is either there in full or not at all.

Owns the file's format and its atomic writing. Holds no random state: every step draws its seed from (seed, step), so
the position is enough.
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


@dataclass
class Progress:
    """Where a training stands; all of `TrainResult` that is not known beforehand.

    `flops` were measured on `counted` tokens: the first epoch's. `best_weights` serve early stopping only.
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
    folder: Path, fingerprint: str, progress: Progress, weights: dict[str, Tensor], optimizer: dict[str, Any]
) -> Path:
    """Write the checkpoint of `folder`; the one before stays until this one is whole. Raises OSError."""
    buffer = io.BytesIO()
    state = {"fingerprint": fingerprint, "progress": vars(progress), "weights": weights, "optimizer": optimizer}
    torch.save(state, buffer)
    write_atomically(folder / NAME, buffer.getvalue())
    return folder / NAME


def load(folder: Path, fingerprint: str) -> tuple[Progress, dict[str, Tensor], dict[str, Any]] | None:
    """(progress, weights, optimizer state), or None where there is no checkpoint.

    Raises RefusedError where the checkpoint belongs to other settings, data or base weights, NanofluxError where it
    cannot be read.
    """
    path = folder / NAME
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        progress = Progress(**state["progress"])
    except Exception as error:
        fix = "delete it to train from the start"
        raise NanofluxError(f"checkpoint {path} cannot be read: {error}", fix) from error
    if state["fingerprint"] != fingerprint:
        raise RefusedError(
            f"checkpoint {path} belongs to a training with other settings, data or base model",
            "take another folder, or delete the checkpoint to train from the start",
        )
    return progress, state["weights"], state["optimizer"]
