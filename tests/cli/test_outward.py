"""Refused connections are reported, and traces of system calls show no connection to another machine."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

CONNECTING_COMMAND = """
import sys, types, click
import nanoflux_local.cli.main as main

@click.command()
@click.argument("error_handling")
def command(error_handling):
    import huggingface_hub
    try:
        huggingface_hub.HfApi().model_info("gpt2")
    except Exception as error:
        if error_handling == "quietly":
            click.echo("continued")
            return
        raise OSError(5, "the hub failed") if error_handling == "wrapped" else error

module = types.ModuleType("nanoflux_local.cli.reaching")
module.command = command
sys.modules[module.__name__] = module
main.COMMANDS["reach"] = ("reaching", "")
sys.argv[0] = "nanoflux"
from nanoflux_models import offline
offline.SETTINGS.clear()
main.main(["reach", sys.argv[1]])
"""
"""A program that adds the command `reach` to `nanoflux` and runs it; the command makes a library contact a remote
host. The argument says what the command does with the library's exception: `openly` raises it again, `wrapped` replaces
it, and `quietly` swallows it.
"""
TRACED_CALLS = "connect,sendto,sendmsg,sendmmsg"
"""The system calls that can address another machine."""


@pytest.mark.parametrize("error_handling", ["openly", "wrapped"])
def test_refused_connection_of_a_library_ends_the_command(error_handling: str, tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", CONNECTING_COMMAND, error_handling],
        env={"HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 3, result.stderr
    assert result.stderr.startswith("nanoflux: refused to reach huggingface.co")
    assert "NANOFLUX_ALLOW_HOSTS=huggingface.co" in result.stderr and "Traceback" not in result.stderr


def test_refused_connection_is_reported_even_if_the_exception_is_swallowed(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", CONNECTING_COMMAND, "quietly"],
        env={"HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (result.returncode, result.stdout) == (0, "continued\n")
    assert "blocked connections of a library to huggingface.co" in result.stderr


@pytest.fixture
def trace_command(nanoflux: Callable[..., Any], tmp_path: Path) -> Callable[..., list[str]]:
    """A function that runs a command under strace, and returns every system call that addresses another machine."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed (Debian: apt install strace)")
    if subprocess.run([strace, "-o", "/dev/null", "true"], capture_output=True, timeout=60).returncode:
        pytest.skip("strace cannot trace processes here (ptrace is forbidden)")

    def run(home: Path, *arguments: str) -> list[str]:
        log = tmp_path / "trace"
        trace_prefix = (strace, "-f", "-qq", "-s", "64", "-e", f"trace={TRACED_CALLS}", "-o", str(log))
        result = nanoflux(home, *arguments, prefix=trace_prefix)
        assert result.code == 0, result.err
        return [line for line in log.read_text(errors="replace").splitlines() if is_remote(line)]

    return run


def is_remote(line: str) -> bool:
    """Whether a traced call addresses another machine, not loopback, a local socket or the kernel."""
    family = re.search(r"sa_family=AF_(\w+)", line)
    if family is None or family[1] in ("UNIX", "NETLINK", "UNSPEC"):
        return False
    return not re.search(r'inet_addr\("127\.|"::1"|"::ffff:127\.', line)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('1 connect(3, {sa_family=AF_INET, sin_port=htons(80), sin_addr=inet_addr("192.0.2.1")}, 16) = 0', True),
        (
            '1 connect(3, {sa_family=AF_INET6, sin6_port=htons(80), inet_pton(AF_INET6, "2001:db8::1", &sin6_addr)}',
            True,
        ),
        (
            '1 sendto(3, "x", 1, 0, {sa_family=AF_INET, sin_port=htons(53), sin_addr=inet_addr("10.0.0.2")}, 16) = 1',
            True,
        ),
        ("1 connect(3, {sa_family=AF_VSOCK, svm_cid=0x2, svm_port=0x50}, 16) = 0", True),
        ('1 connect(3, {sa_family=AF_INET, sin_port=htons(80), sin_addr=inet_addr("127.0.0.1")}, 16) = 0', False),
        ('1 connect(3, {sa_family=AF_INET6, sin6_port=htons(80), inet_pton(AF_INET6, "::1", &sin6_addr)}, 28)', False),
        ('1 connect(3, {sa_family=AF_UNIX, sun_path="/tmp/s"}, 9) = 0', False),
        ('1 sendto(4, "x", 1, 0, NULL, 0) = 1', False),
    ],
)
def test_is_remote_recognizes_addresses_of_other_machines(line: str, expected: bool) -> None:
    assert is_remote(line) is expected


def test_trace_records_a_connection(trace_command: Callable[..., list[str]], tmp_path: Path) -> None:
    """Instead of a command, an unguarded program connects a UDP socket, which sends no packet."""
    log = tmp_path / "trace"
    trace_prefix = (str(shutil.which("strace")), "-f", "-e", f"trace={TRACED_CALLS}", "-o", str(log))
    script = "import socket; socket.socket(type=socket.SOCK_DGRAM).connect(('192.0.2.1', 9))"
    subprocess.run([*trace_prefix, sys.executable, "-c", script], check=False)  # fails on a machine without network
    assert any(is_remote(line) for line in log.read_text().splitlines())


def test_scripted_run_makes_no_outside_connection(
    trace_command: Callable[..., list[str]], scripted_start: tuple[str, ...], tmp_path: Path
) -> None:
    assert trace_command(tmp_path / "home", *scripted_start, "--max-turns", "4") == []


@pytest.mark.real_model
def test_model_run_training_and_evaluation_make_no_outside_connection(
    trace_command: Callable[..., list[str]], test_home: Path, smollm2_dir: Path, minilm_dir: Path, tmp_path: Path
) -> None:
    """The steps of the demo on two examples: run, training, evaluation and report."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "weights").symlink_to(smollm2_dir.parent)
    start_command = ("run", "start", "--domain", "starter", "--max-turns", "2", "--seed", "7", "--name", "two")
    assert trace_command(home, *start_command) == []
    assert trace_command(home, "train", "two", "--base", "smollm2-135m", "--set", "epochs=1") == []
    eval_command = ("eval", "--model", "smollm2-135m", "--data", "starter-easy", "--limit", "2", "--runs", "1")
    assert trace_command(home, *eval_command) == []
    assert trace_command(home, "report", "two", "-o", str(tmp_path / "report")) == []
