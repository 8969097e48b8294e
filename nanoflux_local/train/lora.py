"""The training loop: LoRA on a frozen base, loss on completions only (paper §3, A.1; SPEC §3).

Owns one training from rows to the adapter's two files, with every source of chance seeded: on one machine two runs
give the same bits, and so does a run that was killed and resumed. Knows no ledger; reports through `on_event`. Refuses
to go on after a loss that is not a number.
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
from nanoflux_local.train.audit import Selection, prepare
from nanoflux_local.train.counter import FlopCounter
from nanoflux_local.train.data import Codec, Encoded, TrainingExample, batches, data_digest
from nanoflux_local.train.events import CheckpointEvent, EpochEvent, OnEvent, ResumeEvent, StepEvent, TrainResult
from nanoflux_local.train.flops import Work, base_identity, explained, parameters, six_nd
from nanoflux_local.train.model import Completions, choose_device, choose_dtype, load_lora_weights, lora_weights
from nanoflux_local.train.settings import TrainSettings
from nanoflux_local.train.targets import adapted_by
from nanoflux_local.train.team import Team, joined


@dataclass(frozen=True, slots=True)
class Step:
    """One optimizer step of the plan: its epoch (from 1), the rows of each forward pass, and whether the epoch ends."""

    epoch: int
    parts: tuple[tuple[int, ...], ...]
    last: bool


def plan(settings: TrainSettings, lengths: Sequence[int]) -> list[Step]:
    """Every step of a training, fixed by settings and lengths alone, so that a step's number is a position."""
    steps: list[Step] = []
    for epoch in range(1, settings.epochs + 1):
        cut = [tuple(b) for b in batches(lengths, settings.batch, settings.seed, epoch)]
        size = settings.gradient_accumulation
        parts = [tuple(cut[at : at + size]) for at in range(0, len(cut), size)]
        steps += [Step(epoch, part, last=number == len(parts)) for number, part in enumerate(parts, 1)]
    return steps


def learning_rate(settings: TrainSettings, step: int, steps: int) -> float:
    """Rate of `step` (from 0): linear rise over the warm-up, then linear fall that would reach zero at `steps`."""
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

    Without `validation`, `val_fraction` of the examples is held out. A checkpoint in `out_dir` is resumed if it is of
    this very training. `should_stop` is asked after each step; True ends with a checkpoint and `finished` False.
    Raises DataError (nothing to train on), RefusedError (settings refuse a row; a checkpoint of another training), and
    NanofluxError (loss not a number, out of memory, disk full), each with the last good checkpoint kept.

    Among several processes (`team`) each takes a share of every batch; the first alone is asked, tells and writes.
    """
    chosen, held = prepare(settings, examples, validation, Codec.load(base_dir))
    adapted_by(base_dir, settings.target_modules)  # refuses before weights are read
    out_dir.mkdir(parents=True, exist_ok=True)
    digests = [data_digest(examples), data_digest(validation)]
    with (
        _fork_random_state(settings),
        _explain_shortages(out_dir),
        joined(choose_device(settings.device).type == "cpu") as team,
    ):
        loop = _Loop(settings, chosen, held, base_dir, out_dir, on_event, team)
        loop.fingerprint = _fingerprint(settings, digests, base_dir, team.size)
        finished = loop.run(should_stop)
        return loop.result(finished, digests[0])


def _fingerprint(settings: TrainSettings, digests: list[str], base_dir: Path, processes: int) -> str:
    """What a checkpoint belongs to: all that decides the weights, so not how often it is written."""
    decisive = settings.model_dump(mode="json", exclude={"checkpoint_every"})
    return digest([decisive, digests, base_identity(base_dir), *([processes] if processes > 1 else [])])


@contextmanager
def _fork_random_state(settings: TrainSettings) -> Iterator[None]:
    """The caller's random state and thread count come back afterwards."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng():
        torch.set_num_threads(settings.threads or threads)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


@contextmanager
def _explain_shortages(out_dir: Path) -> Iterator[None]:
    """Memory and disk that run out become messages; the checkpoint before stays as it is."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        fix = "free space, then run the same again"
        raise NanofluxError(f"no space left to write in {out_dir}{_describe_checkpoint(out_dir)}", fix) from error
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        fix = "set a smaller batch with gradient_accumulation, a lower max_length, or gradient_checkpointing=true"
        raise NanofluxError(f"out of memory while training in {out_dir}{_describe_checkpoint(out_dir)}", fix) from error


def _describe_checkpoint(out_dir: Path) -> str:
    return "; the last good checkpoint is kept" if (out_dir / checkpoint.NAME).exists() else ""


_NO_MEMORY = ("allocate memory", "bad_alloc", "could not create a primitive")
"""What torch says of it on a CPU; the last is oneDNN's word, which gives no reason."""


def _out_of_memory(error: Exception) -> bool:
    known = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return known or any(words in str(error) for words in _NO_MEMORY)


class _Loop:
    """One training while it runs."""

    def __init__(
        self,
        settings: TrainSettings,
        chosen: Selection,
        held: Selection,
        base_dir: Path,
        out_dir: Path,
        on_event: OnEvent,
        team: Team,
    ) -> None:
        self.settings, self.chosen, self.held, self.team = settings, chosen, held, team
        self.base_dir, self.out_dir = base_dir, out_dir
        self.on_event: OnEvent = on_event if team.rank == 0 else lambda _: None
        self.rows = chosen.rows
        self.fingerprint = ""
        self.steps = plan(settings, [len(row.ids) for row in self.rows])
        self.device = team.device or choose_device(settings.device)
        self.dtype = choose_dtype(settings.dtype, self.device)
        self.model = Completions(settings, base_dir, self.device, self.dtype)
        self.optimizer = torch.optim.AdamW(
            self.model.trained, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )
        self.progress = checkpoint.Progress()

    def run(self, should_stop: Callable[[], bool]) -> bool:
        """All steps that are left; False where it was stopped before the end."""
        self._resume()
        if self.progress.step == 0 and not self.progress.val_losses:
            self._end_epoch(0)
        while self.progress.step < len(self.steps) and not self._is_patience_exhausted():
            self._advance()
            if self.progress.step < len(self.steps) and self.team.from_first(should_stop):
                self._save()
                return False
        self._finish()
        return True

    def _advance(self) -> None:
        step = self.steps[self.progress.step]
        self._step(step)
        if step.last:
            self._end_epoch(step.epoch)
        if step.last or self.progress.step % self.settings.checkpoint_every == 0:
            self._save()

    def _step(self, step: Step) -> None:
        """One optimizer step, told as a StepEvent."""
        start, progress = time.perf_counter(), self.progress
        rate = learning_rate(self.settings, progress.step, len(self.steps))
        mine = [self.team.rank] if self.team.rank else []  # whoever trains alone draws as the first of many does
        torch.manual_seed(derive_seed(self.settings.seed, "step", progress.step, *mine))
        with FlopCounter() if step.epoch == 1 else nullcontext() as counter:
            loss = self._accumulate(step)
        norm = float(nn.utils.clip_grad_norm_(self.model.trained, self.settings.max_grad_norm))
        self._check(loss, norm, step)
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        tokens, seconds = sum(len(row.ids) for row in self._of(step)), time.perf_counter() - start
        progress.step += 1
        progress.tokens += tokens
        progress.seconds += seconds
        if counter is not None:
            progress.flops += round(self.team.total(counter.total))
            progress.counted += tokens
        progress.losses.append(loss)
        self.on_event(StepEvent(progress.step, len(self.steps), step.epoch, loss, rate, norm, tokens, tokens / seconds))

    def _accumulate(self, step: Step) -> float:
        """Gradients of the mean loss over all label tokens of the step; returns that loss."""
        labels, total = sum(row.labels for row in self._of(step)), 0.0
        for part in step.parts:
            if not (share := self.team.share(part)):
                continue
            loss = self.model.loss([self.rows[index] for index in share])
            (loss / labels).backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        self.team.add_gradients(self.model.trained)
        return self.team.total(total) / labels

    def _of(self, step: Step) -> list[Encoded]:
        return [self.rows[index] for part in step.parts for index in part]

    def _check(self, loss: float, norm: float, step: Step) -> None:
        if not (math.isfinite(loss) and math.isfinite(norm)):
            rows = sorted(row.row for row in self._of(step))
            self._raise_diverged(f"loss {loss}, gradient norm {norm} at step {self.progress.step + 1} (rows {rows})")

    def _raise_diverged(self, what: str) -> None:
        """Raise; the checkpoint before is left as it is."""
        fix = "lower learning_rate, add warmup_steps, or set dtype=float32"
        raise NanofluxError(
            f"the training diverged: {what} of {len(self.steps)} steps{_describe_checkpoint(self.out_dir)}", fix
        )

    def _end_epoch(self, epoch: int) -> None:
        progress, parts = self.progress, [s for s in self.steps if s.epoch == epoch]
        losses = progress.losses[-len(parts) :] if parts else []
        value = self._validate()
        progress.val_losses.append(value)
        if losses:
            progress.epoch_losses.append(sum(losses) / len(losses))
        earlier = [loss for loss in progress.val_losses[:-1] if loss is not None]
        if value is not None and self.settings.early_stopping and value < min(earlier, default=math.inf):
            progress.best_epoch = epoch
            progress.best_weights = {name: w.clone() for name, w in lora_weights(self.model.peft).items()}
        self.on_event(EpochEvent(epoch, progress.step, progress.epoch_losses[-1] if losses else None, value))

    def _validate(self) -> float | None:
        """Mean loss per label token of the held-out rows, without dropout."""
        rows = sorted(self.held.rows, key=lambda row: len(row.ids))
        if not rows:
            return None
        size = self.settings.batch
        parts = self.team.share([rows[at : at + size] for at in range(0, len(rows), size)])
        with self.model.quiet():
            total = sum(float(self.model.loss(part)) for part in parts)
        return self.team.total(total) / sum(row.labels for row in rows)

    def _is_patience_exhausted(self) -> bool:
        """Early stopping: no better validation loss for that many epochs."""
        patience, epochs = self.settings.early_stopping, len(self.progress.epoch_losses)
        return bool(patience) and bool(self.held.rows) and epochs - self.progress.best_epoch >= patience

    def _save(self) -> None:
        weights, optimizer = lora_weights(self.model.peft), self.optimizer.state_dict()
        if not all(bool(weight.isfinite().all()) for weight in weights.values()):
            self._raise_diverged(f"weights that are no numbers after step {self.progress.step}")
        if self.team.rank:
            return
        path = checkpoint.save(self.out_dir, self.fingerprint, self.progress, weights, optimizer)
        self.on_event(CheckpointEvent(self.progress.step, str(path)))

    def _resume(self) -> None:
        found = self.team.from_first(lambda: checkpoint.load(self.out_dir, self.fingerprint))
        if found is None:
            return
        self.progress, weights, optimizer = found
        load_lora_weights(self.model.peft, weights)
        self.optimizer.load_state_dict(optimizer)
        self.on_event(ResumeEvent(self.progress.step, str(self.out_dir / checkpoint.NAME)))

    def _finish(self) -> None:
        if self.team.rank:
            return
        weights = self.progress.best_weights or lora_weights(self.model.peft)
        write_weights(self.out_dir / "adapter", weights, self.model.peft.peft_config["default"].to_dict())

    def _work(self) -> Work:
        """What the steps done so far put through the model, padding included."""
        done = [part for step in self.steps[: self.progress.step] for part in step.parts]
        parts = [[self.rows[index] for index in share] for part in done for share in self.team.shares(part)]
        padded = [(len(rows), max(len(row.ids) for row in rows)) for rows in parts]
        return Work(
            positions=sum(count * longest for count, longest in padded),
            squares=sum(count * longest**2 for count, longest in padded),
            labels=sum(row.labels for rows in parts for row in rows),
        )

    def result(self, finished: bool, data: str) -> TrainResult:
        done = self.progress
        return TrainResult(
            finished=finished,
            adapter_dir=self.out_dir / "adapter",
            examples=len(self.rows),
            validation_examples=len(self.held.rows),
            truncated=self.chosen.truncated,
            dropped=self.chosen.dropped,
            steps=done.step,
            tokens=done.tokens,
            train_losses=tuple(done.losses),
            epoch_losses=tuple(done.epoch_losses),
            val_losses=tuple(done.val_losses[1:]),
            initial_val_loss=done.val_losses[0] if done.val_losses else None,
            flops_6nd=six_nd(parameters(self.base_dir), done.tokens),
            flops_measured=done.flops * done.tokens / max(1, done.counted),
            flops_explained=explained(self.model.matrices(), self._work(), self.settings.gradient_checkpointing),
            seconds=done.seconds,
            dtype=str(self.dtype).removeprefix("torch."),
            device=self.device.type,
            processes=self.team.size,
            attention=self.model.attention,
            padding_free=self.model.padding_free,
            data_digest=data,
        )
