"""Shared by the tests of the command line: `nanoflux` in a subprocess or in this process, and a home with a run."""

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
SCRIPTED = ("run", "start", "--domain", "starter-genetics", "--profile", "scripted", "--set", "seeds.min=2")


@dataclass(frozen=True)
class Ended:
    """A finished command: its exit code and output."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def environment(home: Path | str, **more: str) -> dict[str, str]:
    """This process's environment without proxies and Python settings that would change a command's behaviour."""
    dropped = ("_PROXY", "PYTHONUNBUFFERED", "PYTHONIOENCODING")
    kept = {key: value for key, value in os.environ.items() if not key.upper().endswith(dropped)}
    return {**kept, "NANOFLUX_HOME": str(home), **more}


def run_command(home: Path | str, *arguments: str, prefix: tuple[str, ...] = (), **more: str) -> Ended:
    done = subprocess.run(
        [*prefix, *COMMAND, *arguments],
        env=environment(home, **more),
        capture_output=True,
        text=True,
        errors="replace",
        timeout=300,  # a generated line of several megabytes takes long
    )
    return Ended(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="session")
def nanoflux() -> Callable[..., Ended]:
    """Run a command in a subprocess: `nanoflux(home, "run", "list", VARIABLE="value")`."""
    return run_command


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Run a command in this process, which saves the imports: `called(home, "run", "list")`."""

    def call(home: Path, *arguments: str) -> Ended:
        monkeypatch.setenv("NANOFLUX_HOME", str(home))
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        return Ended(int(ended.value.code or 0), *capfd.readouterr())

    return call


@pytest.fixture(scope="session")
def background() -> Callable[..., subprocess.Popen[str]]:
    """Start a command in a subprocess without waiting for it."""

    def start(home: Path, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
        return subprocess.Popen([*COMMAND, *arguments], env=environment(home), **pipes)

    return start


@pytest.fixture(scope="session")
def together() -> Callable[..., list[Any]]:
    """Call a function for each of several arguments, a few at a time."""

    def call(function: Callable[..., Any], arguments: Any) -> list[Any]:
        with ThreadPoolExecutor(4) as pool:
            return list(pool.map(function, arguments))

    return call


@pytest.fixture(scope="session")
def scripted() -> tuple[str, ...]:
    """The first words of a command that starts a run without a model."""
    return SCRIPTED


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with one finished run, named "tour"."""
    home = tmp_path_factory.mktemp("tour") / "home"
    ended = run_command(home, *SCRIPTED, "--max-turns", "12", "--seed", "7", "--name", "tour")
    assert ended.code == 0, ended.err
    return home


@pytest.fixture
def home(original: Path, tmp_path: Path) -> Path:
    """A copy of the home `original` that the test may change."""
    shutil.copytree(original, tmp_path / "home")
    return tmp_path / "home"
