"""The training loop: LoRA on a frozen base, loss on completions only (paper §3, A.1).

`train` turns rows into the adapter's two files. Every source of randomness is seeded: on one machine, training runs
with the same inputs produce bit-identical weights, even if one of them was killed and resumed. The loop does not use
the ledger, but reports through `on_event`. It stops with an error if the loss is not finite.
"""

import errno
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from nanoflux_local.adapters.store import write_weights
from nanoflux_local.errors import NanofluxError
from nanoflux_local.records import derive_seed, digest
from nanoflux_local.train import checkpoint
from nanoflux_local.train.audit import Selection, prepare_rows
from nanoflux_local.train.counter import FlopCounter
from nanoflux_local.train.data import Codec, EncodedExample, TrainingExample, data_digest, draw_batches
from nanoflux_local.train.distributed import ProcessGroup, join_process_group
from nanoflux_local.train.events import CheckpointEvent, EpochEvent, OnEvent, ResumeEvent, StepEvent, TrainResult
from nanoflux_local.train.flops import TrainingVolume, count_parameters, explain_flops, read_base_identity, six_nd
from nanoflux_local.train.model import (
    TrainableModel,
    choose_device,
    choose_dtype,
    collect_lora_weights,
    load_lora_weights,
)
from nanoflux_local.train.settings import TrainSettings
from nanoflux_local.train.targets import resolve_targets


@dataclass(frozen=True, slots=True)
class OptimizerStep:
    """One optimizer step: its epoch (from 1), the row indices of each forward pass, and whether it ends the epoch."""

    epoch: int
    micro_batches: tuple[tuple[int, ...], ...]
    ends_epoch: bool


def plan_steps(settings: TrainSettings, lengths: Sequence[int]) -> list[OptimizerStep]:
    """All steps of a training run, given the rows' lengths in tokens. Equal arguments give equal steps, so the steps do
    not change when training resumes.
    """
    steps: list[OptimizerStep] = []
    for epoch in range(1, settings.epochs + 1):
        batches = [tuple(batch) for batch in draw_batches(lengths, settings.batch, settings.seed, epoch)]
        batches_per_step = settings.gradient_accumulation
        for start in range(0, len(batches), batches_per_step):
            end = start + batches_per_step
            steps.append(OptimizerStep(epoch, tuple(batches[start:end]), ends_epoch=end >= len(batches)))
    return steps


def compute_learning_rate(settings: TrainSettings, step: int, steps: int) -> float:
    """The learning rate of a step, counted from 0: a linear rise over the warm-up, then a linear fall to zero after
    `steps` steps.
    """
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / (settings.warmup_steps + 1)
    return settings.learning_rate * (steps - step) / max(1, steps - settings.warmup_steps)


def train(
    settings: TrainSettings,
    examples: Sequence[TrainingExample],
    validation: Sequence[TrainingExample],
    base_dir: Path,
    out_dir: Path,
    on_event: OnEvent = lambda _: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> TrainResult:
    """Train a LoRA adapter of the model in `base_dir` and leave it in `out_dir/adapter` (paper §3, A.1).

    If `validation` is empty, the share `val_fraction` of the examples is held out. If `out_dir` has a checkpoint of the
    same training run, training resumes from it. `should_stop` is called after each step; if it returns True, this
    function writes a checkpoint and returns a result that is not `finished`. If several processes train
    (`distributed`), each takes a share of every batch; only the main process calls `should_stop`, reports events and
    writes files.

    Raises:
        DataError: there is nothing to train on.
        RefusedError: a row is unusable and the settings forbid dropping it, or the checkpoint belongs to a different
            training run.
        NanofluxError: the loss is not finite, memory ran out or the disk is full; the last good checkpoint is kept.
    """
    usable, validation_selection = prepare_rows(settings, examples, validation, Codec.load(base_dir))
    resolve_targets(base_dir, settings.target_modules)  # raises UsageError for unusable targets before weights are read
    out_dir.mkdir(parents=True, exist_ok=True)
    digests = [data_digest(examples), data_digest(validation)]
    with (
        _isolate_torch_state(settings),
        _explain_shortages(out_dir),
        join_process_group(choose_device(settings.device).type == "cpu") as group,
    ):
        loop = _TrainingLoop(settings, usable, validation_selection, base_dir, out_dir, on_event, group)
        loop.fingerprint = _compute_fingerprint(settings, digests, base_dir, group.size)
        finished = loop.run(should_stop)
        return loop.build_result(finished, digests[0])


def _compute_fingerprint(settings: TrainSettings, digests: list[str], base_dir: Path, processes: int) -> str:
    """A digest of everything that determines the weights. A checkpoint with a different digest belongs to a different
    training run. The setting `checkpoint_every` does not change the weights and is left out.
    """
    relevant_settings = settings.model_dump(mode="json", exclude={"checkpoint_every"})
    inputs: list[object] = [relevant_settings, digests, read_base_identity(base_dir)]
    if processes > 1:
        inputs.append(processes)
    return digest(inputs)


@contextmanager
def _isolate_torch_state(settings: TrainSettings) -> Iterator[None]:
    """Use the settings' number of threads, and restore the caller's random state and number of threads at the end."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng():
        torch.set_num_threads(settings.threads or threads)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


@contextmanager
def _explain_shortages(out_dir: Path) -> Iterator[None]:
    """Turn exhausted memory or disk space into a NanofluxError; the last checkpoint is not changed."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        fix = "free disk space, then run the same command again"
        raise NanofluxError(f"no space left to write in {out_dir}{_describe_checkpoint(out_dir)}", fix) from error
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        fix = "set a smaller batch with gradient_accumulation, a lower max_length, or gradient_checkpointing=true"
        raise NanofluxError(f"out of memory while training in {out_dir}{_describe_checkpoint(out_dir)}", fix) from error


def _describe_checkpoint(out_dir: Path) -> str:
    """The end of an error message, which says that the checkpoint is kept; "" if there is no checkpoint."""
    return "; the last good checkpoint is kept" if (out_dir / checkpoint.NAME).exists() else ""


_OUT_OF_MEMORY_MESSAGES = ("allocate memory", "bad_alloc", "could not create a primitive")
"""Phrases in torch's messages when memory is exhausted on a CPU. The last is from oneDNN, which does not mention
memory.
"""


def _is_out_of_memory(error: Exception) -> bool:
    """Whether the error says that memory is exhausted, on a GPU or a CPU."""
    is_memory_error = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return is_memory_error or any(message in str(error) for message in _OUT_OF_MEMORY_MESSAGES)


class _TrainingLoop:
    """Trains a model and holds its state: the optimizer, the planned steps and the progress through them. `usable` has
    the training rows, `validation` the validation rows. `fingerprint` is set after construction, before `run`.
    """

    def __init__(
        self,
        settings: TrainSettings,
        usable: Selection,
        validation: Selection,
        base_dir: Path,
        out_dir: Path,
        on_event: OnEvent,
        group: ProcessGroup,
    ) -> None:
        self.settings, self.usable, self.validation, self.group = settings, usable, validation, group
        self.base_dir, self.out_dir = base_dir, out_dir
        self.on_event: OnEvent = on_event if group.rank == 0 else lambda _: None
        self.rows = usable.rows
        self.fingerprint = ""
        self.steps = plan_steps(settings, [len(row.ids) for row in self.rows])
        self.device = group.device or choose_device(settings.device)
        self.dtype = choose_dtype(settings.dtype, self.device)
        self.model = TrainableModel(settings, base_dir, self.device, self.dtype)
        self.optimizer = torch.optim.AdamW(
            self.model.trainable_weights, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )
        self.progress = checkpoint.TrainingProgress()

    def run(self, should_stop: Callable[[], bool]) -> bool:
        """Take the remaining steps and write the adapter. Returns False if the training run was stopped before the
        end.
        """
        self._resume()
        if self.progress.step == 0 and not self.progress.val_losses:
            self._record_epoch(0)  # measures the validation loss before the first step
        while self.progress.step < len(self.steps) and not self._is_patience_exhausted():
            self._advance()
            if self.progress.step < len(self.steps) and self.group.broadcast(should_stop):
                self._save_checkpoint()
                return False
        self._write_adapter()
        return True

    def _advance(self) -> None:
        """Take the next step. At the end of an epoch, validate and save a checkpoint; otherwise save a checkpoint every
        `checkpoint_every` steps.
        """
        step = self.steps[self.progress.step]
        self._take_optimizer_step(step)
        if step.ends_epoch:
            self._record_epoch(step.epoch)
        if step.ends_epoch or self.progress.step % self.settings.checkpoint_every == 0:
            self._save_checkpoint()

    def _take_optimizer_step(self, step: OptimizerStep) -> None:
        """Take one optimizer step, add it to the progress and report it as a StepEvent."""
        start, progress = time.perf_counter(), self.progress
        learning_rate = compute_learning_rate(self.settings, progress.step, len(self.steps))
        rank_seed = [self.group.rank] if self.group.rank else []  # rank 0 uses the seed of a single process
        torch.manual_seed(derive_seed(self.settings.seed, "step", progress.step, *rank_seed))
        with FlopCounter() if step.epoch == 1 else nullcontext() as counter:
            loss = self._accumulate(step)
        norm = float(nn.utils.clip_grad_norm_(self.model.trainable_weights, self.settings.max_grad_norm))
        self._require_finite(loss, norm, step)
        self.optimizer.param_groups[0]["lr"] = learning_rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        seconds = time.perf_counter() - start
        tokens = sum(len(row.ids) for row in self._list_rows(step))
        progress.step += 1
        progress.tokens += tokens
        progress.seconds += seconds
        if counter is not None:
            progress.flops += round(self.group.sum_values(counter.total))
            progress.counted += tokens
        progress.losses.append(loss)
        self.on_event(
            StepEvent(progress.step, len(self.steps), step.epoch, loss, learning_rate, norm, tokens, tokens / seconds)
        )

    def _accumulate(self, step: OptimizerStep) -> float:
        """Accumulate the gradients of the step's mean loss over all label tokens, and return that loss."""
        label_count = sum(row.label_count for row in self._list_rows(step))
        total_loss = 0.0
        for micro_batch in step.micro_batches:
            share = self.group.select_own_share(micro_batch)
            if not share:
                continue
            loss = self.model.compute_loss([self.rows[index] for index in share])
            (loss / label_count).backward()  # type: ignore[no-untyped-call]
            total_loss += float(loss.detach())
        self.group.sum_gradients(self.model.trainable_weights)
        return self.group.sum_values(total_loss) / label_count

    def _list_rows(self, step: OptimizerStep) -> list[EncodedExample]:
        """The rows of all forward passes of a step."""
        return [self.rows[index] for micro_batch in step.micro_batches for index in micro_batch]

    def _require_finite(self, loss: float, norm: float, step: OptimizerStep) -> None:
        """Raise a NanofluxError that names the step and its rows if the loss or gradient norm is infinite or not a
        number.
        """
        if not (math.isfinite(loss) and math.isfinite(norm)):
            row_numbers = sorted(row.index for row in self._list_rows(step))
            position = f"step {self.progress.step + 1} of {len(self.steps)} (rows {row_numbers})"
            self._raise_diverged(f"loss {loss} and gradient norm {norm} at {position}")

    def _raise_diverged(self, problem: str) -> None:
        """Raise a NanofluxError that suggests more stable settings. The last checkpoint is not changed."""
        fix = "lower learning_rate, add warmup_steps, or set dtype=float32"
        raise NanofluxError(f"the training diverged: {problem}{_describe_checkpoint(self.out_dir)}", fix)

    def _record_epoch(self, epoch: int) -> None:
        """Validate, keep the best weights for early stopping, and report the epoch (0: before the first step)."""
        progress = self.progress
        step_count = sum(step.epoch == epoch for step in self.steps)
        step_losses = progress.losses[-step_count:] if step_count else []
        val_loss = self._validate()
        progress.val_losses.append(val_loss)
        if step_losses:
            progress.epoch_losses.append(sum(step_losses) / len(step_losses))
        earlier_val_losses = [loss for loss in progress.val_losses[:-1] if loss is not None]
        is_best_epoch = val_loss is not None and val_loss < min(earlier_val_losses, default=math.inf)
        if is_best_epoch and self.settings.early_stopping:
            weights = collect_lora_weights(self.model.peft_model)
            progress.best_epoch = epoch
            progress.best_weights = {name: weight.clone() for name, weight in weights.items()}
        train_loss = progress.epoch_losses[-1] if step_losses else None
        self.on_event(EpochEvent(epoch, progress.step, train_loss, val_loss))

    def _validate(self) -> float | None:
        """The mean loss per label token of the validation rows, without dropout. None if there are no such rows."""
        rows = sorted(self.validation.rows, key=lambda row: len(row.ids))
        if not rows:
            return None
        size = self.settings.batch
        batches = [rows[start : start + size] for start in range(0, len(rows), size)]
        own_batches = self.group.select_own_share(batches)
        with self.model.inference_mode():
            total_loss = sum(float(self.model.compute_loss(batch)) for batch in own_batches)
        return self.group.sum_values(total_loss) / sum(row.label_count for row in rows)

    def _is_patience_exhausted(self) -> bool:
        """Whether early stopping applies: the validation loss has not fallen below its minimum for `early_stopping`
        epochs.
        """
        patience = self.settings.early_stopping
        epochs_since_best = len(self.progress.epoch_losses) - self.progress.best_epoch
        return bool(patience) and bool(self.validation.rows) and epochs_since_best >= patience

    def _save_checkpoint(self) -> None:
        """Save a checkpoint in the main process. Raises NanofluxError in every process if a weight is not finite."""
        weights, optimizer_state = collect_lora_weights(self.model.peft_model), self.optimizer.state_dict()
        if not all(bool(weight.isfinite().all()) for weight in weights.values()):
            self._raise_diverged(f"weights are not finite after step {self.progress.step} of {len(self.steps)}")
        if self.group.rank != 0:
            return
        path = checkpoint.save(self.out_dir, self.fingerprint, self.progress, weights, optimizer_state)
        self.on_event(CheckpointEvent(self.progress.step, str(path)))

    def _resume(self) -> None:
        """Load the state of the last checkpoint, if there is one."""
        saved_state = self.group.broadcast(lambda: checkpoint.load(self.out_dir, self.fingerprint))
        if saved_state is None:
            return
        self.progress, weights, optimizer_state = saved_state
        load_lora_weights(self.model.peft_model, weights)
        self.optimizer.load_state_dict(optimizer_state)
        self.on_event(ResumeEvent(self.progress.step, str(self.out_dir / checkpoint.NAME)))

    def _write_adapter(self) -> None:
        """Write the adapter in the main process, with the weights of the best epoch if early stopping keeps them."""
        if self.group.rank != 0:
            return
        weights = self.progress.best_weights or collect_lora_weights(self.model.peft_model)
        write_weights(self.out_dir / "adapter", weights, self.model.peft_model.peft_config["default"].to_dict())

    def _measure_volume(self) -> TrainingVolume:
        """The amount of data that the steps so far have processed, with padding."""
        positions = squares = label_count = 0
        for step in self.steps[: self.progress.step]:
            for micro_batch in step.micro_batches:
                for share in self.group.list_shares(micro_batch):  # each process pads its own share
                    rows = [self.rows[index] for index in share]
                    longest = max(len(row.ids) for row in rows)
                    positions += len(rows) * longest
                    squares += len(rows) * longest**2
                    label_count += sum(row.label_count for row in rows)
        return TrainingVolume(positions, squares, label_count)

    def build_result(self, finished: bool, examples_digest: str) -> TrainResult:
        """The result so far. The FLOPs measured in the first epoch are scaled to the tokens of all epochs."""
        progress = self.progress
        return TrainResult(
            finished=finished,
            adapter_dir=self.out_dir / "adapter",
            examples=len(self.rows),
            validation_examples=len(self.validation.rows),
            truncated=self.usable.truncated,
            dropped=self.usable.dropped,
            steps=progress.step,
            tokens=progress.tokens,
            train_losses=tuple(progress.losses),
            epoch_losses=tuple(progress.epoch_losses),
            val_losses=tuple(progress.val_losses[1:]),
            initial_val_loss=progress.val_losses[0] if progress.val_losses else None,
            flops_6nd=six_nd(count_parameters(self.base_dir), progress.tokens),
            flops_measured=progress.flops * progress.tokens / max(1, progress.counted),
            flops_explained=explain_flops(
                self.model.measure_matrices(), self._measure_volume(), self.settings.gradient_checkpointing
            ),
            seconds=progress.seconds,
            dtype=str(self.dtype).removeprefix("torch."),
            device=self.device.type,
            processes=self.group.size,
            attention=self.model.attention,
            padding_free=self.model.padding_free,
            data_digest=examples_digest,
        )
