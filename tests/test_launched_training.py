"""Two processes of `accelerate launch` train the same adapter as a single process, up to rounding."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from nanoflux_local.adapters.store import read_adapter
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.train.rows import write_rows

TWO_PROCESSES = "--multi_gpu --num_processes 2 --main_process_port 0"
"""The arguments of `accelerate launch` for two processes. `--multi_gpu` works on a CPU as well."""
SETTINGS = (
    "epochs=2",
    "batch=4",
    "learning_rate=3e-3",
    "dtype=float32",
    "threads=1",
    "checkpoint_every=2",
    "dropout=0",
)
TOLERANCE = 2e-3
"""The tolerance of losses and weights. Two processes add the same summands in a different order, and eight steps of
Adam amplify the rounding differences.
"""


def load_train_conftest() -> Any:
    """The module tests/train/conftest.py, which makes training examples."""
    spec = importlib.util.spec_from_file_location("train_conftest", Path(__file__).parent / "train" / "conftest.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """A directory in which the tiny base is installed, with a file of an odd number of rows of different lengths."""
    from nanoflux_models.weights import import_path

    root = tmp_path_factory.mktemp("launched")
    import_path(tiny_base, "tiny", root)
    write_rows(root / "rows.jsonl", load_train_conftest().make_examples(15))
    return root


def make_home(folder: Path, name: str) -> Home:
    """A new home in `folder` with the base that is installed there."""
    home = Home(folder / name).prepare()
    (home.root / "weights").symlink_to(folder / "weights")
    models = home.root / "models"
    if models.is_dir():
        models.rmdir()
    models.symlink_to(folder / "models")
    return home


def start_training(
    home: Home, folder: Path, *arguments: str, prefix: tuple[str, ...] = (), cwd: Path | None = None
) -> subprocess.Popen[str]:
    """Start `nanoflux train` on the rows in `folder`, as the leader of a new process group. `prefix` is the command
    that starts the process.
    """
    settings = [f"--set={setting}" for setting in SETTINGS]
    command = [sys.executable, "-P", "-m", "nanoflux_local.cli", "train", "--data", str(folder / "rows.jsonl")]
    return subprocess.Popen(
        [*prefix, *command, "--base", "tiny", *settings, *arguments],
        env={**os.environ, "NANOFLUX_HOME": str(home.root)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd=cwd,
    )


def wait_for_result(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Wait for the process to end, and return the JSON that it printed."""
    stdout, stderr = process.communicate(timeout=500)
    assert process.returncode == 0, stderr
    result: dict[str, Any] = json.loads(stdout)
    return result


def wait_for_checkpoint(home: Home, process: subprocess.Popen[str]) -> None:
    """Wait until the training run has written a checkpoint, and fail if its process ends before that."""
    while not list(home.root.glob("trainings/*/checkpoint.pt")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


def read_weights(home: Home, adapter: str) -> bytes:
    return (home.adapters / adapter / "adapter_model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def two_process_training(folder: Path, hostile_folder: Path) -> tuple[Home, dict[str, Any]]:
    """A home in which two processes trained, and the result that they printed. They were started in a hostile
    directory, whose modules they must not execute.
    """
    home = make_home(folder, "two")
    process = start_training(home, folder, "--launch", TWO_PROCESSES, "--json", cwd=hostile_folder)
    return home, wait_for_result(process)


def test_two_processes_train_the_same_adapter_as_one(
    folder: Path, two_process_training: tuple[Home, dict[str, Any]]
) -> None:
    from safetensors.torch import load

    one_process_home = make_home(folder, "one")
    one_process_result = wait_for_result(start_training(one_process_home, folder, "--json"))
    home, result = two_process_training
    assert (one_process_result["processes"], result["processes"]) == (1, 2)
    for key in ("training", "examples", "steps", "tokens", "truncated"):
        assert result[key] == one_process_result[key], key
    for key in ("train_loss", "val_loss", "initial_val_loss"):
        assert result[key] == pytest.approx(one_process_result[key], abs=TOLERANCE), key
    flops, one_process_flops = result["flops"], one_process_result["flops"]
    assert 0.8 < flops["measured"] / one_process_flops["measured"] <= 1.01, (
        "the FLOPs of two processes, which each pad only their share of a batch, are not slightly below those of one"
    )
    assert flops["measured"] == pytest.approx(flops["explained"]["total"], rel=0.05)
    weights = load(read_weights(home, result["adapter"]))
    one_process_weights = load(read_weights(one_process_home, one_process_result["adapter"]))
    assert weights.keys() == one_process_weights.keys()
    for name, weight in weights.items():
        assert float((weight - one_process_weights[name]).abs().max()) < TOLERANCE, name
    assert read_adapter(home.adapters / result["adapter"]).manifest["hardware"]["processes"] == 2


def test_curve_is_recorded_once_and_a_repeat_returns_the_stored_adapter(
    folder: Path, two_process_training: tuple[Home, dict[str, Any]]
) -> None:
    home, result = two_process_training
    with LedgerView(home.ledger) as view:
        steps = [row["step"] for row in view.rows("SELECT step FROM training_events WHERE kind = 'step' ORDER BY id")]
        executions = list(view.rows("SELECT state FROM jobs"))
    assert steps == list(range(1, result["steps"] + 1)) and len(executions) == 1
    # the unknown option would be an error if the launcher were started
    repeated_result = wait_for_result(start_training(home, folder, "--launch", "--no_such_option", "--json"))
    assert repeated_result["adapter"] == result["adapter"]


def test_training_resumed_after_a_kill_of_all_processes_gives_bit_identical_weights(
    folder: Path, two_process_training: tuple[Home, dict[str, Any]]
) -> None:
    uninterrupted_home, uninterrupted_result = two_process_training
    home = make_home(folder, "killed")
    process = start_training(home, folder, "--launch", TWO_PROCESSES, "--json")
    wait_for_checkpoint(home, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    result = wait_for_result(start_training(home, folder, "--launch", TWO_PROCESSES, "--json"))
    assert result["adapter"] == uninterrupted_result["adapter"]
    assert read_weights(home, result["adapter"]) == read_weights(uninterrupted_home, result["adapter"])


def test_sigterm_ends_all_processes_and_keeps_the_checkpoint(folder: Path) -> None:
    """The processes also end if SIGINT is ignored, as in background jobs of a shell."""
    home = make_home(folder, "ended")
    ignore_sigint = ("sh", "-c", 'trap "" INT; "$@"', "sh")
    process = start_training(home, folder, "--launch", TWO_PROCESSES, "--set", "epochs=9000", prefix=ignore_sigint)
    wait_for_checkpoint(home, process)
    with LedgerView(home.ledger) as view:
        main_process = view.row("SELECT pid FROM jobs")
    assert main_process is not None
    os.killpg(process.pid, signal.SIGTERM)
    _, stderr = process.communicate(timeout=200)
    assert "interrupted" in stderr and not psutil.pid_exists(main_process["pid"]), stderr
    with LedgerView(home.ledger) as view:
        row = view.row("SELECT status FROM trainings")
    assert row is not None and row["status"] == "interrupted"


def test_launcher_errors_are_reported(folder: Path) -> None:
    home = make_home(folder, "refused")
    for arguments, exit_code, message in (
        (("--launch", "--no_such_option"), 1, "accelerate launch exited with"),
        (("--launch", "'half"), 2, "cannot be parsed"),
        (("--launch", TWO_PROCESSES, "--detach"), 2, "cannot be combined"),
    ):
        process = start_training(home, folder, *arguments)
        _, stderr = process.communicate(timeout=300)
        assert process.returncode == exit_code and message in stderr, stderr
