"""A managed vLLM server and its engine processes cannot connect to another machine."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nanoflux_models.interpreter import VLLM_PYTHON_VARIABLE, Interpreter
from nanoflux_models.launch import Launch
from nanoflux_models.manifest import Parallel, load_manifest
from nanoflux_models.offline import GUARD_SITE_DIR

HERE = Path(__file__).parent
REMOTE_ADDRESS = "192.0.2.1"
"""An address reserved for documentation, which no host has."""
# A script that imports vLLM and then tries to connect, first from two child processes and then from its own.
CONNECTING_SCRIPT = f"""
import multiprocessing, socket, subprocess, sys

def reach():
    socket.create_connection(("{REMOTE_ADDRESS}", 80), 5)

if __name__ == "__main__":
    import vllm.envs
    for method in ("spawn", "fork"):
        child = multiprocessing.get_context(method).Process(target=reach)
        child.start()
        child.join()
        assert child.exitcode == 1
    reach()
"""


def make_launch(python: str, home: Path, **manifest_fields: Any) -> Launch:
    """A launch of SmolLM2 whose manifest has the given fields replaced."""
    manifest = load_manifest("smollm2-135m", home).model_copy(update=manifest_fields)
    interpreter = Interpreter(Path(python), vllm="", torch="+cpu")
    return Launch(manifest, revision="r", weights=home, interpreter=interpreter)


def test_vllm_interpreter_and_its_children_cannot_connect_outside(
    vllm_python: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_TOKEN", "secret")
    script = tmp_path / "reach.py"
    script.write_text(CONNECTING_SCRIPT)
    environment = make_launch(vllm_python, tmp_path).build_environment("mark")
    assert "SOME_TOKEN" not in environment
    process = subprocess.run(
        [vllm_python, script], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert process.returncode == 1
    assert process.stderr.count(f"OutsideError: refused to reach {REMOTE_ADDRESS}") == 3, process.stderr


def test_launch_on_several_machines_has_no_network_guard(vllm_python: str, tmp_path: Path) -> None:
    environment = make_launch(vllm_python, tmp_path, parallel=Parallel(tensor=2, nodes=2)).build_environment("mark")
    assert str(GUARD_SITE_DIR) not in environment.get("PYTHONPATH", "") and environment["HF_HUB_OFFLINE"] == "1"


@pytest.mark.real_model
def test_run_with_a_served_model_makes_no_outside_connection(
    vllm_python: str, smollm2_dir: Path, minilm_dir: Path, tmp_path: Path
) -> None:
    strace = shutil.which("strace")
    if strace is None or subprocess.run([strace, "-o", "/dev/null", "true"], capture_output=True).returncode:
        pytest.skip("strace is not installed (Debian: apt install strace), or may not trace here")
    home, trace = tmp_path / "home", tmp_path / "trace"
    home.mkdir(mode=0o700)
    (home / "weights").symlink_to(smollm2_dir.parent)
    arguments = ("run", "start", "--domain", "starter", "--profile", str(HERE / "served.toml"), "--max-turns", "1")
    strace_command = (strace, "-f", "--seccomp-bpf", "-qq", "-s", "64", "-e", "trace=connect,sendto,sendmsg,sendmmsg")
    process = subprocess.run(
        [*strace_command, "-o", str(trace), sys.executable, "-m", "nanoflux_local.cli", *arguments],
        env={**os.environ, "NANOFLUX_HOME": str(home), VLLM_PYTHON_VARIABLE: vllm_python},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=570,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr[-3000:]
    system_calls = trace.read_text(errors="replace").splitlines()
    connections = [line for line in system_calls if "AF_INET" in line]
    assert connections, "the trace lacks the client's connections to its server"
    loopback_address = r'inet_addr\("127\.|"::1"|"::ffff:127\.'
    assert [line for line in connections if not re.search(loopback_address, line)] == []
