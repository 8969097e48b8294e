"""`nanoflux ledger`: what it says of the file, packs of it and copies of it."""

import fcntl
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from nanoflux_local.jobs import RUN, Work, boot_id
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.paths import Home


@pytest.fixture
def told(called, home: Path) -> Callable[..., dict]:
    """The JSON of `nanoflux ledger …`."""
    return lambda *words: json.loads(called(home, "ledger", *words, "--json").out)


def test_the_ledger_is_shown_packed_and_copied(called, told, home: Path, tmp_path: Path) -> None:
    shown = told("show")
    assert shown["path"] == str(home / "ledger.db") and shown["bytes"] >= (home / "ledger.db").stat().st_size
    assert (shown["runs"], shown["turns"], shown["packed"]) == (1, 12, 0) and shown["calls"] > 10
    packed = told("compact")
    assert packed["packed"] == shown["calls"] and packed["shrunk"]
    assert packed["texts_after"] < packed["texts_before"] and packed["bytes_before"] >= shown["bytes"]
    assert told("show")["packed"] == shown["calls"]
    assert called(home, "run", "verify", "tour").code == 0
    copy = tmp_path / "copy.db"
    assert told("backup", str(copy)) == {"backup": str(copy), "bytes": copy.stat().st_size}
    again = called(home, "ledger", "backup", str(copy))
    assert again.code == 3 and "no backup is overwritten" in again.err
    for words in (("show",), ("compact",), ("backup", str(tmp_path / "other.db"))):
        assert called(home, "ledger", *words).code == 0


def test_while_a_run_is_worked_on_the_file_keeps_its_size(called, told, home: Path) -> None:
    """Held by its lock, as by a worker, with the job that a worker has."""
    place = Home(home)
    with Ledger(place.ledger) as ledger:
        work = Work(RUN, ledger.rows("SELECT id FROM runs")[0][0])
        ledger.start_job("run", work.id, 1, boot_id())
    with work.lock(place).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        done = called(home, "ledger", "compact", "--json")
        assert json.loads(done.out)["packed"] > 10 and not json.loads(done.out)["shrunk"]
        assert "is being worked on" in done.err
    kept = place.ledger.stat().st_size
    assert told("compact")["shrunk"]
    assert told("show")["free_bytes"] == 0 and place.ledger.stat().st_size < kept


def test_without_a_ledger_there_is_nothing_to_show(called, tmp_path: Path) -> None:
    for words in (("show",), ("compact",), ("backup", str(tmp_path / "copy.db"))):
        assert called(tmp_path, "ledger", *words).code == 4
    assert not (tmp_path / "copy.db").exists()


def test_a_run_is_started_novel_against_another(called, home: Path, scripted: tuple[str, ...]) -> None:
    words = (*scripted, "--max-turns", "3", "--seed", "7")
    found = json.loads(called(home, *words, "--novel-against", "tour", "--json").out)
    alone = json.loads(called(home, *words, "--json").out)
    assert found["funnel"]["novelty_rejected"] > alone["funnel"]["novelty_rejected"]
    assert called(home, *words, "--novel-against", "nobody").code == 4
