"""Held-out questions: which ones a domain has, and that the audit reports training examples that contain them."""

from pathlib import Path

import pytest

from nanoflux_local.domains.own import load_domain
from nanoflux_local.errors import NothingMatchedError
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.seeds.datasets import load_items
from nanoflux_local.train import trainings
from nanoflux_local.train.audit import audit
from nanoflux_local.train.conversation import build_training_example
from nanoflux_local.train.settings import TrainSettings


def test_audit_reports_an_example_that_contains_a_test_question(tmp_path: Path, smollm2_dir: Path) -> None:
    domain, home = load_domain("starter"), Home(tmp_path)
    held_out_questions = trainings.list_held_out_questions(home, domain)
    train_item = load_items(home.ledger, "starter", "train")[0]
    test_item = load_items(home.ledger, "starter", "test")[0]
    assert test_item.question in held_out_questions and train_item.question not in held_out_questions
    assert any(item.question in held_out_questions for item in load_items(home.ledger, "starter-easy", "test"))
    examples = [
        build_training_example(domain, domain.budgets, f"Think! {item.question}", item.solution, item.answer, "")
        for item in (train_item, test_item)
    ]
    report = audit(TrainSettings(val_fraction=0), examples, (), smollm2_dir, held_out_questions)
    assert report.leaked == (1,), (
        "the report does not list exactly the second example, the only one with a test question"
    )


def test_find_training_names_the_training_runs_that_an_ambiguous_id_matches(tmp_path: Path) -> None:
    home = Home(tmp_path).prepare()
    with Ledger(home.ledger) as ledger:
        for training in ("train-a1", "train-a2"):
            ledger.create_training(training, "", "smollm2-135m", "0" * 64, {}, {})
    with LedgerView(home.ledger) as view:
        with pytest.raises(NothingMatchedError, match="several training ids: train-a1, train-a2"):
            trainings.find_training(view, "train-a")
        for name in ("", "train-b"):
            with pytest.raises(NothingMatchedError, match="there is no training run"):
                trainings.find_training(view, name)


def test_benchmark_that_is_not_imported_has_no_held_out_questions(tmp_path: Path) -> None:
    assert trainings.list_held_out_questions(Home(tmp_path), load_domain("gsmhard")) == []
