"""Simulates power cuts while a run commits: every copy of its files must open, be intact, and resume to the same
dataset.

    python bench/power_cut.py [--cuts 60] [--inside 20] [--turns 40] [--seed 0]

A run is suspended (SIGSTOP) at random moments, and its database and write-ahead log are copied. The copies are what a
power cut would leave if the kernel had written everything. In most copies, data that was never synced is then truncated
or overwritten with garbage: the end of the log, after the last commit that had returned; or pages of the database that
the log still contains, as if a checkpoint had been interrupted. After every commit, the run records what the user could
have seen by then (its last call and its number of turns), and the durable length of the log, from SQLite's shared
index.

Each copy must contain all calls and turns that were shown, `run verify` must report no problem, and the run must resume
to the digest of an undisturbed run. In addition, `--inside` runs are killed (SIGKILL) inside a transaction, between its
last statement and its commit.
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
"""The name of the run."""
SHOWN_LAYOUT = struct.Struct("<QQIII")
"""The layout of a `ShownProgress` in a file: last call, turns, frames and two salts."""
SECTOR_BYTES = 512
"""The size of a disk sector, which a disk writes completely or not at all."""
FRAME_HEADER, LOG_HEADER = 24, 32
"""The sizes in bytes of the headers of SQLite's write-ahead log: that of each frame, and that of the log."""
RUN_PROGRAM = """
import os, signal, struct, sys
from contextlib import contextmanager
from nanoflux_local.ledger.store import Ledger
shown_file = os.open(sys.argv.pop(1), os.O_WRONLY | os.O_CREAT)
die_in = int(sys.argv.pop(1))
original_transaction = Ledger.transaction.__wrapped__
descriptor_by_inode = {}
def read_index(path):
    # Closing a file releases all locks that this process has on it, including SQLite's; another process that opens the
    # ledger would then rebuild its index. So the file stays open.
    inode = os.stat(path).st_ino
    if inode not in descriptor_by_inode:
        descriptor_by_inode[inode] = os.open(path, os.O_RDONLY)
    return os.pread(descriptor_by_inode[inode], 48, 0)
@contextmanager
def record_shown(self):
    global die_in
    for connection in original_transaction(self):
        yield connection
        die_in -= 1
        if die_in == 0:
            os.kill(os.getpid(), signal.SIGKILL)
    calls, turns = self.rows("SELECT (SELECT max(id) FROM calls), (SELECT count(*) FROM turns)")[0]
    index_header = read_index(str(self.path) + "-shm")
    frames, = struct.unpack_from("=I", index_header, 16)
    salts = struct.unpack_from(">II", index_header, 32)
    os.pwrite(shown_file, struct.pack("<QQIII", calls or 0, turns, frames, *salts), 0)
Ledger.transaction = record_shown
from nanoflux_local.cli.main import main
main()
"""
"""The program of the run's process. Its arguments are the file for the `ShownProgress`, the number of the transaction
in which the process kills itself (0: none), and a command line.
"""


@dataclass(frozen=True)
class ShownProgress:
    """What the user could have seen when the run was suspended: the id of the last call (`calls`) and the number of
    turns. In the log with these `salts`, the first `frames` frames were durable.
    """

    calls: int = 0
    turns: int = 0
    frames: int = 0
    salts: tuple[int, int] = (0, 0)


def make_settings(turns: int) -> list[str]:
    """The arguments of a scripted run with `turns` turns."""
    return ["--domain", "starter-genetics", "--profile", "scripted", "--examples", str(turns), "--max-turns",
            str(turns), "--concurrency", "8", "--set", "seeds.min=2", "--set", "pause_when_saturated=0"]  # fmt: skip


def start_process(home: Path, turns: int, die_in: int = 0) -> subprocess.Popen[bytes]:
    """Start or resume the run; it kills itself in transaction number `die_in` (0: never)."""
    home.mkdir(parents=True, exist_ok=True)
    action = ["resume", NAME] if has_run(home) else ["start", "--name", NAME, *make_settings(turns)]
    command = [sys.executable, "-c", RUN_PROGRAM, str(home / "shown"), str(die_in), "run", *action]
    environment = {**os.environ, "NANOFLUX_HOME": str(home)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def has_run(home: Path) -> bool:
    """Whether the run is in the ledger."""
    if not (home / "ledger.db").exists():
        return False
    with LedgerView(home / "ledger.db") as view:
        return view.row("SELECT 1 FROM runs WHERE name = ?", NAME) is not None


def finish(home: Path, turns: int) -> str:
    """Let the run finish. Returns its digest."""
    if start_process(home, turns).wait() != 0:
        raise SystemExit(f"{home}: the run could not be resumed")
    with LedgerView(home / "ledger.db") as view:
        return str(view.summarize_run(NAME).to_json()["digest"])


def cut_copies(home: Path, turns: int, cuts: int, rng: random.Random, folder: Path) -> list[tuple[Path, ShownProgress]]:
    """Suspend runs at random moments, and copy their files each time. Returns each copy's folder, and what had been
    shown at that moment.
    """
    copies: list[tuple[Path, ShownProgress]] = []
    while len(copies) < cuts:
        shutil.rmtree(home, ignore_errors=True)
        process = start_process(home, turns)
        while process.poll() is None and not has_run(home):
            time.sleep(0.005)
        while len(copies) < cuts:
            time.sleep(rng.uniform(0.0, 0.12))
            if process.poll() is not None:
                break
            process.send_signal(signal.SIGSTOP)
            while read_process_state(process.pid) not in "TZ":  # until it is stopped or has ended
                time.sleep(0.0005)
            copies.append(copy_files(home, folder / str(len(copies))))
            process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()
    return copies


def read_process_state(pid: int) -> str:
    """The letter that the kernel reports as a process's state, such as T (stopped) or Z (zombie)."""
    fields_after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return fields_after_name[0]


def copy_files(home: Path, copy: Path) -> tuple[Path, ShownProgress]:
    """Copy the database and the log of a suspended run. Returns the copy's folder, and what had been shown."""
    copy.mkdir()
    for name in ("ledger.db", "ledger.db-wal"):
        if (home / name).exists():
            shutil.copyfile(home / name, copy / name)
    content = (home / "shown").read_bytes() if (home / "shown").exists() else b""
    if len(content) < SHOWN_LAYOUT.size:
        return copy, ShownProgress()
    calls, turns, frames, first_salt, second_salt = SHOWN_LAYOUT.unpack(content)
    return copy, ShownProgress(calls, turns, frames, (first_salt, second_salt))


def damage_copy(copy: Path, shown: ShownProgress, rng: random.Random) -> str:
    """Damage data that was not synced, in a random way that a power cut could cause. Returns the name of the damage."""
    log = copy / "ledger.db-wal"
    if not log.exists() or log.stat().st_size <= LOG_HEADER:
        return "nothing to tear"
    content = bytearray(log.read_bytes())
    page_bytes = struct.unpack_from(">I", content, 8)[0]
    is_same_log = struct.unpack_from(">II", content, 16) == shown.salts
    durable_bytes = LOG_HEADER + (shown.frames * (page_bytes + FRAME_HEADER) if is_same_log else 0)
    damages = ["whole", "log cut", "log garbage"]
    if is_same_log:
        damages.append("pages garbage")
    damage = rng.choice(damages)
    if damage == "log cut":
        del content[rng.randint(durable_bytes, max(durable_bytes, len(content))) :]
    elif damage == "log garbage":
        for start in range(durable_bytes, len(content), SECTOR_BYTES):
            if rng.random() < 0.5:  # about half of the sectors had not been written
                end = min(start + SECTOR_BYTES, len(content))
                content[start:end] = rng.randbytes(end - start)
    elif damage == "pages garbage":
        garble_pages(copy / "ledger.db", content[:durable_bytes], page_bytes, rng)
    log.write_bytes(content)
    return damage


def garble_pages(database: Path, log: bytearray, page_bytes: int, rng: random.Random) -> None:
    """Overwrite database pages that the durable log also has, as if a checkpoint had been interrupted. The first page
    is kept, since SQLite reads its header before the log.
    """
    frame_offsets = range(LOG_HEADER, len(log) - page_bytes, page_bytes + FRAME_HEADER)
    page_numbers = {struct.unpack_from(">I", log, frame)[0] for frame in frame_offsets} - {1}
    with database.open("r+b") as file:
        last_page = file.seek(0, os.SEEK_END) // page_bytes
        for page_number in sorted(page_numbers):
            if page_number <= last_page and rng.random() < 0.5:
                file.seek((page_number - 1) * page_bytes)
                file.write(rng.randbytes(page_bytes))


def find_problems(copy: Path, shown: ShownProgress, digest: str, turns: int) -> list[str]:
    """Describe what a copy has lost and what is damaged in it; then resume its run, which must reach `digest`."""
    with LedgerView(copy / "ledger.db"):  # creates the tables if the cut came before their creation
        pass
    with sqlite3.connect(copy / "ledger.db") as connection:
        integrity = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
        last_call_id, call_count = connection.execute("SELECT coalesce(max(id), 0), count(*) FROM calls").fetchone()
        committed_turns = connection.execute("SELECT count(*) FROM turns").fetchone()[0]
    connection.close()
    problems = [] if integrity == "ok" else [f"damaged: {integrity}"]
    if last_call_id < shown.calls or call_count != last_call_id:
        problems.append(f"{shown.calls} calls were shown, {call_count} are there")
    if committed_turns < shown.turns:
        problems.append(f"{shown.turns} turns were shown, {committed_turns} are there")
    if not has_run(copy):
        return [*problems, "the run is gone"]
    with LedgerView(copy / "ledger.db") as view:
        problems += [f"verify: {problem}" for problem in verify_run(view, NAME)]
    if finish(copy, turns) != digest:
        problems.append("a different digest")
    return problems


def kill_inside_transaction(home: Path, turns: int, transaction: int, digest: str) -> list[str]:
    """Kill the run inside its `transaction`-th transaction, verify it, and resume it. Returns the problems."""
    code = start_process(home, turns, transaction).wait()
    if code != -signal.SIGKILL:
        return [f"the run was not killed, but ended with {code}"]
    with LedgerView(home / "ledger.db") as view:
        problems = list(verify_run(view, NAME)) if has_run(home) else []
    if finish(home, turns) != digest:
        problems.append("a different digest")
    return problems


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuts", type=int, default=60, help="copies of a suspended run")
    parser.add_argument("--inside", type=int, default=20, help="runs that are killed inside a transaction")
    parser.add_argument("--turns", type=int, default=40, help="turns of each run")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    report = measure(options.cuts, options.inside, options.turns, options.seed)
    print(json.dumps(report, indent=2))
    sys.exit(1 if report["wrong"] else 0)


def measure(cuts: int, inside: int, turns: int, seed: int) -> dict[str, Any]:
    """Copy, damage, kill and resume runs. Returns the counts and the problems."""
    rng = random.Random(seed)
    wrong: list[str] = []
    damage_counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        digest = finish(folder / "plain", turns)
        copies = cut_copies(folder / "run", turns, cuts, rng, folder)
        for copy, shown in copies:
            damage = damage_copy(copy, shown, rng)
            damage_counts[damage] += 1
            wrong += [f"{copy.name}, {damage}: {problem}" for problem in find_problems(copy, shown, digest, turns)]
            shutil.rmtree(copy)
        for number in range(inside):
            transaction = rng.randint(1, 3 * turns)
            problems = kill_inside_transaction(folder / f"inside-{number}", turns, transaction, digest)
            wrong += [f"killed inside transaction {transaction}: {problem}" for problem in problems]
    shown_turns = sorted(shown.turns for _, shown in copies)
    return {
        "copies": len(copies),
        "torn": dict(damage_counts),
        "turns_at_the_cut": {
            "least": shown_turns[0],
            "median": shown_turns[len(shown_turns) // 2],
            "most": shown_turns[-1],
        },
        "killed_inside_a_transaction": inside,
        "digest": digest[:16],
        "wrong": wrong,
    }


if __name__ == "__main__":
    main()
