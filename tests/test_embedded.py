"""The embedded profile with its real small models: generation at any concurrency, training, evaluation and report."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nanoflux_local.cli.evaluate import evaluate
from nanoflux_local.domains.base import load_built_in
from nanoflux_local.evaluate.comparison import compare
from nanoflux_local.evaluate.summary import EvaluationSummary
from nanoflux_local.ledger.verify import verify_run
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.report.run_report import write_report
from nanoflux_local.run import configs, runs
from nanoflux_local.train.settings import TrainSettings
from nanoflux_local.train.trainings import load_run_data, load_validation_examples, train_adapter

pytestmark = pytest.mark.real_model
BENCHMARK_FILES = Path(__file__).resolve().parents[2] / "shared" / "data"
"""A folder next to the repository that may contain the official files of benchmarks."""


@pytest.fixture
def home(tmp_path: Path, test_home: Path, smollm2_dir: Path, minilm_dir: Path) -> Home:
    """A new home that uses the weights of the test home."""
    assert smollm2_dir.parent == minilm_dir.parent == test_home / "weights"
    home = Home(tmp_path / "home").prepare()
    (home.root / "weights").symlink_to(test_home / "weights")
    return home


def generate(home: Home, domain: str = "starter", **settings: object) -> dict[str, object]:
    """Execute a run of the embedded profile with these settings, and verify it. Returns the run's summary."""
    config = configs.resolve(domain, "embedded", {"seed": 7, **settings}, home)
    run = asyncio.run(runs.start(home, config))
    asyncio.run(runs.execute(home, run))
    with LedgerView(home.ledger) as view:
        assert list(verify_run(view, run)) == []
        return view.summarize_run(run).to_json()


def test_concurrency_does_not_change_the_dataset(home: Home) -> None:
    sequential = generate(home, target=3, concurrency=1)
    other_home = Home(home.root.parent / "other").prepare()
    (other_home.root / "weights").symlink_to(home.root / "weights")
    concurrent = generate(other_home, target=3, concurrency=16)
    assert sequential["kept"] == 3 and sequential["repeatable"] is True
    for key in ("digest", "funnel", "turns"):
        assert sequential[key] == concurrent[key], key


def test_embedded_profile_runs_from_generation_to_report(home: Home, tmp_path: Path) -> None:
    summary = generate(home, target=4, concurrency=16)
    run = str(summary["run"])
    data = load_run_data(home, run)
    validation_examples = load_validation_examples(home, load_built_in("starter"))[:2]
    settings = TrainSettings(epochs=3)
    outcome = train_adapter(home, data.run, "smollm2-135m", settings, data.rows, validation_examples, lambda _: None)
    assert outcome.val_loss is not None and outcome.val_loss != outcome.initial_val_loss
    # Whether the validation loss rises or falls depends on the processor; the training loss always falls.
    assert outcome.train_losses[-1] < outcome.train_losses[0], outcome.train_losses

    def evaluate_model(adapter: str) -> EvaluationSummary:
        return evaluate(home, "smollm2-135m", adapter, "starter-easy", "test", 4, runs=1, temperature=0.0)

    base_evaluation = evaluate_model("")
    tuned_evaluation = evaluate_model(outcome.adapter[:12])
    assert (base_evaluation.n, tuned_evaluation.n) == (4, 4) and base_evaluation.id != tuned_evaluation.id
    with LedgerView(home.ledger) as view:
        assert compare(view, [base_evaluation.id, tuned_evaluation.id]).pairs[0].n == 4
        calls_before = view.row("SELECT count(*) AS n FROM calls")
        assert calls_before is not None

        assert evaluate_model("") == base_evaluation
        calls_after = view.row("SELECT count(*) AS n FROM calls")
        assert calls_after is not None and calls_after["n"] == calls_before["n"], (
            "the repeated evaluation sent requests"
        )
    page = write_report(home.ledger, run, tmp_path / "report").read_text()
    assert "95% interval" in page and "exact McNemar" in page and page.count('class="example"') >= 3


def test_domain_without_programs_uses_the_small_model_in_every_role(home: Home) -> None:
    summary = generate(
        home,
        "starter-medicine",
        max_turns=1,
        concurrency=1,
        retries={"validation": 0, "parse": 0},
        pause_after_unread=0,  # the small model's replies may all be unreadable
    )
    assert summary["turns"] == 1 and summary["funnel"]["attempts"] == 1  # type: ignore[index]


@pytest.mark.skipif(not BENCHMARK_FILES.exists(), reason="there are no benchmark files in ../shared/data")
def test_gsmhard_run_uses_items_imported_from_the_official_file(home: Home) -> None:
    def run_cli(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "nanoflux_local.cli", *arguments]
        environment = {**os.environ, "NANOFLUX_HOME": str(home.root)}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True)

    path = BENCHMARK_FILES / "gsm-hard" / "gsmhardv2.jsonl"
    first_import = json.loads(run_cli("data", "import", "gsmhard", str(path), "--json").stdout)
    assert first_import["items"] == 1319
    repeated_import = run_cli("data", "import", "gsmhard", str(path)).stderr
    assert "nothing changed" in repeated_import and "checking" not in repeated_import, (
        "the second import ran the programs of the items again"
    )
    run_arguments = ("run", "start", "--domain", "gsmhard", "--examples", "2", "--seed", "1", "--json")
    summary = json.loads(run_cli(*run_arguments).stdout)
    assert summary["kept"] == 2 and summary["status"] == "done"
    with LedgerView(home.ledger) as view:
        for record in view.turn_records(summary["run"]):
            for attempt in record.attempts:
                if attempt.validation is not None:
                    assert attempt.validation.finding("code").conclusion == "supports"
