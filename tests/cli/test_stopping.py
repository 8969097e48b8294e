"""Runs can be resumed after Ctrl-C, SIGTERM, a closed pipe and a full disk; a second process on a run is refused."""

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def delay_replies(seconds: float) -> list[str]:
    """Options that delay every reply of the scripted models."""
    options: list[str] = []
    for model in ("duelist-a", "duelist-b", "arbiter"):
        options += ["--set", f"endpoints.{model}.delay_s={seconds}"]
    return options


@pytest.fixture
def slow_run(scripted_start: tuple[str, ...]) -> list[str]:
    """The arguments that start the run "slow", which repeats "tour" with delayed replies and takes a few seconds."""
    options = "--examples 12 --max-turns 12 --seed 7 --name slow --concurrency 2"
    return [*scripted_start, *options.split(), *delay_replies(0.06)]


@pytest.fixture
def digest(tour_home: Path, nanoflux: Callable) -> str:
    """The digest of the run "tour", which the run "slow" must reproduce."""
    return str(nanoflux(tour_home, "run", "show", "tour", "--json").json["digest"])


def wait_for(process: subprocess.Popen[str], text: str) -> None:
    """Read the command's messages until one contains the text."""
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return
    raise AssertionError(f"the command ended without printing {text!r}")


def ignore_ctrl_c() -> None:
    """Ignore SIGINT, as background jobs of a shell without job control do."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@pytest.mark.parametrize(
    ("sent_signal", "process_options"),
    [(signal.SIGINT, {}), (signal.SIGTERM, {}), (signal.SIGTERM, {"preexec_fn": ignore_ctrl_c})],
    ids=["Ctrl-C", "SIGTERM", "SIGTERM in the background"],
)
def test_interrupted_run_keeps_its_committed_turns_and_can_be_resumed(
    tmp_path: Path,
    nanoflux: Callable,
    start_in_background: Callable,
    slow_run: list[str],
    digest: str,
    sent_signal: int,
    process_options: dict[str, Any],
) -> None:
    process = start_in_background(tmp_path, *slow_run, **process_options)
    wait_for(process, "/12 kept in")
    process.send_signal(sent_signal)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, ""), err
    assert "interrupted; everything committed so far is kept" in err and "Traceback" not in err
    summary = nanoflux(tmp_path, "run", "show", "slow", "--json").json
    assert summary["status"] == "interrupted" and 1 <= summary["turns"] < 12
    resumed = nanoflux(tmp_path, "run", "resume", "slow", "--json")
    assert (resumed.code, resumed.json["digest"]) == (0, digest), resumed.err


def test_second_process_on_a_run_is_refused(
    tmp_path: Path, nanoflux: Callable, start_in_background: Callable, slow_run: list[str], digest: str
) -> None:
    longer_delays = delay_replies(0.3)  # the run outlasts two commands, even on a busy machine
    process = start_in_background(tmp_path, *slow_run, *longer_delays, "--json")
    wait_for(process, "/12 kept in")
    refused_resume = nanoflux(tmp_path, "run", "resume", "slow")
    assert (refused_resume.code, refused_resume.out) == (3, "")
    assert "another process is working on run" in refused_resume.err
    summary = nanoflux(tmp_path, "run", "show", "slow", "--json").json
    assert summary["status"] == "running"
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert json.loads(out)["digest"] == digest


def test_killed_run_is_reported_as_interrupted(
    tmp_path: Path, nanoflux: Callable, start_in_background: Callable, slow_run: list[str]
) -> None:
    process = start_in_background(tmp_path, *slow_run)
    wait_for(process, "/12 kept in")
    process.kill()
    process.communicate()
    summary = nanoflux(tmp_path, "run", "show", "slow", "--json").json
    assert (summary["status"], summary["message"]) == ("interrupted", "its process ended; resume it")


def test_listing_ends_quietly_on_a_closed_pipe(home: Path, start_in_background: Callable) -> None:
    process = start_in_background(home, "data", "show", "starter", "--limit", "1000", "--json")
    os.read(process.stdout.fileno(), 1)
    process.stdout.close()
    err = process.stderr.read()
    assert process.wait(30) == 1 and err == ""


def test_run_with_closed_stderr_can_be_resumed(
    tmp_path: Path, nanoflux: Callable, start_in_background: Callable, slow_run: list[str], digest: str
) -> None:
    process = start_in_background(tmp_path, *slow_run)
    wait_for(process, "/12 kept in")
    process.stderr.close()
    assert process.wait(60) in (0, 1)
    resumed = nanoflux(tmp_path, "run", "resume", "slow", "--json")
    assert (resumed.code, resumed.json["digest"]) == (0, digest)


# A full disk: a small tmpfs, which is enlarged before the run resumes

SESSION_SCRIPT = """
mount -t tmpfs -o size={size} tmpfs {disk} || exit 99
export NANOFLUX_HOME={disk}/home
{nanoflux} {start}
echo "code=$?"
{nanoflux} run list --json
echo "listed=$?"
mount -o remount,size=60m {disk}
{nanoflux} run resume slow --json || {nanoflux} {start} --json
echo "code=$?"
{nanoflux} run verify slow
echo "code=$?"
"""
"""Starts a run on a small disk, enlarges the disk, resumes the run (or starts it again if it was not stored), and
verifies it. Prints `code=` with the exit code of the first start, of the resumption, and of the verification.
"""
EFFECT_BY_DISK_SIZE = {
    "60k": "no ledger fits",
    "200k": "no run fits",
    "700k": "no turn fits",
    "2000k": "some turns fit",
}
"""The sizes of the disks that fill up, each with what fits on it."""
LARGE_DISK = "50m"
"""The size of a disk that does not fill up."""


@pytest.fixture(scope="module")
def result_by_disk_size(
    tmp_path_factory: pytest.TempPathFactory, scripted_start: tuple[str, ...], call_concurrently: Callable
) -> dict:
    """For each size of disk, the result of `SESSION_SCRIPT`. The smaller a disk, the earlier the run fills it."""
    folder = tmp_path_factory.mktemp("disks")
    if subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", str(folder)], capture_output=True).returncode:
        pytest.skip("user namespaces are disabled here, so no small disk can be mounted")
    command = f'{shlex.quote(sys.executable)} -c "from nanoflux_local.cli.main import main; main()"'
    start = shlex.join([*scripted_start, "--max-turns", "40", "--seed", "7", "--name", "slow"])

    def run_session(size: str) -> subprocess.CompletedProcess[str]:
        disk = folder / size
        disk.mkdir()
        script = SESSION_SCRIPT.format(size=size, disk=disk, nanoflux=command, start=start)
        return subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, timeout=200)

    sizes = [*EFFECT_BY_DISK_SIZE, LARGE_DISK]
    results = call_concurrently(run_session, sizes)
    return dict(zip(sizes, results, strict=True))


def read_digests(result: subprocess.CompletedProcess[str]) -> list[str]:
    """The digests of runs in the JSON that a session printed, in order."""
    return [line.split('"')[3] for line in result.stdout.splitlines() if '"digest"' in line]


@pytest.mark.parametrize("size", EFFECT_BY_DISK_SIZE, ids=EFFECT_BY_DISK_SIZE.get)
def test_run_resumes_after_a_full_disk(result_by_disk_size: dict, size: str) -> None:
    result = result_by_disk_size[size]
    codes = [line for line in result.stdout.splitlines() if line.startswith("code=")]
    assert codes == ["code=1", "code=0", "code=0"], result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    first_message = result.stderr.split("→")[0]
    assert "full" in first_message or "No space left on device" in first_message, result.stderr
    undisturbed_result = result_by_disk_size[LARGE_DISK]
    assert read_digests(result)[-1] == read_digests(undisturbed_result)[-1]
    if EFFECT_BY_DISK_SIZE[size] == "some turns fit":
        output_on_full_disk, _ = result.stdout.split("listed=")
        assert '"turns": ' in output_on_full_disk and '"turns": 0' not in output_on_full_disk
