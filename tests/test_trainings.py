"""Training data is checked for leaked benchmark questions."""

from pathlib import Path

from nanoflux_local.domains.own import load_domain
from nanoflux_local.paths import Home
from nanoflux_local.seeds.datasets import load_items
from nanoflux_local.train import trainings
from nanoflux_local.train.audit import audit
from nanoflux_local.train.conversation import build_training_example
from nanoflux_local.train.settings import TrainSettings


def test_leaked_test_question_is_named_before_training(tmp_path: Path, smollm2_dir: Path) -> None:
    domain, home = load_domain("starter"), Home(tmp_path)
    held_out = trainings.list_held_out_questions(home, domain)
    (test_item, *_), (train_item, *_) = (load_items(home.ledger, "starter", split) for split in ("test", "train"))
    assert test_item.question in held_out and train_item.question not in held_out
    assert any(item.question in held_out for item in load_items(home.ledger, "starter-easy", "test"))
    examples = [
        build_training_example(domain, domain.budgets, f"Think! {item.question}", item.solution, item.answer, "")
        for item in (train_item, test_item)
    ]
    assert audit(TrainSettings(val_fraction=0), examples, (), smollm2_dir, held_out).leaked == (1,)


def test_missing_benchmark_is_not_searched_for_leaks(tmp_path: Path) -> None:
    assert trainings.list_held_out_questions(Home(tmp_path), load_domain("gsmhard")) == []
