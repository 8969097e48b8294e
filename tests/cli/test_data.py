"""Importing a user's data: one split at a time, from a corrected file, under a different name, and with warnings."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from nanoflux_local.ledger.excerpt import ExcerptContents, write_excerpt
from nanoflux_local.ledger.views import LedgerView

QUESTIONS_WITH_ANSWERS = [
    ("A syrup holds 40 mg in each ml. How many ml give 200 mg?", 5),
    ("A ward gives 3 tablets a day to each of 12 patients. How many tablets last a week?", 252),
    ("A drip runs 2 hours at 75 ml an hour. How much is given?", 150),
    ("A child of 18 kg gets 15 mg for each kg. How many mg is that?", 270),
]
DOSES_DOMAIN = """
extends = "gsmhard"
title = "doses"
datasets = ["doses"]
programs = false
examples = []
attacks = []
seeds = { min = 2, max = 3 }
novelty = { question = 0.9, solution = 0.8, embedder = "hashing-embedder" }
"""
"""A domain whose seeds come from the user's dataset `doses`."""
RunJson = Callable[..., dict]
"""Runs a command and returns its JSON."""


def write_rows(path: Path, *questions_with_answers: tuple[str, object]) -> Path:
    """Write questions with answers as JSON Lines, and return the path."""
    lines = [json.dumps({"question": question, "answer": answer}) for question, answer in questions_with_answers]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture
def run_json(tmp_path: Path, invoke: Callable) -> RunJson:
    """A function that runs a command, checks that it succeeds, and returns its JSON."""

    def run(*arguments: str | Path) -> dict:
        result = invoke(tmp_path / "home", *map(str, arguments), "--json")
        assert result.code == 0, result.err
        return json.loads(result.out)

    return run


def count_splits(run_json: RunJson, name: str) -> dict[str, int]:
    """The number of items in each split of a dataset."""
    return next(entry["splits"] for entry in run_json("data", "list") if entry["name"] == name)


def test_data_import_adds_one_split_at_a_time(tmp_path: Path, run_json: RunJson, invoke: Callable) -> None:
    train_file = write_rows(tmp_path / "train.jsonl", *QUESTIONS_WITH_ANSWERS[:3])
    test_file = write_rows(tmp_path / "test.jsonl", QUESTIONS_WITH_ANSWERS[3])
    assert run_json("data", "import", "doses", train_file)["imported"]
    assert run_json("data", "import", "doses", test_file)["imported"]
    assert count_splits(run_json, "doses") == {"train": 3, "test": 1}
    for path in (train_file, test_file):
        assert not run_json("data", "import", "doses", path)["imported"], "the same file was imported again"
    write_rows(train_file, *QUESTIONS_WITH_ANSWERS)
    refusal = invoke(tmp_path / "home", "data", "import", "doses", str(train_file))
    problem = "the dataset doses already has train items, imported from other files (train.jsonl, test.jsonl)"
    assert refusal.code == 2 and problem in refusal.err
    assert "--replace" in refusal.err and "--as NAME" in refusal.err
    assert count_splits(run_json, "doses") == {"train": 3, "test": 1}


def test_data_import_under_another_name_keeps_both_datasets(
    tmp_path: Path, run_json: RunJson, invoke: Callable
) -> None:
    train_file = write_rows(tmp_path / "train.jsonl", *QUESTIONS_WITH_ANSWERS)
    run_json("data", "import", "doses", train_file)
    assert run_json("data", "import", "doses", train_file, "--as", "doses-2")["dataset"] == "doses-2"
    (item,) = run_json("data", "show", "doses-2", "--limit", "1")
    assert (item["id"], item["dataset"]) == ("doses-2-train-1", "doses-2")
    for invalid_name in ("gsm8k", "starter-doses", "Doses", "../doses"):
        refusal = invoke(tmp_path / "home", "data", "import", "doses", str(train_file), "--as", invalid_name)
        assert refusal.code == 2 and f"{invalid_name!r} is not a valid name for your own data" in refusal.err


def test_replaced_data_does_not_change_earlier_runs(tmp_path: Path, run_json: RunJson, invoke: Callable) -> None:
    train_file = write_rows(tmp_path / "train.jsonl", *QUESTIONS_WITH_ANSWERS)
    (tmp_path / "home" / "domains").mkdir(parents=True)
    (tmp_path / "home" / "domains" / "doses.toml").write_text(DOSES_DOMAIN)
    run_json("data", "import", "doses", train_file)
    start_command = ("run", "start", "--domain", "doses", "--profile", "scripted", "--max-turns", "3")
    earlier_run = run_json(*start_command, "--name", "before", "--seed", "3")
    (former_item,) = run_json("data", "show", "doses", "--limit", "1")
    changed_rows = [(f"{question} Give a whole number.", answer) for question, answer in QUESTIONS_WITH_ANSWERS]
    write_rows(train_file, *changed_rows)
    assert run_json("data", "import", "doses", train_file, "--replace")["imported"]
    assert run_json("data", "show", "doses", "--limit", "1")[0]["question"].endswith("Give a whole number.")
    assert run_json("run", "replay", "before")["same"]
    assert invoke(tmp_path / "home", "run", "verify", "before").code == 0
    datasets = [entry["name"] for entry in run_json("data", "list")]
    (former_dataset,) = [name for name in datasets if name.startswith("doses@")]
    assert run_json("data", "show", former_dataset, "--limit", "1") == [former_item]
    for example in run_json("examples", "list", "before"):
        for seed in run_json("examples", "show", example["id"])["lineage"]["seeds"]:
            assert seed["dataset"] == former_dataset and not seed["question"].endswith("Give a whole number.")
    write_excerpt(tmp_path / "home" / "ledger.db", tmp_path / "excerpt.db", ExcerptContents([earlier_run["run"]]))
    with LedgerView(tmp_path / "excerpt.db") as view:
        assert view.pinned_versions(earlier_run["run"]) == {"doses": former_dataset}
        assert len(view.items(former_dataset)) == len(QUESTIONS_WITH_ANSWERS)
    later_run = run_json(*start_command, "--name", "after", "--seed", "3")
    assert earlier_run["run"] != later_run["run"] and run_json("run", "replay", "after")["same"]
    assert not run_json("data", "import", "doses", train_file, "--replace")["imported"], (
        "the same content was imported again"
    )


def test_data_import_replaces_a_dataset_with_one_of_its_files(tmp_path: Path, run_json: RunJson) -> None:
    train_file = write_rows(tmp_path / "train.jsonl", *QUESTIONS_WITH_ANSWERS[:3])
    test_file = write_rows(tmp_path / "test.jsonl", QUESTIONS_WITH_ANSWERS[3])
    run_json("data", "import", "doses", train_file)
    run_json("data", "import", "doses", test_file)
    assert not run_json("data", "import", "doses", train_file, test_file, "--replace")["imported"]
    assert run_json("data", "import", "doses", test_file, "--replace")["imported"]
    assert count_splits(run_json, "doses") == {"test": 1}
    assert not run_json("data", "import", "doses", test_file, "--replace")["imported"]


def test_data_import_reports_answers_below_tolerance(tmp_path: Path, run_json: RunJson, invoke: Callable) -> None:
    path = write_rows(tmp_path / "train.jsonl", ("How much?", 3.2e-7), ("And how much?", 1e-6))
    result = invoke(tmp_path / "home", "data", "import", "doses", str(path))
    assert f"1 answer below 1e-6, compared by relative instead of absolute difference: {path}, line 1" in result.err
    assert run_json("data", "import", "doses", path)["below_tolerance"] == 1


def test_question_with_contradictory_answers_is_refused_or_skipped(
    tmp_path: Path, run_json: RunJson, invoke: Callable
) -> None:
    path = write_rows(tmp_path / "train.jsonl", ("How much?", 5), ("Who?", "he"), ("how  much?", 6), ("Who?", "she"))
    result = invoke(tmp_path / "home", "data", "import", "doses", str(path))
    assert result.code == 2
    assert f"{path}, line 3: repeats the question of {path}, line 1 with the answer '6', not '5'" in result.err
    summary = run_json("data", "import", "doses", path, "--skip-bad")
    assert (summary["items"], summary["skipped"]) == (3, 1), (
        "different free-text answers were treated as contradictory, although they may have the same meaning"
    )


def test_contradictory_answers_in_a_benchmark_are_only_reported(tmp_path: Path, invoke: Callable) -> None:
    row = {"question": "How much?", "answer": "#### 5"}
    path = tmp_path / "train.jsonl"
    path.write_text(f"{json.dumps(row)}\n{json.dumps({**row, 'answer': '#### 6'})}\n")
    result = invoke(tmp_path / "home", "data", "import", "gsm8k", str(path))
    assert result.code == 0
    assert f"contradictory: {path}, line 2: repeats the question of {path}, line 1" in result.err
