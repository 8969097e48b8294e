"""The application in a real terminal: a run that it started outlives its SIGKILL, and is found, paused and stopped by
another start of it."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home

WITHIN_S = 240.0


class Terminal:
    """A tmux server of its own, with one window of 120 x 40."""

    def __init__(self, socket: Path) -> None:
        self._tmux = ["tmux", "-S", str(socket), "-f", "/dev/null"]

    def start(self, command: list[str], env: dict[str, str]) -> None:
        words = [*self._tmux, "new-session", "-d", "-x", "120", "-y", "40", *command]
        subprocess.run(words, check=True, env=env, stdin=subprocess.DEVNULL, timeout=60)

    def press(self, *keys: str) -> None:
        for key in keys:
            subprocess.run([*self._tmux, "send-keys", key], check=True, timeout=60)
            time.sleep(0.1)

    def type(self, text: str) -> None:
        subprocess.run([*self._tmux, "send-keys", "-l", text], check=True, timeout=60)

    def text(self) -> str:
        done = subprocess.run([*self._tmux, "capture-pane", "-p"], capture_output=True, text=True, timeout=60)
        return done.stdout

    def pid(self) -> int:
        words = [*self._tmux, "display-message", "-p", "#{pane_pid}"]
        return int(subprocess.check_output(words, text=True, timeout=60))

    def sees(self, *patterns: str) -> re.Match[str]:
        """Wait for all of these; the last one's match."""
        until = time.monotonic() + WITHIN_S
        while True:
            text = self.text()
            found = [re.search(pattern, text) for pattern in patterns]
            if all(found):
                assert found[-1] is not None
                return found[-1]
            assert time.monotonic() < until, f"{patterns} never came; the terminal:\n{text}"
            time.sleep(0.2)

    def close(self) -> None:
        subprocess.run([*self._tmux, "kill-server"], capture_output=True, timeout=60)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    if shutil.which("tmux") is None:
        pytest.skip("tmux is not installed: apt-get install tmux")
    found = Terminal(tmp_path / "tmux")
    yield found
    found.close()


def surroundings() -> dict[str, str]:
    """This process's environment without what says how large or how colourful another terminal is."""
    theirs = ("TMUX", "NO_COLOR", "COLUMNS", "LINES")
    return {key: value for key, value in os.environ.items() if key not in theirs}


@pytest.mark.real_model
def test_a_run_started_from_the_form_outlives_the_applications_death(
    terminal: Terminal, smollm2_dir: Path, minilm_dir: Path, tmp_path: Path
) -> None:
    home = Home(tmp_path / "home").prepare()
    (home.root / "weights").symlink_to(smollm2_dir.parent)
    env = surroundings()
    env.update(TERM="xterm-256color", LC_ALL="C.UTF-8", NANOFLUX_HOME=str(home.root))
    command = [sys.executable, "-m", "nanoflux_tui", "--home", str(home.root)]
    terminal.start(command, env)
    terminal.sees("Nothing has been made here yet")
    terminal.press("n")
    terminal.sees(r"it can be played")
    terminal.press("C-s")  # the embedded default, as the form offers it
    first = int(terminal.sees(r"● running", r"kept +([1-9]\d*) of 24")[1])
    terminal.press("c")
    terminal.sees("Change this run")
    terminal.type("2")  # in place of 8 requests at once: a pause waits for the turns under way
    terminal.press("Tab")
    terminal.type("200")  # examples, so that those turns are not the end of it
    terminal.press("Enter")
    terminal.sees("up to 2 requests at once", "of 200")
    pid = terminal.pid()
    os.kill(pid, 9)
    until = time.monotonic() + WITHIN_S
    while _kept(home) <= first and time.monotonic() < until:  # nobody watches, and it goes on
        time.sleep(0.2)
    assert _kept(home) > first
    terminal.close()
    terminal.start(command, env)
    terminal.sees("● running", r"\d+/200")
    terminal.press("Enter")
    assert int(terminal.sees(r"kept +(\d+) of 200")[1]) > first
    terminal.press("Space")
    terminal.sees("‖ paused|◐ draining")
    for _ in range(2):  # a second stop does not wait for the turns under way
        terminal.press("s")
        terminal.sees("Stop this run|End it at once")
        terminal.press("y")
        terminal.sees("■ stopped|◐ draining")
    terminal.sees("■ stopped")
    terminal.press("q")
    with LedgerView(home.ledger) as view:
        row = view.row("SELECT status FROM runs")
    assert row is not None and row["status"] == "stopped"


def _kept(home: Home) -> int:
    with LedgerView(home.ledger) as view:
        row = view.row("SELECT count(*) AS n FROM examples")
    return int(row["n"]) if row else 0


def test_the_tour_ends_with_nothing_left_behind(terminal: Terminal, tmp_path: Path) -> None:
    env = {**surroundings(), "TERM": "xterm-256color", "LC_ALL": "C.UTF-8", "TMPDIR": str(tmp_path / "tmp"),
           "NANOFLUX_HOME": str(tmp_path / "untouched")}  # fmt: skip
    (tmp_path / "tmp").mkdir()
    terminal.start([sys.executable, "-m", "nanoflux_tui", "--tour"], env)
    terminal.sees("Tour 1/9", "the tour's run", "● running")
    for stop, seen in ((2, r"kept +\d+ of 60"), (3, "Steer it"), (4, "Press /"), (5, "k keeps it"),
                       (6, "Make examples for domain"), (7, "No training yet"), (8, "No evaluation yet"),
                       (9, "licence")):  # fmt: skip
        terminal.press("F9")
        terminal.sees(f"Tour {stop}/9", seen)
    terminal.press("q")
    until = time.monotonic() + WITHIN_S
    while list((tmp_path / "tmp").glob("nanoflux-tour-*")) and time.monotonic() < until:
        time.sleep(0.2)
    assert not list((tmp_path / "tmp").glob("nanoflux-tour-*")) and not (tmp_path / "untouched").exists()
