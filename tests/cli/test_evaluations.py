"""`eval list`, `eval show`, `eval items` and the flips of `compare`, on evaluations by scripted models."""

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

EVAL_COMMAND = ("eval", "--profile", "scripted", "--data", "starter-easy", "--limit", "12", "--runs", "2", "--json")
"""The arguments of an evaluation; the tests add the endpoint, the scripted model `duelist-a` or `duelist-b`."""


@pytest.fixture
def evaluations(tmp_path: Path, invoke: Callable) -> tuple[str, str]:
    """The ids of two evaluations of the same items by different models."""
    base_eval = invoke(tmp_path, *EVAL_COMMAND, "--endpoint", "duelist-a").json["eval"]
    other_eval = invoke(tmp_path, *EVAL_COMMAND, "--endpoint", "duelist-b").json["eval"]
    return base_eval, other_eval


def test_eval_list_and_show_agree(tmp_path: Path, invoke: Callable, evaluations: tuple[str, str]) -> None:
    first_eval, second_eval = evaluations
    newest, oldest = invoke(tmp_path, "eval", "list", "--json").json
    assert (newest["eval"], oldest["eval"]) == (second_eval, first_eval)
    assert (oldest["model"], oldest["items"], oldest["runs"], oldest["status"]) == ("duelist-a", 12, 2, "done")
    id_prefix = first_eval[:6]
    summary = invoke(tmp_path, "eval", "show", id_prefix, "--json").json
    assert summary["strict"] == oldest["strict"] and summary["n"] == 12 and summary["settings"]["runs"] == 2
    table_lines = invoke(tmp_path, "eval", "list").out.splitlines()
    assert len(table_lines) == 3 and table_lines[2].startswith(first_eval)
    assert "starter-easy test, 12 items, 2 runs" in invoke(tmp_path, "eval", "show", first_eval).out


def test_eval_items_lists_items_and_shows_the_replies_to_one_item(
    tmp_path: Path, invoke: Callable, evaluations: tuple[str, str]
) -> None:
    evaluation, _ = evaluations
    scores = invoke(tmp_path, "eval", "items", evaluation, "--json").json["items"]
    assert len(scores) == 12 and all(score["scored"] == 2 for score in scores)
    item_id = scores[0]["item"]
    item = invoke(tmp_path, "eval", "items", evaluation, "--item", item_id, "--json").json
    assert item["question"] and item["answer"] and len(item["replies"][evaluation]) == 2
    output = invoke(tmp_path, "eval", "items", evaluation, "--item", item_id).out
    assert item["question"].split("\n")[0] in output and f"Expected: {item['answer']}" in output and "run 2:" in output


def test_compare_and_eval_items_list_the_same_flips(
    tmp_path: Path, invoke: Callable, evaluations: tuple[str, str]
) -> None:
    base_eval, other_eval = evaluations
    (pair,) = invoke(tmp_path, "compare", base_eval, other_eval, "--json").json["pairs"]
    listing = invoke(tmp_path, "eval", "items", base_eval, "--flips", other_eval, "--json").json
    assert (listing["base"], listing["other"]) == (pair["a"], pair["b"]) == (base_eval, other_eval)
    assert pair["flips"] and pair["gained"] + pair["lost"] == len(pair["flips"])
    listed_flips = [(flip["item"], flip["base"], flip["other"]) for flip in listing["flips"]]
    assert listed_flips == [(flip["item"], flip["a"], flip["b"]) for flip in pair["flips"]]
    first_flip = listing["flips"][0]
    assert first_flip["question"] and len(first_flip["replies"]["base"]) == len(first_flip["replies"]["other"]) == 2
    comparison = invoke(tmp_path, "compare", base_eval, other_eval)
    assert f"{other_eval} against {base_eval} (base)" in comparison.out and first_flip["item"] in comparison.out
    assert "is higher than in the base evaluation" in comparison.err
    assert first_flip["item"] in invoke(tmp_path, "eval", "items", base_eval, "--flips", other_eval).out


def test_eval_commands_for_missing_evaluations_exit_with_4(tmp_path: Path, invoke: Callable) -> None:
    assert invoke(tmp_path, "eval", "list").code == 4
    assert invoke(tmp_path, "eval", "list", "--json").json == []
    invoke(tmp_path, *EVAL_COMMAND, "--endpoint", "duelist-a")
    for subcommand in ("show", "items"):
        result = invoke(tmp_path, "eval", subcommand, "nothing")
        assert result.code == 4 and "eval list" in result.err


def test_eval_without_data_is_a_usage_error(tmp_path: Path, invoke: Callable) -> None:
    result = invoke(tmp_path, "eval", "--model", "m")
    assert result.code == 2 and "Missing option '--data'" in result.err


def test_killed_evaluation_is_listed_as_interrupted(
    tmp_path: Path, invoke: Callable, evaluations: tuple[str, str]
) -> None:
    """A killed process leaves a row with the status `running`; this test writes such a row."""
    _, newest_eval = evaluations
    with sqlite3.connect(tmp_path / "ledger.db") as connection:
        connection.execute("UPDATE evaluations SET status = 'running' WHERE id = ?", (newest_eval,))
    connection.close()
    assert [entry["status"] for entry in invoke(tmp_path, "eval", "list", "--json").json] == ["interrupted", "done"]
    assert "interrupted" in invoke(tmp_path, "eval", "show", newest_eval).out
