"""Verification reports nothing for an unchanged run, and names each record that was changed or deleted."""

import asyncio
import json
import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nanoflux_local.errors import LedgerError
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.ledger.verify import verify_run
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.records import canonical_json, digest
from nanoflux_local.run import configs, runs
from nanoflux_local.transcript import Seed, TurnRecord

EDITED_COLUMNS = [
    ("calls", "request", "call {id}: the request does not match its key"),
    ("calls", "reply", "call {id}: the reply does not match its hash"),
    ("calls", "key", "call {id}: the request does not match its key"),
    ("turns", "record", "turn {number}: the record does not match its hash"),
    ("turns", "record_hash", "turn {number}: the record does not match its hash"),
    ("examples", "question", "example {id}: the content does not match its hash"),
    ("examples", "solution", "example {id}: the content does not match its hash"),
    ("examples", "answer", "example {id}: the content does not match its hash"),
    ("examples", "reason", "example {id}: the content does not match its hash"),
    ("examples", "content_hash", "example {id}: the content does not match its hash"),
    ("runs", "environment", "run {id}: the environment does not match its hash"),
    ("runs", "config", "run {id}: the configuration does not match its hash"),
    ("runs", "config_hash", "run {id}: the configuration does not match its hash"),
]
"""Columns with hashed content, each as (table, column, problem that `verify_run` reports after an edit)."""
EDITED_COLUMN_NAMES = [f"{table}.{column}" for table, column, _ in EDITED_COLUMNS]


@contextmanager
def tamper(run_copy) -> Iterator[sqlite3.Connection]:
    """A connection that edits the ledger as any SQLite program could: foreign keys are not checked, and texts are read
    as bytes.
    """
    connection = sqlite3.connect(run_copy.path)
    connection.row_factory = sqlite3.Row
    connection.text_factory = bytes
    with connection:
        yield connection
    connection.close()


def find_problems(run_copy) -> list[str]:
    """The problems that `verify_run` reports for the run."""
    with LedgerView(run_copy.path) as view:
        return list(verify_run(view, "tour"))


def test_verify_reports_nothing_for_an_unchanged_run(run_copy) -> None:
    assert find_problems(run_copy) == []
    with LedgerView(run_copy.path) as view:
        assert view.summarize_run("tour").to_json()["kept"] >= 3, (
            "the run has too few examples for the other tests of this module"
        )


@pytest.mark.parametrize("byte", [b"#", b'"', b"7", b"\xff"], ids=["letter", "quote", "digit", "invalid UTF-8"])
@pytest.mark.parametrize(("table", "column", "problem"), EDITED_COLUMNS, ids=EDITED_COLUMN_NAMES)
def test_verify_finds_one_changed_byte_in_any_hashed_column(
    run_copy, table: str, column: str, problem: str, byte: bytes
) -> None:
    rng = random.Random(f"{table}{column}{byte!r}")
    for _ in range(6):
        with tamper(run_copy) as connection:
            row = rng.choice(connection.execute(f"SELECT rowid AS row_id, * FROM {table}").fetchall())
            text = row[column]
            changeable_positions = [index for index in range(len(text)) if text[index : index + 1] != byte]
            position = rng.choice(changeable_positions)
            changed_text = text[:position] + byte + text[position + 1 :]
            update = f"UPDATE {table} SET {column} = CAST(? AS TEXT) WHERE rowid = ?"
            connection.execute(update, (changed_text, row["row_id"]))
        row_values = {key: value.decode() if isinstance(value, bytes) else value for key, value in dict(row).items()}
        assert problem.format(**row_values) in find_problems(run_copy)
        with tamper(run_copy) as connection:
            connection.execute(update, (text, row["row_id"]))
    assert find_problems(run_copy) == []


LAST_KEPT_TURN = "(SELECT max(number) FROM turns WHERE kept = 1)"
"""The number of the last kept turn, as an SQL expression."""
EDITS = {
    "an example": (f"DELETE FROM examples WHERE turn = {LAST_KEPT_TURN}", "kept, but its example is missing"),
    "the first turn": ("DELETE FROM turns WHERE number = 0", "turn 0: missing"),
    "a turn in the middle": ("DELETE FROM turns WHERE number = 5", "turn 5: missing"),
    "the last turn": ("DELETE FROM turns WHERE number = 15", "is done, but has only 15 turns"),
    "the last turns and examples": (
        "DELETE FROM turns WHERE number > 6; DELETE FROM examples WHERE turn > 6", "is done, but has only 7 turns"),
    "a kept turn without its example": (f"DELETE FROM turns WHERE number = {LAST_KEPT_TURN}", "differs from turn"),
    "a call that a turn uses": ("DELETE FROM calls WHERE id = (SELECT min(call) FROM turn_calls)", "is missing"),
    "the column kept of a kept turn": (
        f"UPDATE turns SET kept = 0 WHERE number = {LAST_KEPT_TURN}", "the column kept is False"),
    "a call's tokens": ("UPDATE calls SET prompt_tokens = 1 + prompt_tokens WHERE kind = 'chat'",
                        "the column prompt_tokens differs"),
    "a call's price": ("UPDATE calls SET usd = 0.5 WHERE id = 1", "the column usd differs"),
    "a call's time": ("UPDATE calls SET seconds = 60 WHERE id = 1", "the column seconds differs"),
    "a call's model": ("UPDATE calls SET model = 'another' WHERE id = 1", "the column model differs"),
    "a turn's attempts": ("UPDATE turns SET attempts = 'failed failed' WHERE number = 2", "column attempts differs"),
    "a turn's count of calls": ("UPDATE turns SET uses = uses + 1 WHERE number = 2", "turn 2: the column uses is"),
    "a turn's count of new calls": ("UPDATE turns SET fresh = fresh + 1 WHERE number = 2", "calls, but use"),
    "a reference from a turn to a call": (
        "DELETE FROM turn_calls WHERE position = 0 AND turn = (SELECT id FROM turns WHERE number = 3)",
        "turn 3: the column uses is"),
    "the column kept of a dropped turn": ("UPDATE turns SET kept = 1 WHERE kept = 0", "the column kept is True"),
}  # fmt: skip
"""Statements that delete or edit rows, each with a part of the problem that `verify_run` reports."""


@pytest.mark.parametrize(("sql", "expected_problem"), EDITS.values(), ids=EDITS)
def test_verify_finds_deleted_and_edited_rows(run_copy, sql: str, expected_problem: str) -> None:
    with tamper(run_copy) as connection:
        connection.executescript(sql)
    assert any(expected_problem in problem for problem in find_problems(run_copy))


def test_example_rewritten_with_its_hash_differs_from_its_turn(run_copy) -> None:
    with tamper(run_copy) as connection:
        row = connection.execute("SELECT * FROM examples ORDER BY turn LIMIT 1").fetchone()
        content = {key: row[key].decode() for key in ("question", "solution", "reason")} | {"turn": row["turn"]}
        connection.execute(
            "UPDATE examples SET answer = 'E', content_hash = ? WHERE id = ?",
            (digest({**content, "answer": "E"}), row["id"].decode()),
        )
    assert find_problems(run_copy) == [f"example {row['id'].decode()}: differs from turn {row['turn']}"]


def test_turn_rewritten_with_its_hash_differs_from_its_example(run_copy) -> None:
    with tamper(run_copy) as connection:
        row = connection.execute("SELECT record, number FROM turns WHERE kept = 1 ORDER BY number LIMIT 1").fetchone()
        record = json.loads(row["record"])
        record["attempts"][-1]["attack"]["solution"] += " So there."
        new_values = (canonical_json(record), digest(record), row["number"])
        connection.execute("UPDATE turns SET record = ?, record_hash = ? WHERE number = ?", new_values)
    problems = find_problems(run_copy)
    assert len(problems) == 1 and problems[0].endswith(f"differs from turn {row['number']}")


def test_verify_covers_calls_reused_from_other_runs(run_copy) -> None:
    """The run "same" reuses the calls of the original run, and "different" does not. A changed call is reported in each
    run that uses it, and in no other run.
    """
    with LedgerView(run_copy.path) as view:
        config = json.loads(view.find_run("tour")["config"])
    recorded_settings = {key: config[key] for key in ("judge", "retries")}

    async def generate_run(name: str, seed: int) -> None:
        settings = {**recorded_settings, "max_turns": 3, "seed": seed}
        config = configs.resolve("starter-genetics", "scripted", settings, run_copy.home)
        run = await runs.start(run_copy.home, config, name)
        await runs.execute(run_copy.home, run)

    asyncio.run(generate_run("same", 7))
    asyncio.run(generate_run("different", 8))
    with tamper(run_copy) as connection:
        connection.execute("UPDATE calls SET reply = '{}' WHERE id = (SELECT min(call) FROM turn_calls)")
    with LedgerView(run_copy.path) as view:
        assert view.summarize_run("same").to_json()["calls"]["made"] == 0
        assert len(list(verify_run(view, "same"))) == 1
        assert list(verify_run(view, "different")) == []


def test_error_on_an_unreadable_turn_names_the_turn(run_copy) -> None:
    with tamper(run_copy) as connection:
        connection.execute("UPDATE turns SET record = substr(record, 2) WHERE number = 3")
    message = f"turn 3 of run {run_copy.run} cannot be read"
    with LedgerView(run_copy.path) as view, pytest.raises(LedgerError, match=message) as caught:
        view.turn_records(run_copy.run)
    assert "nanoflux run verify" in caught.value.fix


def test_verify_checks_the_imported_seeds_of_a_run(
    ledger: Ledger, path: Path, new_turn: Callable[..., TurnRecord]
) -> None:
    """The turn that `new_turn` makes has the seed "seed-1". Both items are changed, and only "seed-1" is reported."""
    ledger.commit_turn("run", new_turn(0, "kept_failed"), [])
    items = [(Seed(name, "bench", "How many?", "4"), "train") for name in ("seed-1", "not used")]
    ledger.import_dataset("bench", "bench.jsonl", "hash", items, 0)
    with LedgerView(path) as view:
        assert list(verify_run(view, "run")) == []
        with ledger.transaction() as connection:
            connection.execute("UPDATE items SET record = replace(record, '4', '5')")
        assert list(verify_run(view, "run")) == ["item seed-1 of bench: the record does not match its hash"]


def test_verify_accepts_an_older_run_without_an_environment_hash(run_copy) -> None:
    with tamper(run_copy) as connection:
        connection.execute("UPDATE runs SET environment_hash = ''")
    assert find_problems(run_copy) == []
