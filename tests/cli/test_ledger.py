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
def ledger_json(invoke, home: Path) -> Callable[..., dict]:
    """The JSON of `nanoflux ledger …`."""
    return lambda *words: json.loads(invoke(home, "ledger", *words, "--json").out)


def test_ledger_show_compact_and_backup(invoke, ledger_json, home: Path, tmp_path: Path) -> None:
    contents = ledger_json("show")
    assert contents["path"] == str(home / "ledger.db") and contents["bytes"] >= (home / "ledger.db").stat().st_size
    assert (contents["runs"], contents["turns"], contents["packed"]) == (1, 12, 0) and contents["calls"] > 10
    summary = ledger_json("compact")
    assert summary["packed"] == contents["calls"] and summary["shrunk"]
    assert summary["texts_after"] < summary["texts_before"] and summary["bytes_before"] >= contents["bytes"]
    assert ledger_json("show")["packed"] == contents["calls"]
    assert invoke(home, "run", "verify", "tour").code == 0
    copy = tmp_path / "copy.db"
    assert ledger_json("backup", str(copy)) == {"backup": str(copy), "bytes": copy.stat().st_size}
    repeated = invoke(home, "ledger", "backup", str(copy))
    assert repeated.code == 3 and "a backup overwrites nothing" in repeated.err
    for words in (("show",), ("compact",), ("backup", str(tmp_path / "other.db"))):
        assert invoke(home, "ledger", *words).code == 0


def test_compact_keeps_file_size_while_a_run_is_active(invoke, ledger_json, home: Path) -> None:
    """The test holds the lock and the job of the run, as a worker would."""
    opened_home = Home(home)
    with Ledger(opened_home.ledger) as ledger:
        work = Work(RUN, ledger.rows("SELECT id FROM runs")[0][0])
        ledger.start_job("run", work.id, 1, boot_id())
    with work.lock(opened_home).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        result = invoke(home, "ledger", "compact", "--json")
        assert json.loads(result.out)["packed"] > 10 and not json.loads(result.out)["shrunk"]
        assert "is active" in result.err
    size_before = opened_home.ledger.stat().st_size
    assert ledger_json("compact")["shrunk"]
    assert ledger_json("show")["free_bytes"] == 0 and opened_home.ledger.stat().st_size < size_before


def test_ledger_show_without_ledger_exits_with_4(invoke, tmp_path: Path) -> None:
    for words in (("show",), ("compact",), ("backup", str(tmp_path / "copy.db"))):
        assert invoke(tmp_path, "ledger", *words).code == 4
    assert not (tmp_path / "copy.db").exists()


def test_run_start_excludes_questions_of_another_run(invoke, home: Path, scripted_start: tuple[str, ...]) -> None:
    words = (*scripted_start, "--max-turns", "3", "--seed", "7")
    document = json.loads(invoke(home, *words, "--novel-against", "tour", "--json").out)
    without_exclusion = json.loads(invoke(home, *words, "--json").out)
    assert document["funnel"]["novelty_rejected"] > without_exclusion["funnel"]["novelty_rejected"]
    assert invoke(home, *words, "--novel-against", "nobody").code == 4
