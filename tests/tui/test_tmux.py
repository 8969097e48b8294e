"""The application in a real terminal: a run continues after the application that started it was killed, and the tour
leaves no files.
"""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home

TIMEOUT_S = 240.0
"""Seconds to wait for a change of the ledger or of the temporary files."""


def build_environment() -> dict[str, str]:
    """The environment of the application: this process's variables except those that describe the terminal of the
    tests.
    """
    excluded_names = ("TMUX", "NO_COLOR", "COLUMNS", "LINES")
    return {name: value for name, value in os.environ.items() if name not in excluded_names}


@pytest.mark.real_model
def test_run_started_from_the_form_survives_the_application(
    terminal: Any, smollm2_dir: Path, minilm_dir: Path, tmp_path: Path
) -> None:
    """After the application was killed, a second application finds the run, pauses it and stops it."""
    home = Home(tmp_path / "home").prepare()
    (home.root / "weights").symlink_to(smollm2_dir.parent)
    env = build_environment()
    env.update(TERM="xterm-256color", LC_ALL="C.UTF-8", NANOFLUX_HOME=str(home.root))
    command = [sys.executable, "-m", "nanoflux_tui", "--home", str(home.root)]
    terminal.start(command, env)
    terminal.wait_for("This home is empty")
    terminal.press("n")
    terminal.wait_for("Ready to start")
    terminal.press("C-s")  # with the defaults of the form, which include the profile `embedded`
    kept_before_kill = int(terminal.wait_for(r"● running", r"kept +([1-9]\d*) of 24")[1])
    terminal.press("c")
    terminal.wait_for("Change this run")
    terminal.type("2")  # concurrent requests instead of 8, so that a pause waits for fewer turns in progress
    terminal.press("Tab")
    terminal.type("200")  # examples to keep instead of 24, so that the run does not finish during the test
    terminal.press("Enter")
    terminal.wait_for("2 concurrent requests", "of 200")
    os.kill(terminal.pid(), signal.SIGKILL)
    deadline = time.monotonic() + TIMEOUT_S
    while _count_examples(home) <= kept_before_kill and time.monotonic() < deadline:
        time.sleep(0.2)
    assert _count_examples(home) > kept_before_kill, "the run did not continue without the application"
    terminal.close()
    terminal.start(command, env)
    terminal.wait_for("● running", r"\d+/200")
    terminal.press("Enter")
    assert int(terminal.wait_for(r"kept +(\d+) of 200")[1]) > kept_before_kill
    terminal.press("Space")
    terminal.wait_for("‖ paused|◐ draining")
    for _ in range(2):  # the second stop ends the run without waiting for the turns in progress
        terminal.press("s")
        terminal.wait_for("Stop this run|End this run at once|■ stopped")
        terminal.press("y")  # without a dialog, because the run has stopped already, this key only copies
        terminal.wait_for("■ stopped|◐ draining")
    terminal.wait_for("■ stopped")
    terminal.press("q")
    with LedgerView(home.ledger) as view:
        row = view.row("SELECT status FROM runs")
    assert row is not None and row["status"] == "stopped"


def _count_examples(home: Home) -> int:
    with LedgerView(home.ledger) as view:
        row = view.row("SELECT count(*) AS n FROM examples")
    return int(row["n"]) if row else 0


def test_tour_leaves_no_files(terminal: Any, tmp_path: Path) -> None:
    temporary_folder, user_home = tmp_path / "tmp", tmp_path / "untouched"
    temporary_folder.mkdir()
    env = build_environment()
    env.update(TERM="xterm-256color", LC_ALL="C.UTF-8", TMPDIR=str(temporary_folder), NANOFLUX_HOME=str(user_home))
    terminal.start([sys.executable, "-m", "nanoflux_tui", "--tour"], env)
    terminal.wait_for("Tour 1/9", "the tour's run", "● running")
    for stop, pattern in (
        (2, r"kept +\d+ of 60"),
        (3, "Steer the run"),
        (4, "Press /"),
        (5, "k keeps it"),
        (6, "Generate examples for domain"),
        (7, "No training runs yet"),
        (8, "No evaluations yet"),
        (9, "licence"),
    ):
        terminal.press("F9")
        terminal.wait_for(f"Tour {stop}/9", pattern)
    terminal.press("q")
    deadline = time.monotonic() + TIMEOUT_S
    while list(temporary_folder.glob("nanoflux-tour-*")) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not list(temporary_folder.glob("nanoflux-tour-*"))
    assert not user_home.exists(), "the tour used the user's own home directory"
