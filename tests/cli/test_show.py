"""With `--json`, a command prints the promised keys as one document on stdout, and everything else on stderr."""

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from nanoflux_local.transcript import OUTCOMES

SHOW_KEYS = {"run", "domain", "status", "turns", "kept", "target", "digest", "funnel", "calls", "usage", "seconds"}
"""Keys of `run show --json` on which scripts may rely."""
FUNNEL_KEYS = ["attempts", "unparsed", "novelty_rejected", "contaminated", "invalid", "low_confidence",
               "defender_right", "unproven", "kept_failed", "kept_novel", "failed"]  # fmt: skip
JSON_COMMANDS = [
    ("run", "list"), ("run", "show", "tour"), ("run", "verify", "tour"), ("run", "replay", "tour"),
    ("run", "resume", "tour"), ("examples", "list", "tour"), ("data", "list"), ("data", "show", "starter-genetics"),
    ("models", "list"),
]  # fmt: skip
"""Commands that end with exit code 0 in a home with the run "tour" and print JSON with `--json`."""


def test_run_show_has_the_documented_keys_and_its_funnel_adds_up(tour_home: Path, nanoflux: Callable) -> None:
    document = nanoflux(tour_home, "run", "show", "tour", "--json").json
    assert document.keys() >= SHOW_KEYS
    assert list(document["funnel"]) == FUNNEL_KEYS
    funnel = document["funnel"]
    assert funnel["attempts"] == sum(funnel[outcome] for outcome in OUTCOMES) >= document["turns"]
    assert document["kept"] == funnel["kept_failed"] + funnel["kept_novel"] > 0
    calls, usage = document["calls"], document["usage"]
    assert calls.keys() >= {"made", "remembered"} and calls["made"] > 0
    assert usage.keys() >= {"prompt_tokens", "completion_tokens", "usd"}
    assert usage["prompt_tokens"] > usage["completion_tokens"] > 0
    assert (document["domain"], document["status"]) == ("starter-genetics", "done")
    assert (document["turns"], document["target"]) == (12, 200)
    assert len(document["digest"]) == 64 and document["seconds"] > 0
    assert document["forecast"]["reason"] and document["refused"] == {}
    assert document["judge_trial"] is document["panel"] is document["review"] is None
    assert sum(document["unread"].values()) == funnel["unparsed"] + funnel["failed"]
    (listed_run,) = nanoflux(tour_home, "run", "list", "--json").json
    keys_of_show_only = {"forecast", "judge_trial", "panel", "review", "rule_changes", "unread", "refused"}
    assert listed_run == {key: value for key, value in document.items() if key not in keys_of_show_only}


def test_run_table_agrees_with_json(tour_home: Path, nanoflux: Callable) -> None:
    document = nanoflux(tour_home, "run", "show", "tour", "--json").json
    table = nanoflux(tour_home, "run", "show", "tour").out
    lines_of_two_words = [line.split() for line in table.splitlines() if len(line.split()) == 2]
    value_by_label = dict(lines_of_two_words)
    assert value_by_label["digest"] == document["digest"] and value_by_label["run"] == document["run"]
    assert value_by_label["attempts"] == str(document["funnel"]["attempts"])
    assert f"{document['kept']} of 200 in 12 turns" in table
    _, listed_run = nanoflux(tour_home, "run", "list").out.splitlines()
    expected_cells = [document["run"], "tour", "starter-genetics", "done", "12", str(document["kept"]), "200"]
    assert listed_run.split() == expected_cells


def test_stdout_contains_only_the_json_document(
    home: Path, tmp_path: Path, nanoflux: Callable, call_concurrently: Callable, scripted_start: tuple[str, ...]
) -> None:
    new_run = nanoflux(tmp_path / "new", *scripted_start, "--max-turns", "3", "--json")
    assert new_run.json["turns"] == 3 and new_run.code == 0
    assert "stop with Ctrl-C" in new_run.err and "kept in" in new_run.err and "\x1b" not in new_run.err
    for result in call_concurrently(lambda arguments: nanoflux(home, *arguments, "--json"), JSON_COMMANDS):
        assert result.code == 0, result.err
        assert result.json  # stdout has one document, which is not empty


def test_examples_show_names_seeds_and_calls(tour_home: Path, nanoflux: Callable) -> None:
    examples = nanoflux(tour_home, "examples", "list", "tour", "--json").json
    kept_count = nanoflux(tour_home, "run", "show", "tour", "--json").json["kept"]
    turns = [example["turn"] for example in examples]
    assert len(examples) == kept_count and turns == sorted(turns)
    example = examples[0]
    document = nanoflux(tour_home, "examples", "show", example["id"], "--json").json
    last_attempt = document["turn"]["attempts"][-1]
    question = last_attempt["attack"]["question"]
    assert (question, last_attempt["outcome"]) == (example["question"], example["reason"])
    assert len(last_attempt["seeds"]) >= 2 and all(seed.startswith("genetics-") for seed in last_attempt["seeds"])
    result = nanoflux(tour_home, "examples", "show", example["id"])
    for part in (
        last_attempt["attack"]["solution"],
        last_attempt["defence"]["solution"],
        last_attempt["evaluation"]["explanation"],
    ):
        assert part in result.out
    calls = document["lineage"]["calls"]
    chats = [call for call in calls if call["kind"] == "chat"]
    assert {"attacker", "defender", "judge"} <= {call["role"] for call in chats}
    assert any(question in call["reply"] for call in chats if call["role"] == "attacker")
    assert any(question in call["prompt"][-1]["content"] for call in chats if call["role"] == "defender")
    assert document["lineage"]["near"] == [], "held-out items are listed for a run that has none"
    table = nanoflux(tour_home, "examples", "list", "tour").out
    assert len(table.splitlines()) == kept_count + 1 and example["id"] in table


def test_examples_list_of_an_empty_run_exits_with_4(
    tmp_path: Path, nanoflux: Callable, scripted_start: tuple[str, ...]
) -> None:
    """With these thresholds and this confidence, no question can be kept."""
    settings = ("--max-turns", "1", "--set", "novelty.question=-1", "--set", "novelty.solution=-1")
    nanoflux(tmp_path, *scripted_start, *settings, "--set", "judge.confidence=1", "--name", "none")
    result = nanoflux(tmp_path, "examples", "list", "none")
    assert result.code == 4 and "kept no examples" in result.err
    assert nanoflux(tmp_path, "examples", "list", "none", "--json").json == []


def test_verify_and_replay_detect_a_changed_record(home: Path, nanoflux: Callable) -> None:
    digest = nanoflux(home, "run", "show", "tour", "--json").json["digest"]
    verification = nanoflux(home, "run", "verify", "tour", "--json")
    replay = nanoflux(home, "run", "replay", "tour", "--json")
    assert (verification.code, verification.json["ok"], verification.json["problems"]) == (0, True, [])
    assert (replay.code, replay.json["same"], replay.json["digest"], replay.json["turns"]) == (0, True, digest, 12)
    with sqlite3.connect(home / "ledger.db") as connection:
        connection.execute("UPDATE examples SET answer = answer || '!' WHERE turn = (SELECT max(turn) FROM examples)")
        connection.execute("DELETE FROM calls WHERE id = (SELECT max(call) FROM turn_calls)")
    connection.close()
    failed_verification = nanoflux(home, "run", "verify", "tour", "--json")
    failed_replay = nanoflux(home, "run", "replay", "tour", "--json")
    problems = failed_verification.json["problems"]
    assert failed_verification.code == 1 and not failed_verification.json["ok"]
    assert len(problems) >= 3 and f"does not match its hashes in {len(problems)} places" in failed_verification.err
    verification_without_json = nanoflux(home, "run", "verify", "tour")
    assert verification_without_json.code == 1 and verification_without_json.out.splitlines() == problems
    assert failed_replay.code == 1 and "does not contain a" in failed_replay.err and failed_replay.out == ""


def test_replay_that_produces_another_digest_fails(home: Path, nanoflux: Callable) -> None:
    with sqlite3.connect(home / "ledger.db") as connection:
        connection.execute("""UPDATE turns SET record = replace(record, '"solution":"', '"solution":"So, ')""")
    connection.close()
    result = nanoflux(home, "run", "replay", "tour", "--json")
    assert result.code == 1 and not result.json["same"] and "a different dataset" in result.err


def test_data_import_can_be_repeated_and_data_show_prints_its_items(tmp_path: Path, nanoflux: Callable) -> None:
    rows = [
        {
            "input": f"What is {number} plus {number}? {'word ' * number}",  # each question has different words
            "code": f"def solution():\n    return {number} + {number}",
            "target": 2 * number,
        }
        for number in range(2, 10)
    ]
    (tmp_path / "hard.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    import_command = ("data", "import", "gsmhard", str(tmp_path / "hard.jsonl"), "--json")
    first_import = nanoflux(tmp_path / "home", *import_command)
    repeated_import = nanoflux(tmp_path / "home", *import_command)
    counts = {"dataset": "gsmhard", "items": 8, "skipped": 0, "blank": 0, "restated": {}, "contradictory": 0,
               "below_tolerance": 0}  # fmt: skip
    assert first_import.json == {**counts, "imported": True}, first_import.err
    assert repeated_import.json == {**counts, "imported": False}
    entries = nanoflux(tmp_path / "home", "data", "list", "--json").json
    (gsmhard_entry,) = [entry for entry in entries if entry["name"] == "gsmhard"]
    assert sum(gsmhard_entry["splits"].values()) == 8 and gsmhard_entry["source"] == "hard.jsonl"
    items = nanoflux(tmp_path / "home", "data", "show", "gsmhard", "--limit", "2", "--json").json
    assert len(items) == 2 and items[0]["answer"].isdigit()
    assert items[0]["question"] in nanoflux(tmp_path / "home", "data", "show", "gsmhard").out


def test_data_import_reports_restated_and_skipped_rows(tmp_path: Path, nanoflux: Callable) -> None:
    easy_rows = [{"question": f"How many apples has {name}, who had 3?", "answer": "#### 3"} for name in ("Ann", "Bo")]
    hard_row = {
        "input": "How many apples has Ann, who had 71234?", "code": "def solution():\n    return 71234", "target": 71234
    }  # fmt: skip
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*easy_rows, {"question": "?"}]))
    (tmp_path / "hard.jsonl").write_text(json.dumps(hard_row) + "\n")
    home = tmp_path / "home"
    refusal = nanoflux(home, "data", "import", "gsm8k", str(tmp_path / "test.jsonl"))
    assert refusal.code == 2 and "line 3: key 'answer' is missing" in refusal.err
    assert nanoflux(home, "data", "show", "gsm8k", "--split", "test").code == 4, (
        "a part of the refused file was imported"
    )
    result = nanoflux(home, "data", "import", "gsm8k", str(tmp_path / "test.jsonl"), "--skip-bad", "--json")
    assert (result.json["items"], result.json["skipped"]) == (2, 1) and "line 3" in result.err
    hard_import = nanoflux(home, "data", "import", "gsmhard", str(tmp_path / "hard.jsonl"), "--json")
    assert hard_import.json["restated"] == {"gsm8k": {"test": 1}}
    assert "repeated in the test items of gsm8k, with the same or other numbers: 1 question;" in hard_import.err


def test_data_list_needs_no_ledger(tmp_path: Path, nanoflux: Callable) -> None:
    document = nanoflux(tmp_path / "home", "data", "list", "--json").json
    assert {entry["name"] for entry in document} >= {"starter", "starter-genetics", "starter-medicine"}
    assert all(entry["splits"]["train"] > 0 and entry["splits"]["test"] > 0 for entry in document)
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_output_prints_any_text_in_any_encoding(home: Path, nanoflux: Callable, encoding: str) -> None:
    """Tables and JSON with escapes, accents and lone surrogates are printed in any encoding."""
    with sqlite3.connect(home / "ledger.db") as connection:
        connection.execute("UPDATE turns SET record = replace(record, 'How many', '\\u001b[31m \\ud800 ünï 😀 How')")
        connection.execute("UPDATE examples SET question = '\x1b[31mred ünï 😀 →'")
    connection.close()
    listing = nanoflux(home, "examples", "list", "tour", "--json", PYTHONIOENCODING=encoding)
    assert listing.code == 0, listing.err
    assert listing.json[0]["question"] == "\x1b[31mred ünï 😀 →"
    for json_option in ((), ("--json",)):
        result = nanoflux(home, "examples", "show", listing.json[0]["id"], *json_option, PYTHONIOENCODING=encoding)
        assert result.code == 0, result.err
        assert "\x1b" not in result.out


def test_replay_with_settings_lists_changes_and_missing_calls(home: Path, invoke: Callable) -> None:
    complete_replay = invoke(home, "run", "replay", "tour", "--set", "novelty.solution=-1")
    _, *rows = complete_replay.out.splitlines()
    assert complete_replay.code == 0
    assert "kept_novel" in complete_replay.out and "kept_failed" not in complete_replay.out
    assert all(row.startswith("dropped") for row in rows) and "digest " in complete_replay.err
    incomplete_replay = invoke(home, "run", "replay", "tour", "--set", "novelty.question=0.3")
    assert "need calls that the ledger lacks" in incomplete_replay.err and "attacker chat" in incomplete_replay.err
    assert "run start --fork starter-genetics-" in incomplete_replay.err and incomplete_replay.code == 0
    document = invoke(home, "run", "replay", "tour", "--set", "novelty.question=0.3", "--json").json
    assert document["digest"] is None and document["needed"]["turns"] == len(document["unknown"]) > 0
    refusal = invoke(home, "run", "replay", "tour", "--set", "seed=3")
    assert (refusal.code, refusal.out) == (3, "") and "--fork" in refusal.err


@pytest.mark.parametrize("group", ["run", "trainings", "eval", "adapters", "rounds"])
def test_list_as_json_is_empty_in_a_home_without_a_ledger(tmp_path: Path, invoke: Callable, group: str) -> None:
    result = invoke(tmp_path / "home", group, "list", "--json")
    assert (result.code, result.json) == (0, [])
    assert not (tmp_path / "home").exists(), "a list created the home"


def test_example_whose_verdicts_lack_newer_keys_is_shown(tmp_path: Path, invoke: Callable) -> None:
    start_command = ("run", "start", "--domain", "starter", "--profile", "scripted", "--examples", "1", "--name", "old")
    assert invoke(tmp_path, *start_command).code == 0
    (example,) = invoke(tmp_path, "examples", "list", "old", "--json").json
    with sqlite3.connect(tmp_path / "ledger.db") as connection:
        connection.execute("UPDATE turns SET record = json_remove(record, '$.attempts[#-1].evaluation.asked')")
    result = invoke(tmp_path, "examples", "show", example["id"])
    assert result.code == 0 and "Verdict of arbiter:" in result.out, result.err
