"""Runs whose questions must also be novel against other runs: equal at any concurrency, on replay and on resume."""

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from nanoflux_local.errors import NothingMatchedError, RefusedError
from nanoflux_local.ledger.earlier_questions import freeze_questions, read_questions
from nanoflux_local.ledger.verify import verify_run
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.run import configs, runs
from tests.executed_runs import execute_run

SETTINGS = {"seeds": {"min": 2}, "target": 1000, "retries": {"validation": 2}}
"""Settings under which a run reaches its turn limit before its target, with at most three attempts per turn."""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home").prepare()


def execute(
    home: Home, name: str, against: tuple[str, ...] = (), turns: int = 12, seed: int = 3, **settings: Any
) -> str:
    """Execute a scripted run to its end, and return its id. Its questions must be novel against the questions that the
    runs named in `against` have asked so far.
    """
    overrides = {**SETTINGS, "max_turns": turns, "seed": seed, **settings}
    if against:
        with LedgerView(home.ledger) as view:
            questions_by_run = freeze_questions(view, against)
        overrides["novel_against"] = {run: questions.model_dump() for run, questions in questions_by_run.items()}
    return execute_run(home, configs.resolve("starter-genetics", "scripted", overrides, home), name)


def read_summary(home: Home, run: str) -> dict[str, Any]:
    with LedgerView(home.ledger) as view:
        return view.summarize_run(run).to_json()


def find_problems(home: Home, run: str) -> list[str]:
    with LedgerView(home.ledger) as view:
        return list(verify_run(view, run))


def test_questions_of_another_run_count_as_earlier_questions(home: Home) -> None:
    """A run with the random seed of the first run asks the same questions. Alone, it keeps the same examples.
    If its questions must be novel against the first run, all are rejected.
    """
    first_run, alone_run = execute(home, "first"), execute(home, "alone")
    restricted_run = execute(home, "against", ("first",))
    assert read_summary(home, alone_run)["digest"] == read_summary(home, first_run)["digest"]
    with LedgerView(home.ledger) as view:
        restricted_attempts = {record.number: record.attempts[0] for record in view.turn_records(restricted_run)}
        first_attempts = {record.number: record.attempts[0] for record in view.turn_records(first_run)}
    turns_with_a_question = [number for number, attempt in first_attempts.items() if attempt.attack is not None]
    repeated_attempts = [restricted_attempts[number] for number in turns_with_a_question]
    assert repeated_attempts and all(attempt.outcome == "novelty_rejected" for attempt in repeated_attempts)
    assert all(attempt.nearest == 1.0 for attempt in repeated_attempts)
    assert find_problems(home, restricted_run) == []


def test_novel_against_run_is_equal_at_any_concurrency_and_on_replay(home: Home) -> None:
    execute(home, "first")
    run_ids = [
        execute(home, f"at-{concurrency}", ("first",), seed=4, concurrency=concurrency) for concurrency in (1, 8, 64)
    ]
    assert len({read_summary(home, run)["digest"] for run in run_ids}) == 1
    assert asyncio.run(runs.replay(home, run_ids[-1])).same


def test_new_questions_of_a_resumed_run_do_not_affect_a_run_that_must_be_novel_against_it(home: Home) -> None:
    """Both runs are resumed. The second must still be novel only against the questions that the first had asked when
    the second started.
    """
    first_run = execute(home, "first")
    restricted_run = execute(home, "against", ("first",), turns=6, seed=4)
    digest_before = read_summary(home, restricted_run)["digest"]
    runs.change(home, first_run, {"max_turns": 20})
    runs.change(home, restricted_run, {"max_turns": 12})
    for run in (first_run, restricted_run):
        asyncio.run(runs.execute(home, run))
    novel_against = read_config(home, restricted_run)["novel_against"]
    fresh_run = execute(home, "other", turns=12, seed=4, novel_against=novel_against)
    assert read_summary(home, restricted_run)["digest"] == read_summary(home, fresh_run)["digest"] != digest_before
    assert find_problems(home, restricted_run) == []


def read_config(home: Home, run: str) -> dict[str, Any]:
    return runs.load_run(home, run)[0].model_dump(mode="json")


def test_run_with_a_different_embedder_embeds_the_questions_of_the_other_run_again(home: Home) -> None:
    first_run = execute(home, "first")
    with LedgerView(home.ledger) as view:
        questions = set(read_questions(view, first_run, 12))
    settings = {"embedder": "other", "endpoints": {"other": {"interface": "scripted", "model": "another hash"}}}
    same_embedder_run = execute(home, "same", ("first",), seed=4, concurrency=1)
    other_embedder_run = execute(home, "against", ("first",), seed=4, concurrency=1, **settings)
    count_query = "SELECT count(*) AS n FROM calls WHERE run = ? AND role = 'earlier'"
    with LedgerView(home.ledger) as view:
        new_embeddings = view.row(count_query, other_embedder_run)["n"]
        same_embedder_embeddings = view.row(count_query, same_embedder_run)["n"]
    assert new_embeddings == len(questions) > 5 and same_embedder_embeddings == 0
    for run in (other_embedder_run, same_embedder_run):
        assert read_summary(home, run)["calls"]["wasted"] == 0


def test_resume_is_refused_if_the_questions_of_the_other_run_have_changed(home: Home) -> None:
    first_run = execute(home, "first")
    restricted_run = execute(home, "against", ("first",), turns=4, seed=4)
    runs.change(home, restricted_run, {"max_turns": 8})
    with sqlite3.connect(home.ledger) as connection:
        connection.execute(
            "DELETE FROM turn_calls WHERE turn = (SELECT max(id) FROM turns WHERE run = ?)", (first_run,)
        )
        connection.execute("DELETE FROM turns WHERE run = ? AND number = 11", (first_run,))
    connection.close()
    problem = f"the questions of run {first_run} are not those recorded when this run started"
    assert f"run {restricted_run}: {problem}" in find_problems(home, restricted_run)
    with pytest.raises(RefusedError, match=f"the questions of run {first_run}, which novel_against names, differ"):
        asyncio.run(runs.execute(home, restricted_run))


def test_novel_against_is_fixed_once_the_run_has_started(home: Home) -> None:
    execute(home, "first")
    restricted_run = execute(home, "against", ("first",), turns=2, seed=4)
    with pytest.raises(RefusedError, match="novel_against affects the result"):
        runs.change(home, restricted_run, {"novel_against": {"first": {"turns": 1, "questions": ""}}})


def test_freeze_refuses_missing_runs_and_runs_without_questions(home: Home) -> None:
    config = configs.resolve("starter-genetics", "scripted", SETTINGS, home)
    asyncio.run(runs.start(home, config, "empty"))
    with LedgerView(home.ledger) as view:
        with pytest.raises(NothingMatchedError, match="has no questions yet"):
            freeze_questions(view, ("empty",))
        with pytest.raises(NothingMatchedError, match="there is no run"):
            freeze_questions(view, ("nobody",))
