"""`nanoflux completion`: the installed script completes commands and options in a real bash."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

COMPLETE = """
source "$1"
shift
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
_nanoflux_completion nanoflux
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def script(tmp_path: Path, called: Callable, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The script that `completion install` installs for bash."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("SHELL", "/bin/bash")
    installed = called(tmp_path, "completion", "install", "--json")
    path = Path(installed.json["path"])
    assert path == tmp_path / "data" / "bash-completion" / "completions" / "nanoflux"
    assert str(path) in installed.err
    return path


def complete(script: Path, *words: str, home: Path | str = "/nowhere") -> list[str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", COMPLETE, "bash", str(script), "nanoflux", *words],
        env={**os.environ, "PATH": path, "NANOFLUX_HOME": str(home)}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [line.split(",")[-1] for line in done.stdout.split()]


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_installed_script_completes_commands_and_options(script: Path) -> None:
    assert complete(script, "adap") == ["adapters"]
    assert complete(script, "run", "re") == ["replay", "resume"]
    assert "--max-turns" in complete(script, "run", "start", "--max")
    assert complete(script, "eval", "it") == ["items"]


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_installed_script_completes_names_of_the_home(script: Path, original: Path) -> None:
    assert complete(script, "run", "show", "to", home=original) == ["tour"]
    assert complete(script, "--home", str(original), "run", "show", "to") == ["tour"]
    (example, *_) = complete(script, "examples", "show", "", home=original)
    assert len(example) == 16
    assert complete(script, "run", "start", "--domain", "starter-g") == ["starter-genetics"]
    assert complete(script, "run", "start", "--profile", "scr") == ["scripted"]
    assert complete(script, "run", "show", "") == [], "there is no ledger, and no message either"


@pytest.mark.parametrize(
    ("shell", "place"),
    [("zsh", "data/zsh/site-functions/_nanoflux"), ("fish", "config/fish/completions/nanoflux.fish")],
)
def test_script_of_other_shells_is_placed_where_they_look(
    tmp_path: Path, called: Callable, monkeypatch: pytest.MonkeyPatch, shell: str, place: str
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    assert called(tmp_path, "completion", "install", "--shell", shell).code == 0
    text = (tmp_path / place).read_text("utf-8")
    assert "_NANOFLUX_COMPLETE" in text and text == called(tmp_path, "completion", "show", "--shell", shell).out


def test_unknown_shell_is_wrong_usage(tmp_path: Path, called: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHELL", "/bin/tcsh")
    ended = called(tmp_path, "completion", "install")
    assert ended.code == 2 and "no completion for the shell 'tcsh'" in ended.err and "--shell" in ended.err
    monkeypatch.delenv("SHELL")
    assert "SHELL is not set" in called(tmp_path, "completion", "show").err


def test_unwritable_place_is_reported(tmp_path: Path, called: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").write_text("a file")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    ended = called(tmp_path, "completion", "install", "--shell", "bash")
    assert ended.code == 1 and "cannot be written" in ended.err and "completion show" in ended.err
