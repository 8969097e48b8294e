"""Measures the cost of operations with a ledger of a million calls.

    python bench/ledger.py [--calls 1000000] [--runs 80] [--rounds 25] [--keep FOLDER]

A scripted run of 1,000 turns is copied with different seeds and valid hashes until the ledger has `--calls` calls. The
script measures the lookup of a call; a run of 200 turns, alternating with the same run in an empty ledger; `run list`
and `run show`; `run verify` with its memory; a backup; and compaction, which packs the ledger. Then it measures all but
the backup and the compaction again. `--runs 1` puts all calls into one run, to measure the memory of `run verify`. With
`--keep`, the packed ledger stays in the folder, and later starts of the script with the same folder use it again.
"""

import argparse
import asyncio
import hashlib
import json
import random
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from nanoflux_local.ledger.packing import CALLS
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.records import ChatRequest, Identity, Message, Sampling, canonical_json, digest
from nanoflux_local.run import configs, runs

PLACEHOLDER = 7_777_777_777_777
"""A number that occurs in no request; it marks the place of the number that differs in each copy of a request."""
SETTINGS = {"seeds": {"min": 2}, "target": 10**6, "concurrency": 8, "pause_when_saturated": 0}
"""The settings of the scripted runs."""
CALL_COLUMNS = (
    "key, kind, model, run, request, reply, reply_hash, prompt_tokens, completion_tokens, usd, seconds, at, role"
)
"""The columns of a call that a copy sets, in addition to its id."""


def execute_run(home: Home, turns: int, seed: int, name: str = "") -> str:
    """Execute one scripted run. Returns its id."""
    config = configs.resolve("starter-genetics", "scripted", {**SETTINGS, "max_turns": turns, "seed": seed}, home)

    async def start_and_finish() -> str:
        run = await runs.start(home, config, name)
        await runs.execute(home, run)
        return run

    return asyncio.run(start_and_finish())


def execute_run_in_new_home(folder: Path, turns: int, seed: int) -> str:
    """Create a home in a folder, and execute one scripted run in it. Returns the run's id."""
    return execute_run(Home(folder).prepare(), turns, seed)


class RowCopier:
    """Writes copies of the run `run` into its ledger. Each request of a copy gets a new seed or last line, so that no
    two calls have the same key.
    """

    def __init__(self, connection: sqlite3.Connection, run: str) -> None:
        connection.row_factory = sqlite3.Row
        self._connection = connection
        self.original_run = connection.execute("SELECT * FROM runs WHERE id = ?", (run,)).fetchone()
        call_rows = connection.execute("SELECT * FROM calls ORDER BY id")
        self.calls = [self._split_at_placeholder(dict(row)) for row in call_rows]
        self._position_by_id = {call["id"]: position for position, call in enumerate(self.calls)}
        self._turns = [dict(row) for row in connection.execute("SELECT * FROM turns ORDER BY number")]
        self._turn_calls = [tuple(row) for row in connection.execute("SELECT turn, position, call FROM turn_calls")]
        self._examples = [dict(row) for row in connection.execute("SELECT * FROM examples ORDER BY turn")]

    def _split_at_placeholder(self, row: dict[str, Any]) -> dict[str, Any]:
        """Add to a call's row its request, and the text whose hash is its key, each split at the number that differs in
        each copy.
        """
        request = json.loads(row["request"])
        if "seed" in request:
            request["seed"] = PLACEHOLDER
        else:
            field = "code" if "code" in request else "text"
            request[field] += f"\n#{PLACEHOLDER}"
        placeholder = str(PLACEHOLDER)
        row["request_parts"] = canonical_json(request).split(placeholder)
        row["key_parts"] = canonical_json({"kind": row["kind"], **request}).split(placeholder)
        return row

    def create_run(self, run: str) -> None:
        """Write the row of a new run with the original's configuration."""
        row = {**dict(self.original_run), "id": run, "name": run}
        self._insert("runs", [row])

    def write(self, run: str, copy: int, offset: int, count: int, calls_only: bool = False) -> None:
        """Write copy number `copy` of the first `count` calls into `run`, and, unless `calls_only`, copies of all turns
        and examples. `offset` is added to the numbers of the turns.
        """
        first_call_id = self._connection.execute("SELECT coalesce(max(id), 0) + 1 FROM calls").fetchone()[0]
        self._connection.executemany(
            f"INSERT INTO calls (id, {CALL_COLUMNS}) VALUES (?{',?' * 13})",
            self._copy_calls(run, copy, first_call_id, count),
        )
        if calls_only:
            return
        first_turn_id = self._connection.execute("SELECT coalesce(max(id), 0) FROM turns").fetchone()[0] + 1
        id_shift = first_turn_id - self._turns[0]["id"]
        self._insert("turns", [self._copy_turn(row, run, offset, id_shift) for row in self._turns])
        turn_call_rows = [
            (turn + id_shift, position, first_call_id + self._position_by_id[call])
            for turn, position, call in self._turn_calls
        ]
        self._connection.executemany("INSERT INTO turn_calls VALUES (?,?,?)", turn_call_rows)
        self._insert("examples", [self._copy_example(row, run, offset) for row in self._examples])

    def _copy_calls(self, run: str, copy: int, first_id: int, count: int) -> Iterator[tuple[Any, ...]]:
        """The rows of copied calls: the id, then `CALL_COLUMNS`."""
        for position, row in enumerate(self.calls[:count]):
            number = str((10**12 + copy) * 10**6 + position)  # differs for every call of every copy
            key = hashlib.sha256(number.join(row["key_parts"]).encode()).hexdigest()
            request = number.join(row["request_parts"])
            yield (
                first_id + position, key, row["kind"], row["model"], run, request, row["reply"], row["reply_hash"],
                row["prompt_tokens"], row["completion_tokens"], row["usd"], row["seconds"], row["at"], row["role"],
            )  # fmt: skip

    def _copy_turn(self, row: dict[str, Any], run: str, offset: int, id_shift: int) -> dict[str, Any]:
        """The row of a copied turn, with the hash of its changed record."""
        record = {**json.loads(row["record"]), "number": row["number"] + offset}
        return {
            **row, "id": row["id"] + id_shift, "run": run, "number": record["number"],
            "record": canonical_json(record), "record_hash": digest(record),
        }  # fmt: skip

    def _copy_example(self, row: dict[str, Any], run: str, offset: int) -> dict[str, Any]:
        """The row of a copied example, with the hash of its content in the new turn."""
        content = {key: row[key] for key in ("question", "solution", "answer", "reason")}
        content_hash = digest({**content, "turn": row["turn"] + offset})
        ids = {"id": digest([run, content_hash])[:16], "run": run, "turn": row["turn"] + offset}
        return {**row, **ids, "content_hash": content_hash}

    def _insert(self, table: str, rows: list[dict[str, Any]]) -> None:
        """Insert rows, given as values by column. All rows have the same columns."""
        columns = list(rows[0])
        self._connection.executemany(
            f"INSERT INTO {table} ({', '.join(columns)}) VALUES (?{',?' * (len(columns) - 1)})",
            [tuple(row.values()) for row in rows],
        )


def fill(home: Home, calls: int, run_count: int) -> None:
    """Fill a ledger with `calls` calls in `run_count` runs."""
    run = execute_run(home, 1000, seed=10**6, name="original")
    connection = sqlite3.connect(home.ledger, isolation_level=None)
    for pragma in ("synchronous = OFF", "cache_size = -2000000", "wal_autocheckpoint = 100000"):
        connection.execute(f"PRAGMA {pragma}")
    copier = RowCopier(connection, run)
    copies = (calls - len(copier.calls)) // len(copier.calls)
    for copy in range(copies):
        name = f"copy-{copy % run_count:04d}"
        connection.execute("BEGIN")
        if copy < run_count:
            copier.create_run(name)
        copier.write(name, copy, offset=1000 * (copy // run_count), count=len(copier.calls))
        connection.execute("COMMIT")
    turns_by_run = connection.execute("SELECT run, count(*) FROM turns GROUP BY 1").fetchall()
    for copied_run, turns in turns_by_run:
        if copied_run != run:
            config = json.loads(copier.original_run["config"]) | {"max_turns": turns}
            values = (canonical_json(config), digest(config), turns, copied_run)
            connection.execute("UPDATE runs SET config = ?, config_hash = ?, max_turns = ? WHERE id = ?", values)
    missing_calls = calls - connection.execute("SELECT count(*) FROM calls").fetchone()[0]
    copier.write("copy-0000", copies, 0, missing_calls, calls_only=True)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def measure_seconds(action: Callable[[], object]) -> float:
    """The wall time of an action."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def sample_requests(home: Home, count: int) -> list[ChatRequest]:
    """Requests whose replies are stored, sampled from the whole ledger."""
    with LedgerView(home.ledger) as view:
        max_id_row = view.row("SELECT max(id) AS n FROM calls")
        assert max_id_row is not None
        sampled_ids = random.Random(0).sample(range(1, max_id_row["n"] + 1), 3 * count)
        query = f"SELECT request FROM {CALLS} WHERE id = ? AND kind = 'chat'"
        rows = [view.row(query, call_id) for call_id in sampled_ids]
        return [parse_request(json.loads(row["request"])) for row in rows if row is not None][:count]


def parse_request(document: dict[str, Any]) -> ChatRequest:
    """The chat request that the ledger stores as `document`."""
    sampling = Sampling(**{**document["sampling"], "stop": tuple(document["sampling"]["stop"])})
    messages = tuple(Message(**message) for message in document["messages"])
    return ChatRequest(Identity(**document["endpoint"]), messages, sampling, document["seed"])


def measure_lookups(home: Home) -> dict[str, float]:
    """Measure the milliseconds of `recall` for stored requests, each looked up once, and for new requests."""
    requests = sample_requests(home, 2000)
    with Ledger(home.ledger) as ledger:
        hits = [measure_seconds(partial(ledger.recall, request)) for request in requests]
        assert all(ledger.recall(request) is not None for request in requests[:100])
        unseen_requests = [ChatRequest(request.endpoint, request.messages, request.sampling, 1) for request in requests]
        misses = [measure_seconds(partial(ledger.recall, request)) for request in unseen_requests]
    return {
        "found_median_ms": round(1000 * statistics.median(hits), 3),
        "found_p99_ms": round(1000 * sorted(hits)[len(hits) * 99 // 100], 3),
        "missed_median_ms": round(1000 * statistics.median(misses), 3),
    }


def measure_overhead(home: Home, rounds: int, first_seed: int) -> dict[str, Any]:
    """Execute runs of 200 turns, alternating between the filled ledger and an empty one, and compare their seconds, CPU
    seconds and MB written.
    """
    costs_empty: list[tuple[float, ...]] = []
    costs_filled: list[tuple[float, ...]] = []
    for seed in range(first_seed, first_seed + rounds):
        with tempfile.TemporaryDirectory(dir=home.root.parent) as folder:
            costs_empty.append(measure_cost(partial(execute_run_in_new_home, Path(folder), turns=200, seed=seed)))
        costs_filled.append(measure_cost(partial(execute_run, home, turns=200, seed=seed)))
    comparison: dict[str, Any] = {}
    for column, unit in enumerate(("wall_s", "processor_s", "written_mb")):
        values_empty = [cost[column] for cost in costs_empty]
        values_filled = [cost[column] for cost in costs_filled]
        median_empty = statistics.median(values_empty)
        median_filled = statistics.median(values_filled)
        comparison[unit] = {
            "empty": round(median_empty, 3),
            "filled": round(median_filled, 3),
            "ratio": round(median_filled / median_empty, 3),
            "ratio_of_each": [
                round(filled / empty, 2) for empty, filled in zip(values_empty, values_filled, strict=True)
            ],
        }
    return comparison


def measure_cost(action: Callable[[], object]) -> tuple[float, float, float]:
    """The wall seconds and the CPU seconds that an action takes, and the MB that it writes."""
    cpu_before = time.process_time()
    mb_before = read_written_mb()
    seconds = measure_seconds(action)
    return seconds, time.process_time() - cpu_before, read_written_mb() - mb_before


def read_written_mb() -> float:
    """The megabytes that this process has written so far."""
    counters = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(counters["wchar"]) / 1e6


def measure_command(home: Home, *words: str) -> dict[str, Any]:
    """Run a command in a separate process. Returns its seconds, its peak memory and its exit code."""
    code = """
import atexit, pathlib, re, sys
from nanoflux_local.cli.main import main
def print_peak_kib():
    status = pathlib.Path("/proc/self/status").read_text()
    peak_kib = re.search(r"VmHWM:\\s+(\\d+)", status)[1]
    print(f"\\n{peak_kib}", file=sys.stderr)
atexit.register(print_peak_kib)
main(sys.argv[1:])
"""
    command = [sys.executable, "-c", code, "--home", str(home.root), *words]
    start = time.perf_counter()
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    peak_kib = int(result.stderr.split()[-1])
    return {"s": round(seconds, 2), "peak_mb": round(peak_kib / 1000), "exit_code": result.returncode}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=1_000_000, help="calls in the ledger")
    parser.add_argument("--runs", type=int, default=80, help="runs over which the calls are spread")
    parser.add_argument("--rounds", type=int, default=25, help="pairs of measured runs")
    parser.add_argument("--keep", type=Path, help="folder of the home, which is kept (default: a temporary one)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Home(options.keep or Path(folder) / "home").prepare()
        if not home.ledger.exists():
            report("fill_s", round(measure_seconds(lambda: fill(home, options.calls, options.runs)), 1))
        report("contents", count_contents(home))
        measure(home, options.rounds)
        report("backup", measure_command(home, "ledger", "backup", str(Path(folder) / "backup.db")))
        report("compact", measure_command(home, "ledger", "compact"))
        report("contents, packed", count_contents(home))
        measure(home, options.rounds)


def count_contents(home: Home) -> dict[str, Any]:
    """The size of the ledger in MB, and the numbers of its rows."""
    with LedgerView(home.ledger) as view:
        return {"mb": round(home.ledger.stat().st_size / 1e6), **view.contents()}


def measure(home: Home, rounds: int) -> None:
    """Measure all operations except the backup and the compaction, and print the figures."""
    report("lookup", measure_lookups(home))
    with LedgerView(home.ledger) as view:
        seed = 1000 * view.contents()["runs"]  # a seed that no earlier round has used
    report("run of 200 turns", measure_overhead(home, rounds, seed))
    report("run list", measure_command(home, "run", "list", "--json"))
    report("run show", measure_command(home, "run", "show", "copy-0000"))
    report("run verify", measure_command(home, "run", "verify", "copy-0000"))


def report(name: str, value: Any) -> None:
    print(json.dumps({name: value}), flush=True)


if __name__ == "__main__":
    main()
