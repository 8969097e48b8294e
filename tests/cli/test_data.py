"""Importing a user's data: one split at a time, from a corrected file, under a different name, and what is reported."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from nanoflux_local.ledger.excerpt import ExcerptContents, write_excerpt
from nanoflux_local.ledger.views import LedgerView

QUESTIONS = [
    ("A syrup holds 40 mg in each ml. How many ml give 200 mg?", 5),
    ("A ward gives 3 tablets a day to each of 12 patients. How many tablets last a week?", 252),
    ("A drip runs 2 hours at 75 ml an hour. How much is given?", 150),
    ("A child of 18 kg gets 15 mg for each kg. How many mg is that?", 270),
]
DOMAIN = """
extends = "gsmhard"
title = "doses"
datasets = ["doses"]
programs = false
examples = []
attacks = []
seeds = { min = 2, max = 3 }
novelty = { question = 0.9, solution = 0.8, embedder = "hashing-embedder" }
"""
Command = Callable[..., dict]


def write_rows(path: Path, *pairs: tuple[str, object]) -> Path:
    lines = [json.dumps({"question": question, "answer": answer}) for question, answer in pairs]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture
def command(tmp_path: Path, invoke: Callable) -> Command:
    """Run a command that must succeed, and return its JSON."""

    def run(*arguments: str | Path) -> dict:
        result = invoke(tmp_path / "home", *map(str, arguments), "--json")
        assert result.code == 0, result.err
        return json.loads(result.out)

    return run


def count_splits(command: Command, name: str) -> dict[str, int]:
    return next(entry["splits"] for entry in command("data", "list") if entry["name"] == name)


def test_data_import_adds_one_split_at_a_time(tmp_path: Path, command: Command, invoke: Callable) -> None:
    train_file = write_rows(tmp_path / "train.jsonl", *QUESTIONS[:3])
    test_file = write_rows(tmp_path / "test.jsonl", QUESTIONS[3])
    assert command("data", "import", "doses", train_file)["imported"]
    assert command("data", "import", "doses", test_file)["imported"]
    assert count_splits(command, "doses") == {"train": 3, "test": 1}
    for path in (train_file, test_file):
        assert not command("data", "import", "doses", path)["imported"], "the same file was imported again"
    write_rows(train_file, *QUESTIONS)
    result = invoke(tmp_path / "home", "data", "import", "doses", str(train_file))
    assert result.code == 2
    assert (
        "the dataset doses already has train items, imported from other files (train.jsonl, test.jsonl)" in result.err
    )
    assert "--replace" in result.err and "--as NAME" in result.err
    assert count_splits(command, "doses") == {"train": 3, "test": 1}


def test_data_import_under_another_name_keeps_both(tmp_path: Path, command: Command, invoke: Callable) -> None:
    train_file = write_rows(tmp_path / "train.jsonl", *QUESTIONS)
    command("data", "import", "doses", train_file)
    assert command("data", "import", "doses", train_file, "--as", "doses-2")["dataset"] == "doses-2"
    (item,) = command("data", "show", "doses-2", "--limit", "1")
    assert (item["id"], item["dataset"]) == ("doses-2-train-1", "doses-2")
    for name in ("gsm8k", "starter-doses", "Doses", "../doses"):
        result = invoke(tmp_path / "home", "data", "import", "doses", str(train_file), "--as", name)
        assert result.code == 2 and f"{name!r} is not a valid name for your own data" in result.err


def test_replaced_data_does_not_change_earlier_runs(tmp_path: Path, command: Command, invoke: Callable) -> None:
    train_file = write_rows(tmp_path / "train.jsonl", *QUESTIONS)
    (tmp_path / "home" / "domains").mkdir(parents=True)
    (tmp_path / "home" / "domains" / "doses.toml").write_text(DOMAIN)
    command("data", "import", "doses", train_file)
    start = ("run", "start", "--domain", "doses", "--profile", "scripted", "--max-turns", "3")
    earlier_run = command(*start, "--name", "before", "--seed", "3")
    (former_item,) = command("data", "show", "doses", "--limit", "1")
    write_rows(train_file, *((f"{question} Give a whole number.", answer) for question, answer in QUESTIONS))
    assert command("data", "import", "doses", train_file, "--replace")["imported"]
    assert command("data", "show", "doses", "--limit", "1")[0]["question"].endswith("Give a whole number.")
    assert command("run", "replay", "before")["same"]
    assert invoke(tmp_path / "home", "run", "verify", "before").code == 0
    (version,) = (entry["name"] for entry in command("data", "list") if entry["name"].startswith("doses@"))
    assert command("data", "show", version, "--limit", "1") == [former_item]
    for example in command("examples", "list", "before"):
        for seed in command("examples", "show", example["id"])["lineage"]["seeds"]:
            assert seed["dataset"] == version and not seed["question"].endswith("Give a whole number.")
    write_excerpt(tmp_path / "home" / "ledger.db", tmp_path / "excerpt.db", ExcerptContents([earlier_run["run"]]))
    with LedgerView(tmp_path / "excerpt.db") as view:
        assert view.pinned_versions(earlier_run["run"]) == {"doses": version}
        assert len(view.items(version)) == len(QUESTIONS)
    later_run = command(*start, "--name", "after", "--seed", "3")
    assert earlier_run["run"] != later_run["run"] and command("run", "replay", "after")["same"]
    assert not command("data", "import", "doses", train_file, "--replace")["imported"], (
        "the same content was imported again"
    )


def test_data_import_reports_answers_below_tolerance(tmp_path: Path, command: Command, invoke: Callable) -> None:
    path = write_rows(tmp_path / "train.jsonl", ("How much?", 3.2e-7), ("And how much?", 1e-6))
    result = invoke(tmp_path / "home", "data", "import", "doses", str(path))
    assert f"1 answer below 1e-6, compared by relative instead of absolute difference: {path}, line 1" in result.err
    assert command("data", "import", "doses", path)["below_tolerance"] == 1


def test_contradictory_question_is_refused_or_left_out(tmp_path: Path, command: Command, invoke: Callable) -> None:
    path = write_rows(tmp_path / "train.jsonl", ("How much?", 5), ("Who?", "he"), ("how  much?", 6), ("Who?", "she"))
    result = invoke(tmp_path / "home", "data", "import", "doses", str(path))
    assert result.code == 2
    assert f"{path}, line 3: repeats the question of {path}, line 1 with the answer '6', not '5'" in result.err
    report = command("data", "import", "doses", path, "--skip-bad")
    assert (report["items"], report["skipped"]) == (3, 1), (
        "two free texts may have the same meaning, so they do not contradict each other"
    )


def test_benchmark_with_contradictory_answers_is_reported(tmp_path: Path, invoke: Callable) -> None:
    row = {"question": "How much?", "answer": "#### 5"}
    path = tmp_path / "train.jsonl"
    path.write_text(f"{json.dumps(row)}\n{json.dumps({**row, 'answer': '#### 6'})}\n")
    result = invoke(tmp_path / "home", "data", "import", "gsm8k", str(path))
    assert result.code == 0
    assert f"contradictory: {path}, line 2: repeats the question of {path}, line 1" in result.err
