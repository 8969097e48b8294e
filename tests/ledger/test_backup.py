"""Backups are complete, private and consistent during concurrent writes, and never overwrite a file."""

import sqlite3
import stat
import threading
from pathlib import Path

import pytest

from nanoflux_local.errors import LedgerError, RefusedError
from nanoflux_local.ledger import backup
from nanoflux_local.ledger.backup import back_up
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.ledger.verify import verify_run
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.records import ChatReply, ChatRequest, Identity


def test_backup_equals_the_ledger(run_copy, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    assert back_up(run_copy.path, copy) == copy.stat().st_size
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "copy.db"]
    with LedgerView(run_copy.path) as original, LedgerView(copy) as backup_view:
        assert backup_view.summarize_run("tour").to_json() == original.summarize_run("tour").to_json()
        assert list(verify_run(backup_view, "tour")) == []
    with Ledger(copy) as restored:
        restored.set_run_status(run_copy.run, "paused")


def test_backup_is_a_consistent_snapshot_during_writes(
    ledger: Ledger, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The backup finishes although the ledger changes at each step, and contains everything committed at its start."""
    monkeypatch.setattr(backup, "PAGES_PER_STEP", 5)
    for seed in range(400):
        ledger.remember("run", ChatRequest(Identity("scripted", "m"), (), seed=seed), ChatReply("x" * 500, "stop"))
    backup_done, written_ids = threading.Event(), []

    def write() -> None:
        with Ledger(path) as second_connection:
            while not backup_done.is_set():
                seed = 400 + len(written_ids)
                request = ChatRequest(Identity("scripted", "m"), (), seed=seed)
                written_ids.append(second_connection.remember("run", request, ChatReply("y" * 500, "stop"))[0])

    writer = threading.Thread(target=write)
    writer.start()
    steps = []

    def on_step(done: int, total: int) -> None:
        count_before = len(written_ids)
        while writer.is_alive() and len(written_ids) == count_before:
            pass  # wait until the writer has committed another call
        steps.append((done, total))

    back_up(path, tmp_path / "copy.db", on_step)
    backup_done.set()
    writer.join()
    with LedgerView(tmp_path / "copy.db") as view:
        copied_ids = [row["id"] for row in view.rows("SELECT id FROM calls ORDER BY id")]
        assert list(verify_run(view, "run")) == []
    assert copied_ids == list(range(1, len(copied_ids) + 1)) and len(copied_ids) >= 400
    assert len(steps) > 10 and len(written_ids) >= len(steps)
    assert len({total for _, total in steps}) == 1, "the backup was restarted, so it is not one snapshot"


@pytest.mark.parametrize("kind", ["a file", "a directory", "a dangling link"])
def test_backup_refuses_an_existing_target(ledger: Ledger, path: Path, tmp_path: Path, kind: str) -> None:
    existing = tmp_path / "taken"
    if kind == "a file":
        existing.write_text("precious")
    elif kind == "a directory":
        existing.mkdir()
    else:
        existing.symlink_to(tmp_path / "elsewhere")
    files_before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(RefusedError, match="already exists, and is not overwritten"):
        back_up(path, existing)
    assert sorted(path.name for path in tmp_path.iterdir()) == files_before
    assert kind != "a file" or existing.read_text() == "precious"


def test_backup_keeps_a_file_that_appears_during_the_backup(ledger: Ledger, path: Path, tmp_path: Path) -> None:
    target = tmp_path / "copy.db"
    with pytest.raises(RefusedError, match="already exists, and is not overwritten"):
        back_up(path, target, lambda *_: target.write_text("theirs"))
    assert target.read_text() == "theirs"
    assert not list(tmp_path.glob(".*"))


def test_backup_into_a_missing_directory_is_an_error(ledger: Ledger, path: Path, tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="cannot be written"):
        back_up(path, tmp_path / "no" / "copy.db")


def test_damaged_ledger_is_not_backed_up(run_copy, tmp_path: Path) -> None:
    with sqlite3.connect(run_copy.path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (root_page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'turns'").fetchone()
        (page_size,) = connection.execute("PRAGMA page_size").fetchone()
    connection.close()
    with run_copy.path.open("r+b") as file:
        file.seek((root_page - 1) * page_size + 8)
        file.write(b"\xff" * 64)
    with pytest.raises(LedgerError):
        back_up(run_copy.path, tmp_path / "copy.db")
    assert not (tmp_path / "copy.db").exists() and not list(tmp_path.glob(".*"))
