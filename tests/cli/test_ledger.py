"""`nanoflux ledger` shows, compacts and backs up the ledger; `run start --novel-against` rejects repeated questions."""

import fcntl
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from nanoflux_local.jobs import RUN, Job, boot_id
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.paths import Home


@pytest.fixture
def ledger_json(invoke, home: Path) -> Callable[..., dict]:
    """A function that runs `nanoflux ledger …` and returns its JSON: `ledger_json("show")`."""
    return lambda *arguments: json.loads(invoke(home, "ledger", *arguments, "--json").out)


def test_ledger_is_shown_compacted_and_backed_up(invoke, ledger_json, home: Path, tmp_path: Path) -> None:
    contents = ledger_json("show")
    assert contents["path"] == str(home / "ledger.db") and contents["bytes"] >= (home / "ledger.db").stat().st_size
    assert (contents["runs"], contents["turns"], contents["packed"]) == (1, 12, 0) and contents["calls"] > 10
    compaction = ledger_json("compact")
    assert compaction["packed"] == contents["calls"] and compaction["shrunk"]
    assert compaction["texts_after"] < compaction["texts_before"] and compaction["bytes_before"] >= contents["bytes"]
    assert ledger_json("show")["packed"] == contents["calls"]
    assert invoke(home, "run", "verify", "tour").code == 0
    backup = tmp_path / "copy.db"
    assert ledger_json("backup", str(backup)) == {"backup": str(backup), "bytes": backup.stat().st_size}
    repeated = invoke(home, "ledger", "backup", str(backup))
    assert repeated.code == 3 and "already exists and will not be overwritten" in repeated.err
    for arguments in (("show",), ("compact",), ("backup", str(tmp_path / "other.db"))):
        assert invoke(home, "ledger", *arguments).code == 0, "the command fails without --json"


def test_compact_keeps_file_size_while_a_run_is_active(invoke, ledger_json, home: Path) -> None:
    """The test records an execution of the run and holds the run's lock, as a process that works on the run does."""
    home_with_run = Home(home)
    with Ledger(home_with_run.ledger) as ledger:
        job = Job(RUN, ledger.rows("SELECT id FROM runs")[0][0])
        ledger.start_execution("run", job.id, 1, boot_id())
    with job.lock(home_with_run).open("w") as lock_file:
        fcntl.flock(lock_file, fcntl.LOCK_EX)
        result = invoke(home, "ledger", "compact", "--json")
        compaction = json.loads(result.out)
        assert compaction["packed"] > 10 and not compaction["shrunk"]
        assert "is active" in result.err
    size_before = home_with_run.ledger.stat().st_size
    assert ledger_json("compact")["shrunk"]
    assert ledger_json("show")["free_bytes"] == 0 and home_with_run.ledger.stat().st_size < size_before


def test_ledger_commands_without_ledger_exit_with_4(invoke, tmp_path: Path) -> None:
    for arguments in (("show",), ("compact",), ("backup", str(tmp_path / "copy.db"))):
        assert invoke(tmp_path, "ledger", *arguments).code == 4
    assert not (tmp_path / "copy.db").exists()


def test_novel_against_rejects_questions_similar_to_those_of_another_run(
    invoke, home: Path, scripted_start: tuple[str, ...]
) -> None:
    start_command = (*scripted_start, "--max-turns", "3", "--seed", "7")  # with the seed of "tour", its questions recur
    novel_run = json.loads(invoke(home, *start_command, "--novel-against", "tour", "--json").out)
    unrestricted_run = json.loads(invoke(home, *start_command, "--json").out)
    assert novel_run["funnel"]["novelty_rejected"] > unrestricted_run["funnel"]["novelty_rejected"]
    assert invoke(home, *start_command, "--novel-against", "nobody").code == 4
