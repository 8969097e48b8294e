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
    # `copy` is the home of `run_copy`; the backup left no temporary files.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "copy.db"]
    with LedgerView(run_copy.path) as original, LedgerView(copy) as backup_view:
        assert backup_view.summarize_run("tour").to_json() == original.summarize_run("tour").to_json()
        assert list(verify_run(backup_view, "tour")) == []
    with Ledger(copy) as restored:
        restored.set_run_status(run_copy.run, "paused")


def test_backup_is_a_consistent_snapshot_during_writes(
    ledger: Ledger, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second thread writes during each step of the backup. The backup still finishes, and contains everything that
    was committed before it started.
    """
    monkeypatch.setattr(backup, "PAGES_PER_STEP", 5)
    for seed in range(400):
        ledger.remember("run", ChatRequest(Identity("scripted", "m"), (), seed=seed), ChatReply("x" * 500, "stop"))
    backup_done = threading.Event()
    written_ids = []

    def write_until_done() -> None:
        with Ledger(path) as second_ledger:
            while not backup_done.is_set():
                seed = 400 + len(written_ids)
                request = ChatRequest(Identity("scripted", "m"), (), seed=seed)
                call_id, _ = second_ledger.remember("run", request, ChatReply("y" * 500, "stop"))
                written_ids.append(call_id)

    writer = threading.Thread(target=write_until_done)
    writer.start()
    progress_by_step = []

    def on_step(done: int, total: int) -> None:
        count_before = len(written_ids)
        while writer.is_alive() and len(written_ids) == count_before:
            pass  # wait until the writer has committed another call
        progress_by_step.append((done, total))

    back_up(path, tmp_path / "copy.db", on_step)
    backup_done.set()
    writer.join()
    with LedgerView(tmp_path / "copy.db") as view:
        copied_ids = [row["id"] for row in view.rows("SELECT id FROM calls ORDER BY id")]
        assert list(verify_run(view, "run")) == []
    assert copied_ids == list(range(1, len(copied_ids) + 1)) and len(copied_ids) >= 400
    assert len(progress_by_step) > 10 and len(written_ids) >= len(progress_by_step)
    assert len({total for _, total in progress_by_step}) == 1, "the backup was restarted, so it is not one snapshot"


@pytest.mark.parametrize("target_kind", ["a file", "a directory", "a dangling link"])
def test_backup_refuses_an_existing_target(ledger: Ledger, path: Path, tmp_path: Path, target_kind: str) -> None:
    target = tmp_path / "existing"
    if target_kind == "a file":
        target.write_text("existing content")
    elif target_kind == "a directory":
        target.mkdir()
    else:
        target.symlink_to(tmp_path / "missing")
    files_before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(RefusedError, match="already exists and will not be overwritten"):
        back_up(path, target)
    assert sorted(path.name for path in tmp_path.iterdir()) == files_before
    if target_kind == "a file":
        assert target.read_text() == "existing content"


def test_backup_keeps_a_file_that_appears_during_the_backup(ledger: Ledger, path: Path, tmp_path: Path) -> None:
    target = tmp_path / "copy.db"
    with pytest.raises(RefusedError, match="already exists and will not be overwritten"):
        back_up(path, target, lambda *_: target.write_text("from another process"))
    assert target.read_text() == "from another process"
    assert not list(tmp_path.glob(".*")), "the unfinished copy was not deleted"


def test_backup_into_a_missing_directory_is_an_error(ledger: Ledger, path: Path, tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="cannot be written"):
        back_up(path, tmp_path / "missing" / "copy.db")


def test_damaged_ledger_is_not_backed_up(run_copy, tmp_path: Path) -> None:
    """The test overwrites the header of the root page of the table `turns`."""
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
