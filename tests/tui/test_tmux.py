"""The application in a real terminal: a run survives when the application that started it is killed, and the
application, started again, pauses and stops that run.
"""

import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home

TIMEOUT_S = 240.0


def build_environment() -> dict[str, str]:
    """This process's environment without variables that describe another terminal."""
    excluded = ("TMUX", "NO_COLOR", "COLUMNS", "LINES")
    return {key: value for key, value in os.environ.items() if key not in excluded}


@pytest.mark.real_model
def test_run_started_from_the_form_survives_the_application(
    terminal: Any, smollm2_dir: Path, minilm_dir: Path, tmp_path: Path
) -> None:
    home = Home(tmp_path / "home").prepare()
    (home.root / "weights").symlink_to(smollm2_dir.parent)
    env = build_environment()
    env.update(TERM="xterm-256color", LC_ALL="C.UTF-8", NANOFLUX_HOME=str(home.root))
    command = [sys.executable, "-m", "nanoflux_tui", "--home", str(home.root)]
    terminal.start(command, env)
    terminal.wait_for("This home is empty")
    terminal.press("n")
    terminal.wait_for("Ready to start")
    terminal.press("C-s")  # the embedded profile, the default of the form
    kept_before_kill = int(terminal.wait_for(r"● running", r"kept +([1-9]\d*) of 24")[1])
    terminal.press("c")
    terminal.wait_for("Change this run")
    terminal.type("2")  # concurrent requests, not 8, so that a pause waits for few turns in progress
    terminal.press("Tab")
    terminal.type("200")  # examples to keep, so many that the run cannot finish during the test
    terminal.press("Enter")
    terminal.wait_for("2 concurrent requests", "of 200")
    pid = terminal.pid()
    os.kill(pid, 9)
    deadline = time.monotonic() + TIMEOUT_S
    # the run continues without the application
    while _count_examples(home) <= kept_before_kill and time.monotonic() < deadline:
        time.sleep(0.2)
    assert _count_examples(home) > kept_before_kill
    terminal.close()
    terminal.start(command, env)
    terminal.wait_for("● running", r"\d+/200")
    terminal.press("Enter")
    assert int(terminal.wait_for(r"kept +(\d+) of 200")[1]) > kept_before_kill
    terminal.press("Space")
    terminal.wait_for("‖ paused|◐ draining")
    for _ in range(2):  # a second stop does not wait for the turns in progress
        terminal.press("s")
        terminal.wait_for("Stop this run|End this run at once")
        terminal.press("y")
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
    env = {**build_environment(), "TERM": "xterm-256color", "LC_ALL": "C.UTF-8", "TMPDIR": str(tmp_path / "tmp"),
           "NANOFLUX_HOME": str(tmp_path / "untouched")}  # fmt: skip
    (tmp_path / "tmp").mkdir()
    terminal.start([sys.executable, "-m", "nanoflux_tui", "--tour"], env)
    terminal.wait_for("Tour 1/9", "the tour's run", "● running")
    for stop, pattern in ((2, r"kept +\d+ of 60"), (3, "Steer the run"), (4, "Press /"), (5, "k keeps it"),
                       (6, "Generate examples for domain"), (7, "No trainings yet"), (8, "No evaluations yet"),
                       (9, "licence")):  # fmt: skip
        terminal.press("F9")
        terminal.wait_for(f"Tour {stop}/9", pattern)
    terminal.press("q")
    deadline = time.monotonic() + TIMEOUT_S
    while list((tmp_path / "tmp").glob("nanoflux-tour-*")) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not list((tmp_path / "tmp").glob("nanoflux-tour-*")) and not (tmp_path / "untouched").exists()
