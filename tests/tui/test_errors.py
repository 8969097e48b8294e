"""The application reports errors and ended processes with a message and a fix, and never sends control characters in a
model's text to the terminal.
"""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nanoflux_local import jobs
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_tui.screens.example import ExampleScreen
from nanoflux_tui.screens.run import RunScreen
from nanoflux_tui.text import format_line, format_pace, sanitize

Drive = Callable[..., None]
FindRun = Callable[[Home, str], str]
HOSTILE_TEXT = (
    "\x1b[2J\x1b]0;owned\x07\x1b]52;c;cm0gLXJm\x07\x9b31m\u202eevil\u2066\x00\r\x08 "
    "👩‍👩‍👧 שלום مرحبا e\u0301\u0301\u0301 [bold red]no markup[/] \ud800 $HOME"
)
"""A text with terminal escape sequences, direction overrides, markup, combining characters and a lone surrogate."""
WORKER_SCRIPT = """
import os, sys, time
from pathlib import Path
from nanoflux_local.jobs import RUN, Job, boot_id, hold_lock
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.paths import Home
home, run = Home(Path(sys.argv[1])), sys.argv[2]
with hold_lock(home, Job(RUN, run)), Ledger(home.ledger) as ledger:
    ledger.start_execution("run", run, os.getpid(), boot_id())
    ledger.set_run_status(run, "running")
    print("locked", flush=True)
    time.sleep(600)
"""
"""A program that holds the lock of a run as the run's worker does, until it is killed. Arguments: the home, the run."""


def test_sanitize_removes_every_control_character() -> None:
    all_characters = "".join(map(chr, range(0x3000))) + "\u202e\ud800\U000e0001"
    for clean in (sanitize(all_characters), format_line(all_characters, 100_000)):
        categories = {unicodedata.category(character) for character in clean if character != "\n"}
        # control, format and surrogate characters, and separators of lines and paragraphs
        assert not categories & {"Cc", "Cf", "Cs", "Zl", "Zp"}


def test_sanitize_and_format_line_replace_tabs_and_truncate_text() -> None:
    assert sanitize("a\tb\r\nc") == "a    b\nc"
    assert sanitize("x" * 1_000_000).endswith("… and 980,000 more characters")
    assert "\n" not in format_line("a\nb\n" + "c" * 900)
    assert len(format_line("c" * 900)) == 401, "expected 400 characters and an ellipsis"


def test_text_of_a_model_is_shown_without_control_characters(drive: Drive, home: Home) -> None:
    text = HOSTILE_TEXT.encode("utf-8", "replace").decode() + "long " * 200_000
    with sqlite3.connect(home.ledger) as connection:
        connection.execute("UPDATE examples SET question = ?, solution = ?, answer = ?", (text, text, text))
        connection.execute("UPDATE runs SET name = ?, message = ?", (text[:500], text[:5000]))

    async def flow(driver: Any) -> None:
        await driver.wait_for("owned")
        for keys in (("end", "enter"), ("2",), ("enter",)):  # open a run, the list of examples, and an example
            await driver.press(*keys)
            await driver.wait_until(lambda: "evil" in driver.text or "owned" in driver.text)
            screen_output = driver.text + driver.app.export_screenshot()
            assert not set(screen_output) & set("\x1b\x9b\x07\x00\x08\u202e\u2066")
        await driver.wait_until(lambda: isinstance(driver.app.screen, ExampleScreen))
        await driver.wait_for("[bold red]no markup[/]", "more characters")

    drive(home, flow, size=(120, 400))  # tall enough that nothing is scrolled out of view


def test_unreadable_ledger_is_reported_with_a_fix_and_reopened(drive: Drive, home: Home) -> None:
    backup = home.root / "backup.db"
    with sqlite3.connect(home.ledger) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()

    def replace_ledger(content: bytes | None) -> None:
        """Remove the ledger. If `content` is given, put a file with this content in its place."""
        for suffix in ("", "-wal", "-shm"):
            Path(f"{home.ledger}{suffix}").unlink(missing_ok=True)
        if content is not None:
            (home.root / "new.db").write_bytes(content)
            (home.root / "new.db").rename(home.ledger)

    shutil.copy(home.ledger, backup)
    newer_ledger = home.root / "newer.db"
    shutil.copy(home.ledger, newer_ledger)
    with sqlite3.connect(newer_ledger) as connection:
        connection.execute("INSERT INTO _sqlite_migrations (migration_set, name, applied_at) VALUES (?, ?, ?)",
                           ("nanoflux", "m999_future", "2030-01-01"))  # fmt: skip
    connection.close()

    async def flow(driver: Any) -> None:
        await driver.wait_for("first", "second")
        replace_ledger(None)
        await driver.wait_for("This home is empty")
        replace_ledger(b"this is no database, whatever its name says" * 100)
        await driver.wait_until(lambda: "not a readable ledger" in driver.error and "backup" in driver.error)
        replace_ledger(newer_ledger.read_bytes())
        await driver.wait_until(lambda: "newer version" in driver.error and "pdate NanoFlux" in driver.error)
        replace_ledger(backup.read_bytes())
        await driver.wait_until(lambda: not driver.error)
        await driver.wait_for("first", "second")
        for digit in "2345":
            await driver.press(digit)
        await driver.press("1")
        await driver.wait_for("first", "second")

    drive(home, flow)


def test_locked_ledger_is_reported_and_keys_still_work(
    drive: Drive, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nanoflux_tui.reader.WAIT_S", 0.05)
    with sqlite3.connect(home.ledger) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")  # without a write-ahead log, a writer also locks out readers
    connection.close()
    writer = sqlite3.connect(home.ledger, isolation_level=None)

    async def flow(driver: Any) -> None:
        await driver.wait_for("first")
        writer.execute("BEGIN EXCLUSIVE")
        await driver.press("2")
        await driver.wait_until(lambda: "locked by another process" in driver.error)
        await driver.press("question_mark")
        await driver.wait_for("Everywhere")
        await driver.press("escape")
        writer.execute("ROLLBACK")
        await driver.wait_until(lambda: not driver.error)
        await driver.wait_for("36 examples")

    drive(home, flow)
    writer.close()


def test_damaged_turn_record_is_reported_on_the_screen_of_its_run(drive: Drive, home: Home, find_run: FindRun) -> None:
    with sqlite3.connect(home.ledger) as connection:
        connection.execute("UPDATE turns SET record = 'torn'")
    connection.close()

    async def flow(driver: Any) -> None:
        driver.app.push_screen(RunScreen(find_run(home, "first")))
        await driver.wait_until(lambda: "cannot be read" in driver.error and "run verify" in driver.error)
        await driver.press("escape")
        await driver.wait_for("first", "second")

    drive(home, flow)


def test_run_of_a_dead_worker_is_listed_first_and_can_be_resumed(drive: Drive, home: Home, find_run: FindRun) -> None:
    run = find_run(home, "first")
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER_SCRIPT, str(home.root), run], stdout=subprocess.PIPE, text=True
    )
    assert worker.stdout is not None and worker.stdout.readline() == "locked\n"

    async def flow(driver: Any) -> None:
        await driver.wait_for("● running")
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        await driver.wait_for("! interrupted")
        await driver.press("home")
        await driver.wait_for("its process ended")
        selected_entry = driver.app.screen.query_one("#board").selected_key
        assert selected_entry.status == "interrupted", "the run is not in the first row"
        await driver.press("space")
        await driver.wait_for("Resumed first.")
        await driver.wait_until(lambda: "! interrupted" not in driver.text)

    drive(home, flow, size=(120, 40))
    deadline = time.monotonic() + 60
    while jobs.has_worker(home, jobs.Job(jobs.RUN, run)) and time.monotonic() < deadline:
        time.sleep(0.1)
    with LedgerView(home.ledger) as view:
        row = view.row("SELECT status FROM runs WHERE id = ?", run)
        assert row is not None and row["status"] == "done"


def test_killed_evaluation_is_listed_first_and_as_interrupted(drive: Drive, home: Home) -> None:
    with Ledger(home.ledger) as ledger:
        ledger.set_status("evaluations", "bbbbbbbbbbbb", "running")

    async def flow(driver: Any) -> None:
        await driver.wait_for("! interrupted")
        selected_entry = driver.app.screen.query_one("#board").selected_key
        assert selected_entry.kind == "evaluation", "the evaluation is not in the first row"
        await driver.wait_for("its process ended; run the same command again to resume")
        await driver.press("space")
        await driver.wait_for("To resume an evaluation")
        await driver.press("4")
        await driver.wait_for("! interrupted")

    drive(home, flow, size=(120, 40))


def test_partial_evaluation_shows_its_accuracy_and_message(drive: Drive, home: Home) -> None:
    with Ledger(home.ledger) as ledger:
        ledger.set_status("evaluations", "bbbbbbbbbbbb", "partial", "5 replies are missing: answered 429: no quota (5)")

    async def flow(driver: Any) -> None:
        await driver.wait_for("◑ partial")
        await driver.press("4")
        await driver.wait_for("◑ 50%")
        await driver.press("enter")
        await driver.wait_for("answered 429: no quota")

    drive(home, flow, size=(120, 40))


def test_dead_server_is_shown_as_ended(drive: Drive, home: Home) -> None:
    from nanoflux_models.server_record import ServerRecord, write_record

    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    write_record(home.root, ServerRecord(
        name="dead", model="smollm2-135m", revision="", variant="", url="http://127.0.0.1:9", port=9, pid=process.pid,
        started=1, boot="another", mark="m", owner=None, log="", context=512,
    ))  # fmt: skip

    async def flow(driver: Any) -> None:
        await driver.wait_for("dead", "■ ended")
        await driver.press("5")
        await driver.wait_for("dead", "■ ended", "http://127.0.0.1:9")

    drive(home, flow)


@pytest.mark.parametrize("size", [(20, 5), (40, 10), (300, 100)])
def test_screens_fit_any_terminal_size(drive: Drive, home: Home, size: tuple[int, int], find_run: FindRun) -> None:
    run = find_run(home, "second")

    async def flow(driver: Any) -> None:
        for digit in "12345":
            await driver.press(digit)
            await driver.pilot.pause()
            await driver.pilot.resize_terminal(80, 24)
            await driver.pilot.resize_terminal(*size)
        driver.app.push_screen(RunScreen(run))
        await driver.wait_until(lambda: isinstance(driver.app.screen, RunScreen) and driver.app.screen.has_loaded)
        await driver.press("n", "escape", "e", "enter", "question_mark", "escape")
        await driver.pilot.pause()
        assert len(driver.text.splitlines()) <= size[1]

    drive(home, flow, size=size)


def test_importing_the_application_changes_no_ledger_and_imports_no_torch(home: Home) -> None:
    dump_before = _dump_ledger(home)
    code = "import sys, nanoflux_tui.app, nanoflux_tui.tour, nanoflux_tui.web; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "NANOFLUX_HOME": str(home.root)})
    with Ledger(home.ledger):  # opening the ledger with this version migrates nothing either
        pass
    assert _dump_ledger(home) == dump_before


def _dump_ledger(home: Home) -> list[Any]:
    """The content of the ledger as SQL statements."""
    with sqlite3.connect(home.ledger) as connection:
        return list(connection.iterdump())


def test_format_pace_states_the_rate_and_the_time_left() -> None:
    assert format_pace(10, 40, 25.0, "steps") == "2 s each, 75 s left"
    assert format_pace(10, 40, 5.0, "steps") == "2.0 steps/s, 15 s left"
    assert format_pace(0, 40, 25.0) == format_pace(1, 40, 1.0) == ""
