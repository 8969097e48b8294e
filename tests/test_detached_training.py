"""A training run in a detached process keeps its id, and is listed, paused, stopped and resumed like a run."""

import asyncio
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nanoflux_local import jobs
from nanoflux_local.adapters.store import read_adapter
from nanoflux_local.errors import LedgerError, NanofluxError
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.run import configs, runs
from nanoflux_local.train import trainings
from nanoflux_local.train.choice import Choice
from nanoflux_local.train.settings import TrainSettings
from nanoflux_local.train.summary import TrainingOutcome

BASE = "tiny"
SHORT_SETTINGS = TrainSettings(epochs=3, batch=2, learning_rate=3e-3, threads=1, checkpoint_every=2)
LONG_SETTINGS = SHORT_SETTINGS.model_copy(update={"epochs": 400})
"""Settings with so many epochs that training does not end before a test interrupts it."""


def load_train_conftest() -> Any:
    """The module tests/train/conftest.py, which makes training examples."""
    spec = importlib.util.spec_from_file_location("train_conftest", Path(__file__).parent / "train" / "conftest.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """The directory `weights` of a home in which the tiny base model is installed. The model's manifest is in `models`,
    next to this directory.
    """
    from nanoflux_models.weights import import_path

    root = tmp_path_factory.mktemp("weights")
    import_path(tiny_base, BASE, root)
    return root / "weights"


@pytest.fixture
def home(tmp_path: Path, weights: Path) -> Home:
    return make_home(tmp_path / "home", weights)


def make_home(root: Path, weights: Path) -> Home:
    """A new home with the tiny base, whose weights are a link to `weights`."""
    home = Home(root).prepare()
    (home.root / "weights").symlink_to(weights)
    shutil.copytree(weights.parent / "models", home.root / "models", dirs_exist_ok=True)
    return home


def make_data() -> trainings.TrainingData:
    """Training data of twelve sums, recorded as read from a file. Every call returns equal data."""
    return trainings.TrainingData(load_train_conftest().make_examples(12), source={"file": "sums.jsonl"})


def wait_until(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    """Wait until `condition()` is true, and fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not become true"
        time.sleep(0.05)


def make_job(training: str) -> jobs.Job:
    """The `Job` of a training run."""
    return jobs.Job(jobs.TRAINING, training)


def resume_to_end(home: Home, training: str) -> TrainingOutcome:
    """Resume a training run in this process, check that it reaches its end, and return its outcome."""
    outcome = trainings.resume_training(home, training)
    assert isinstance(outcome, TrainingOutcome)
    return outcome


def run_cli(home: Home, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a separate process."""
    command = [sys.executable, "-m", "nanoflux_local.cli", "--home", str(home.root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_killed_training_run_keeps_its_id_and_curve(home: Home, weights: Path, tmp_path: Path) -> None:
    training = trainings.create_training(home, BASE, SHORT_SETTINGS, make_data())
    pid = jobs.launch(home, make_job(training))
    wait_until(lambda: trainings.summarize_training(home, training).step >= 3)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not jobs.has_worker(home, make_job(training)))
    assert trainings.create_training(home, BASE, SHORT_SETTINGS, make_data()) == training
    outcome = resume_to_end(home, training)
    summary = trainings.summarize_training(home, training)
    assert (summary.status, summary.adapter, summary.step) == ("done", outcome.adapter, outcome.steps)
    with LedgerView(home.ledger) as view:
        curve = view.training_curve(training)
        event_count = view.row("SELECT count(*) AS n FROM training_events WHERE kind = 'step'")
    steps = [step.step for step in curve.steps]
    assert steps == list(range(1, outcome.steps + 1)), "the curve lacks a step or contains one twice"
    assert event_count is not None and event_count["n"] >= len(steps)
    other_home = make_home(tmp_path / "other", weights)
    uninterrupted_training = trainings.create_training(other_home, BASE, SHORT_SETTINGS, make_data())
    assert resume_to_end(other_home, uninterrupted_training).adapter == outcome.adapter


def test_repeated_training_run_returns_the_stored_outcome(home: Home) -> None:
    data = make_data()
    events: list[object] = []
    first_outcome = trainings.train_adapter(home, "", BASE, SHORT_SETTINGS, data.rows, (), events.append, data.source)
    repeated_outcome = trainings.train_adapter(
        home, "", BASE, SHORT_SETTINGS, data.rows, (), lambda _: pytest.fail("the training ran again"), data.source
    )
    assert events and repeated_outcome == first_outcome
    manifest = read_adapter(home.adapters / first_outcome.adapter).manifest
    assert (manifest["training"], manifest["source"]) == (first_outcome.document["training"], {"file": "sums.jsonl"})
    assert first_outcome.document["attention"] == "nanoflux_cpu" and first_outcome.document["padding_free"] is False


def test_paused_training_run_resumes_without_its_source_file(home: Home, tmp_path: Path) -> None:
    step_count = 240  # eight of the nine rows are trained on, in batches of two, for 60 epochs
    path = tmp_path / "sums.jsonl"
    rows = [{"prompt": f"{n} + 1?", "completion": str(n + 1)} for n in range(9)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    short_settings = SHORT_SETTINGS.model_dump(exclude_defaults=True)
    options = [*(f"--set={key}={value}" for key, value in short_settings.items()), "--set=epochs=60"]
    started = run_cli(home, "train", "--data", str(path), "--base", BASE, *options, "--json", "--detach")
    assert started.returncode == 0, started.stderr
    training = json.loads(started.stdout)["training"]
    path.unlink()  # the folder of the training run has a copy of the rows
    assert "drains" in jobs.request_stop(home, make_job(training), "pause")
    wait_until(lambda: not jobs.has_worker(home, make_job(training)))
    paused = trainings.summarize_training(home, training)
    assert paused.status == "paused" and paused.worker is None and paused.step < step_count
    assert (home.root / "trainings" / training / "checkpoint.pt").exists()
    entries = json.loads(run_cli(home, "trainings", "list", "--json").stdout)
    assert [entry["training"] for entry in entries] == [training]
    resumed = run_cli(home, "trainings", "resume", training[:9], "--json")
    assert resumed.returncode == 0, resumed.stderr
    outcome = json.loads(resumed.stdout)
    assert {"adapter", "base", "examples", "tokens", "truncated", "steps", "train_loss", "val_loss", "flops",
            "tokens_per_s", "seconds"} <= outcome.keys()  # fmt: skip
    assert outcome["steps"] == step_count and {"6nd", "measured"} <= outcome["flops"].keys()
    assert "already done" in jobs.request_stop(home, make_job(training), "stop")


def test_stop_writes_a_checkpoint_and_a_second_stop_ends_immediately(home: Home) -> None:
    training = trainings.create_training(home, BASE, LONG_SETTINGS, make_data())
    jobs.launch(home, make_job(training))
    wait_until(lambda: trainings.summarize_training(home, training).step >= 1)
    worker = trainings.summarize_training(home, training).worker
    assert worker is not None and worker.wish == ""
    with pytest.raises(NanofluxError, match="another process is working on training"):
        trainings.resume_training(home, training)
    assert "drains" in jobs.request_stop(home, make_job(training), "stop")
    wait_until(lambda: not jobs.has_worker(home, make_job(training)))
    stopped = trainings.summarize_training(home, training)
    assert stopped.status == "stopped"
    pid = jobs.launch(home, make_job(training))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs, "has_worker", lambda *_: True)
        with Ledger(home.ledger) as ledger:
            # This transaction holds the ledger's write lock, so the worker is not suspended while it holds that lock
            # itself.
            with ledger.transaction():
                os.kill(pid, signal.SIGSTOP)  # the worker reads no request until both are stored
            assert "drains" in jobs.request_stop(home, make_job(training), "stop")
            assert "ends now" in jobs.request_stop(home, make_job(training), "stop")
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: not jobs.has_worker(home, make_job(training)))
    stopped_again = trainings.summarize_training(home, training)
    assert stopped_again.status == "stopped" and stopped_again.step >= stopped.step


def test_sigterm_leaves_a_training_run_interrupted(home: Home) -> None:
    training = trainings.create_training(home, BASE, LONG_SETTINGS, make_data())
    pid = jobs.launch(home, make_job(training))
    wait_until(lambda: trainings.summarize_training(home, training).step >= 1)
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not jobs.has_worker(home, make_job(training)))
    assert trainings.summarize_training(home, training).status == "interrupted"


def test_resume_refuses_changed_and_missing_training_rows(home: Home) -> None:
    training = trainings.create_training(home, BASE, SHORT_SETTINGS, make_data())
    rows_path = home.root / "trainings" / training / trainings.TRAIN_FILE
    rows_path.write_text(rows_path.read_text().replace("ANSWER", "GUESS"))
    with pytest.raises(LedgerError, match="differ from those recorded for"):
        trainings.resume_training(home, training)
    assert trainings.summarize_training(home, training).status == "failed"
    rows_path.unlink()
    with pytest.raises(LedgerError, match="cannot be read"):
        trainings.resume_training(home, training)


def test_train_requires_either_a_run_or_a_file(home: Home, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "a", "completion": "b"}\n')
    assert run_cli(home, "train").returncode == 2
    assert run_cli(home, "train", "some-run", "--data", str(file)).returncode == 2
    refused = run_cli(home, "train", "--data", str(file), "--where", "turn < 3")
    assert refused.returncode == 2 and "apply only to the examples of a run, not to a file" in refused.stderr
    preview = run_cli(home, "train", "--data", str(file), "--base", BASE, "--dry-run")
    assert preview.returncode == 0, preview.stderr
    assert "<|im_start|>user\na<|im_end|>" in preview.stdout and "0 for validation" in preview.stdout
    assert run_cli(home, "trainings", "show", "nothing").returncode == 4


def test_tensorboard_receives_the_curves_on_request(home: Home, tmp_path: Path) -> None:
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    training = trainings.create_training(home, BASE, SHORT_SETTINGS, make_data(), str(tmp_path / "board"))
    outcome = resume_to_end(home, training)
    curves = event_accumulator.EventAccumulator(str(tmp_path / "board" / training)).Reload()
    losses = [point.value for point in curves.Scalars("train/loss")]
    assert losses == pytest.approx(list(outcome.train_losses))
    assert len(curves.Scalars("validation/loss")) == SHORT_SETTINGS.epochs + 1, (
        "expected one validation loss before training and one after each epoch"
    )


def test_choice_of_examples_is_recorded_with_the_adapter(home: Home) -> None:
    settings = {"max_turns": 16, "target": 16, "concurrency": 4, "seeds": {"min": 2}}
    run = asyncio.run(runs.start(home, configs.resolve("starter-genetics", "scripted", settings, home)))
    asyncio.run(runs.execute(home, run))
    kept_ids = {row.id for row in trainings.load_run_data(home, run).rows}
    choice = Choice(reason="kept_failed", where="turn > 0", size=3)
    chosen_data = trainings.load_run_data(home, run, choice)
    assert len(chosen_data.rows) == 3 and {row.id for row in chosen_data.rows} < kept_ids - {"turn-0"}
    one_epoch = SHORT_SETTINGS.model_copy(update={"epochs": 1, "max_length": 2048})
    outcome = resume_to_end(home, trainings.create_training(home, BASE, one_epoch, chosen_data))
    source = read_adapter(home.adapters / outcome.adapter).manifest["source"]
    assert (source["run"], source["rows"], source["values"]) == (run, 3, [run, "kept_failed"])
    assert "turn > 0" in source["query"] and len(source["ids_digest"]) == 64
    command = ("train", run, "--base", BASE, "--set=max_length=4096", "--dry-run")
    dry_run = run_cli(home, *command, "--where", "turn > 0", "--size", "2", "--json")
    assert dry_run.returncode == 0 and json.loads(dry_run.stdout)["rows"] == 2, dry_run.stderr
    assert run_cli(home, *command, "--level", "4").returncode == 3, (
        "a level was accepted although the run's examples have none"
    )
