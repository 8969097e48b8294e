"""`nanoflux ledger`: size and contents, compaction and backup."""

import fcntl
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from nanoflux_local.jobs import RUN, Work, boot_id
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.paths import Home


@pytest.fixture
def ledger_json(called, home: Path) -> Callable[..., dict]:
    """The JSON of `nanoflux ledger …`."""
    return lambda *words: json.loads(called(home, "ledger", *words, "--json").out)


def test_ledger_show_compact_and_backup(called, ledger_json, home: Path, tmp_path: Path) -> None:
    shown = ledger_json("show")
    assert shown["path"] == str(home / "ledger.db") and shown["bytes"] >= (home / "ledger.db").stat().st_size
    assert (shown["runs"], shown["turns"], shown["packed"]) == (1, 12, 0) and shown["calls"] > 10
    packed = ledger_json("compact")
    assert packed["packed"] == shown["calls"] and packed["shrunk"]
    assert packed["texts_after"] < packed["texts_before"] and packed["bytes_before"] >= shown["bytes"]
    assert ledger_json("show")["packed"] == shown["calls"]
    assert called(home, "run", "verify", "tour").code == 0
    copy = tmp_path / "copy.db"
    assert ledger_json("backup", str(copy)) == {"backup": str(copy), "bytes": copy.stat().st_size}
    again = called(home, "ledger", "backup", str(copy))
    assert again.code == 3 and "a backup overwrites nothing" in again.err
    for words in (("show",), ("compact",), ("backup", str(tmp_path / "other.db"))):
        assert called(home, "ledger", *words).code == 0


def test_compact_keeps_file_size_while_a_run_is_active(called, ledger_json, home: Path) -> None:
    """The test holds the run's lock and job, as a worker would."""
    opened_home = Home(home)
    with Ledger(opened_home.ledger) as ledger:
        work = Work(RUN, ledger.rows("SELECT id FROM runs")[0][0])
        ledger.start_job("run", work.id, 1, boot_id())
    with work.lock(opened_home).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        done = called(home, "ledger", "compact", "--json")
        assert json.loads(done.out)["packed"] > 10 and not json.loads(done.out)["shrunk"]
        assert "is active" in done.err
    kept = opened_home.ledger.stat().st_size
    assert ledger_json("compact")["shrunk"]
    assert ledger_json("show")["free_bytes"] == 0 and opened_home.ledger.stat().st_size < kept


def test_ledger_show_without_ledger_exits_with_4(called, tmp_path: Path) -> None:
    for words in (("show",), ("compact",), ("backup", str(tmp_path / "copy.db"))):
        assert called(tmp_path, "ledger", *words).code == 4
    assert not (tmp_path / "copy.db").exists()


def test_run_start_excludes_questions_of_another_run(called, home: Path, scripted: tuple[str, ...]) -> None:
    words = (*scripted, "--max-turns", "3", "--seed", "7")
    document = json.loads(called(home, *words, "--novel-against", "tour", "--json").out)
    alone = json.loads(called(home, *words, "--json").out)
    assert document["funnel"]["novelty_rejected"] > alone["funnel"]["novelty_rejected"]
    assert called(home, *words, "--novel-against", "nobody").code == 4
