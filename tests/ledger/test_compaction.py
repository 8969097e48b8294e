"""A compaction changes no call that a reader sees, neither while it runs nor after it was completed or killed."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from nanoflux_local.errors import LedgerError, RefusedError
from nanoflux_local.ledger import compaction
from nanoflux_local.ledger.compaction import compact, measure_file_bytes
from nanoflux_local.ledger.packing import CALLS
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.ledger.verify import verify_run
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.records import ChatReply, ChatRequest, Identity, Message
from nanoflux_local.run import configs, runs

ENDPOINT = Identity("scripted", "m")
"""The endpoint of all requests."""


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a compaction use many transactions and a trained dictionary even for a few hundred calls."""
    monkeypatch.setattr(compaction, "CALLS_PER_BATCH", 10)
    monkeypatch.setattr(compaction, "MIN_CALLS_FOR_DICTIONARY", 50)


def read_calls(path: Path) -> list[tuple[int, str, str]]:
    """The id, request and reply of every call."""
    with LedgerView(path) as view:
        return [tuple(row) for row in view.rows(f"SELECT id, request, reply FROM {CALLS} ORDER BY id")]


def find_problems(path: Path) -> list[str]:
    """The problems that `verify_run` finds in any run of the ledger."""
    with LedgerView(path) as view:
        run_ids = [row["id"] for row in view.rows("SELECT id FROM runs")]
        return [problem for run_id in run_ids for problem in verify_run(view, run_id)]


def test_packed_calls_are_smaller_and_read_back_unchanged(run_copy, small_batches) -> None:
    calls_before = read_calls(run_copy.path)
    replay_before = asyncio.run(runs.replay(run_copy.home, run_copy.run))
    result = compact(run_copy.path)
    assert result.packed == len(calls_before) > 50
    assert result.texts_after < result.texts_before / 2
    assert result.bytes_after == measure_file_bytes(run_copy.path) < result.bytes_before
    assert read_calls(run_copy.path) == calls_before
    assert find_problems(run_copy.path) == []
    assert asyncio.run(runs.replay(run_copy.home, run_copy.run)) == replay_before and replay_before.same
    with LedgerView(run_copy.path) as view:
        assert view.contents()["packs"] == len(calls_before)
        assert list(view.rows("SELECT id FROM calls WHERE request <> '' OR reply <> ''")) == []


def test_second_compaction_packs_nothing(run_copy) -> None:
    compact(run_copy.path)
    second_result = compact(run_copy.path)
    assert (second_result.packed, second_result.texts_before, second_result.texts_after) == (0, 0, 0)


@pytest.mark.parametrize("text", ["", "\ud800 middle \udfff", "\x00\u2028", "α" * 2**20], ids=ascii)
def test_any_text_packed_without_a_dictionary_is_read_back_unchanged(ledger: Ledger, path: Path, text: str) -> None:
    request = ChatRequest(ENDPOINT, (Message("user", text),))
    stored_call = ledger.remember("run", request, ChatReply(text, "stop"))
    assert compact(path).packed == 1
    assert ledger.recall(request) == stored_call
    assert ledger.remember("run", request, ChatReply("another", "stop")) == stored_call


def test_packing_keeps_damaged_bytes_unchanged(ledger: Ledger, path: Path) -> None:
    """Compaction keeps damaged texts, so that `run verify` still reports them."""
    ledger.remember("run", ChatRequest(ENDPOINT, ()), ChatReply("x", "stop"))
    ledger.remember("run", ChatRequest(ENDPOINT, (), seed=1), ChatReply("x", "stop"))
    with ledger.transaction() as connection:
        connection.execute("UPDATE calls SET reply = CAST(x'7bff7d' AS TEXT) WHERE id = 1")
    problems_before = find_problems(path)
    assert problems_before == ["call 1: the reply does not match its hash"]
    assert compact(path).packed == 2
    assert find_problems(path) == problems_before


@pytest.mark.parametrize("column", ["request", "reply", "dictionary"])
def test_damaged_pack_of_one_call_is_reported_for_that_call_only(run_copy, small_batches, column: str) -> None:
    compact(run_copy.path)
    with sqlite3.connect(run_copy.path) as connection:
        if column == "dictionary":
            damaged_value = "99"  # the id of no dictionary
        else:
            damaged_value = f"CAST(substr({column}, 1, length({column}) - 3) || x'000000' AS BLOB)"
        connection.execute(f"UPDATE packs SET {column} = {damaged_value} WHERE call = 5")
    connection.close()
    problems = find_problems(run_copy.path)
    assert problems and all(line.startswith(("call 5: the request", "call 5: the reply")) for line in problems)


def test_error_on_an_unreadable_pack_suggests_run_verify(ledger: Ledger, path: Path) -> None:
    request = ChatRequest(ENDPOINT, ())
    ledger.remember("run", request, ChatReply("x", "stop"))
    compact(path)
    with ledger.transaction() as connection:
        connection.execute("UPDATE packs SET reply = x'00'")
    with pytest.raises(LedgerError, match="the reply of call 1 cannot be read") as caught:
        ledger.recall(request)
    assert "nanoflux run verify" in caught.value.fix


def test_run_continues_during_a_compaction(run_copy, small_batches) -> None:
    """A separate process works on the run while this process repeatedly compacts the ledger. The run must replay to the
    same dataset.
    """
    settings = {"max_turns": 12, "seed": 11}
    config = configs.resolve("starter-genetics", "scripted", settings, run_copy.home)
    run = asyncio.run(runs.start(run_copy.home, config))
    command = [sys.executable, "-m", "nanoflux_local.cli", "--home", str(run_copy.home.root), "run", "resume", run]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as worker:
        while worker.poll() is None:
            compact(run_copy.path, shrink=False)
    assert worker.returncode == 0
    compact(run_copy.path)
    assert find_problems(run_copy.path) == []
    assert asyncio.run(runs.replay(run_copy.home, run)).same


def test_second_concurrent_compaction_is_refused(path: Path, ledger: Ledger) -> None:
    with compaction.hold_compaction_lock(path), pytest.raises(RefusedError, match="another process is compacting"):
        compact(path)


KILLED_COMPACTION = """
import os, signal, sys
from pathlib import Path
from nanoflux_local.ledger import compaction
from nanoflux_local.ledger.store import Ledger
compaction.CALLS_PER_BATCH, compaction.MIN_CALLS_FOR_DICTIONARY = 10, 50
ledger_path, batches_left, kill_point = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
def kill_at_last_batch(*_):
    global batches_left
    batches_left -= 1
    if batches_left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
if kill_point == "after a batch":
    compaction.compact(ledger_path, on_progress=kill_at_last_batch)
elif kill_point == "inside a batch":  # after the calls' texts were emptied, before that is committed
    transaction = Ledger.transaction.__wrapped__
    def killed_transaction(self):
        for connection in transaction(self):
            yield connection
            if connection.execute("SELECT count(*) FROM packs").fetchone()[0]:
                kill_at_last_batch()
    from contextlib import contextmanager
    Ledger.transaction = contextmanager(killed_transaction)
    compaction.compact(ledger_path)
else:
    Ledger.shrink = kill_at_last_batch
    compaction.compact(ledger_path)
"""
"""A program that compacts the ledger argv[1] in batches of 10 calls, and kills itself at the point argv[3]: "after a
batch" or "inside a batch" whose number is argv[2], or "before shrinking" the file, with all batches packed.
"""


@pytest.mark.parametrize(
    ("batch", "kill_point"),
    [
        (1, "after a batch"),
        (5, "after a batch"),
        (1, "inside a batch"),
        (5, "inside a batch"),
        (1, "before shrinking"),
    ],
)
def test_killed_compaction_loses_nothing_and_the_next_one_resumes(
    run_copy, small_batches, batch: int, kill_point: str
) -> None:
    calls_before = read_calls(run_copy.path)
    command = [sys.executable, "-c", KILLED_COMPACTION, str(run_copy.path), str(batch), kill_point]
    assert subprocess.run(command, check=False, env={**os.environ}).returncode == -signal.SIGKILL
    assert read_calls(run_copy.path) == calls_before
    assert find_problems(run_copy.path) == []
    with LedgerView(run_copy.path) as view:
        packed_count = view.contents()["packs"]
    expected_packed_counts = {
        "after a batch": 10 * batch,
        "inside a batch": 10 * (batch - 1),
        "before shrinking": len(calls_before),
    }
    assert packed_count == expected_packed_counts[kill_point]
    assert compact(run_copy.path).packed == len(calls_before) - packed_count
    assert read_calls(run_copy.path) == calls_before
