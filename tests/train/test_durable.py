"""A training run that is killed, runs out of disk or memory, or diverges keeps its last good checkpoint."""

import errno
import random
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from nanoflux_local import files
from nanoflux_local.errors import NanofluxError
from nanoflux_local.train import checkpoint
from nanoflux_local.train.data import TrainingExample
from nanoflux_local.train.events import StepEvent, TrainEvent
from nanoflux_local.train.lora import train
from nanoflux_local.train.model import TrainableModel
from nanoflux_local.train.settings import TrainSettings

SETTINGS = {"epochs": 4, "batch": 2, "learning_rate": 3e-3, "threads": 1, "checkpoint_every": 2}
"""Settings of a training run of 32 steps with a checkpoint after every second step."""
TRAIN_SCRIPT = """
import sys
from pathlib import Path
tests_folder, base, out = sys.argv[1:]
sys.path.insert(0, tests_folder)
from conftest import make_examples
from nanoflux_local.train.events import StepEvent
from nanoflux_local.train.lora import train
from nanoflux_local.train.settings import TrainSettings

def report_step(event):
    if isinstance(event, StepEvent):
        print(event.step, flush=True)

train(TrainSettings(**{settings}), make_examples(18), (), Path(base), Path(out), report_step)
"""
"""Trains with `SETTINGS` in a separate process, and prints the number of each step."""


def train_until_killed(base: Path, out: Path, kill_step: int) -> int:
    """Train in a separate process and SIGKILL it once it has reported step `kill_step`. Returns its exit status."""
    code = TRAIN_SCRIPT.replace("{settings}", repr(SETTINGS))
    command = [sys.executable, "-c", code, str(Path(__file__).parent), str(base), str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout
        for line in process.stdout:
            if int(line) >= kill_step:
                process.send_signal(signal.SIGKILL)
        return process.wait()


def read_adapter_weights(folder: Path) -> bytes:
    return (folder / "adapter" / "adapter_model.safetensors").read_bytes()


def test_training_resumed_after_kills_is_bit_identical(
    tiny_base: Path, examples: list[TrainingExample], tmp_path: Path
) -> None:
    uninterrupted = train(TrainSettings(**SETTINGS), examples, (), tiny_base, tmp_path / "whole")
    kill_steps = sorted(random.sample(range(1, uninterrupted.steps - 1), 3))
    for step in kill_steps:
        assert train_until_killed(tiny_base, tmp_path / "killed", step) == -signal.SIGKILL, kill_steps
    result = train(TrainSettings(**SETTINGS), examples, (), tiny_base, tmp_path / "killed")
    assert read_adapter_weights(tmp_path / "killed") == read_adapter_weights(tmp_path / "whole"), kill_steps
    assert (result.train_losses, result.val_losses) == (uninterrupted.train_losses, uninterrupted.val_losses)
    assert (result.tokens, result.flops_measured) == (uninterrupted.tokens, uninterrupted.flops_measured)


@contextmanager
def limit_file_size(size: int) -> Iterator[None]:
    """Limit every file to `size` bytes inside the `with` block, so that a longer write fails as on a full disk."""
    previous_limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, previous_limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, previous_limits)


def train_two_steps(base: Path, examples: list[TrainingExample], out: Path) -> bytes:
    """Train two steps and stop. Returns the content of the checkpoint."""
    events: list[TrainEvent] = []

    def should_stop() -> bool:
        return sum(isinstance(event, StepEvent) for event in events) >= 2

    train(TrainSettings(**SETTINGS), examples, (), base, out, events.append, should_stop)
    return (out / checkpoint.NAME).read_bytes()


def test_full_disk_keeps_the_last_checkpoint(tiny_base: Path, examples: list[TrainingExample], tmp_path: Path) -> None:
    good_checkpoint = train_two_steps(tiny_base, examples, tmp_path)
    with limit_file_size(20_000), pytest.raises(NanofluxError, match=r"no space left.*checkpoint is kept"):
        train(TrainSettings(**SETTINGS), examples, (), tiny_base, tmp_path)
    assert (tmp_path / checkpoint.NAME).read_bytes() == good_checkpoint
    assert not list(tmp_path.glob(".*.part"))
    assert train(TrainSettings(**SETTINGS), examples, (), tiny_base, tmp_path).finished


EXHAUSTION_SCRIPT = """
import os, re, resource, sys
from dataclasses import replace
from pathlib import Path
tests_folder, base, out = sys.argv[1:]
sys.path.insert(0, tests_folder)
from conftest import make_examples
from nanoflux_local.errors import NanofluxError
from nanoflux_local.train.events import CheckpointEvent
from nanoflux_local.train.lora import train
from nanoflux_local.train.settings import TrainSettings

def exhaust_disk():
    filler = os.open(Path(out) / "filler", os.O_WRONLY | os.O_CREAT)
    try:
        while True:
            os.write(filler, bytes(4096))
    except OSError:
        pass

def exhaust_memory():
    size = int(re.search(r"VmSize:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
    resource.setrlimit(resource.RLIMIT_AS, (size, size))

def exhaust_after_step_2(event):
    if isinstance(event, CheckpointEvent) and event.step == 2:
        exhaust_{resource_name}()

rows = [replace(row, completion=row.completion + " word" * 400) for row in make_examples(18)]
try:
    train(TrainSettings(**{settings}), rows, (), Path(base), Path(out), exhaust_after_step_2)
except NanofluxError as error:
    print(error)
"""
"""Trains on long rows, exhausts the disk or the memory after the second step, and prints the error."""


def train_until_exhausted(base: Path, out: Path, resource_name: str, *prefix: str) -> subprocess.CompletedProcess[str]:
    """Train in a separate process that prints its error. `resource_name`, "disk" or "memory", is exhausted after the
    second step. `prefix` is the command that starts the process.
    """
    settings = SETTINGS | {"batch": 8, "max_length": 2048, "val_fraction": 0}
    code = EXHAUSTION_SCRIPT.replace("{resource_name}", resource_name).replace("{settings}", repr(settings))
    command = [*prefix, sys.executable, "-W", "ignore", "-c", code, str(Path(__file__).parent), str(base), str(out)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_full_tmpfs_keeps_the_last_checkpoint(tiny_base: Path, tmp_path: Path) -> None:
    """A small tmpfs fills up after the first checkpoint, so that the kernel reports ENOSPC. The tmpfs exists only in
    the process's mount namespace, so a copy of the checkpoint is checked.
    """
    disk, checkpoint_copy = tmp_path / "disk", tmp_path / "copy.pt"
    disk.mkdir()
    run_on_tmpfs = (
        f'mount -t tmpfs -o size=4m none "{disk}" && "$@";'
        f' code=$?; cp "{disk}/checkpoint.pt" "{checkpoint_copy}"; exit $code'
    )
    namespace = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c")
    if subprocess.run([*namespace, f'mount -t tmpfs none "{disk}"'], capture_output=True).returncode != 0:
        pytest.skip("this machine does not permit mounting a tmpfs")
    process = train_until_exhausted(tiny_base, disk, "disk", *namespace, run_on_tmpfs, "sh")
    assert "no space left" in process.stdout and "checkpoint is kept" in process.stdout, process.stderr
    assert torch.load(checkpoint_copy, weights_only=True)["progress"]["step"] == 2


def test_exhausted_address_space_keeps_the_last_checkpoint(tiny_base: Path, tmp_path: Path) -> None:
    process = train_until_exhausted(tiny_base, tmp_path, "memory")
    assert "out of memory" in process.stdout and "checkpoint is kept" in process.stdout, process.stderr
    assert torch.load(tmp_path / checkpoint.NAME, weights_only=True)["progress"]["step"] == 2


def test_out_of_memory_keeps_the_last_checkpoint(
    tiny_base: Path, examples: list[TrainingExample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good_checkpoint = train_two_steps(tiny_base, examples, tmp_path)
    monkeypatch.setattr(TrainableModel, "compute_loss", lambda *_: torch.empty(2**60))  # too large for any memory
    with pytest.raises(NanofluxError, match=r"out of memory.*checkpoint is kept") as error_info:
        train(TrainSettings(**SETTINGS), examples, (), tiny_base, tmp_path)
    assert "smaller batch" in error_info.value.fix
    assert (tmp_path / checkpoint.NAME).read_bytes() == good_checkpoint


def test_checkpoint_never_contains_infinite_weights(
    tiny_base: Path, examples: list[TrainingExample], tmp_path: Path
) -> None:
    settings = TrainSettings(**SETTINGS | {"learning_rate": 1e39, "warmup_steps": 6, "checkpoint_every": 1})
    with pytest.raises(NanofluxError, match="diverged") as error_info:
        train(settings, examples, (), tiny_base, tmp_path)
    assert "lower learning_rate" in error_info.value.fix
    if (tmp_path / checkpoint.NAME).exists():
        state = torch.load(tmp_path / checkpoint.NAME, weights_only=True)
        assert all(weight.isfinite().all() for weight in state["weights"].values())


def test_error_on_a_nan_loss_names_the_rows(
    tiny_base: Path, examples: list[TrainingExample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good_checkpoint = train_two_steps(tiny_base, examples, tmp_path)
    compute_loss = TrainableModel.compute_loss
    monkeypatch.setattr(TrainableModel, "compute_loss", lambda *arguments: compute_loss(*arguments) * float("nan"))
    with pytest.raises(NanofluxError, match=r"loss nan.* at step 3 of \d+ \(rows \[\d+, \d+\]\).*checkpoint is kept"):
        train(TrainSettings(**SETTINGS), examples, (), tiny_base, tmp_path)
    assert (tmp_path / checkpoint.NAME).read_bytes() == good_checkpoint


def test_truncated_checkpoint_is_refused(tiny_base: Path, examples: list[TrainingExample], tmp_path: Path) -> None:
    good_checkpoint = train_two_steps(tiny_base, examples, tmp_path)
    (tmp_path / checkpoint.NAME).write_bytes(good_checkpoint[: len(good_checkpoint) // 2])
    with pytest.raises(NanofluxError, match="cannot be read"):
        train(TrainSettings(**SETTINGS), examples, (), tiny_base, tmp_path)


def test_failed_atomic_write_keeps_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "file"
    files.write_atomically(target, b"old")
    with limit_file_size(2), pytest.raises(OSError) as error_info:
        files.write_atomically(target, b"new and longer")
    assert error_info.value.errno == errno.EFBIG
    assert target.read_bytes() == b"old" and list(tmp_path.iterdir()) == [target]
