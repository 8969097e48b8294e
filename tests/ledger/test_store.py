"""The writer: what it remembers, what it commits whole or not at all, and which files it refuses."""

import fcntl
import os
import sqlite3
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zstandard
from sqlite_utils import Database

from nanoflux_local.errors import LedgerError, NothingMatchedError, UsageError
from nanoflux_local.ledger.schema import migrations
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.ledger.verify import verify_run
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.records import (
    ChatReply,
    ChatRequest,
    CutReply,
    CutRequest,
    EmbedReply,
    EmbedRequest,
    Identity,
    Message,
    PythonReply,
    PythonRequest,
    canonical_json,
)
from nanoflux_local.transcript import Example, Seed, TurnRecord

WHO = Identity("scripted", "m", "1", "adapter", "bf16")
ASK = ChatRequest(WHO, (Message("user", "hello"),), seed=2**62)
MakeTurn = Callable[..., TurnRecord]
TEXTS = {
    "plain": "4 apples",
    "empty": "",
    "accents and emoji": "naïve 😀 ﷽",
    "lone surrogates": "\ud800 middle \udfff",
    "its escape, spelled out": "\\ud800",
    "control characters": "\x00\x01\x1b[31m\x7f\r\n\t\u2028",
    "JSON and SQL": "\"}'; DROP TABLE calls; --",
    "a megabyte": "α" * 2**20,
}


@pytest.mark.parametrize(
    ("ask", "reply"),
    [
        *((ASK, ChatReply(text, "length", 7, 9, 0.25, 1e-6)) for text in TEXTS.values()),
        (EmbedRequest(WHO, "text"), EmbedReply.of(np.array([0.6, -0.8], dtype=np.float32))),
        (PythonRequest(WHO, "print(1)", 2.5), PythonReply("ok", 0, "1\n", "", False, "namespaces", 0.01)),
        (PythonRequest(WHO, "loop"), PythonReply("timeout", None, "\x00", "\ud800", True, "namespaces")),
        (CutRequest(WHO, "a b c", 2), CutReply("a b", True)),
    ],
    ids=[*TEXTS, "embedding", "program", "killed program", "cut"],
)
def test_a_reply_comes_back_as_it_was(ledger: Ledger, path: Path, ask, reply) -> None:
    assert ledger.recall(ask) is None
    row, stored = ledger.remember("run", ask, reply)
    assert stored == reply
    ledger.close()
    with Ledger(path) as again, LedgerView(path) as view:
        assert again.recall(ask) == (row, reply)
        assert list(verify_run(view, "run")) == []


def test_a_pair_of_surrogates_is_the_character_it_stands_for_from_the_first_use_on(ledger: Ledger, path: Path) -> None:
    _, stored = ledger.remember("run", ASK, ChatReply("\ud83d\ude00", "stop"))
    assert stored == ChatReply("😀", "stop") == ledger.recall(ASK)[1]
    with LedgerView(path) as view:
        assert list(verify_run(view, "run")) == []


@pytest.mark.parametrize("text", [text for name, text in TEXTS.items() if "megabyte" not in name])
def test_a_request_of_any_text_is_found_again(ledger: Ledger, text: str) -> None:
    ask = ChatRequest(WHO, (Message("user", text),))
    row, _ = ledger.remember("run", ask, ChatReply("yes", "stop"))
    assert ledger.recall(ask) == (row, ChatReply("yes", "stop"))
    assert ledger.recall(ChatRequest(WHO, (Message("user", text + " "),))) is None


def test_the_first_reply_of_a_request_stands(ledger: Ledger, path: Path) -> None:
    first = ledger.remember("run", ASK, ChatReply("first", "stop"))
    with Ledger(path) as another:
        assert another.remember("other run", ASK, ChatReply("second", "stop")) == first
    assert ledger.recall(ASK) == first
    assert ledger.rows("SELECT run FROM calls") == [("run",)]


def test_calls_whose_keys_begin_alike_are_two(ledger: Ledger) -> None:
    """The index has the first digits alone."""
    alike, _ = ledger.remember("run", ASK, ChatReply("first", "stop"))
    other = ChatRequest(WHO, (Message("user", "hello"),), seed=1)
    with ledger.transaction() as connection:
        connection.execute("UPDATE calls SET key = substr(?, 1, 10) || substr(key, 11)", (other.key(),))
    assert ledger.recall(other) is None
    row, reply = ledger.remember("run", other, ChatReply("second", "stop"))
    assert row != alike and ledger.recall(other) == (row, reply) == (row, ChatReply("second", "stop"))
    assert ledger.remember("run", other, ChatReply("third", "stop")) == (row, reply)


def test_what_a_call_cost_has_columns_of_its_own(ledger: Ledger) -> None:
    ledger.remember("run", ASK, ChatReply("x", "stop", 11, 5, 0.5, 0.02))
    ledger.remember("run", PythonRequest(WHO, "1"), PythonReply("ok", 0, "", "", False, "b", 0.75))
    found = ledger.rows("SELECT kind, model, prompt_tokens, completion_tokens, usd, seconds FROM calls ORDER BY id")
    assert found == [("chat", "m", 11, 5, 0.02, 0.5), ("python", "m", 0, 0, 0.0, 0.75)]


def test_a_kept_turn_is_committed_with_its_calls_and_its_example(ledger: Ledger, path: Path, turn: MakeTurn) -> None:
    calls = [ledger.remember("run", ChatRequest(WHO, (), seed=seed), ChatReply("x", "stop"))[0] for seed in range(3)]
    record = turn(0, "unparsed", "kept_failed")
    ledger.commit_turn("run", record, [calls[2], calls[0], calls[2]])
    ledger.commit_turn("run", turn(1, "defender_right"), [])
    assert ledger.rows("SELECT position, call FROM turn_calls ORDER BY position") == [
        (0, calls[2]),
        (1, calls[0]),
        (2, calls[2]),
    ]
    with LedgerView(path) as view:
        assert view.turn_records("run") == [record, turn(1, "defender_right")]
        assert view.examples("run") == [Example(0, "How many? (0.1)", "2 + 2 = 4.", "4", "kept_failed")]


@pytest.mark.parametrize(
    ("number", "calls"),
    [(0, []), (1, [999]), (1, [1, None])],
    ids=["the turn is there already", "an unknown call", "no call"],
)
def test_a_turn_is_committed_whole_or_not_at_all(ledger: Ledger, turn: MakeTurn, number: int, calls: list[int]) -> None:
    ledger.remember("run", ASK, ChatReply("x", "stop"))
    ledger.commit_turn("run", turn(0, "kept_novel"), [1])
    tables = ("turns", "turn_calls", "examples", "runs")
    before = [ledger.rows(f"SELECT * FROM {table}") for table in tables]
    with pytest.raises(LedgerError):
        ledger.commit_turn("run", turn(number, "kept_failed"), calls)
    assert [ledger.rows(f"SELECT * FROM {table}") for table in tables] == before
    ledger.commit_turn("run", turn(1, "kept_failed"), [1])


def test_a_transaction_that_fails_at_its_end_leaves_the_ledger_usable(ledger: Ledger, turn: MakeTurn) -> None:
    with pytest.raises(LedgerError), ledger.transaction() as connection:
        connection.execute("PRAGMA defer_foreign_keys = ON")  # so that COMMIT itself is what fails
        connection.execute("INSERT INTO turn_calls VALUES (1, 1, 1)")
    ledger.commit_turn("run", turn(0, "kept_failed"), [])
    assert ledger.rows("SELECT count(*) FROM turn_calls") == [(0,)]


def test_an_interrupt_inside_a_transaction_undoes_it(ledger: Ledger) -> None:
    with pytest.raises(KeyboardInterrupt), ledger.transaction() as connection:
        connection.execute("DELETE FROM runs")
        raise KeyboardInterrupt
    assert ledger.rows("SELECT id FROM runs") == [("run",)]


def test_a_run_adds_up_its_seconds(ledger: Ledger, path: Path) -> None:
    for status, seconds in (("running", 0.0), ("failed", 1.5), ("done", 2.25)):
        ledger.set_run_status("run", status, f"was {status}", seconds)
    with LedgerView(path) as view:
        row = view.find_run("run")
    assert (row["status"], row["message"], row["seconds"]) == ("done", "was done", 3.75)


def test_a_benchmark_comes_in_once_and_whole(ledger: Ledger, path: Path) -> None:
    items = [(Seed(f"i-{n}", "bench", f"Q{n}?", "4", options={"A": "4"}), "train" if n else "test") for n in range(3)]
    assert ledger.import_dataset("bench", "bench.jsonl", "hash", items, 1)
    assert not ledger.import_dataset("bench", "again.jsonl", "hash", items, 1)
    with pytest.raises(UsageError, match="from other content"):
        ledger.import_dataset("bench", "new.jsonl", "other", items, 0)
    with pytest.raises(LedgerError):
        ledger.import_dataset("twice", "twice.jsonl", "h", [items[0], items[0]], 0)
    with LedgerView(path) as view:
        assert [(entry["name"], entry["splits"]) for entry in view.datasets()] == [("bench", {"test": 1, "train": 2})]
        assert view.items("bench") == [item for item, _ in items]
        assert view.items("bench", "train") == [items[1][0], items[2][0]]
        assert view.items("twice") == []


# Files


def test_a_ledger_is_private_to_its_user_whatever_the_umask(tmp_path: Path) -> None:
    mask = os.umask(0)
    try:
        with Ledger(tmp_path / "ledger.db") as ledger:
            ledger.start_job("run", "x", 1, "")
            modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.glob("ledger.db*")}
    finally:
        os.umask(mask)
    assert modes == {"ledger.db": 0o600, "ledger.db-wal": 0o600, "ledger.db-shm": 0o600}


def test_readers_cannot_write(ledger: Ledger, path: Path) -> None:
    with LedgerView(path) as view:
        for sql in ("DELETE FROM runs", "CREATE TABLE mine (x)", "PRAGMA user_version = 3"):
            with pytest.raises(LedgerError, match="readonly"):
                list(view.rows(sql))
    assert ledger.rows("SELECT id FROM runs") == [("run",)]


def test_a_reader_sees_what_is_committed_and_not_what_is_under_way(ledger: Ledger, path: Path) -> None:
    with LedgerView(path) as view:
        with ledger.transaction() as connection:
            connection.execute("UPDATE runs SET name = 'new'")
            assert view.find_run("run")["name"] == "a name"
        assert view.find_run("run")["name"] == "new"


@pytest.mark.parametrize("upto", ["m001_calls", "m003_data"])
def test_a_ledger_of_an_older_version_is_brought_up_to_date_by_whoever_opens_it(path: Path, upto: str) -> None:
    """A reader too: it may come while another process is still making the ledger."""
    connection = sqlite3.connect(path, isolation_level=None)
    migrations.apply(Database(connection), stop_before=upto)
    connection.close()
    with LedgerView(path) as view:
        assert view.datasets() == [] and list(view.rows("SELECT * FROM jobs")) == []


def test_a_ledger_whose_index_held_whole_keys_keeps_its_calls(path: Path) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    migrations.apply(Database(connection), stop_before="m020_short_keys")
    reply = ChatReply("so", "stop")
    connection.execute(
        "INSERT INTO calls (id, key, kind, model, run, request, reply, reply_hash, prompt_tokens, completion_tokens,"
        " usd, seconds, at, role) VALUES (7, ?, 'chat', 'm', 'run', '', '', 'h', 1, 2, 0.5, 3.0, 'now', 'judge')",
        (ASK.key(),),
    )
    packed = [zstandard.compress(text.encode()) for text in ("{}", canonical_json(reply.to_json()))]
    connection.execute("INSERT INTO packs VALUES (7, 0, ?, ?)", packed)
    before = connection.execute("SELECT id, role, at, seconds FROM calls").fetchall()
    connection.close()
    with Ledger(path) as ledger:
        assert Path(f"{path}-wal").stat().st_size == 0, "all of it went through the log, which would keep its size"
        assert ledger.recall(ASK) == (7, reply)
        assert ledger.rows("SELECT id, role, at, seconds FROM calls") == before == [(7, "judge", "now", 3.0)]
        assert ledger.rows("PRAGMA foreign_key_check") == [] and ledger.rows("PRAGMA integrity_check") == [("ok",)]
        assert ledger.rows("SELECT name FROM sqlite_master WHERE sql LIKE '%calls_anew%'") == []


@pytest.mark.parametrize("opened", [Ledger, LedgerView])
def test_a_ledger_from_a_newer_version_is_refused_and_left_alone(opened, ledger: Ledger, path: Path) -> None:
    ledger.close()
    with sqlite3.connect(path) as connection:
        connection.execute(
            "INSERT INTO _sqlite_migrations (migration_set, name, applied_at) VALUES ('nanoflux', 'm900_later', 'now')"
        )
    connection.close()
    before = path.read_bytes()
    with pytest.raises(LedgerError, match=r"newer version of NanoFlux \(it has the migration m900_later\)") as told:
        opened(path)
    assert str(path) in told.value.message and "update" in told.value.fix
    assert path.read_bytes() == before


@pytest.mark.parametrize("opened", [Ledger, LedgerView])
@pytest.mark.parametrize("content", [b"this is a diary, not a database\n" * 40, b"SQLite format 3\0" + bytes(4000)])
def test_a_file_that_is_no_ledger_is_refused_and_left_alone(opened, path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(LedgerError, match="not a readable ledger") as told:
        opened(path)
    assert told.value.exit_code == 1 and "backup" in told.value.fix
    assert path.read_bytes() == content


def test_a_corrupt_ledger_is_named(played) -> None:
    """Every page after the first is overwritten: the schema can still be read, the rows cannot."""
    with sqlite3.connect(played.path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    size = played.path.stat().st_size
    with played.path.open("r+b") as file:
        file.seek(8 * 4096)
        file.write(b"\xa5" * (size - 8 * 4096))
    with pytest.raises(LedgerError, match=r"not a readable ledger: .*malformed"), LedgerView(played.path) as view:
        view.summarize_run(played.run).to_json()


def test_a_folder_in_the_ledgers_place_is_a_ledger_error(path: Path) -> None:
    path.mkdir()
    with pytest.raises(LedgerError, match="unable to open"):
        Ledger(path)


def test_there_is_nothing_to_view_before_a_ledger(path: Path) -> None:
    with pytest.raises(NothingMatchedError, match="no ledger at"):
        LedgerView(path)
    assert not path.exists()


def test_a_ledger_locked_for_long_is_named(ledger: Ledger, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nanoflux_local.ledger.store.BUSY_TIMEOUT_S", 0.05)
    with Ledger(path) as other, ledger.transaction(), pytest.raises(LedgerError, match="locked by another process"):
        other.start_job("run", "x", 1, "")


def test_processes_that_open_a_new_ledger_at_the_same_moment_all_get_it(tmp_path: Path) -> None:
    """Twenty new ledgers, six processes each. Forked, for they must truly be at it together."""
    failed = []
    for number in range(20):
        path, start = tmp_path / str(number) / "ledger.db", time.monotonic() + 0.02
        path.parent.mkdir()
        children = [_forked(lambda path=path, start=start: _open_at(path, start)) for _ in range(6)]
        failed += [child for child in children if os.waitpid(child, 0)[1]]
        with Ledger(path) as ledger:
            assert ledger.rows("SELECT count(*) FROM jobs") == [(6,)]
    assert failed == []


def test_a_ledger_in_use_opens_whatever_hangs_while_it_opens_it(ledger: Ledger, path: Path) -> None:
    with path.with_suffix(".migrate").open("w") as gate:
        fcntl.flock(gate, fcntl.LOCK_EX)  # as a process does that was stopped there
        with Ledger(path) as other:
            assert other.start_job("test", "x", 1, "") == 1


def _open_at(path: Path, start: float) -> None:
    time.sleep(max(0.0, start - time.monotonic()))
    with Ledger(path) as ledger:
        ledger.start_job("test", "x", os.getpid(), "")


def _forked(work: Callable[[], None]) -> int:
    child = os.fork()
    if child:
        return child
    try:
        work()
    except BaseException as error:  # noqa: BLE001 - nothing may come back into the test of this process
        sys.__stderr__.write(f"{error}\n")
        os._exit(1)
    os._exit(0)
