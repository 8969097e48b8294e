"""`nanoflux completion`: the installed script completes commands and options in a real bash."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

BASH_PROGRAM = """
source "$1"
shift
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
_nanoflux_completion nanoflux
printf '%s\\n' "${COMPREPLY[@]}"
"""
"""Loads the completion script $1, and prints the words that it offers for the last argument, one on each line."""


@pytest.fixture
def script(tmp_path: Path, invoke: Callable, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The script that `completion install` installs for bash."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("SHELL", "/bin/bash")
    result = invoke(tmp_path, "completion", "install", "--json")
    path = Path(result.json["path"])
    assert path == tmp_path / "data" / "bash-completion" / "completions" / "nanoflux"
    assert str(path) in result.err
    return path


def complete_words(script: Path, *words: str, home: Path | str = "/nowhere") -> list[str]:
    """The completions that bash offers for the last word of a command line."""
    search_path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    result = subprocess.run(
        ["bash", "-c", BASH_PROGRAM, "bash", str(script), "nanoflux", *words],
        env={**os.environ, "PATH": search_path, "NANOFLUX_HOME": str(home)}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return [line.split(",")[-1] for line in result.stdout.split()]  # a line is NAME or TYPE,NAME


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_installed_script_completes_commands_and_options(script: Path) -> None:
    assert complete_words(script, "adap") == ["adapters"]
    assert complete_words(script, "run", "re") == ["replay", "resume"]
    assert "--max-turns" in complete_words(script, "run", "start", "--max")
    assert complete_words(script, "eval", "it") == ["items"]


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_installed_script_completes_stored_and_packaged_names(script: Path, tour_home: Path) -> None:
    assert complete_words(script, "run", "show", "to", home=tour_home) == ["tour"]
    assert complete_words(script, "--home", str(tour_home), "run", "show", "to") == ["tour"]
    example_ids = complete_words(script, "examples", "show", "", home=tour_home)
    assert len(example_ids[0]) == 16
    assert complete_words(script, "run", "start", "--domain", "starter-g") == ["starter-genetics"]
    assert complete_words(script, "run", "start", "--profile", "scr") == ["scripted"]
    assert complete_words(script, "run", "show", "") == [], "runs were offered in a home without a ledger"


@pytest.mark.parametrize(
    ("shell", "path"),
    [("zsh", "data/zsh/site-functions/_nanoflux"), ("fish", "config/fish/completions/nanoflux.fish")],
)
def test_zsh_and_fish_scripts_are_installed_in_the_completion_directories(
    tmp_path: Path, invoke: Callable, monkeypatch: pytest.MonkeyPatch, shell: str, path: str
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    assert invoke(tmp_path, "completion", "install", "--shell", shell).code == 0
    text = (tmp_path / path).read_text("utf-8")
    assert "_NANOFLUX_COMPLETE" in text and text == invoke(tmp_path, "completion", "show", "--shell", shell).out


def test_unknown_shell_is_a_usage_error(tmp_path: Path, invoke: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHELL", "/bin/tcsh")
    result = invoke(tmp_path, "completion", "install")
    assert result.code == 2 and "no completion for the shell 'tcsh'" in result.err and "--shell" in result.err
    monkeypatch.delenv("SHELL")
    assert "SHELL is not set" in invoke(tmp_path, "completion", "show").err


def test_completion_install_reports_an_unwritable_directory(
    tmp_path: Path, invoke: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").write_text("a file")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    result = invoke(tmp_path, "completion", "install", "--shell", "bash")
    assert result.code == 1 and "cannot be written" in result.err and "completion show" in result.err
