"""Writes the curves of a training run as TensorBoard's event files, if TensorBoard is installed.

The ledger holds the same curves and is authoritative. When a training run resumes, TensorBoard discards the steps that
are repeated.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nanoflux_local.errors import UsageError
from nanoflux_local.train.events import EpochEvent, OnEvent, ResumeEvent, StepEvent, TrainEvent

_CURVES = ("loss", "learning_rate", "grad_norm", "tokens_per_s")
"""The fields of a `StepEvent` that are written as curves."""


@contextmanager
def open_board(folder: Path | None) -> Iterator[OnEvent]:
    """Yield a function that writes events into `folder`, or does nothing if `folder` is None.

    Raises:
        UsageError: tensorboard is not installed.
    """
    if folder is None:
        yield lambda _: None
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        fix = "pip install 'nanoflux-local[tensorboard]', or leave --tensorboard out: the curves are in the ledger"
        raise UsageError("tensorboard is not installed", fix) from error
    with SummaryWriter(str(folder)) as writer:
        yield lambda event: _write_event(writer, event)


def _write_event(writer: Any, event: TrainEvent) -> None:
    """Add an event's values to the curves. After a resume, TensorBoard is instructed to discard the later steps."""
    if isinstance(event, StepEvent):
        for name in _CURVES:
            writer.add_scalar(f"train/{name}", getattr(event, name), event.step)
    elif isinstance(event, EpochEvent) and event.val_loss is not None:
        writer.add_scalar("validation/loss", event.val_loss, event.step)
    elif isinstance(event, ResumeEvent):
        writer.purge_step = event.step + 1
        writer.close()  # the next file starts with the instruction to discard the steps after this one
    writer.flush()
