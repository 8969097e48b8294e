"""Choosing examples for training by the reason for which they were kept, by level, by an SQL expression and by number,
and what is recorded of the choice.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from nanoflux_local.errors import NothingMatchedError, RefusedError, UsageError
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.train.choice import Choice, choose_rows

CONFIG = {"domain": "starter", "target": 20, "max_turns": 20}
"""The part of a run's configuration that the ledger reads when the run is created."""


@pytest.fixture
def ledger_path(tmp_path: Path) -> Path:
    """A ledger with two runs: "run" has twenty examples, every third of them kept for its novelty; "other" has one."""
    ledger_path = tmp_path / "ledger.db"
    with Ledger(ledger_path) as ledger:
        for run in ("run", "other"):
            ledger.create_run(run, run, CONFIG, {})
        with ledger.transaction() as connection:
            rows = [("run", turn, "kept_failed" if turn % 3 else "kept_novel") for turn in range(20)]
            connection.executemany(
                "INSERT INTO examples (id, run, turn, reason, question, solution, answer, content_hash, at)"
                " VALUES (?1 || ?2, ?1, ?2, ?3, 'Q' || ?2, 'S', 'A', 'hash', 'at')",
                [*rows, ("other", 0, "kept_failed")],
            )
    return ledger_path


@pytest.fixture
def view(ledger_path: Path) -> Iterator[LedgerView]:
    with LedgerView(ledger_path) as view:
        yield view


def choose_turns(view: LedgerView, choice: Choice) -> list[int]:
    """The turns of the chosen examples of "run", in the order of the rows."""
    rows, _ = choose_rows(view, "run", choice)
    return [row["turn"] for row in rows]


def test_choice_combines_reason_and_expression(view: LedgerView) -> None:
    assert choose_turns(view, Choice()) == list(range(20))
    assert choose_turns(view, Choice(reason="kept_novel")) == [0, 3, 6, 9, 12, 15, 18]
    assert choose_turns(view, Choice(reason="kept_novel", where="turn > 10")) == [12, 15, 18]
    assert choose_turns(view, Choice(where="turn IN (SELECT turn FROM examples WHERE run = 'other')")) == [0]
    assert choose_turns(view, Choice(where="turn < 2 OR turn = 5")) == [0, 1, 5]


def test_expression_with_quoted_marks_or_the_operator_or_chooses_only_from_the_run(view: LedgerView) -> None:
    assert choose_turns(view, Choice(where="turn < 3 AND ');--' <> '/*('")) == [0, 1, 2]
    assert choose_turns(view, Choice(where="1 OR run = 'other'")) == list(range(20))


def test_random_seed_determines_the_drawn_examples_and_not_their_order(view: LedgerView) -> None:
    drawn_turns = choose_turns(view, Choice(size=5))
    assert len(set(drawn_turns)) == 5 and drawn_turns == sorted(drawn_turns)
    assert choose_turns(view, Choice(size=5)) == drawn_turns
    assert choose_turns(view, Choice(size=5, seed=1)) != drawn_turns
    assert choose_turns(view, Choice(size=20)) == list(range(20))


def test_record_of_a_choice_contains_its_query_and_counts(view: LedgerView) -> None:
    choice = Choice(reason="kept_failed", where="turn > 4", size=3, seed=7)
    _, record = choose_rows(view, "run", choice)
    assert record["query"].startswith("SELECT * FROM examples WHERE run = ? AND reason = ? AND (turn > 4")
    assert record["values"] == ["run", "kept_failed"]
    assert (record["matched"], record["rows"], record["size"], record["seed"]) == (10, 3, 3, 7)
    _, record_of_the_same_choice = choose_rows(view, "run", choice)
    _, record_of_another_choice = choose_rows(view, "run", Choice(size=3, seed=7))
    assert record_of_the_same_choice == record != record_of_another_choice


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("colour = 'red'", "no such column: colour"),
        ("turn >", "syntax error"),
        ("turn > 4 (", "unbalanced"),
        ("1=1) or (1=1", "unbalanced"),
        ("')' = '') or (1=1", "unbalanced"),
        ("turn < 3 -- the first three", "comment"),
        ("turn > 0) limit 1 /*", "comment"),
        ("1); DELETE FROM examples; --", "semicolon"),
        ("1) UNION DELETE FROM examples --", "comment"),
        ("randomblob(100000000000) is null", "too big"),
    ],
)
def test_invalid_expression_is_refused_and_changes_nothing(view: LedgerView, where: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        choose_rows(view, "run", Choice(where=where))
    assert "reason" in error.value.fix or "write one condition" in error.value.fix
    assert len(choose_turns(view, Choice())) == 20


def test_choice_of_too_few_examples_is_refused(view: LedgerView) -> None:
    with pytest.raises(NothingMatchedError, match=r"turn > 99"):
        choose_rows(view, "run", Choice(where="turn > 99"))
    with pytest.raises(NothingMatchedError, match="21 examples are requested, but only 20"):
        choose_rows(view, "run", Choice(size=21))


def test_choice_by_level_is_refused_if_no_example_is_rated(ledger_path: Path, view: LedgerView) -> None:
    with pytest.raises(RefusedError, match="no quality levels"):
        choose_rows(view, "run", Choice(level=4))
    with Ledger(ledger_path) as ledger, ledger.transaction() as connection:
        connection.execute("UPDATE examples SET level = 4 WHERE turn IN (2, 7)")
    assert choose_turns(view, Choice(level=4)) == [2, 7]
