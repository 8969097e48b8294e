"""If a real vLLM server or the command that started it is killed, no reply is lost, no process of the server remains,
and no other process is stopped.
"""

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

from nanoflux_local.ledger.views import LedgerView
from nanoflux_models import server_record
from nanoflux_models.interpreter import VLLM_PYTHON_VARIABLE
from nanoflux_models.processes import Process
from nanoflux_models.server_record import ServerRecord
from nanoflux_models.supervisor import Supervisor, find_free_port, list_server_processes

pytestmark = pytest.mark.real_model
PROFILE = str(Path(__file__).with_name("served.toml"))
# One request at a time: other requests in a batch change vLLM's rounding, and occasionally a greedy reply.
RUN_ARGUMENTS = ("run", "start", "--domain", "starter", "--seed", "5", "--profile", PROFILE, "--concurrency", "1",
                 "--max-turns", "4", "--json")  # fmt: skip


@pytest.fixture
def home(served: dict[str, Any], tmp_path: Path) -> Path:
    """A separate home, in which runs find no running server. Servers that remain are stopped after the test."""
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / "weights").symlink_to(served["home"] / "weights")
    yield folder
    for record in server_record.read_records(folder):
        Supervisor(folder).stop(record, grace_s=1.0)


def start_command(home: Path, python: str, *arguments: str) -> subprocess.Popen[str]:
    """Start a NanoFlux command whose stderr is written to the file "err" next to the home."""
    environment = {**os.environ, "NANOFLUX_HOME": str(home), VLLM_PYTHON_VARIABLE: python}
    command = [sys.executable, "-m", "nanoflux_local.cli", *arguments]
    with (home.parent / "err").open("w") as stderr_file:
        return subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr_file, text=True
        )


def wait_for(read_value: Callable[[], Any], child: subprocess.Popen[str], seconds: float = 240) -> Any:
    """Wait until `read_value` returns a true value, and return that value; fail if `child` ends first."""
    deadline = time.monotonic() + seconds
    value = read_value()
    while not value:
        assert child.poll() is None and time.monotonic() < deadline, "the command ended, or took too long"
        time.sleep(0.02)
        value = read_value()
    return value


def count_chat_calls(home: Path) -> int:
    """The number of recorded chat calls."""
    if not (home / "ledger.db").exists():
        return 0
    with LedgerView(home / "ledger.db") as view:
        row = view.row("SELECT count(*) AS n FROM calls WHERE kind = 'chat'")
        return int(row["n"]) if row else 0


def test_killed_server_does_not_change_the_dataset_of_a_run(
    served: dict[str, Any], home: Path, command: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    uninterrupted_run = command(served["home"], served["python"], *RUN_ARGUMENTS)
    assert uninterrupted_run.returncode == 0, uninterrupted_run.stderr
    expected = json.loads(uninterrupted_run.stdout)

    child = start_command(home, served["python"], *RUN_ARGUMENTS)
    wait_for(lambda: count_chat_calls(home) >= 2, child)
    record = server_record.read_records(home)[0]
    processes = list_server_processes(record)
    assert len(processes) >= 3 and record.owner is not None and record.owner[0] == child.pid
    os.kill(record.pid, signal.SIGKILL)
    stdout, _ = child.communicate(timeout=300)
    stderr = (home.parent / "err").read_text()
    assert child.returncode == 0, stderr
    result = json.loads(stdout)
    assert "restarting it (1 of 3)" in stderr
    assert expected["kept"] > 0 and expected["turns"] == 4
    for key in ("digest", "turns", "kept", "funnel"):
        assert result[key] == expected[key], key
    assert not any(process.alive for process in processes) and server_record.read_records(home) == []
    assert find_free_port(record.port) == record.port


def test_next_command_stops_servers_of_a_killed_command(
    served: dict[str, Any], home: Path, command: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    unrelated_process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    try:
        child = start_command(home, served["python"], "models", "serve", "smollm2-135m", "--arg=--enforce-eager")

        def find_server_with_engine() -> tuple[ServerRecord, list[Process]] | None:
            records = server_record.read_records(home)
            processes = list_server_processes(records[0]) if records else []
            return (records[0], processes) if len(processes) >= 3 else None

        record, processes = wait_for(find_server_with_engine, child)
        child.kill()
        child.wait()
        assert record.alive, "the server ended with its command"

        next_command = command(home, served["python"], "models", "ps", "--json")
        assert json.loads(next_command.stdout) == []
        assert "ended leftover processes of the server smollm2-135m" in next_command.stderr
        assert not any(process.alive for process in processes) and list_server_processes(record) == []
        assert server_record.read_records(home) == [] and unrelated_process.poll() is None
        other_servers = json.loads(command(served["home"], served["python"], "models", "ps", "--json").stdout)
        assert [entry["state"] for entry in other_servers] == ["ready"], "the server of another home was stopped"
    finally:
        unrelated_process.kill()
        unrelated_process.wait()
