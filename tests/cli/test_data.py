"""Import of user data: one split at a time, a corrected file, another name, and the report of an import."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from nanoflux_local.ledger.excerpt import Wanted, write_excerpt
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


def rows(path: Path, *pairs: tuple[str, object]) -> Path:
    path.write_text("".join(json.dumps({"question": q, "answer": a}) + "\n" for q, a in pairs), encoding="utf-8")
    return path


@pytest.fixture
def command(tmp_path: Path, called: Callable) -> Command:
    """A command's JSON; it must succeed."""

    def run(*arguments: str | Path) -> dict:
        ended = called(tmp_path / "home", *map(str, arguments), "--json")
        assert ended.code == 0, ended.err
        return json.loads(ended.out)

    return run


def splits(command: Command, name: str) -> dict[str, int]:
    return next(entry["splits"] for entry in command("data", "list") if entry["name"] == name)


def test_data_import_adds_one_split_at_a_time(tmp_path: Path, command: Command, called: Callable) -> None:
    train, test = rows(tmp_path / "train.jsonl", *QUESTIONS[:3]), rows(tmp_path / "test.jsonl", QUESTIONS[3])
    assert command("data", "import", "doses", train)["imported"]
    assert command("data", "import", "doses", test)["imported"]
    assert splits(command, "doses") == {"train": 3, "test": 1}
    for path in (train, test):
        assert not command("data", "import", "doses", path)["imported"], "the same file again changes nothing"
    rows(train, *QUESTIONS)
    ended = called(tmp_path / "home", "data", "import", "doses", str(train))
    assert ended.code == 2
    assert "doses already has train items, from other content (train.jsonl, test.jsonl)" in ended.err
    assert "--replace" in ended.err and "--as NAME" in ended.err
    assert splits(command, "doses") == {"train": 3, "test": 1}


def test_data_import_under_another_name_keeps_both(tmp_path: Path, command: Command, called: Callable) -> None:
    train = rows(tmp_path / "train.jsonl", *QUESTIONS)
    command("data", "import", "doses", train)
    assert command("data", "import", "doses", train, "--as", "doses-2")["dataset"] == "doses-2"
    (shown,) = command("data", "show", "doses-2", "--limit", "1")
    assert (shown["id"], shown["dataset"]) == ("doses-2-train-1", "doses-2")
    for name in ("gsm8k", "starter-doses", "Doses", "../doses"):
        ended = called(tmp_path / "home", "data", "import", "doses", str(train), "--as", name)
        assert ended.code == 2 and f"no data can be imported as {name!r}" in ended.err


def test_data_import_replaces_items_and_runs_keep_theirs(tmp_path: Path, command: Command, called: Callable) -> None:
    train = rows(tmp_path / "train.jsonl", *QUESTIONS)
    (tmp_path / "home" / "domains").mkdir(parents=True)
    (tmp_path / "home" / "domains" / "doses.toml").write_text(DOMAIN)
    command("data", "import", "doses", train)
    start = ("run", "start", "--domain", "doses", "--profile", "scripted", "--max-turns", "3")
    before = command(*start, "--name", "before", "--seed", "3")
    (old,) = command("data", "show", "doses", "--limit", "1")
    rows(train, *((f"{question} Give a whole number.", answer) for question, answer in QUESTIONS))
    assert command("data", "import", "doses", train, "--replace")["imported"]
    assert command("data", "show", "doses", "--limit", "1")[0]["question"].endswith("Give a whole number.")
    assert command("run", "replay", "before")["same"]
    assert called(tmp_path / "home", "run", "verify", "before").code == 0
    (version,) = (entry["name"] for entry in command("data", "list") if entry["name"].startswith("doses@"))
    assert command("data", "show", version, "--limit", "1") == [old]
    for example in command("examples", "list", "before"):
        for seed in command("examples", "show", example["id"])["lineage"]["seeds"]:
            assert seed["dataset"] == version and not seed["question"].endswith("Give a whole number.")
    write_excerpt(tmp_path / "home" / "ledger.db", tmp_path / "excerpt.db", Wanted([before["run"]]))
    with LedgerView(tmp_path / "excerpt.db") as view:
        assert view.pinned_versions(before["run"]) == {"doses": version} and len(view.items(version)) == len(QUESTIONS)
    after = command(*start, "--name", "after", "--seed", "3")
    assert before["run"] != after["run"] and command("run", "replay", "after")["same"]
    assert not command("data", "import", "doses", train, "--replace")["imported"], "this content is here already"


def test_data_import_reports_answers_below_tolerance(tmp_path: Path, command: Command, called: Callable) -> None:
    path = rows(tmp_path / "train.jsonl", ("How much?", 3.2e-7), ("And how much?", 1e-6))
    ended = called(tmp_path / "home", "data", "import", "doses", str(path))
    assert f"1 answers are below 1e-6 and compared relatively: {path}, line 1" in ended.err
    assert command("data", "import", "doses", path)["below_tolerance"] == 1


def test_contradictory_question_is_refused_or_left_out(tmp_path: Path, command: Command, called: Callable) -> None:
    path = rows(tmp_path / "train.jsonl", ("How much?", 5), ("Who?", "he"), ("how  much?", 6), ("Who?", "she"))
    ended = called(tmp_path / "home", "data", "import", "doses", str(path))
    assert ended.code == 2
    assert f"{path}, line 3: the question of {path}, line 1 again, with the answer '6', not '5'" in ended.err
    result = command("data", "import", "doses", path, "--skip-bad")
    assert (result["items"], result["skipped"]) == (3, 1), "free texts may say one thing in two ways"


def test_benchmark_with_contradictory_answers_is_reported(tmp_path: Path, called: Callable) -> None:
    row = {"question": "How much?", "answer": "#### 5"}
    path = tmp_path / "train.jsonl"
    path.write_text(f"{json.dumps(row)}\n{json.dumps({**row, 'answer': '#### 6'})}\n")
    ended = called(tmp_path / "home", "data", "import", "gsm8k", str(path))
    assert ended.code == 0
    assert f"contradictory: {path}, line 2: the question of {path}, line 1 again" in ended.err
