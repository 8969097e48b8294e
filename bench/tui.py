"""Measures the terminal application with a large ledger: first frame, response to keys, memory, and effect on a run.

    python bench/tui.py [--runs 1000] [--keys 300] [--rounds 5] [--turns 400]

A scripted run is copied until the ledger has 1,000 runs, 100,000 examples and 1,000,000 calls; the calls have no texts,
as after a compaction. The application then runs in a pseudo-terminal. The script measures the times from the start of
the application to its first frame and to its first rows, and from a key press to the first byte that is drawn. Then it
executes a scripted run alternately with and without the application, to measure how much the application slows it down.
A scripted run is affected most, because it never waits for a server.
"""

import argparse
import asyncio
import fcntl
import json
import os
import pty
import select
import sqlite3
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from nanoflux_local.paths import Home
from nanoflux_local.run import configs, runs

QUIET_S, TIMEOUT_S = 0.08, 60.0
"""Seconds without output after which the screen counts as complete, and seconds to wait for a text on the screen."""
RUN_SETTINGS = {"seeds": {"min": 2}, "novelty": {"question": 1.0}, "concurrency": 8}
"""Settings with which scripted models keep many examples: no question is rejected because it resembles another one."""


class Terminal:
    """The application in a pseudo-terminal of 120 x 40 cells."""

    def __init__(self, home: Path) -> None:
        self._controller, terminal = pty.openpty()
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        command = [sys.executable, "-m", "nanoflux_tui", "--home", str(home)]
        self.start_s = time.perf_counter()
        env = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor"}
        self.process = subprocess.Popen(
            command, stdin=terminal, stdout=terminal, stderr=terminal, env=env, start_new_session=True
        )
        os.close(terminal)
        self.output = b""

    def wait_for(self, text: bytes) -> float:
        """Wait until `text` is drawn. Returns the seconds since the start of the application."""
        while text not in self.output:
            if not self._receive(TIMEOUT_S):
                raise SystemExit(f"{text!r} was never drawn")
        return time.perf_counter() - self.start_s

    def press(self, keys: bytes) -> float:
        """Press keys once the screen is complete. Returns the seconds until the first byte is drawn."""
        while self._receive(QUIET_S):
            pass
        start_s = time.perf_counter()
        self.write(keys)
        if not self._receive(5.0):
            raise SystemExit(f"nothing was drawn within 5 s after {keys!r}")
        return time.perf_counter() - start_s

    def write(self, keys: bytes) -> None:
        """Send the bytes of keys without waiting for a reaction."""
        os.write(self._controller, keys)

    def drain(self) -> None:
        """Discard the output until now."""
        self.output = b""
        while self._receive(0.0):
            pass

    def _receive(self, timeout_s: float) -> bool:
        """Append the next output to `output`. Returns whether there was output within `timeout_s`."""
        readable, _, _ = select.select([self._controller], [], [], timeout_s)
        if readable:
            self.output += os.read(self._controller, 1 << 16)
        return bool(readable)

    @property
    def memory_mib(self) -> float:
        """The resident memory of the application."""
        return float(psutil.Process(self.process.pid).memory_info().rss / 2**20)

    @property
    def cpu_s(self) -> float:
        """The CPU time that the application has used."""
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(30)
        os.close(self._controller)


def execute_run(home: Home, turns: int, target: int, seed: int) -> tuple[str, float]:
    """Execute one scripted run. Returns its id and the seconds that it took."""
    settings = {**RUN_SETTINGS, "max_turns": turns, "target": target, "seed": seed}
    config = configs.resolve("starter-genetics", "scripted", settings, home)

    async def start_and_finish() -> tuple[str, float]:
        run = await runs.start(home, config)
        start_s = time.perf_counter()
        await runs.execute(home, run)
        return run, time.perf_counter() - start_s

    return asyncio.run(start_and_finish())


def fill_ledger(home: Home, run_count: int) -> dict[str, int]:
    """Execute one run with 100 examples, and copy it until there are `run_count` runs with 1,000 calls each. Returns
    the number of rows of each table.
    """
    run, _ = execute_run(home, turns=10_000, target=100, seed=1)
    connection = sqlite3.connect(home.ledger, isolation_level=None)
    for pragma in ("synchronous = OFF", "cache_size = -500000", "wal_autocheckpoint = 100000"):
        connection.execute(f"PRAGMA {pragma}")
    columns = {table: [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
               for table in ("runs", "calls", "turns", "examples")}  # fmt: skip
    for table in ("calls", "turns"):
        connection.execute(f"CREATE TEMP TABLE first_{table} AS SELECT * FROM {table} WHERE run = ?", (run,))
    connection.execute("CREATE TEMP TABLE first_turn_calls AS SELECT * FROM turn_calls")
    connection.execute("CREATE TEMP TABLE first_examples AS SELECT * FROM examples")
    call_count = connection.execute("SELECT count(*) FROM calls").fetchone()[0]
    missing_calls = max(0, 1000 - call_count)
    for copy_number in range(1, run_count):
        _copy_run(connection, columns, run, copy_number, missing_calls)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    row_counts = {table: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
             for table in ("runs", "turns", "examples", "calls")}  # fmt: skip
    connection.close()
    return row_counts


def _copy_run(
    connection: sqlite3.Connection, columns: dict[str, list[str]], run: str, copy_number: int, added_calls: int
) -> None:
    """Copy the run `run` with new ids, and add `added_calls` more calls. `columns` lists the columns of each table."""
    copy_id = f"copy-{copy_number:05}"
    max_call_id, max_turn_id = (
        connection.execute(f"SELECT max(id) FROM {table}").fetchone()[0] for table in ("calls", "turns")
    )

    def copy_rows(table: str, source: str, **new_values: str) -> None:
        """Copy the rows of `source` into `table`, with SQL expressions for the columns that get new values."""
        values = ", ".join(new_values.get(column, column) for column in columns[table])
        connection.execute(f"INSERT INTO {table} SELECT {values} FROM {source}")

    max_copied_id = connection.execute("SELECT max(id) FROM first_calls").fetchone()[0]
    new_id, no_text = f"'{copy_id}'", {"request": "''", "reply": "''"}
    connection.execute("BEGIN")
    status = "'stopped'" if copy_number % 7 == 0 else "'done'"
    copy_rows("runs", f"runs WHERE id = '{run}'", id=new_id, name=new_id, status=status)
    copy_rows("calls", "first_calls", run=new_id, id=f"id + {max_call_id}", key=f"key || {new_id}", **no_text)
    added_key, added_id = f"key || 'more' || {new_id}", f"id + {max_call_id + max_copied_id}"
    copy_rows("calls", f"first_calls LIMIT {added_calls}", run=new_id, id=added_id, key=added_key, **no_text)
    copy_rows("turns", "first_turns", run=new_id, id=f"id + {max_turn_id}")
    shifted_columns = f"turn + {max_turn_id}, position, call + {max_call_id}"
    connection.execute(f"INSERT INTO turn_calls SELECT {shifted_columns} FROM first_turn_calls")
    copy_rows("examples", "first_examples", run=new_id, id=f"id || {new_id}")
    connection.execute("COMMIT")


def measure_with_large_ledger(home: Home, keys: int) -> dict[str, object]:
    """Measure the first frame, the response to about `keys` keys, and the memory with a filled ledger."""
    first_frame_s, first_rows_s = [], []
    for _ in range(5):
        terminal = Terminal(home.root)
        first_frame_s.append(terminal.wait_for(b"NanoFlux"))
        first_rows_s.append(terminal.wait_for(b"copy-0"))
        terminal.close()
    terminal = Terminal(home.root)
    terminal.wait_for(b"copy-0")
    key_times_s: list[float] = []
    for part, presses in _list_presses(keys):
        terminal.drain()
        part_times_s = sorted(terminal.press(key) for key in presses)
        key_times_s += part_times_s
        median_s, slowest_s = part_times_s[len(part_times_s) // 2], part_times_s[-1]
        print(f"  {part}: median {median_s * 1000:.0f}, slowest {slowest_s * 1000:.0f} ms", file=sys.stderr)
    memory_mib = terminal.memory_mib
    terminal.close()
    key_times_s.sort()
    return {
        "first_frame_s": round(statistics.median(first_frame_s), 3),
        "first_rows_s": round(statistics.median(first_rows_s), 3),
        "keys": len(key_times_s),
        "key_p50_ms": round(statistics.median(key_times_s) * 1000, 1),
        "key_p95_ms": round(key_times_s[int(len(key_times_s) * 0.95)] * 1000, 1),
        "key_max_ms": round(key_times_s[-1] * 1000, 1),
        "memory_mb": round(memory_mib, 1),
    }


def _list_presses(keys: int) -> Iterator[tuple[str, list[bytes]]]:
    """The names of the parts of the measurement, each with the bytes of its key presses: moving on Home, moving in the
    list of examples, typing a filter, stepping through examples, and opening the help of a run.
    """
    down, up, right, page, end, home = b"\x1b[B", b"\x1b[A", b"\x1b[C", b"\x1b[6~", b"\x1b[F", b"\x1b[H"
    yield "home", [down, page, end, home, down, up] * (keys // 24)
    yield "examples", [b"2", *([down, page, end, up, home] * (keys // 20))]
    yield "filter", [b"/", *(bytes([letter]) for letter in b"boxes of lamps")]
    yield "example", [b"\r", b"\r", *([right] * (keys // 6))]
    yield "run", [b"1", b"\r", *([b"?", b"\x1b"] * (keys // 12))]


@contextmanager
def run_application(home: Path, enabled: bool) -> Iterator[Terminal | None]:
    """Run the application during the block, if `enabled`. Yields its terminal, or None."""
    if not enabled:
        yield None
        return
    terminal = Terminal(home)
    terminal.wait_for(b"NanoFlux")
    yield terminal
    terminal.close()


def measure_effect_on_run(rounds: int, turns: int) -> dict[str, object]:
    """Execute the same run with and without the application, alternately. The first pair of runs warms up and is not
    counted.
    """
    watched_times_s, unwatched_times_s, cpu_shares = list[float](), list[float](), list[float]()
    for pair_number in range(rounds + 1):
        watched_first = pair_number % 2 == 0
        for is_watched in (watched_first, not watched_first):
            with tempfile.TemporaryDirectory() as folder:
                home = Home(Path(folder) / "home").prepare()
                run_s, cpu_share = _execute_with_application(home, turns, is_watched)
            if pair_number == 0:
                continue
            if is_watched:
                watched_times_s.append(run_s)
                cpu_shares.append(cpu_share)
            else:
                unwatched_times_s.append(run_s)
    pairs = zip(watched_times_s, unwatched_times_s, strict=True)
    ratios = [watched_s / unwatched_s for watched_s, unwatched_s in pairs]
    return {
        "unwatched_s": round(statistics.median(unwatched_times_s), 3),
        "watched_s": round(statistics.median(watched_times_s), 3),
        "ratio": round(statistics.median(ratios), 4),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "share_of_a_core": round(statistics.median(cpu_shares), 4),
    }


def _execute_with_application(home: Home, turns: int, is_watched: bool) -> tuple[float, float]:
    """Execute a run of `turns` turns, with the application if `is_watched`. Returns the seconds that the run took, and
    the share of one core that the application used during the run.
    """
    execute_run(home, turns=2, target=2, seed=5)  # so that the application has a run to show
    with run_application(home.root, is_watched) as terminal:
        if terminal is None:
            _, run_s = execute_run(home, turns, target=10**6, seed=9)
            return run_s, 0.0
        run_ended = threading.Event()

        def open_run_and_drain() -> None:
            is_run_open = False
            while not run_ended.wait(0.05):
                terminal.drain()
                if not is_run_open and time.perf_counter() - terminal.start_s > 3.0:
                    terminal.write(b"\r")
                    is_run_open = True

        drain_thread = threading.Thread(target=open_run_and_drain)
        drain_thread.start()
        time.sleep(1.0)
        cpu_s_before, start_s = terminal.cpu_s, time.perf_counter()
        _, run_s = execute_run(home, turns, target=10**6, seed=9)
        cpu_share = (terminal.cpu_s - cpu_s_before) / (time.perf_counter() - start_s)
        run_ended.set()
        drain_thread.join()
    return run_s, cpu_share


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--keys", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--turns", type=int, default=400)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder) / "home").prepare()
        print(json.dumps({"holds": fill_ledger(home, options.runs), **measure_with_large_ledger(home, options.keys)}))
    if options.rounds:
        print(json.dumps({"watched": measure_effect_on_run(options.rounds, options.turns)}))


if __name__ == "__main__":
    main()
