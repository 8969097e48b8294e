"""Cut the power while a run commits all the time: every copy of its files opens, is sound, and goes on to one dataset.

    python bench/power_cut.py [--cuts 60] [--inside 20] [--turns 40] [--seed 0]

A run of the command line is stopped (SIGSTOP) at random moments and its database and write-ahead log are copied: what
is there is what a machine without power would find, had the kernel written everything. In two of three copies it has
not. What was never synced is then cut off or made garbage: the log from the last commit on that had returned, and, as
by a checkpoint that was being written, pages of the database that the log holds still. After every commit the run says
what it has shown (its last call, its turns) and how much of the log that commit made durable, as SQLite's shared index
has it.

Each copy must hold all that was shown, `run verify` must find nothing, and the run must go on to the digest that it has
undisturbed. Besides, `--inside` runs are killed (SIGKILL) inside a transaction, after its last statement, before its
commit.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanoflux_local.ledger.verify import verify_run
from nanoflux_local.ledger.views import LedgerView

NAME = "cut"
SHOWN = struct.Struct("<QQIII")
"""What had been shown, and how much of the log was durable then: last call, turns, frames, and the log's two salts."""
FRAME_HEADER, LOG_HEADER = 24, 32
CHILD = """
import os, signal, struct, sys
from contextlib import contextmanager
from nanoflux_local.ledger.store import Ledger
shown, die_in = os.open(sys.argv.pop(1), os.O_WRONLY | os.O_CREAT), int(sys.argv.pop(1))
plain, opened = Ledger.transaction.__wrapped__, {}
def index(path):
    # Closing a file gives up all locks that this process has on it, SQLite's too, and whoever looks at the ledger then
    # makes its index anew under us. So what is opened here stays open.
    inode = os.stat(path).st_ino
    if inode not in opened:
        opened[inode] = os.open(path, os.O_RDONLY)
    return os.pread(opened[inode], 48, 0)
@contextmanager
def told(self):
    global die_in
    for connection in plain(self):
        yield connection
        die_in -= 1
        if die_in == 0:
            os.kill(os.getpid(), signal.SIGKILL)
    calls, turns = self.rows("SELECT (SELECT max(id) FROM calls), (SELECT count(*) FROM turns)")[0]
    header = index(str(self.path) + "-shm")
    frames, = struct.unpack_from("=I", header, 16)
    os.pwrite(shown, struct.pack("<QQIII", calls or 0, turns, frames, *struct.unpack_from(">II", header, 32)), 0)
Ledger.transaction = told
from nanoflux_local.cli.main import main
main()
"""


@dataclass(frozen=True)
class Shown:
    """What a run had said of itself when it was stopped."""

    calls: int = 0
    turns: int = 0
    frames: int = 0
    salts: tuple[int, int] = (0, 0)


def settings(turns: int) -> list[str]:
    return ["--domain", "starter-genetics", "--profile", "scripted", "--examples", str(turns), "--max-turns",
            str(turns), "--concurrency", "8", "--set", "seeds.min=2"]  # fmt: skip


def session(home: Path, turns: int, die_in: int = 0) -> subprocess.Popen[bytes]:
    """Start the run, or go on with it; `die_in` is the transaction in which it kills itself."""
    home.mkdir(parents=True, exist_ok=True)
    begun = ["resume", NAME] if known(home) else ["start", "--name", NAME, *settings(turns)]
    command = [sys.executable, "-c", CHILD, str(home / "shown"), str(die_in), "run", *begun]
    environment = {**os.environ, "NANOFLUX_HOME": str(home)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def known(home: Path) -> bool:
    """Whether the run is there already."""
    if not (home / "ledger.db").exists():
        return False
    with LedgerView(home / "ledger.db") as view:
        return view.row("SELECT 1 FROM runs WHERE name = ?", NAME) is not None


def finish(home: Path, turns: int) -> str:
    """Play to the end; the digest."""
    if session(home, turns).wait() != 0:
        raise SystemExit(f"{home}: the run did not go on")
    with LedgerView(home / "ledger.db") as view:
        return str(view.summarize_run(NAME).to_json()["digest"])


def cut_copies(home: Path, turns: int, cuts: int, rng: random.Random, into: Path) -> list[tuple[Path, Shown]]:
    """Stop the run at random moments until it is done, and copy its files each time; then begin it again."""
    found: list[tuple[Path, Shown]] = []
    while len(found) < cuts:
        shutil.rmtree(home, ignore_errors=True)
        process = session(home, turns)
        while process.poll() is None and not known(home):
            time.sleep(0.005)
        while len(found) < cuts:
            time.sleep(rng.uniform(0.0, 0.12))
            if process.poll() is not None:
                break
            process.send_signal(signal.SIGSTOP)
            while state(process.pid) not in "TZ":
                time.sleep(0.0005)
            found.append(copied(home, into / str(len(found))))
            process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()
    return found


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def copied(home: Path, copy: Path) -> tuple[Path, Shown]:
    copy.mkdir()
    for name in ("ledger.db", "ledger.db-wal"):
        if (home / name).exists():
            shutil.copyfile(home / name, copy / name)
    told = (home / "shown").read_bytes() if (home / "shown").exists() else b""
    if len(told) < SHOWN.size:
        return copy, Shown()
    calls, turns, frames, *salts = SHOWN.unpack(told)
    return copy, Shown(calls, turns, frames, (salts[0], salts[1]))


def tear(copy: Path, shown: Shown, rng: random.Random) -> str:
    """Lose what was never synced, in one of the ways in which it can be; the name of the way."""
    log = copy / "ledger.db-wal"
    if not log.exists() or log.stat().st_size <= LOG_HEADER:
        return "nothing to tear"
    content = bytearray(log.read_bytes())
    page = struct.unpack_from(">I", content, 8)[0]
    same = struct.unpack_from(">II", content, 16) == shown.salts
    durable = LOG_HEADER + (shown.frames * (page + FRAME_HEADER) if same else 0)
    way = rng.choice(["whole", "log cut", "log garbage"] + ["pages garbage"] * same)
    if way == "log cut":
        del content[rng.randint(durable, max(durable, len(content))) :]
    elif way == "log garbage":
        for start in range(durable, len(content), 512):  # whole sectors, each written or not
            if rng.random() < 0.5:
                content[start : start + 512] = rng.randbytes(len(content[start : start + 512]))
    elif way == "pages garbage":
        garble_pages(copy / "ledger.db", content[:durable], page, rng)
    log.write_bytes(content)
    return way


def garble_pages(database: Path, log: bytearray, page: int, rng: random.Random) -> None:
    """Pages that the durable log holds may be half written in the database; the first stays, being one sector's worth
    of header that is read before the log is."""
    frames = range(LOG_HEADER, len(log) - page, page + FRAME_HEADER)
    numbers = {struct.unpack_from(">I", log, frame)[0] for frame in frames} - {1}
    with database.open("r+b") as file:
        last = file.seek(0, os.SEEK_END) // page
        for number in sorted(numbers):
            if number <= last and rng.random() < 0.5:
                file.seek((number - 1) * page)
                file.write(rng.randbytes(page))


def wrongs(copy: Path, shown: Shown, digest: str, turns: int) -> list[str]:
    """What is not as it must be in one copy."""
    with LedgerView(copy / "ledger.db"):  # which makes the tables, where the cut came before they were in the file
        pass
    with sqlite3.connect(copy / "ledger.db") as connection:
        sound = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
        calls = connection.execute("SELECT coalesce(max(id), 0), count(*) FROM calls").fetchone()
        committed = connection.execute("SELECT count(*) FROM turns").fetchone()[0]
    connection.close()
    found = [] if sound == "ok" else [f"not sound: {sound}"]
    if calls[0] < shown.calls or calls[1] != calls[0]:
        found.append(f"{shown.calls} calls were shown, {calls[1]} are there")
    if committed < shown.turns:
        found.append(f"{shown.turns} turns were shown, {committed} are there")
    if not known(copy):
        return [*found, "the run is gone"]
    with LedgerView(copy / "ledger.db") as view:
        found += [f"verify: {problem}" for problem in verify_run(view, NAME)]
    if finish(copy, turns) != digest:
        found.append("another digest")
    return found


def killed_inside(home: Path, turns: int, transaction: int, digest: str) -> list[str]:
    """Kill the run inside its `transaction`-th transaction, look, and let it go on."""
    code = session(home, turns, transaction).wait()
    if code != -signal.SIGKILL:
        return [f"it was not killed, but ended with {code}"]
    with LedgerView(home / "ledger.db") as view:
        found = list(verify_run(view, NAME)) if known(home) else []
    return found + ([] if finish(home, turns) == digest else ["another digest"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuts", type=int, default=60)
    parser.add_argument("--inside", type=int, default=20)
    parser.add_argument("--turns", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    found = measured(given.cuts, given.inside, given.turns, given.seed)
    print(json.dumps(found, indent=2))
    sys.exit(1 if found["wrong"] else 0)


def measured(cuts: int, inside: int, turns: int, seed: int) -> dict[str, Any]:
    """All of it, with what was wrong."""
    rng, wrong, ways = random.Random(seed), list[str](), Counter[str]()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        digest = finish(folder / "plain", turns)
        copies = cut_copies(folder / "run", turns, cuts, rng, folder)
        for copy, shown in copies:
            way = tear(copy, shown, rng)
            ways[way] += 1
            wrong += [f"{copy.name}, {way}: {what}" for what in wrongs(copy, shown, digest, turns)]
            shutil.rmtree(copy)
        for number in range(inside):
            place = rng.randint(1, 3 * turns)
            told = killed_inside(folder / f"inside-{number}", turns, place, digest)
            wrong += [f"killed inside transaction {place}: {what}" for what in told]
    moments = sorted(shown.turns for _, shown in copies)
    return {
        "copies": len(copies),
        "torn": dict(ways),
        "turns_at_the_cut": {"least": moments[0], "median": moments[len(moments) // 2], "most": moments[-1]},
        "killed_inside_a_transaction": inside,
        "digest": digest[:16],
        "wrong": wrong,
    }


if __name__ == "__main__":
    main()
