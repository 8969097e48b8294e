"""An adapter trained by two processes (`accelerate launch`) equals that of a single process up to rounding."""

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

TWO_PROCESSES = "--multi_gpu --num_processes 2 --main_process_port 0"  # a CPU counts as a device
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
"""Tolerance of losses and weights: the same sums in a different order, over 8 steps of Adam."""


def load_train_support() -> Any:
    """The module that makes the training tests' examples."""
    spec = importlib.util.spec_from_file_location("train_support", Path(__file__).parent / "train" / "conftest.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """A directory with the installed tiny base in `weights`, and an odd number of rows of different lengths."""
    from nanoflux_models.weights import import_path

    root = tmp_path_factory.mktemp("launched")
    import_path(tiny_base, "tiny", root)
    write_rows(root / "rows.jsonl", load_train_support().make_examples(15))
    return root


def new_home(folder: Path, name: str) -> Home:
    home = Home(folder / name).prepare()
    (home.root / "weights").symlink_to(folder / "weights")
    models = home.root / "models"
    if models.is_dir():
        models.rmdir()
    models.symlink_to(folder / "models")
    return home


def start(
    home: Home, folder: Path, *arguments: str, prefix: tuple[str, ...] = (), cwd: Path | None = None
) -> subprocess.Popen[str]:
    settings = [word for key in SETTINGS for word in ("--set", key)]
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
    out, err = process.communicate(timeout=500)
    assert process.returncode == 0, err
    result: dict[str, Any] = json.loads(out)
    return result


def read_weights(home: Home, adapter: str) -> bytes:
    return (home.adapters / adapter / "adapter_model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def two_process_training(folder: Path, hostile_folder: Path) -> tuple[Home, dict[str, Any]]:
    """A home in which two processes trained, and the printed result; no file of the working directory is executed."""
    home = new_home(folder, "two")
    return home, wait_for_result(start(home, folder, "--launch", TWO_PROCESSES, "--json", cwd=hostile_folder))


def test_two_processes_train_the_same_adapter_as_one(
    folder: Path, two_process_training: tuple[Home, dict[str, Any]]
) -> None:
    from safetensors.torch import load

    single_home = new_home(folder, "alone")
    one_process = wait_for_result(start(single_home, folder, "--json"))
    home, two_processes = two_process_training
    assert (one_process["processes"], two_processes["processes"]) == (1, 2)
    assert one_process["training"] == two_processes["training"]
    assert all(one_process[key] == two_processes[key] for key in ("examples", "steps", "tokens", "truncated"))
    for key in ("train_loss", "val_loss", "initial_val_loss"):
        assert two_processes[key] == pytest.approx(one_process[key], abs=TOLERANCE), key
    assert 0.8 < two_processes["flops"]["measured"] / one_process["flops"]["measured"] <= 1.01, (
        "each process pads its share of a batch less"
    )
    assert two_processes["flops"]["measured"] == pytest.approx(two_processes["flops"]["explained"]["total"], rel=0.05)
    single_weights = load(read_weights(single_home, one_process["adapter"]))
    double_weights = load(read_weights(home, two_processes["adapter"]))
    assert single_weights.keys() == double_weights.keys()
    for name, weight in single_weights.items():
        assert float((weight - double_weights[name]).abs().max()) < TOLERANCE, name
    assert read_adapter(home.adapters / two_processes["adapter"]).manifest["hardware"]["processes"] == 2


def test_curve_is_recorded_once_and_a_repeat_returns_the_stored_adapter(
    folder: Path, two_process_training: tuple[Home, dict[str, Any]]
) -> None:
    home, result = two_process_training
    with LedgerView(home.ledger) as view:
        steps = [row["step"] for row in view.rows("SELECT step FROM training_events WHERE kind = 'step' ORDER BY id")]
        jobs = list(view.rows("SELECT state FROM jobs"))
    assert steps == list(range(1, result["steps"] + 1)) and len(jobs) == 1
    repeated_result = wait_for_result(start(home, folder, "--launch", "--no_such_option", "--json"))
    assert repeated_result["adapter"] == result["adapter"]


def test_resume_after_a_kill_of_all_processes_is_bit_identical(
    folder: Path, two_process_training: tuple[Home, dict[str, Any]]
) -> None:
    home = new_home(folder, "killed")
    process = start(home, folder, "--launch", TWO_PROCESSES, "--json")
    while not list(home.root.glob("trainings/*/checkpoint.pt")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    result = wait_for_result(start(home, folder, "--launch", TWO_PROCESSES, "--json"))
    assert result["adapter"] == two_process_training[1]["adapter"]
    assert read_weights(home, result["adapter"]) == read_weights(two_process_training[0], result["adapter"])


def test_sigterm_ends_all_processes_and_keeps_the_checkpoint(folder: Path) -> None:
    """The processes also end if SIGINT is ignored, as in background jobs of a shell."""
    home = new_home(folder, "ended")
    process = start(
        home, folder, "--launch", TWO_PROCESSES, "--set", "epochs=9000", prefix=("sh", "-c", 'trap "" INT; "$@"', "sh")
    )
    while not list(home.root.glob("trainings/*/checkpoint.pt")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    with LedgerView(home.ledger) as view:
        main_process = view.row("SELECT pid FROM jobs")
    assert main_process is not None
    os.killpg(process.pid, signal.SIGTERM)
    _, err = process.communicate(timeout=200)
    assert "interrupted" in err and not psutil.pid_exists(main_process["pid"]), err
    with LedgerView(home.ledger) as view:
        row = view.row("SELECT status FROM trainings")
    assert row is not None and row["status"] == "interrupted"


def test_launcher_errors_are_reported(folder: Path) -> None:
    home = new_home(folder, "refused")
    for arguments, code, message in (
        (("--launch", "--no_such_option"), 1, "accelerate launch exited with"),
        (("--launch", "'half"), 2, "cannot be read"),
        (("--launch", TWO_PROCESSES, "--detach"), 2, "cannot be combined"),
    ):
        process = start(home, folder, *arguments)
        _, err = process.communicate(timeout=300)
        assert process.returncode == code and message in err, err
