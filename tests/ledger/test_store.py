"""`Ledger` stores calls, commits atomically, and refuses files that are not ledgers."""

import fcntl
import os
import sqlite3
import stat
import sys
import time
from collections.abc import Callable
from functools import partial
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

ENDPOINT = Identity("scripted", "m", "1", "adapter", "bf16")
"""The endpoint of all requests, with a value in every field of its identity."""
REQUEST = ChatRequest(ENDPOINT, (Message("user", "hello"),), seed=2**62)
"""A request with a large seed, which JSON must keep exactly."""
MakeTurn = Callable[..., TurnRecord]
TEXTS = {
    "plain": "4 apples",
    "empty": "",
    "accents and emoji": "naïve 😀 ﷽",
    "lone surrogates": "\ud800 middle \udfff",
    "a literal escape sequence": "\\ud800",
    "control characters": "\x00\x01\x1b[31m\x7f\r\n\t\u2028",
    "JSON and SQL": "\"}'; DROP TABLE calls; --",
    "two megabytes": "α" * 2**20,
}
"""Texts that are hard to store unchanged, by what is special about them."""


@pytest.mark.parametrize(
    ("request_", "reply"),
    [
        *((REQUEST, ChatReply(text, "length", 7, 9, seconds=0.25, usd=1e-6)) for text in TEXTS.values()),
        (EmbedRequest(ENDPOINT, "text"), EmbedReply.of(np.array([0.6, -0.8], dtype=np.float32))),
        (PythonRequest(ENDPOINT, "print(1)", 2.5), PythonReply("ok", 0, "1\n", "", False, "namespaces", 0.01)),
        (PythonRequest(ENDPOINT, "loop"), PythonReply("timeout", None, "\x00", "\ud800", True, "namespaces")),
        (CutRequest(ENDPOINT, "a b c", 2), CutReply("a b", True)),
    ],
    ids=[*TEXTS, "embedding", "program", "killed program", "cut"],
)
def test_reply_is_recalled_unchanged(ledger: Ledger, path: Path, request_, reply) -> None:
    assert ledger.recall(request_) is None
    call_id, stored_reply = ledger.remember("run", request_, reply)
    assert stored_reply == reply
    ledger.close()
    with Ledger(path) as reopened_ledger, LedgerView(path) as view:
        assert reopened_ledger.recall(request_) == (call_id, reply)
        assert list(verify_run(view, "run")) == []


def test_surrogate_pair_is_stored_as_its_character(ledger: Ledger, path: Path) -> None:
    _, stored_reply = ledger.remember("run", REQUEST, ChatReply("\ud83d\ude00", "stop"))
    assert stored_reply == ChatReply("😀", "stop") == ledger.recall(REQUEST)[1]
    with LedgerView(path) as view:
        assert list(verify_run(view, "run")) == []


@pytest.mark.parametrize("text", [text for name, text in TEXTS.items() if "megabyte" not in name])
def test_reply_to_a_request_with_any_text_is_recalled(ledger: Ledger, text: str) -> None:
    request = ChatRequest(ENDPOINT, (Message("user", text),))
    call_id, _ = ledger.remember("run", request, ChatReply("yes", "stop"))
    assert ledger.recall(request) == (call_id, ChatReply("yes", "stop"))
    assert ledger.recall(ChatRequest(ENDPOINT, (Message("user", text + " "),))) is None


def test_first_reply_to_a_request_is_kept(ledger: Ledger, path: Path) -> None:
    first_call = ledger.remember("run", REQUEST, ChatReply("first", "stop"))
    with Ledger(path) as second_ledger:
        assert second_ledger.remember("other run", REQUEST, ChatReply("second", "stop")) == first_call
    assert ledger.recall(REQUEST) == first_call
    assert ledger.rows("SELECT run FROM calls") == [("run",)]


def test_keys_with_equal_first_digits_are_distinct(ledger: Ledger) -> None:
    """The index holds only the first ten digits of each key. The test changes the key of the first call so that it
    shares these digits with the key of another request.
    """
    first_id, _ = ledger.remember("run", REQUEST, ChatReply("first", "stop"))
    other_request = ChatRequest(ENDPOINT, (Message("user", "hello"),), seed=1)
    with ledger.transaction() as connection:
        connection.execute("UPDATE calls SET key = substr(?, 1, 10) || substr(key, 11)", (other_request.key(),))
    assert ledger.recall(other_request) is None
    other_id, reply = ledger.remember("run", other_request, ChatReply("second", "stop"))
    assert other_id != first_id and reply == ChatReply("second", "stop")
    assert ledger.recall(other_request) == (other_id, reply)
    assert ledger.remember("run", other_request, ChatReply("third", "stop")) == (other_id, reply)


def test_call_costs_are_stored_in_columns(ledger: Ledger) -> None:
    ledger.remember(
        "run", REQUEST, ChatReply("x", "stop", prompt_tokens=11, completion_tokens=5, seconds=0.5, usd=0.02)
    )
    ledger.remember("run", PythonRequest(ENDPOINT, "1"), PythonReply("ok", 0, "", "", False, "namespaces", wall_s=0.75))
    rows = ledger.rows("SELECT kind, model, prompt_tokens, completion_tokens, usd, seconds FROM calls ORDER BY id")
    assert rows == [("chat", "m", 11, 5, 0.02, 0.5), ("python", "m", 0, 0, 0.0, 0.75)]


def test_kept_turn_is_committed_with_its_calls_and_example(ledger: Ledger, path: Path, new_turn: MakeTurn) -> None:
    requests = [ChatRequest(ENDPOINT, (), seed=seed) for seed in range(3)]
    call_ids = [ledger.remember("run", request, ChatReply("x", "stop"))[0] for request in requests]
    record = new_turn(0, "unparsed", "kept_failed")
    ledger.commit_turn("run", record, [call_ids[2], call_ids[0], call_ids[2]])
    ledger.commit_turn("run", new_turn(1, "defender_right"), [])
    assert ledger.rows("SELECT position, call FROM turn_calls ORDER BY position") == [
        (0, call_ids[2]),
        (1, call_ids[0]),
        (2, call_ids[2]),
    ]
    with LedgerView(path) as view:
        assert view.turn_records("run") == [record, new_turn(1, "defender_right")]
        assert view.examples("run") == [Example(0, "How many? (0.1)", "2 + 2 = 4.", "4", "kept_failed")]


@pytest.mark.parametrize(
    ("number", "call_ids"),
    [(0, []), (1, [999]), (1, [1, None])],
    ids=["existing turn", "unknown call", "null call"],
)
def test_turn_is_committed_completely_or_not_at_all(
    ledger: Ledger, new_turn: MakeTurn, number: int, call_ids: list[int]
) -> None:
    ledger.remember("run", REQUEST, ChatReply("x", "stop"))
    ledger.commit_turn("run", new_turn(0, "kept_novel"), [1])
    tables = ("turns", "turn_calls", "examples", "runs")
    rows_before = [ledger.rows(f"SELECT * FROM {table}") for table in tables]
    with pytest.raises(LedgerError):
        ledger.commit_turn("run", new_turn(number, "kept_failed"), call_ids)
    assert [ledger.rows(f"SELECT * FROM {table}") for table in tables] == rows_before
    ledger.commit_turn("run", new_turn(1, "kept_failed"), [1])


def test_failed_commit_leaves_the_ledger_usable(ledger: Ledger, new_turn: MakeTurn) -> None:
    with pytest.raises(LedgerError), ledger.transaction() as connection:
        connection.execute("PRAGMA defer_foreign_keys = ON")  # so that COMMIT itself fails
        connection.execute("INSERT INTO turn_calls VALUES (1, 1, 1)")
    ledger.commit_turn("run", new_turn(0, "kept_failed"), [])
    assert ledger.rows("SELECT count(*) FROM turn_calls") == [(0,)]


def test_interrupt_rolls_the_transaction_back(ledger: Ledger) -> None:
    with pytest.raises(KeyboardInterrupt), ledger.transaction() as connection:
        connection.execute("DELETE FROM runs")
        raise KeyboardInterrupt
    assert ledger.rows("SELECT id FROM runs") == [("run",)]


def test_set_run_status_adds_the_seconds_to_the_total_of_the_run(ledger: Ledger, path: Path) -> None:
    for status, seconds in (("running", 0.0), ("failed", 1.5), ("done", 2.25)):
        ledger.set_run_status("run", status, f"was {status}", seconds)
    with LedgerView(path) as view:
        row = view.find_run("run")
    assert (row["status"], row["message"], row["seconds"]) == ("done", "was done", 3.75)


def test_benchmark_is_imported_once_and_completely(ledger: Ledger, path: Path) -> None:
    items = [
        (Seed(f"i-{number}", "bench", f"Q{number}?", "4", options={"A": "4"}), split)
        for number, split in enumerate(("test", "train", "train"))
    ]
    assert ledger.import_dataset("bench", "bench.jsonl", "hash", items, 1)
    assert not ledger.import_dataset("bench", "again.jsonl", "hash", items, 1), "equal content was imported twice"
    with pytest.raises(UsageError, match="imported from other files"):
        ledger.import_dataset("bench", "new.jsonl", "other", items, 0)
    with pytest.raises(LedgerError):
        ledger.import_dataset("repeated", "repeated.jsonl", "h", [items[0], items[0]], 0)
    with LedgerView(path) as view:
        assert [(dataset.name, dataset.splits) for dataset in view.datasets()] == [("bench", {"test": 1, "train": 2})]
        assert view.items("bench") == [item for item, _ in items]
        assert view.items("bench", "train") == [items[1][0], items[2][0]]
        assert view.items("repeated") == []


# Opening files


def test_ledger_is_private_under_any_umask(tmp_path: Path) -> None:
    mask = os.umask(0)
    try:
        with Ledger(tmp_path / "ledger.db") as ledger:
            ledger.start_execution("run", "x", 1, "")
            modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.glob("ledger.db*")}
    finally:
        os.umask(mask)
    assert modes == {"ledger.db": 0o600, "ledger.db-wal": 0o600, "ledger.db-shm": 0o600}


def test_view_cannot_write(ledger: Ledger, path: Path) -> None:
    with LedgerView(path) as view:
        for sql in ("DELETE FROM runs", "CREATE TABLE new (x)", "PRAGMA user_version = 3"):
            with pytest.raises(LedgerError, match="readonly"):
                list(view.rows(sql))
    assert ledger.rows("SELECT id FROM runs") == [("run",)]


def test_view_sees_only_committed_rows(ledger: Ledger, path: Path) -> None:
    with LedgerView(path) as view:
        with ledger.transaction() as connection:
            connection.execute("UPDATE runs SET name = 'new'")
            assert view.find_run("run")["name"] == "a name"
        assert view.find_run("run")["name"] == "new"


@pytest.mark.parametrize("stop_before", ["m001_calls", "m003_data"])
def test_view_migrates_an_older_ledger(path: Path, stop_before: str) -> None:
    """A view applies pending migrations, since it may be opened while another process is still creating the ledger."""
    connection = sqlite3.connect(path, isolation_level=None)
    migrations.apply(Database(connection), stop_before=stop_before)
    connection.close()
    with LedgerView(path) as view:
        assert view.datasets() == [] and list(view.rows("SELECT * FROM jobs")) == []


def test_migration_to_short_keys_keeps_calls(path: Path) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    migrations.apply(Database(connection), stop_before="m020_short_keys")
    reply = ChatReply("yes", "stop")
    connection.execute(
        "INSERT INTO calls (id, key, kind, model, run, request, reply, reply_hash, prompt_tokens, completion_tokens,"
        " usd, seconds, at, role) VALUES (7, ?, 'chat', 'm', 'run', '', '', 'h', 1, 2, 0.5, 3.0, 'now', 'judge')",
        (REQUEST.key(),),
    )
    packed_texts = [zstandard.compress(text.encode()) for text in ("{}", canonical_json(reply.to_json()))]
    connection.execute("INSERT INTO packs VALUES (7, 0, ?, ?)", packed_texts)
    rows_before = connection.execute("SELECT id, role, at, seconds FROM calls").fetchall()
    connection.close()
    with Ledger(path) as ledger:
        assert Path(f"{path}-wal").stat().st_size == 0, (
            "the migration wrote the whole ledger to the write-ahead log, which was then not truncated"
        )
        assert ledger.recall(REQUEST) == (7, reply)
        assert ledger.rows("SELECT id, role, at, seconds FROM calls") == rows_before == [(7, "judge", "now", 3.0)]
        assert ledger.rows("PRAGMA foreign_key_check") == [] and ledger.rows("PRAGMA integrity_check") == [("ok",)]
        assert ledger.rows("SELECT name FROM sqlite_master WHERE sql LIKE '%calls_anew%'") == []


@pytest.mark.parametrize("open_ledger", [Ledger, LedgerView])
def test_newer_ledger_is_refused_and_unchanged(open_ledger, ledger: Ledger, path: Path) -> None:
    ledger.close()
    with sqlite3.connect(path) as connection:
        connection.execute(
            "INSERT INTO _sqlite_migrations (migration_set, name, applied_at) VALUES ('nanoflux', 'm900_later', 'now')"
        )
    connection.close()
    bytes_before = path.read_bytes()
    with pytest.raises(LedgerError, match=r"newer version of NanoFlux \(it has the migration m900_later\)") as caught:
        open_ledger(path)
    assert str(path) in caught.value.message and "update" in caught.value.fix
    assert path.read_bytes() == bytes_before


@pytest.mark.parametrize("open_ledger", [Ledger, LedgerView])
@pytest.mark.parametrize("content", [b"this is a diary, not a database\n" * 40, b"SQLite format 3\0" + bytes(4000)])
def test_file_that_is_not_a_ledger_is_refused_and_unchanged(open_ledger, path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(LedgerError, match="not a readable ledger") as caught:
        open_ledger(path)
    assert caught.value.exit_code == 1 and "backup" in caught.value.fix
    assert path.read_bytes() == content


def test_error_on_a_corrupt_ledger_names_the_damage(run_copy) -> None:
    """The test overwrites all pages after the first eight, so that the schema can be read and the rows cannot."""
    with sqlite3.connect(run_copy.path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    size = run_copy.path.stat().st_size
    kept_bytes = 8 * 4096
    with run_copy.path.open("r+b") as file:
        file.seek(kept_bytes)
        file.write(b"\xa5" * (size - kept_bytes))
    with pytest.raises(LedgerError, match=r"not a readable ledger: .*malformed"), LedgerView(run_copy.path) as view:
        view.summarize_run(run_copy.run).to_json()


def test_directory_at_the_path_of_the_ledger_is_a_ledger_error(path: Path) -> None:
    path.mkdir()
    with pytest.raises(LedgerError, match="unable to open"):
        Ledger(path)


def test_view_of_a_missing_ledger_is_refused_and_creates_no_file(path: Path) -> None:
    with pytest.raises(NothingMatchedError, match="no ledger at"):
        LedgerView(path)
    assert not path.exists()


def test_error_on_a_locked_ledger_names_the_cause(ledger: Ledger, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nanoflux_local.ledger.store.BUSY_TIMEOUT_S", 0.05)
    with (
        Ledger(path) as second_ledger,
        ledger.transaction(),
        pytest.raises(LedgerError, match="locked by another process"),
    ):
        second_ledger.start_execution("run", "x", 1, "")


def test_concurrent_processes_can_create_one_ledger(tmp_path: Path) -> None:
    """For each of twenty new ledgers, six forked processes open the ledger at the same moment."""
    failed_children = []
    for number in range(20):
        path = tmp_path / str(number) / "ledger.db"
        path.parent.mkdir()
        start_s = time.monotonic() + 0.02
        open_at_start = partial(open_ledger_at, path, start_s)
        children = [run_in_fork(open_at_start) for _ in range(6)]
        exit_statuses = {child: os.waitpid(child, 0)[1] for child in children}
        failed_children += [child for child, exit_status in exit_statuses.items() if exit_status != 0]
        with Ledger(path) as ledger:
            assert ledger.rows("SELECT count(*) FROM jobs") == [(6,)]
    assert failed_children == []


def test_ledger_opens_while_a_suspended_process_holds_the_migration_lock(ledger: Ledger, path: Path) -> None:
    with path.with_suffix(".migrate").open("w") as lock_file:
        fcntl.flock(lock_file, fcntl.LOCK_EX)  # like a process that was suspended during a migration
        with Ledger(path) as second_ledger:
            assert second_ledger.start_execution("test", "x", 1, "") == 1


def open_ledger_at(path: Path, start_s: float) -> None:
    """Wait until the monotonic clock shows `start_s`, then open the ledger and write to it."""
    time.sleep(max(0.0, start_s - time.monotonic()))
    with Ledger(path) as ledger:
        ledger.start_execution("test", "x", os.getpid(), "")


def run_in_fork(work: Callable[[], None]) -> int:
    """Call `work` in a forked process, which exits with 1 if `work` raises an error. Returns the id of the process."""
    child = os.fork()
    if child:
        return child
    try:
        work()
    except BaseException as error:  # noqa: BLE001 - the child must not return into the test
        sys.__stderr__.write(f"{error}\n")
        os._exit(1)
    os._exit(0)
