"""Fixtures for the tests of the command line: `nanoflux` in a subprocess or in this process, and a home with a run."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nanoflux_local.cli.main import main

COMMAND = [sys.executable, "-m", "nanoflux_local.cli"]
"""The command `nanoflux`, without arguments."""
START_SCRIPTED_RUN = ("run", "start", "--domain", "starter-genetics", "--profile", "scripted", "--set", "seeds.min=2")
"""The arguments that start a run with scripted models; tests append more options."""


@dataclass(frozen=True)
class CommandResult:
    """A finished command: its exit code and output."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The JSON document on stdout."""
        return json.loads(self.out)


def make_environment(home: Path | str, **variables: str) -> dict[str, str]:
    """This process's environment, without proxies and Python settings that would change a command's behaviour, but with
    the home and `variables`.
    """
    removed_suffixes = ("_PROXY", "PYTHONUNBUFFERED", "PYTHONIOENCODING")
    inherited = {name: value for name, value in os.environ.items() if not name.upper().endswith(removed_suffixes)}
    return {**inherited, "NANOFLUX_HOME": str(home), **variables}


def run_command(home: Path | str, *arguments: str, prefix: tuple[str, ...] = (), **variables: str) -> CommandResult:
    """Run `nanoflux` with arguments and environment variables; `prefix` is a program that runs it, such as strace."""
    result = subprocess.run(
        [*prefix, *COMMAND, *arguments],
        env=make_environment(home, **variables),
        capture_output=True,
        text=True,
        errors="replace",
        timeout=300,  # printing a generated line of several megabytes is slow
    )
    return CommandResult(result.returncode, result.stdout, result.stderr)


@pytest.fixture(scope="session")
def nanoflux() -> Callable[..., CommandResult]:
    """A function that runs a command in a subprocess: `nanoflux(home, "run", "list", VARIABLE="value")`."""
    return run_command


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., CommandResult]:
    """A function that runs a command in this process, where modules stay imported: `invoke(home, "run", "list")`."""

    def call(home: Path, *arguments: str) -> CommandResult:
        monkeypatch.setenv("NANOFLUX_HOME", str(home))
        with pytest.raises(SystemExit) as result:
            main(list(arguments))
        return CommandResult(int(result.value.code or 0), *capfd.readouterr())

    return call


@pytest.fixture(scope="session")
def start_in_background() -> Callable[..., subprocess.Popen[str]]:
    """A function that starts a command in a subprocess, and returns the process without waiting for it."""

    def start(home: Path, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
        return subprocess.Popen([*COMMAND, *arguments], env=make_environment(home), **pipes)

    return start


@pytest.fixture(scope="session")
def call_concurrently() -> Callable[..., list[Any]]:
    """A function that calls another function with each of several arguments, at most four at a time, and returns the
    results in the order of the arguments.
    """

    def call(function: Callable[..., Any], arguments: Any) -> list[Any]:
        with ThreadPoolExecutor(4) as pool:
            return list(pool.map(function, arguments))

    return call


@pytest.fixture(scope="session")
def scripted_start() -> tuple[str, ...]:
    """The arguments that start a run with scripted models; tests append more options."""
    return START_SCRIPTED_RUN


@pytest.fixture(scope="session")
def tour_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with one finished run of 12 turns, named "tour"."""
    home = tmp_path_factory.mktemp("tour") / "home"
    result = run_command(home, *START_SCRIPTED_RUN, "--max-turns", "12", "--seed", "7", "--name", "tour")
    assert result.code == 0, result.err
    return home


@pytest.fixture
def home(tour_home: Path, tmp_path: Path) -> Path:
    """A copy of `tour_home`, which the test may change."""
    shutil.copytree(tour_home, tmp_path / "home")
    return tmp_path / "home"
