"""`eval list`, `eval show`, `eval items` and the flips of `compare`, on evaluations by scripted models."""

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

EVAL_COMMAND = ("eval", "--profile", "scripted", "--data", "starter-easy", "--limit", "12", "--runs", "2", "--json")


@pytest.fixture
def evaluations(tmp_path: Path, invoke: Callable) -> tuple[str, str]:
    """The ids of two evaluations of the same items by different models."""
    base_eval, other_eval = (
        invoke(tmp_path, *EVAL_COMMAND, "--endpoint", name).json["eval"] for name in ("duelist-a", "duelist-b")
    )
    return base_eval, other_eval


def test_eval_list_and_show_agree(tmp_path: Path, invoke: Callable, evaluations: tuple[str, str]) -> None:
    newest, oldest = invoke(tmp_path, "eval", "list", "--json").json
    assert (newest["eval"], oldest["eval"]) == evaluations[::-1]
    assert (oldest["model"], oldest["items"], oldest["runs"], oldest["status"]) == ("duelist-a", 12, 2, "done")
    summary = invoke(tmp_path, "eval", "show", evaluations[0][:6], "--json").json
    assert summary["strict"] == oldest["strict"] and summary["n"] == 12 and summary["settings"]["runs"] == 2
    table = invoke(tmp_path, "eval", "list").out.splitlines()
    assert len(table) == 3 and table[2].startswith(evaluations[0])
    assert "starter-easy test, 12 items, 2 runs" in invoke(tmp_path, "eval", "show", evaluations[0]).out


def test_eval_items_lists_shares_and_replies(tmp_path: Path, invoke: Callable, evaluations: tuple[str, str]) -> None:
    document = invoke(tmp_path, "eval", "items", evaluations[0], "--json").json
    assert len(document["items"]) == 12 and all(item["scored"] == 2 for item in document["items"])
    name = document["items"][0]["item"]
    item = invoke(tmp_path, "eval", "items", evaluations[0], "--item", name, "--json").json
    assert item["question"] and item["answer"] and len(item["replies"][evaluations[0]]) == 2
    page = invoke(tmp_path, "eval", "items", evaluations[0], "--item", name).out
    assert item["question"].split("\n")[0] in page and f"Expected: {item['answer']}" in page and "run 2:" in page


def test_compare_lists_the_flips_that_eval_items_lists(
    tmp_path: Path, invoke: Callable, evaluations: tuple[str, str]
) -> None:
    base_eval, other_eval = evaluations
    (pair,) = invoke(tmp_path, "compare", base_eval, other_eval, "--json").json["pairs"]
    document = invoke(tmp_path, "eval", "items", base_eval, "--flips", other_eval, "--json").json
    assert (document["base"], document["other"]) == (pair["a"], pair["b"]) == (base_eval, other_eval)
    assert pair["flips"] and pair["gained"] + pair["lost"] == len(pair["flips"])
    flips_of_items = [(flip["item"], flip["base"], flip["other"]) for flip in document["flips"]]
    assert flips_of_items == [(flip["item"], flip["a"], flip["b"]) for flip in pair["flips"]]
    flip = document["flips"][0]
    assert flip["question"] and len(flip["replies"]["base"]) == len(flip["replies"]["other"]) == 2
    table = invoke(tmp_path, "compare", base_eval, other_eval)
    assert f"{other_eval} against {base_eval} (base)" in table.out and flip["item"] in table.out
    assert "is higher than in the base evaluation" in table.err
    assert flip["item"] in invoke(tmp_path, "eval", "items", base_eval, "--flips", other_eval).out


def test_eval_items_of_missing_evaluations_exit_with_4(tmp_path: Path, invoke: Callable) -> None:
    assert invoke(tmp_path, "eval", "list").code == 4
    assert invoke(tmp_path, "eval", "list", "--json").json == []
    invoke(tmp_path, *EVAL_COMMAND, "--endpoint", "duelist-a")
    for words in (("show", "nothing"), ("items", "nothing")):
        result = invoke(tmp_path, "eval", *words)
        assert result.code == 4 and "eval list" in result.err


def test_eval_without_data_is_wrong_usage(tmp_path: Path, invoke: Callable) -> None:
    result = invoke(tmp_path, "eval", "--model", "m")
    assert result.code == 2 and "Missing option '--data'" in result.err


def test_killed_evaluation_is_listed_as_interrupted(
    tmp_path: Path, invoke: Callable, evaluations: tuple[str, str]
) -> None:
    """A killed process leaves a row with the status `running`; this test writes such a row."""
    with sqlite3.connect(tmp_path / "ledger.db") as connection:
        connection.execute("UPDATE evaluations SET status = 'running' WHERE id = ?", (evaluations[1],))
    connection.close()
    assert [entry["status"] for entry in invoke(tmp_path, "eval", "list", "--json").json] == ["interrupted", "done"]
    assert "interrupted" in invoke(tmp_path, "eval", "show", evaluations[1]).out
