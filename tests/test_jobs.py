"""Detached workers: other processes list, reconfigure, pause and stop them, and no finished work is lost."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nanoflux_local import jobs
from nanoflux_local.errors import RefusedError
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.run import configs, runs

# Both duelists take 0.4 s for a reply, so that a run can be paused before it is done.
SLOW_ENDPOINTS = {"duelist-a": {"delay_s": 0.4}, "duelist-b": {"delay_s": 0.4}}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A new home."""
    return Home(tmp_path / "home").prepare()


def start_run(home: Home, **settings: Any) -> str:
    """Record a run of at most 30 turns, which no process executes yet. Returns its id."""
    default_settings = {"max_turns": 30, "target": 30, "concurrency": 4, "seeds": {"min": 2}}
    config = configs.resolve("starter-genetics", "scripted", {**default_settings, **settings}, home)
    return asyncio.run(runs.start(home, config))


def make_job(run: str) -> jobs.Job:
    return jobs.Job(jobs.RUN, run)


def read_state(home: Home, run: str) -> dict[str, Any]:
    """A run's summary and the state of its worker, with the keys that `run show --json` prints."""
    with LedgerView(home.ledger) as view:
        summary = view.summarize_run(run).to_json()
        return {**summary, **jobs.load_job_state(home, view, make_job(run), summary).to_json()}


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait until the condition is true. Fails the test after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not become true"
        time.sleep(0.05)


def run_cli(home: Home, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `nanoflux run` with these arguments in a new process."""
    command = [sys.executable, "-m", "nanoflux_local.cli", "--home", str(home.root), "run", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_paused_and_reconfigured_run_has_the_digest_of_an_uninterrupted_run(home: Home) -> None:
    uninterrupted_run = start_run(home)
    asyncio.run(runs.execute(home, uninterrupted_run))
    run = start_run(home, endpoints=SLOW_ENDPOINTS)
    with Ledger(home.ledger) as ledger, ledger.transaction() as connection:
        # Without stored replies, the worker has to call the slow endpoints.
        connection.execute("DELETE FROM turn_calls")
        connection.execute("DELETE FROM calls")
    pid = jobs.launch(home, make_job(run))
    assert read_state(home, run)["worker"]["pid"] == pid
    with pytest.raises(RefusedError, match="another process"):
        jobs.launch(home, make_job(run))
    assert run_cli(home, "resume", run).returncode == 3
    assert run_cli(home, "pause", run).returncode == 0
    wait_until(lambda: not jobs.has_worker(home, make_job(run)))  # it records "paused" shortly before it ends
    paused_state = read_state(home, run)
    assert paused_state["status"] == "paused" and 0 < paused_state["turns"] < 30 and paused_state["worker"] is None
    assert run_cli(home, "set", run, "seed=5").returncode == 3
    assert run_cli(home, "set", run, "concurrency=16").returncode == 0
    process = run_cli(home, "resume", run, "--detach", "--json")
    assert process.returncode == 0 and json.loads(process.stdout)["run"] == run
    wait_until(lambda: read_state(home, run)["status"] == "done")
    assert read_state(home, run)["digest"] == read_state(home, uninterrupted_run)["digest"]


def test_second_stop_ends_a_run_immediately_and_a_killed_run_is_interrupted(home: Home) -> None:
    run = start_run(home, endpoints={"duelist-a": {"delay_s": 60}})
    jobs.launch(home, make_job(run))
    assert "drains" in jobs.request_stop(home, make_job(run), "stop")
    assert read_state(home, run)["status"] == "running"
    assert "now" in jobs.request_stop(home, make_job(run), "stop")
    wait_until(lambda: not jobs.has_worker(home, make_job(run)))
    assert read_state(home, run)["status"] == "stopped"
    pid = jobs.launch(home, make_job(run))
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not jobs.has_worker(home, make_job(run)))
    assert read_state(home, run)["status"] == "interrupted"
    assert "no process" in jobs.request_stop(home, make_job(run), "pause")
    assert read_state(home, run)["status"] == "paused"


def test_run_is_running_as_soon_as_its_worker_is_recorded(home: Home) -> None:
    """If a worker is killed right after it was recorded, its run is interrupted and does not keep its old status."""
    run = start_run(home)
    with Ledger(home.ledger) as ledger:
        ledger.set_run_status(run, "stopped")
        ledger.start_execution("run", run, os.getpid(), jobs.boot_id(), "runs")
    assert read_state(home, run)["status"] == "interrupted", (
        "the run kept the status that it had before its worker was recorded"
    )


def execute_sql(ledger: Ledger, sql: str, *values: object) -> None:
    """Change the ledger in one transaction."""
    with ledger.transaction() as connection:
        connection.execute(sql, values)


def test_worker_without_heartbeat_is_stalled(home: Home) -> None:
    run = start_run(home)
    with Ledger(home.ledger) as ledger, jobs.hold_lock(home, make_job(run)):
        execution_id = ledger.start_execution("run", run, os.getpid(), jobs.boot_id())
        ledger.set_run_status(run, "running")
        assert read_state(home, run)["status"] == "running"
        execute_sql(ledger, "UPDATE jobs SET beat_s = beat_s - 31 WHERE id = ?", execution_id)
        assert read_state(home, run)["status"] == "stalled"


@pytest.mark.parametrize("moment", ["2020-01-01T00:00:00.000+00:00", "2040-01-01T00:00:00.000+00:00"])
def test_change_of_the_wall_clock_does_not_affect_the_state_of_a_worker(home: Home, moment: str) -> None:
    """`moment` is the wall-clock time of the worker's start and of its last heartbeat, far in the past or future."""
    run = start_run(home)
    with Ledger(home.ledger) as ledger, jobs.hold_lock(home, make_job(run)):
        execution_id = ledger.start_execution("run", run, os.getpid(), jobs.boot_id())
        ledger.set_run_status(run, "running")
        execute_sql(
            ledger, "UPDATE jobs SET heartbeat_at = ?, started_at = ? WHERE id = ?", moment, moment, execution_id
        )
        assert read_state(home, run)["status"] == "running" and 0 <= read_state(home, run)["seconds"] < 30


def test_run_of_an_earlier_boot_is_interrupted_and_resumes(home: Home) -> None:
    run = start_run(home)
    with Ledger(home.ledger) as ledger:
        # Process 1 is alive, but the execution belongs to an earlier boot.
        ledger.start_execution("run", run, 1, "another boot")
        ledger.set_run_status(run, "running")
        # The monotonic clock of the earlier boot was far ahead. The worker ran for 7 s.
        execute_sql(ledger, "UPDATE jobs SET began_s = began_s + 1e9, beat_s = beat_s + 1e9 + 7")
    assert read_state(home, run)["status"] == "interrupted"
    assert "no process" in jobs.request_stop(home, make_job(run), "pause")
    assert read_state(home, run)["status"] == "paused"
    asyncio.run(runs.execute(home, run))
    final_state = read_state(home, run)
    assert final_state["status"] == "done" and 7 < final_state["seconds"] < 60
    with LedgerView(home.ledger) as view:
        assert [row["state"] for row in view.rows("SELECT state FROM jobs ORDER BY id")] == ["interrupted", "done"]


def test_concurrent_starts_of_one_run_leave_one_worker(home: Home) -> None:
    run = start_run(home, endpoints={"duelist-a": {"delay_s": 600}})
    command = [sys.executable, "-m", "nanoflux_local.cli", "--home", str(home.root), "run", "resume", run]
    processes = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for _ in range(4)]
    refused_code = RefusedError.exit_code
    try:
        wait_until(lambda: [process.poll() for process in processes].count(refused_code) == 3)
        assert read_state(home, run)["status"] == "running"
    finally:
        for process in processes:
            process.kill()
            process.wait()
    with LedgerView(home.ledger) as view:
        assert view.row("SELECT count(*) AS n FROM jobs")["n"] == 1


# Executes a run of 1000 turns, and prints its turns, its peak memory in KiB, and whether it imported torch.
MEMORY_SCRIPT = """
import asyncio, json, re, sys
from pathlib import Path
from nanoflux_local.run import configs, runs
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
home = Home(Path(sys.argv[1])).prepare()
settings = {"max_turns": 1000, "target": 1000, "concurrency": 16, "seeds": {"min": 2}, "retries": {"validation": 0},
            "pause_when_saturated": 0}
run = asyncio.run(runs.start(home, configs.resolve("starter-genetics", "scripted", settings, home)))
asyncio.run(runs.execute(home, run))
with LedgerView(home.ledger) as view:
    turns = view.summarize_run(run).to_json()["turns"]
# ru_maxrss would not be correct: it starts at the size of the process from which this one was forked.
peak_kib = int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
print(json.dumps([turns, peak_kib, "torch" in sys.modules]))
"""


def test_thousand_turns_fit_in_300_mb_without_torch(tmp_path: Path) -> None:
    process = subprocess.run(
        [sys.executable, "-c", MEMORY_SCRIPT, str(tmp_path)], capture_output=True, text=True, timeout=300
    )
    assert process.returncode == 0, process.stderr
    turns, peak_kib, imported_torch = json.loads(process.stdout)
    assert turns == 1000 and not imported_torch
    assert peak_kib < 300 * 1024
