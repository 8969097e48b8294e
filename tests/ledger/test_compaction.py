"""Compaction: packed calls read as before, at any time, during other work, and after any kill."""

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
from nanoflux_local.ledger.compaction import compact, file_bytes
from nanoflux_local.ledger.packing import CALLS
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.ledger.verify import verify_run
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.records import ChatReply, ChatRequest, Identity, Message
from nanoflux_local.run import configs, runs

WHO = Identity("scripted", "m")


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pack a run of a few hundred calls in many transactions, with a trained dictionary."""
    monkeypatch.setattr(compaction, "BATCH", 10)
    monkeypatch.setattr(compaction, "WORTH_A_DICTIONARY", 50)


def texts(path: Path) -> list[tuple[int, str, str]]:
    with LedgerView(path) as view:
        return [tuple(row) for row in view.rows(f"SELECT id, request, reply FROM {CALLS} ORDER BY id")]


def problems(path: Path) -> list[str]:
    with LedgerView(path) as view:
        return [line for row in list(view.rows("SELECT id FROM runs")) for line in verify_run(view, row["id"])]


def test_packed_calls_are_smaller_and_read_the_same(played, small_batches) -> None:
    before, replayed = texts(played.path), asyncio.run(runs.replay(played.home, played.run))
    result = compact(played.path)
    assert result.packed == len(before) > 50
    assert result.texts_after < result.texts_before / 2
    assert result.bytes_after == file_bytes(played.path) < result.bytes_before
    assert texts(played.path) == before
    assert problems(played.path) == []
    assert asyncio.run(runs.replay(played.home, played.run)) == replayed and replayed.same
    with LedgerView(played.path) as view:
        assert view.contents()["packs"] == len(before)
        assert list(view.rows("SELECT id FROM calls WHERE request <> '' OR reply <> ''")) == []


def test_second_compaction_packs_nothing(played) -> None:
    compact(played.path)
    again = compact(played.path)
    assert (again.packed, again.texts_before, again.texts_after) == (0, 0, 0)


@pytest.mark.parametrize("text", ["", "\ud800 middle \udfff", "\x00\u2028", "α" * 2**20], ids=ascii)
def test_pack_without_a_dictionary_keeps_any_text(ledger: Ledger, path: Path, text: str) -> None:
    ask = ChatRequest(WHO, (Message("user", text),))
    stored = ledger.remember("run", ask, ChatReply(text, "stop"))
    assert compact(path).packed == 1
    assert ledger.recall(ask) == stored
    assert ledger.remember("run", ask, ChatReply("another", "stop")) == stored


def test_pack_keeps_damaged_bytes_unchanged(ledger: Ledger, path: Path) -> None:
    """Compaction neither hides damage nor stops at it."""
    ledger.remember("run", ChatRequest(WHO, ()), ChatReply("x", "stop"))
    ledger.remember("run", ChatRequest(WHO, (), seed=1), ChatReply("x", "stop"))
    with ledger.transaction() as connection:
        connection.execute("UPDATE calls SET reply = CAST(x'7bff7d' AS TEXT) WHERE id = 1")
    before = problems(path)
    assert before == ["call 1: the reply does not match its hash"]
    assert compact(path).packed == 2
    assert problems(path) == before


@pytest.mark.parametrize("column", ["request", "reply", "dictionary"])
def test_damaged_pack_is_reported_and_stops_no_reader(played, small_batches, column: str) -> None:
    compact(played.path)
    with sqlite3.connect(played.path) as connection:
        wrong = "99" if column == "dictionary" else f"substr({column}, 1, length({column}) - 3) || x'000000'"
        connection.execute(f"UPDATE packs SET {column} = CAST({wrong} AS {'INTEGER' if wrong == '99' else 'BLOB'})"
                           " WHERE call = 5")  # fmt: skip
    connection.close()
    lines = problems(played.path)
    assert lines and all(line.startswith("call 5: the re") for line in lines)


def test_unreadable_pack_is_an_error_with_a_fix(ledger: Ledger, path: Path) -> None:
    ask = ChatRequest(WHO, ())
    ledger.remember("run", ask, ChatReply("x", "stop"))
    compact(path)
    with ledger.transaction() as connection:
        connection.execute("UPDATE packs SET reply = x'00'")
    with pytest.raises(LedgerError, match="the reply of call 1 cannot be read") as raised:
        ledger.recall(ask)
    assert "nanoflux run verify" in raised.value.fix


def test_run_continues_during_a_compaction(played, small_batches) -> None:
    """The run's worker is a separate process; its dataset does not change."""
    settings = {"max_turns": 12, "seed": 11}
    config = configs.resolve("starter-genetics", "scripted", settings, played.home)
    run = asyncio.run(runs.start(played.home, config))
    command = [sys.executable, "-m", "nanoflux_local.cli", "--home", str(played.home.root), "run", "resume", run]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as worker:
        while worker.poll() is None:
            compact(played.path, shrink=False)
    assert worker.returncode == 0
    compact(played.path)
    assert problems(played.path) == []
    assert asyncio.run(runs.replay(played.home, run)).same


def test_concurrent_compaction_is_refused(path: Path, ledger: Ledger) -> None:
    with compaction.compaction_lock(path), pytest.raises(RefusedError, match="another process is compacting"):
        compact(path)


KILLED = """
import os, signal, sys
from pathlib import Path
from nanoflux_local.ledger import compaction
from nanoflux_local.ledger.store import Ledger
compaction.BATCH, compaction.WORTH_A_DICTIONARY = 10, 50
left, where = int(sys.argv[2]), sys.argv[3]
def die(*_):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
if where == "between":
    compaction.compact(Path(sys.argv[1]), on_progress=die)
elif where == "inside":  # after the calls' texts were emptied, before that is committed
    enter = Ledger.transaction.__wrapped__
    def dying(self):
        for connection in enter(self):
            yield connection
            if connection.execute("SELECT count(*) FROM packs").fetchone()[0]:
                die()
    from contextlib import contextmanager
    Ledger.transaction = contextmanager(dying)
    compaction.compact(Path(sys.argv[1]))
else:
    Ledger.shrink = die
    compaction.compact(Path(sys.argv[1]))
"""


@pytest.mark.parametrize(
    ("moment", "where"), [(1, "between"), (5, "between"), (1, "inside"), (5, "inside"), (1, "end")]
)
def test_killed_compaction_loses_nothing_and_the_next_one_resumes(
    played, small_batches, moment: int, where: str
) -> None:
    before = texts(played.path)
    command = [sys.executable, "-c", KILLED, str(played.path), str(moment), where]
    assert subprocess.run(command, check=False, env={**os.environ}).returncode == -signal.SIGKILL
    assert texts(played.path) == before
    assert problems(played.path) == []
    with LedgerView(played.path) as view:
        done = view.contents()["packs"]
    assert done == {"between": 10 * moment, "inside": 10 * (moment - 1), "end": len(before)}[where]
    assert compact(played.path).packed == len(before) - done
    assert texts(played.path) == before
