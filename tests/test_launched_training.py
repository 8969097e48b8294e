"""Two processes train one adapter through `accelerate launch`: as one process does up to rounding, recorded once."""

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

TWO = "--multi_gpu --num_processes 2 --main_process_port 0"  # a CPU counts as a device
KEYS = ("epochs=2", "batch=4", "learning_rate=3e-3", "dtype=float32", "threads=1", "checkpoint_every=2", "dropout=0")
CLOSE = 2e-3
"""Tolerance of losses and weights: the same sums in a different order, over 8 steps of Adam."""


def support() -> Any:
    """The training tests' own examples."""
    spec = importlib.util.spec_from_file_location("train_support", Path(__file__).parent / "train" / "conftest.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """A directory with the installed tiny base in `weights`, and an odd number of rows of different lengths."""
    from nanoflux_models.weights import import_path

    root = tmp_path_factory.mktemp("launched")
    import_path(tiny_base, "tiny", root)
    write_rows(root / "rows.jsonl", support().make_examples(15))
    return root


def new_home(place: Path, name: str) -> Home:
    home = Home(place / name).prepare()
    (home.root / "weights").symlink_to(place / "weights")
    (home.root / "models").rmdir() if (home.root / "models").is_dir() else None
    (home.root / "models").symlink_to(place / "models")
    return home


def start(
    home: Home, place: Path, *words: str, prefix: tuple[str, ...] = (), cwd: Path | None = None
) -> subprocess.Popen[str]:
    settings = [word for key in KEYS for word in ("--set", key)]
    command = [sys.executable, "-P", "-m", "nanoflux_local.cli", "train", "--data", str(place / "rows.jsonl")]
    return subprocess.Popen(
        [*prefix, *command, "--base", "tiny", *settings, *words],
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


def weights(home: Home, adapter: str) -> bytes:
    return (home.adapters / adapter / "adapter_model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def two(place: Path, hostile_folder: Path) -> tuple[Home, dict[str, Any]]:
    """A home in which two processes trained, and the printed result; no file of the working directory is executed."""
    home = new_home(place, "two")
    return home, wait_for_result(start(home, place, "--launch", TWO, "--json", cwd=hostile_folder))


def test_two_processes_train_the_same_adapter_as_one(place: Path, two: tuple[Home, dict[str, Any]]) -> None:
    from safetensors.torch import load

    alone = new_home(place, "alone")
    one = wait_for_result(start(alone, place, "--json"))
    home, both = two
    assert (one["processes"], both["processes"]) == (1, 2) and one["training"] == both["training"]
    assert all(one[key] == both[key] for key in ("examples", "steps", "tokens", "truncated"))
    for key in ("train_loss", "val_loss", "initial_val_loss"):
        assert both[key] == pytest.approx(one[key], abs=CLOSE), key
    assert 0.8 < both["flops"]["measured"] / one["flops"]["measured"] <= 1.01, "shares are padded less"
    assert both["flops"]["measured"] == pytest.approx(both["flops"]["explained"]["total"], rel=0.05)
    ours, theirs = load(weights(alone, one["adapter"])), load(weights(home, both["adapter"]))
    assert ours.keys() == theirs.keys()
    for name, weight in ours.items():
        assert float((weight - theirs[name]).abs().max()) < CLOSE, name
    assert read_adapter(home.adapters / both["adapter"]).manifest["hardware"]["processes"] == 2


def test_curve_is_recorded_once_and_a_repeat_is_answered_at_once(place: Path, two: tuple[Home, dict[str, Any]]) -> None:
    home, both = two
    with LedgerView(home.ledger) as view:
        steps = [row["step"] for row in view.rows("SELECT step FROM training_events WHERE kind = 'step' ORDER BY id")]
        jobs = list(view.rows("SELECT state FROM jobs"))
    assert steps == list(range(1, both["steps"] + 1)) and len(jobs) == 1
    assert wait_for_result(start(home, place, "--launch", "--no_such_option", "--json"))["adapter"] == both["adapter"]


def test_resume_after_a_kill_of_all_processes_gives_the_same_bits(
    place: Path, two: tuple[Home, dict[str, Any]]
) -> None:
    home = new_home(place, "killed")
    process = start(home, place, "--launch", TWO, "--json")
    while not list(home.root.glob("trainings/*/checkpoint.pt")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    result = wait_for_result(start(home, place, "--launch", TWO, "--json"))
    assert result["adapter"] == two[1]["adapter"]
    assert weights(home, result["adapter"]) == weights(two[0], result["adapter"])


def test_sigterm_ends_all_processes_and_keeps_the_checkpoint(place: Path) -> None:
    """Even if SIGINT is ignored, as in background jobs of a shell."""
    home = new_home(place, "ended")
    process = start(
        home, place, "--launch", TWO, "--set", "epochs=9000", prefix=("sh", "-c", 'trap "" INT; "$@"', "sh")
    )
    while not list(home.root.glob("trainings/*/checkpoint.pt")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    with LedgerView(home.ledger) as view:
        leader = view.row("SELECT pid FROM jobs")
    assert leader is not None
    os.killpg(process.pid, signal.SIGTERM)
    _, err = process.communicate(timeout=200)
    assert "interrupted" in err and not psutil.pid_exists(leader["pid"]), err
    with LedgerView(home.ledger) as view:
        row = view.row("SELECT status FROM trainings")
    assert row is not None and row["status"] == "interrupted"


def test_launcher_errors_are_reported(place: Path) -> None:
    home = new_home(place, "refused")
    for words, code, message in (
        (("--launch", "--no_such_option"), 1, "accelerate launch ended with"),
        (("--launch", "'half"), 2, "cannot be read"),
        (("--launch", TWO, "--detach"), 2, "cannot be combined"),
    ):
        process = start(home, place, *words)
        _, err = process.communicate(timeout=300)
        assert process.returncode == code and message in err, err
