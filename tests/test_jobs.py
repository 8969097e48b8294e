"""Detached workers: listed, reconfigured, paused and stopped from other processes, without any loss."""

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

SLOW_ENDPOINTS = {"duelist-a": {"delay_s": 0.4}, "duelist-b": {"delay_s": 0.4}}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home").prepare()


def start(home: Home, **settings: Any) -> str:
    shared = {"max_turns": 30, "target": 30, "concurrency": 4, "seeds": {"min": 2}}
    config = configs.resolve("starter-genetics", "scripted", {**shared, **settings}, home)
    return asyncio.run(runs.start(home, config))


def make_job(run: str) -> jobs.Job:
    return jobs.Job(jobs.RUN, run)


def show(home: Home, run: str) -> dict[str, Any]:
    with LedgerView(home.ledger) as view:
        summary = view.summarize_run(run).to_json()
        return {**summary, **jobs.check_job(home, view, make_job(run), summary).to_json()}


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not become true"
        time.sleep(0.05)


def run_cli(home: Home, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nanoflux_local.cli", "--home", str(home.root), "run", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_paused_and_reconfigured_run_has_the_digest_of_an_uninterrupted_run(home: Home) -> None:
    uninterrupted_run = start(home)
    asyncio.run(runs.execute(home, uninterrupted_run))
    run = start(home, endpoints=SLOW_ENDPOINTS)
    with Ledger(home.ledger) as ledger, ledger.transaction() as connection:
        connection.execute("DELETE FROM turn_calls")  # so that no call is remembered and the worker is slow
        connection.execute("DELETE FROM calls")
    assert jobs.launch(home, make_job(run)) == (show(home, run)["worker"] or {}).get("pid")
    with pytest.raises(RefusedError, match="another process"):
        jobs.launch(home, make_job(run))
    assert run_cli(home, "resume", run).returncode == 3
    assert run_cli(home, "pause", run).returncode == 0
    wait_until(lambda: show(home, run)["status"] == "paused")
    paused = show(home, run)
    assert 0 < paused["turns"] < 30 and paused["worker"] is None
    assert run_cli(home, "set", run, "seed=5").returncode == 3
    assert run_cli(home, "set", run, "concurrency=16").returncode == 0
    resumed = run_cli(home, "resume", run, "--detach", "--json")
    assert resumed.returncode == 0 and json.loads(resumed.stdout)["run"] == run
    wait_until(lambda: show(home, run)["status"] == "done")
    assert show(home, run)["digest"] == show(home, uninterrupted_run)["digest"]


def test_second_stop_ends_a_run_immediately_and_a_killed_worker_is_interrupted(home: Home) -> None:
    run = start(home, endpoints={"duelist-a": {"delay_s": 60}})
    jobs.launch(home, make_job(run))
    assert "drains" in jobs.request_stop(home, make_job(run), "stop")
    assert show(home, run)["status"] == "running"
    assert "now" in jobs.request_stop(home, make_job(run), "stop")
    wait_until(lambda: not jobs.has_worker(home, make_job(run)))
    assert show(home, run)["status"] == "stopped"
    pid = jobs.launch(home, make_job(run))
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not jobs.has_worker(home, make_job(run)))
    assert show(home, run)["status"] == "interrupted"
    assert "no process" in jobs.request_stop(home, make_job(run), "pause")
    assert show(home, run)["status"] == "paused"


def test_worker_is_running_as_soon_as_it_is_recorded(home: Home) -> None:
    """A worker that is killed right after it is recorded leaves its run interrupted, not in its earlier status."""
    run = start(home)
    with Ledger(home.ledger) as ledger:
        ledger.set_run_status(run, "stopped")
        ledger.start_execution("run", run, os.getpid(), jobs.boot_id(), "runs")
    assert show(home, run)["status"] == "interrupted", "recorded as running, without a process"


def execute_sql(ledger: Ledger, sql: str, *values: object) -> None:
    with ledger.transaction() as connection:
        connection.execute(sql, values)


def test_worker_without_heartbeat_is_stalled(home: Home) -> None:
    run = start(home)
    with Ledger(home.ledger) as ledger, jobs.hold_lock(home, make_job(run)):
        execution_id = ledger.start_execution("run", run, os.getpid(), jobs.boot_id())
        ledger.set_run_status(run, "running")
        assert show(home, run)["status"] == "running"
        execute_sql(ledger, "UPDATE jobs SET beat_s = beat_s - 31 WHERE id = ?", execution_id)
        assert show(home, run)["status"] == "stalled"


@pytest.mark.parametrize("moment", ["2020-01-01T00:00:00.000+00:00", "2040-01-01T00:00:00.000+00:00"])
def test_changed_wall_clock_affects_no_worker_state(home: Home, moment: str) -> None:
    run = start(home)
    with Ledger(home.ledger) as ledger, jobs.hold_lock(home, make_job(run)):
        execution_id = ledger.start_execution("run", run, os.getpid(), jobs.boot_id())
        ledger.set_run_status(run, "running")
        execute_sql(
            ledger, "UPDATE jobs SET heartbeat_at = ?, started_at = ? WHERE id = ?", moment, moment, execution_id
        )
        assert show(home, run)["status"] == "running" and 0 <= show(home, run)["seconds"] < 30


def test_run_of_an_earlier_boot_is_interrupted_and_resumes(home: Home) -> None:
    run = start(home)
    with Ledger(home.ledger) as ledger:
        ledger.start_execution("run", run, 1, "another boot")  # pid 1 is alive, but the execution is of another boot
        ledger.set_run_status(run, "running")
        execute_sql(ledger, "UPDATE jobs SET began_s = began_s + 1e9, beat_s = beat_s + 1e9 + 7")
    assert show(home, run)["status"] == "interrupted"
    assert "no process" in jobs.request_stop(home, make_job(run), "pause")
    assert show(home, run)["status"] == "paused"
    asyncio.run(runs.execute(home, run))
    finished = show(home, run)
    assert finished["status"] == "done" and 7 < finished["seconds"] < 60
    with LedgerView(home.ledger) as view:
        assert [row["state"] for row in view.rows("SELECT state FROM jobs ORDER BY id")] == ["interrupted", "done"]


def test_concurrent_starts_of_one_run_leave_one_worker(home: Home) -> None:
    run = start(home, endpoints={"duelist-a": {"delay_s": 600}})
    command = [sys.executable, "-m", "nanoflux_local.cli", "--home", str(home.root), "run", "resume", run]
    processes = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for _ in range(4)]
    try:
        wait_until(lambda: sum(process.poll() == 3 for process in processes) == 3)
        assert show(home, run)["status"] == "running"
    finally:
        for process in processes:
            process.kill()
            process.wait()
    with LedgerView(home.ledger) as view:
        assert view.row("SELECT count(*) AS n FROM jobs")["n"] == 1


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
# Not ru_maxrss: it starts at the size of the process that this one was forked from.
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
print(json.dumps([turns, peak, "torch" in sys.modules]))
"""


def test_thousand_turns_fit_in_300_mb_without_torch(tmp_path: Path) -> None:
    process = subprocess.run(
        [sys.executable, "-c", MEMORY_SCRIPT, str(tmp_path)], capture_output=True, text=True, timeout=300
    )
    assert process.returncode == 0, process.stderr
    turns, kib, torch = json.loads(process.stdout)
    assert turns == 1000 and not torch
    assert kib < 300 * 1024
