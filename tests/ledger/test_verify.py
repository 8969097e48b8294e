"""Verification: clean where nothing was touched, and one line at the right place for each kind of tampering."""

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

EDITED = [
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


@contextmanager
def tampered(played) -> Iterator[sqlite3.Connection]:
    """The ledger as somebody with a database editor has it: no foreign keys, no questions."""
    connection = sqlite3.connect(played.path)
    connection.row_factory = sqlite3.Row
    connection.text_factory = bytes
    with connection:
        yield connection
    connection.close()


def problems(played) -> list[str]:
    with LedgerView(played.path) as view:
        return list(verify_run(view, "tour"))


def test_a_run_that_nobody_touched_is_clean(played) -> None:
    assert problems(played) == []
    with LedgerView(played.path) as view:
        assert view.summarize_run("tour").to_json()["kept"] >= 3, "the tests below need examples"


@pytest.mark.parametrize("put", [b"#", b'"', b"7", b"\xff"], ids=["letter", "quote", "digit", "no UTF-8"])
@pytest.mark.parametrize(("table", "column", "told"), EDITED, ids=[f"{t}.{c}" for t, c, _ in EDITED])
def test_one_changed_byte_is_found_wherever_it_is(played, table: str, column: str, told: str, put: bytes) -> None:
    rng = random.Random(f"{table}{column}{put!r}")
    for _ in range(6):
        with tampered(played) as connection:
            row = rng.choice(connection.execute(f"SELECT rowid AS place, * FROM {table}").fetchall())
            text = row[column]
            place = rng.choice([spot for spot in range(len(text)) if text[spot : spot + 1] != put])
            changed = text[:place] + put + text[place + 1 :]
            update = f"UPDATE {table} SET {column} = CAST(? AS TEXT) WHERE rowid = ?"
            connection.execute(update, (changed, row["place"]))
        names = {key: value.decode() if isinstance(value, bytes) else value for key, value in dict(row).items()}
        assert told.format(**names) in problems(played)
        with tampered(played) as connection:
            connection.execute(update, (text, row["place"]))
    assert problems(played) == []


KEPT = "(SELECT max(number) FROM turns WHERE kept = 1)"
DELETED = {
    "an example": (f"DELETE FROM examples WHERE turn = {KEPT}", "kept, but its example is missing"),
    "the first turn": ("DELETE FROM turns WHERE number = 0", "turn 0: missing"),
    "a turn in the middle": ("DELETE FROM turns WHERE number = 5", "turn 5: missing"),
    "the last turn": ("DELETE FROM turns WHERE number = 15", "is done, but has only 15 turns"),
    "the last turns and examples": (
        "DELETE FROM turns WHERE number > 6; DELETE FROM examples WHERE turn > 6", "is done, but has only 7 turns"),
    "a kept turn, its example left": (f"DELETE FROM turns WHERE number = {KEPT}", "differs from turn"),
    "a call that a turn rests on": ("DELETE FROM calls WHERE id = (SELECT min(call) FROM turn_calls)", "is missing"),
    "a turn's being kept": (f"UPDATE turns SET kept = 0 WHERE number = {KEPT}", "the column kept is False"),
    "a call's tokens": ("UPDATE calls SET prompt_tokens = 1 + prompt_tokens WHERE kind = 'chat'",
                        "the column prompt_tokens differs"),
    "a call's price": ("UPDATE calls SET usd = 0.5 WHERE id = 1", "the column usd differs"),
    "a call's time": ("UPDATE calls SET seconds = 60 WHERE id = 1", "the column seconds differs"),
    "a call's model": ("UPDATE calls SET model = 'another' WHERE id = 1", "the column model differs"),
    "a turn's attempts": ("UPDATE turns SET attempts = 'failed failed' WHERE number = 2", "column attempts differs"),
    "a turn's count of calls": ("UPDATE turns SET uses = uses + 1 WHERE number = 2", "turn 2: the column uses is"),
    "a turn's count of new calls": ("UPDATE turns SET fresh = fresh + 1 WHERE number = 2", "calls, but use"),
    "which calls a turn used": (
        "DELETE FROM turn_calls WHERE position = 0 AND turn = (SELECT id FROM turns WHERE number = 3)",
        "turn 3: the column uses is"),
    "a turn's being dropped": ("UPDATE turns SET kept = 1 WHERE kept = 0", "the column kept is True"),
}  # fmt: skip


@pytest.mark.parametrize(("sql", "told"), DELETED.values(), ids=DELETED)
def test_what_is_gone_or_turned_round_is_found(played, sql: str, told: str) -> None:
    with tampered(played) as connection:
        connection.executescript(sql)
    assert any(told in problem for problem in problems(played))


def test_an_example_rewritten_with_its_hash_still_differs_from_its_turn(played) -> None:
    with tampered(played) as connection:
        row = connection.execute("SELECT * FROM examples ORDER BY turn LIMIT 1").fetchone()
        content = {key: row[key].decode() for key in ("question", "solution", "reason")} | {"turn": row["turn"]}
        connection.execute(
            "UPDATE examples SET answer = 'E', content_hash = ? WHERE id = ?",
            (digest({**content, "answer": "E"}), row["id"].decode()),
        )
    assert problems(played) == [f"example {row['id'].decode()}: differs from turn {row['turn']}"]


def test_a_turn_rewritten_with_its_hash_still_differs_from_its_example(played) -> None:
    with tampered(played) as connection:
        row = connection.execute("SELECT record, number FROM turns WHERE kept = 1 ORDER BY number LIMIT 1").fetchone()
        record = json.loads(row["record"])
        record["attempts"][-1]["attack"]["solution"] += " So there."
        values = (canonical_json(record), digest(record), row["number"])
        connection.execute("UPDATE turns SET record = ?, record_hash = ? WHERE number = ?", values)
    found = problems(played)
    assert len(found) == 1 and found[0].endswith(f"differs from turn {row['number']}")


def test_other_runs_are_not_this_runs_business_but_their_calls_are(played) -> None:
    """A second run that rests on the first one's calls is told when those change; a third that does not is clean."""

    with LedgerView(played.path) as view:
        config = json.loads(view.find_run("tour")["config"])
    recorded = {key: config[key] for key in ("judge", "retries")}

    async def play(name: str, seed: int) -> None:
        settings = {**recorded, "max_turns": 3, "seed": seed}
        config = configs.resolve("starter-genetics", "scripted", settings, played.home)
        await runs.carry_on(played.home, await runs.start(played.home, config, name))

    asyncio.run(play("same", 7))
    asyncio.run(play("unlike", 8))
    with tampered(played) as connection:
        connection.execute("UPDATE calls SET reply = '{}' WHERE id = (SELECT min(call) FROM turn_calls)")
    with LedgerView(played.path) as view:
        assert view.summarize_run("same").to_json()["calls"]["made"] == 0
        assert len(list(verify_run(view, "same"))) == 1
        assert list(verify_run(view, "unlike")) == []


def test_a_turn_that_cannot_be_read_is_named_where_it_is_needed(played) -> None:
    with tampered(played) as connection:
        connection.execute("UPDATE turns SET record = substr(record, 2) WHERE number = 3")
    unread = pytest.raises(LedgerError, match=f"turn 3 of run {played.run} cannot be read")
    with LedgerView(played.path) as view, unread as told:
        view.turn_records(played.run)
    assert "nanoflux run verify" in told.value.fix


def test_an_imported_item_that_the_runs_questions_were_made_of_is_held_against_its_hash(
    ledger: Ledger, path: Path, turn: Callable[..., TurnRecord]
) -> None:
    """Items that no question was made of are not this run's business."""
    ledger.commit_turn("run", turn(0, "kept_failed"), [])
    items = [(Seed(name, "bench", "How many?", "4"), "train") for name in ("seed-1", "not used")]
    ledger.import_dataset("bench", "bench.jsonl", "hash", items, 0)
    with LedgerView(path) as view:
        assert list(verify_run(view, "run")) == []
        with ledger.transaction() as connection:
            connection.execute("UPDATE items SET record = replace(record, '4', '5')")
        assert list(verify_run(view, "run")) == ["item seed-1 of bench: the record does not match its hash"]


def test_a_run_from_before_environments_had_a_hash_is_not_blamed_for_it(played) -> None:
    with tampered(played) as connection:
        connection.execute("UPDATE runs SET environment_hash = ''")
    assert problems(played) == []
