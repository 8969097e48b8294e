"""Notes on runs and training runs, given as text or written in an editor."""

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from nanoflux_local.ledger.excerpt import ExcerptContents, write_excerpt
from nanoflux_local.ledger.merging import MergeResult, merge_rows
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home with the runs "run-a" and "run-b", each with a training run."""
    home = Home(tmp_path / "home").prepare()
    config = {"domain": "starter-genetics", "target": 5, "max_turns": 9, "seed": 0, "judge": {}}
    with Ledger(home.ledger) as ledger:
        for run in ("run-a", "run-b"):
            ledger.create_run(run, f"name of {run}", config, {"identities": {}})
            ledger.create_training(f"train-{run}", run, "base", "0" * 64, {}, {"source": {"run": run}})
    return home


@pytest.mark.parametrize(("command", "job_id"), [("run", "run-a"), ("trainings", "train-run-a")])
def test_newest_note_is_shown_and_earlier_notes_stay_in_the_ledger(
    home: Home, invoke: Callable, command: str, job_id: str
) -> None:
    assert invoke(home.root, command, "note", job_id).out == ""
    assert invoke(home.root, command, "note", job_id, "first").code == 0
    assert invoke(home.root, command, "note", job_id, "second\nline").code == 0
    assert invoke(home.root, command, "note", job_id).out == "second\nline\n"
    assert invoke(home.root, command, "show", job_id, "--json").json["note"] == "second\nline"
    assert "second" in invoke(home.root, command, "show", job_id).out
    assert invoke(home.root, command, "note", job_id, "", "--json").json["note"] == ""
    assert "note" not in invoke(home.root, command, "show", job_id).out
    with sqlite3.connect(home.ledger) as connection:
        assert connection.execute("SELECT note FROM notes").fetchall() == [("first",), ("second\nline",), ("",)]


def test_note_is_written_in_the_users_editor(
    home: Home, invoke: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\necho "second line" >> "$1"\n')
    editor.chmod(0o700)
    monkeypatch.setenv("VISUAL", str(editor))
    invoke(home.root, "run", "note", "run-a", "first line\n")
    assert invoke(home.root, "run", "note", "run-a", "--edit").code == 0
    assert invoke(home.root, "run", "note", "run-a").out == "first line\nsecond line\n"
    result = invoke(home.root, "run", "note", "run-a", "text", "--edit")
    assert result.code == 2 and "mutually exclusive" in result.err


def test_editor_with_an_unclosed_quotation_mark_is_reported(
    home: Home, invoke: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VISUAL", "")
    monkeypatch.setenv("EDITOR", "vi 'x")
    result = invoke(home.root, "run", "note", "run-a", "--edit")
    assert result.code == 2 and "$EDITOR is not a command: No closing quotation" in result.err


def test_note_on_unknown_run_is_refused(home: Home, invoke: Callable) -> None:
    result = invoke(home.root, "run", "note", "nothing", "text")
    assert result.code == 4 and "there is no run 'nothing'" in result.err


def test_excerpt_has_only_the_notes_of_its_runs(home: Home, invoke: Callable, tmp_path: Path) -> None:
    for run in ("run-a", "run-b"):
        invoke(home.root, "run", "note", run, f"on {run}")
        invoke(home.root, "trainings", "note", f"train-{run}", f"on train-{run}")
    write_excerpt(home.ledger, tmp_path / "excerpt.db", ExcerptContents(runs=["run-a"]))
    with LedgerView(tmp_path / "excerpt.db") as view:
        assert [row["note"] for row in view.rows("SELECT note FROM notes")] == ["on run-a", "on train-run-a"]


def test_merge_adds_missing_notes_once_and_the_newest_note_is_shown(
    home: Home, invoke: Callable, tmp_path: Path
) -> None:
    invoke(home.root, "run", "note", "run-a", "older, from elsewhere")
    excerpt = tmp_path / "other.db"
    write_excerpt(home.ledger, excerpt, ExcerptContents(runs=["run-a"]))
    invoke(home.root, "run", "note", "run-a", "newest")
    with sqlite3.connect(home.ledger) as connection:
        connection.execute("DELETE FROM notes WHERE note != 'newest'")
    connection.close()
    added_by_first_merge, added_by_second_merge = {"note": ["run run-a"]}, {}
    for expected_notes in (added_by_first_merge, added_by_second_merge):
        result = MergeResult()
        with Ledger(home.ledger) as ledger, LedgerView(excerpt) as source, ledger.transaction() as writer:
            merge_rows(writer, source, result)
        assert {kind: names for kind, names in result.added.items() if kind == "note"} == expected_notes
    assert invoke(home.root, "run", "note", "run-a").out == "newest\n", (
        "the merged note is shown instead of the newest note"
    )
