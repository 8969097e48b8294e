"""When something is wrong: a message that says what to do, never a traceback, and nothing that a terminal obeys."""

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
from nanoflux_tui.screens.example import ExampleRoom
from nanoflux_tui.screens.run import RunRoom
from nanoflux_tui.text import harmless, line

Sit = Callable[..., None]
HOSTILE = (
    "\x1b[2J\x1b]0;owned\x07\x1b]52;c;cm0gLXJm\x07\x9b31m\u202eevil\u2066\x00\r\x08 "
    "👩‍👩‍👧 שלום مرحبا e\u0301\u0301\u0301 [bold red]no markup[/] \ud800 $HOME"
)


def test_no_character_that_a_terminal_would_obey_passes() -> None:
    every = "".join(map(chr, range(0x3000))) + "\u202e\ud800\U000e0001"
    for made in (harmless(every), line(every, 100_000)):
        assert not [c for c in made if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") and c != "\n"]
    assert harmless("a\tb\r\nc") == "a    b\nc"
    assert harmless("x" * 1_000_000).endswith("… and 980,000 more characters")
    assert line("a\nb\n" + "c" * 900).count("\n") == 0 and len(line("c" * 900)) == 401


def test_what_a_model_wrote_is_shown_and_obeyed_by_nobody(sit: Sit, home: Home) -> None:
    text = HOSTILE.encode("utf-8", "replace").decode() + "long " * 200_000
    with sqlite3.connect(home.ledger) as connection:
        connection.execute("UPDATE examples SET question = ?, solution = ?, answer = ?", (text, text, text))
        connection.execute("UPDATE runs SET name = ?, message = ?", (text[:500], text[:5000]))

    async def flow(seat: Any) -> None:
        await seat.sees("owned")
        for keys in (("end", "enter"), ("2",), ("enter",)):
            await seat.press(*keys)
            await seat.until(lambda: "evil" in seat.text or "owned" in seat.text)
            drawn = seat.text + seat.app.export_screenshot()
            assert not [c for c in drawn if c in "\x1b\x9b\x07\x00\x08\u202e\u2066"]
        await seat.until(lambda: isinstance(seat.app.screen, ExampleRoom))
        await seat.sees("[bold red]no markup[/]", "more characters")

    sit(home, flow, size=(120, 400))


def test_a_ledger_that_cannot_be_read_is_told_with_what_to_do_and_found_again(sit: Sit, home: Home) -> None:
    kept = home.root / "kept.db"
    with sqlite3.connect(home.ledger) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()

    def replace(content: bytes | None) -> None:
        for suffix in ("", "-wal", "-shm"):
            Path(f"{home.ledger}{suffix}").unlink(missing_ok=True)
        if content is not None:
            (home.root / "new.db").write_bytes(content)
            (home.root / "new.db").rename(home.ledger)

    shutil.copy(home.ledger, kept)
    newer = home.root / "newer.db"
    shutil.copy(home.ledger, newer)
    with sqlite3.connect(newer) as connection:
        connection.execute("INSERT INTO _sqlite_migrations (migration_set, name, applied_at) VALUES (?, ?, ?)",
                           ("nanoflux", "m999_future", "2030-01-01"))  # fmt: skip
    connection.close()

    async def flow(seat: Any) -> None:
        await seat.sees("first", "second")
        replace(None)
        await seat.sees("Nothing has been made here yet")
        replace(b"this is no database, whatever its name says" * 100)
        await seat.until(lambda: "is not a readable ledger" in seat.trouble and "restore a backup" in seat.trouble)
        replace(newer.read_bytes())
        await seat.until(lambda: "newer version" in seat.trouble and "update NanoFlux" in seat.trouble)
        replace(kept.read_bytes())
        await seat.until(lambda: not seat.trouble)
        await seat.sees("first", "second")
        for digit in "2345":
            await seat.press(digit)
        await seat.press("1")
        await seat.sees("first", "second")

    sit(home, flow)


def test_a_ledger_that_another_process_holds_is_told_and_no_key_waits_for_it(
    sit: Sit, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nanoflux_tui.reader.WAIT_S", 0.05)
    with sqlite3.connect(home.ledger) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")  # without a write-ahead log, whoever writes shuts others out
    connection.close()
    holder = sqlite3.connect(home.ledger, isolation_level=None)

    async def flow(seat: Any) -> None:
        await seat.sees("first")
        holder.execute("BEGIN EXCLUSIVE")
        await seat.press("2")
        await seat.until(lambda: "locked by another process" in seat.trouble)
        await seat.press("question_mark")
        await seat.sees("Everywhere")
        await seat.press("escape")
        holder.execute("ROLLBACK")
        await seat.until(lambda: not seat.trouble)
        await seat.sees("36 examples")

    sit(home, flow)
    holder.close()


def test_a_damaged_record_is_told_in_its_room(sit: Sit, home: Home, run_named: Callable[[Home, str], str]) -> None:
    with sqlite3.connect(home.ledger) as connection:
        connection.execute("UPDATE turns SET record = 'torn'")
    connection.close()

    async def flow(seat: Any) -> None:
        seat.app.push_screen(RunRoom(run_named(home, "first")))
        await seat.until(lambda: "cannot be read" in seat.trouble and "run verify" in seat.trouble)
        await seat.press("escape")
        await seat.sees("first", "second")

    sit(home, flow)


def test_a_worker_that_died_is_told_first_and_goes_on_by_a_key(
    sit: Sit, home: Home, run_named: Callable[[Home, str], str]
) -> None:
    run = run_named(home, "first")
    held = subprocess.Popen([sys.executable, "-c", HOLD, str(home.root), run], stdout=subprocess.PIPE, text=True)
    assert held.stdout is not None and held.stdout.readline() == "held\n"

    async def flow(seat: Any) -> None:
        await seat.sees("● running")
        held.send_signal(signal.SIGKILL)
        held.wait()
        await seat.sees("! interrupted")
        await seat.press("home")
        await seat.sees("its process ended")
        assert seat.app.screen.query_one("#board").key.status == "interrupted"  # and it stands first
        await seat.press("space")
        await seat.sees("first goes on")
        await seat.until(lambda: "! interrupted" not in seat.text)

    sit(home, flow, size=(120, 40))
    until = time.monotonic() + 60
    while jobs.is_worked_on(home, jobs.Work(jobs.RUN, run)) and time.monotonic() < until:
        time.sleep(0.1)
    with LedgerView(home.ledger) as view:
        row = view.row("SELECT status FROM runs WHERE id = ?", run)
        assert row is not None and row["status"] == "done"


def test_an_evaluation_that_was_killed_is_told_first_and_in_its_room(sit: Sit, home: Home) -> None:
    with Ledger(home.ledger) as ledger:
        ledger.set_status("evaluations", "bbbbbbbbbbbb", "running")

    async def flow(seat: Any) -> None:
        await seat.sees("! interrupted")
        assert seat.app.screen.query_one("#board").key.sort == "evaluation"
        await seat.sees("its process ended; the same command goes on with it")
        await seat.press("space")
        await seat.sees("An evaluation goes on by the same command")
        await seat.press("4")
        await seat.sees("! interrupted")

    sit(home, flow, size=(120, 40))


def test_a_partial_evaluation_is_shown_as_such(sit: Sit, home: Home) -> None:
    with Ledger(home.ledger) as ledger:
        ledger.set_status("evaluations", "bbbbbbbbbbbb", "partial", "5 replies are missing: answered 429: no quota (5)")

    async def flow(seat: Any) -> None:
        await seat.sees("◑ partial")
        await seat.press("4")
        await seat.sees("◑ 50%")
        await seat.press("enter")
        await seat.sees("answered 429: no quota")

    sit(home, flow, size=(120, 40))


HOLD = """
import os, sys, time
from pathlib import Path
from nanoflux_local.jobs import RUN, Work, boot_id, working_on
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.paths import Home
home, run = Home(Path(sys.argv[1])), sys.argv[2]
with working_on(home, Work(RUN, run)), Ledger(home.ledger) as ledger:
    ledger.start_job("run", run, os.getpid(), boot_id())
    ledger.set_run_status(run, "running")
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_server_that_died_is_told(sit: Sit, home: Home) -> None:
    from nanoflux_models.server_record import ServerRecord, write

    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    write(home.root, ServerRecord(
        name="dead", model="smollm2-135m", revision="", variant="", url="http://127.0.0.1:9", port=9, pid=gone.pid,
        started=1, boot="another", mark="m", owner=None, log="", context=512,
    ))  # fmt: skip

    async def flow(seat: Any) -> None:
        await seat.sees("dead", "■ ended")
        await seat.press("5")
        await seat.sees("dead", "■ ended", "http://127.0.0.1:9")

    sit(home, flow)


@pytest.mark.parametrize("size", [(20, 5), (40, 10), (300, 100)])
def test_every_room_stands_any_size(
    sit: Sit, home: Home, size: tuple[int, int], run_named: Callable[[Home, str], str]
) -> None:
    run = run_named(home, "second")

    async def flow(seat: Any) -> None:
        for digit in "12345":
            await seat.press(digit)
            await seat.pilot.pause()
            await seat.pilot.resize_terminal(80, 24)
            await seat.pilot.resize_terminal(*size)
        seat.app.push_screen(RunRoom(run))
        await seat.until(lambda: isinstance(seat.app.screen, RunRoom) and seat.app.screen._now is not None)
        await seat.press("n", "escape", "e", "enter", "question_mark", "escape")
        await seat.pilot.pause()
        assert len(seat.text.splitlines()) <= size[1]

    sit(home, flow, size=size)


def test_it_writes_nothing_to_the_ledger_and_loads_no_torch(home: Home) -> None:
    before = _content(home)
    code = "import sys, nanoflux_tui.app, nanoflux_tui.tour, nanoflux_tui.web; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "NANOFLUX_HOME": str(home.root)})
    with Ledger(home.ledger):
        pass
    assert _content(home) == before


def _content(home: Home) -> list[Any]:
    with sqlite3.connect(home.ledger) as connection:
        return list(connection.iterdump())
