"""`Ledger`, the only class that writes to a ledger. Its transactions are short, and no result is shown before it is
committed.

It refuses a ledger written by a newer version, and never rewrites a recorded call or turn.
"""

import fcntl
import hashlib
import json
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self

from sqlite_utils import Database

from nanoflux_local.errors import LedgerError
from nanoflux_local.ledger import datasets
from nanoflux_local.ledger.packing import CALLS, WITH_KEY, add_unpack_function
from nanoflux_local.ledger.schema import migrations
from nanoflux_local.records import Fault, Reply, Request, canonical_json, digest, read_costs, storable
from nanoflux_local.redaction import redact
from nanoflux_local.transcript import Attempt, Example, TurnRecord

BUSY_TIMEOUT_S = 30.0
"""How long SQLite waits for a lock before it reports that the file is locked."""
JobTable = Literal["runs", "trainings", "evaluations", "series", "experiments"]
"""Tables whose rows have a status, a message and the wall-clock seconds spent on them."""


def now() -> str:
    """The current time in the ledger's format: UTC, ISO 8601, milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@contextmanager
def translate_sqlite_errors(path: Path) -> Iterator[None]:
    """Turn SQLite's exceptions into a LedgerError that names the file and the fix."""
    try:
        yield
    except sqlite3.OperationalError as error:
        message = str(error)
        if "disk" in message or "full" in message:
            raise LedgerError(
                f"{path}: {message}", "free some space and resume: everything recorded so far is kept"
            ) from error
        if "locked" in message or "busy" in message:
            raise LedgerError(f"{path} is locked by another process", "wait for it to end, then try again") from error
        if "malformed" in message:
            raise LedgerError(f"{path}: {message}", "find the damage with `nanoflux run verify RUN`") from error
        raise LedgerError(f"{path}: {message}", "check the permissions of the file and its directory") from error
    except sqlite3.DatabaseError as error:
        raise LedgerError(
            f"{path} is not a readable ledger: {error}", "restore a backup, or move the file away to start a new ledger"
        ) from error


def refuse_newer(database: Database, path: Path) -> None:
    """Raise LedgerError if the file has migrations that this version does not define."""
    applied = {migration.name for migration in migrations.applied(database)}
    defined = {migration.name for migration in migrations._migrations}
    unknown_names = sorted(applied - defined)
    if unknown_names:
        raise LedgerError(
            f"{path} was written by a newer version of NanoFlux (it has the migration {unknown_names[-1]})",
            "update NanoFlux, or choose another home with --home",
        )


class Ledger:
    """A ledger opened for writing.

    Raises:
        LedgerError: the file is not a ledger, comes from a newer version, or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with translate_sqlite_errors(path):
            self._connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
            path.chmod(0o600)
            add_unpack_function(self._connection)
            self._database = Database(self._connection)
            if not self._is_in_use():
                self._create_or_migrate()
            self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.execute("PRAGMA foreign_keys = ON")

    def _is_in_use(self) -> bool:
        """Whether another process has this ledger open and the schema is up to date. If so, `__init__` skips
        `_create_or_migrate` and its lock, because the process that holds the lock may be suspended. If there is no
        write-ahead log (WAL), returns False without reading the schema, since the read could disturb
        `_create_or_migrate` in another process.
        """
        if not Path(f"{self.path}-wal").exists():
            return False
        refuse_newer(self._database, self.path)
        return not migrations.pending(self._database)

    def _create_or_migrate(self) -> None:
        """Apply the pending migrations, in one process at a time."""
        with self.path.with_suffix(".migrate").open("w") as lock_file:
            # Two processes may open a new ledger concurrently, and changing the journal mode ignores the busy timeout.
            fcntl.flock(lock_file, fcntl.LOCK_EX)
            refuse_newer(self._database, self.path)
            self._connection.execute("PRAGMA journal_mode = WAL")
            pending = [migration.name for migration in migrations.pending(self._database)]
            if pending:
                migrations.apply(self._database)
            is_new = "m001_calls" in pending
            if pending and not is_new:  # migrations of an existing ledger may rewrite tables, which enlarges the WAL
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    @property
    def connection(self) -> sqlite3.Connection:
        """The writer's connection, for reads outside its transactions."""
        return self._connection

    def shrink(self) -> None:
        """Rebuild the file without its unused pages, atomically. Meanwhile, other writers wait, and the disk must have
        room for a second copy of the file.
        """
        with translate_sqlite_errors(self.path):
            self._connection.execute("VACUUM")
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """One write transaction: on disk once the block has ended, and rolled back if the block raises an error."""
        with translate_sqlite_errors(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # SQLite itself rolls back when the disk is full
                    self._connection.execute("ROLLBACK")
                raise

    def rows(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """The rows of a query on the writer's connection."""
        with translate_sqlite_errors(self.path):
            return self._connection.execute(sql, values).fetchall()

    # Calls

    def recall(self, request: Request[Any]) -> tuple[int, Reply] | None:
        """The row id of the stored call with this request, and its reply; None if no such call is stored."""
        rows = self.rows(f"SELECT id, reply FROM {CALLS} WHERE {WITH_KEY}", request.key())
        if not rows:
            return None
        call_id, reply_text = rows[0]
        try:
            return call_id, request.read_reply(json.loads(reply_text))
        except (ValueError, TypeError) as error:
            raise LedgerError(
                f"{self.path}: the reply of call {call_id} cannot be read",
                "find the damage with `nanoflux run verify RUN`",
            ) from error

    def remember(self, run: str, request: Request[Any], reply: Reply, role: str = "") -> tuple[int, Reply]:
        """Commit a reply under its request's hash, with the role that made the call. Returns the call's row id and the
        stored reply.
        """
        return self.remember_all(run, [(request, reply, role)])[0]

    def remember_all(self, run: str, calls: Sequence[tuple[Request[Any], Reply, str]]) -> list[tuple[int, Reply]]:
        """Commit calls, each given as (request, reply, role), all or none. Returns each call's row id and stored reply:
        if another process has already committed a reply to the same request, that reply is kept and returned.
        """
        committed_at = now()
        with self.transaction() as connection:
            return [
                self._insert_call(connection, run, request, reply, role, committed_at) for request, reply, role in calls
            ]

    def _insert_call(
        self,
        connection: sqlite3.Connection,
        run: str,
        request: Request[Any],
        reply: Reply,
        role: str,
        committed_at: str,
    ) -> tuple[int, Reply]:
        """Insert a call unless the same request is already stored. Returns the call's row id and the stored reply."""
        stored_call = self.recall(request)
        if stored_call is not None:
            return stored_call
        request_json, reply_json = request.to_json(), reply.to_json()
        reply_text = canonical_json(reply_json)
        if "\\ud" in reply_text:  # parsing joins a pair of surrogates into one character: store the parsed reply
            reply_json = json.loads(reply_text)
            reply_text = canonical_json(reply_json)
            reply = request.read_reply(reply_json)
        call_costs = read_costs(reply_json)
        call_id = connection.execute(
            "INSERT INTO calls (key, kind, model, run, request, reply, reply_hash, prompt_tokens, completion_tokens,"
            " usd, seconds, at, role, reasoning_tokens) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
            (request.key(), request.kind, request_json["endpoint"]["model"], run,
             canonical_json(request_json), reply_text, hashlib.sha256(reply_text.encode()).hexdigest(),
             call_costs["prompt_tokens"], call_costs["completion_tokens"], call_costs["usd"], call_costs["seconds"],
             committed_at, role, call_costs["reasoning_tokens"]),
        ).lastrowid  # fmt: skip
        assert call_id is not None
        return call_id, reply

    def find_last_reply(self, calls: Sequence[int]) -> str:
        """The text of the last chat reply among the calls with these ids; "" if that reply is a refusal, or if none of
        the calls is a chat.
        """
        for call_id in reversed(calls):
            kind, reply = self.rows(f"SELECT kind, reply FROM {CALLS} WHERE id = ?", call_id)[0]
            if kind == "chat":
                return str(json.loads(reply).get("text", ""))
        return ""

    def has_answer(self, run: str, kind: str, model: str) -> bool:
        """Whether this model has answered any request of this kind in the run. A refusal is not an answer."""
        query = f"SELECT 1 FROM {CALLS} WHERE run = ? AND kind = ? AND model = ? AND reply NOT LIKE ? LIMIT 1"
        return bool(self.rows(query, run, kind, model, '%"refused":%'))

    def add_fault(self, run: str, fault: Fault, role: str = "") -> None:
        """Commit a failed request as soon as it fails, so that its cost is recorded even if the process is killed."""
        values = asdict(fault)
        values.update(message=storable(fault.message), raw=storable(fault.raw), run=run, role=role, at=now())
        with self.transaction() as connection:
            connection.execute(
                "INSERT INTO faults (run, role, model, kind, told, raw, tokens, usd, seconds, at)"
                " VALUES (:run, :role, :model, :kind, :message, :raw, :tokens, :usd, :seconds, :at)",
                values,
            )

    # Runs

    def create_run(self, run: str, name: str, config: dict[str, Any], environment: dict[str, Any]) -> None:
        """Record a new run, whose id is `run`, with the status "created"."""
        with self.transaction() as connection:
            connection.execute(
                "INSERT INTO runs VALUES (?,?,?,'created','',?,?,?,?,?,0.0,?,?,?)",
                (run, name, config["domain"], config["target"], config["max_turns"], canonical_json(config),
                 digest(config), canonical_json(environment), now(), now(), digest(environment)),
            )  # fmt: skip

    def reconfigure_run(self, run: str, config: dict[str, Any], environment: dict[str, Any] | None = None) -> None:
        """Replace a run's configuration and, unless it is None, its environment. Only settings that may change during a
        run may differ from the stored ones.
        """
        with self.transaction() as connection:
            connection.execute(
                "UPDATE runs SET config = ?, config_hash = ?, target = ?, max_turns = ?, updated_at = ? WHERE id = ?",
                (canonical_json(config), digest(config), config["target"], config["max_turns"], now(), run),
            )
            if environment is not None:
                connection.execute(
                    "UPDATE runs SET environment = ?, environment_hash = ? WHERE id = ?",
                    (canonical_json(environment), digest(environment), run),
                )

    def set_run_status(self, run: str, status: str, message: str = "", seconds: float = 0.0) -> None:
        """Set a run's status and message, and add `seconds` to its wall-clock time."""
        self.set_status("runs", run, status, message, seconds)

    def set_status(self, table: JobTable, row_id: str, status: str, message: str = "", seconds: float = 0.0) -> None:
        """Set the status and message of a row of `table`, and add `seconds` to its wall-clock time."""
        with self.transaction() as connection:
            self._set_status(connection, table, row_id, status, message, seconds)

    def _set_status(
        self, connection: sqlite3.Connection, table: JobTable, row_id: str, status: str, message: str, seconds: float
    ) -> None:
        """The same as `set_status`, inside a transaction."""
        connection.execute(
            f"UPDATE {table} SET status = ?, message = ?, seconds = seconds + ?, updated_at = ? WHERE id = ?",
            (status, redact(message), seconds, now(), row_id),
        )

    def commit_turn(self, run: str, record: TurnRecord, calls: Sequence[int]) -> None:
        """Commit one turn in a single transaction: its record, the ids of its `calls` in the order of their use, and
        its example if it was kept.
        """
        record_json = record.to_json()
        outcomes = " ".join(attempt.outcome for attempt in record.attempts)
        with self.transaction() as connection:
            fresh_count = sum(self._is_fresh(connection, run, call_id) for call_id in set(calls))
            turn_id = connection.execute(
                "INSERT INTO turns (run, number, outcome, kept, record, record_hash, at, attempts, uses, fresh)"
                " VALUES (?,?,?,?,?,?,?,?,?,?)",
                (run, record.number, record.outcome, int(record.kept), canonical_json(record_json),
                 digest(record_json), now(), outcomes, len(calls), fresh_count),
            ).lastrowid  # fmt: skip
            connection.executemany(
                "INSERT INTO turn_calls VALUES (?,?,?)",
                [(turn_id, position, call_id) for position, call_id in enumerate(calls)],
            )
            if record.kept:
                self._insert_example(connection, run, Example.of(record), record.last_attempt)
            connection.execute("UPDATE runs SET updated_at = ? WHERE id = ?", (now(), run))

    def _is_fresh(self, connection: sqlite3.Connection, run: str, call_id: int) -> bool:
        """Whether the run itself made this call and none of the run's turns has used it yet. CROSS JOIN makes SQLite
        start at the call and its few turns instead of scanning all turns of the run.
        """
        used_sql = "SELECT 1 FROM turn_calls CROSS JOIN turns ON turns.id = turn_calls.turn WHERE call = ? AND run = ?"
        cursor = connection.execute(
            f"SELECT EXISTS (SELECT 1 FROM calls WHERE run = ? AND id = ?) AND NOT EXISTS ({used_sql})",
            (run, call_id, call_id, run),
        )
        return bool(cursor.fetchone()[0])

    def _insert_example(self, connection: sqlite3.Connection, run: str, example: Example, attempt: Attempt) -> None:
        """Insert the example of a kept turn; `attempt` is the turn's last attempt."""
        content_hash = example.hash()
        level = attempt.quality.level if attempt.quality else None
        passes, tries = attempt.pass_rate or (None, None)
        connection.execute(
            "INSERT INTO examples (id, run, turn, reason, question, solution, answer, content_hash, at, level,"
            " passes, tries) VALUES (?,?,?,?,?,?,?,?,?,?,?,?)",
            (digest([run, content_hash])[:16], run, example.turn, example.reason, example.question, example.solution,
             example.answer, content_hash, now(), level, passes, tries),
        )  # fmt: skip

    def add_trial(self, run: str, number: int, label: str, record: dict[str, Any]) -> None:
        """Commit the judge's verdict on a solution known to be right (`label` "good") or wrong ("bad")."""
        with self.transaction() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO trials VALUES (?,?,?,?,?,?)",
                (run, number, label, canonical_json(record), digest(record), now()),
            )

    def add_reviews(self, run: str, reviews: Sequence[tuple[int, int, str, str]], reviewer: str, blind: bool) -> None:
        """Commit a reviewer's verdicts, all or none, each as (turn, attempt, verdict, note)."""
        with self.transaction() as connection:
            connection.executemany(
                "INSERT INTO reviews (run, turn, attempt, reviewer, verdict, note, blind, at) VALUES (?,?,?,?,?,?,?,?)",
                [
                    (run, turn, attempt, reviewer, verdict, note, int(blind), now())
                    for turn, attempt, verdict, note in reviews
                ],
            )

    def add_note(self, kind: str, subject: str, note: str) -> None:
        """Commit a note on a run or training."""
        with self.transaction() as connection:
            connection.execute(
                "INSERT INTO notes (kind, subject, note, at) VALUES (?,?,?,?)", (kind, subject, note, now())
            )

    # Benchmarks

    def has_dataset(self, name: str, source_hash: str, replace: bool = False) -> bool:
        """Whether importing files with this content hash would not change the dataset `name`, because the files are
        already part of it. With `replace`, they must be the whole dataset, since other items would be removed.
        """
        has_files = datasets.consists_of_files if replace else datasets.has_files
        with self.transaction() as connection:
            return has_files(connection, name, source_hash)

    def refuse_clash(self, name: str, items: datasets.SplitItems) -> None:
        """Raise UsageError if the dataset already has items in a split of `items`, or an item with one of their ids."""
        with self.transaction() as connection:
            datasets.refuse_clash(connection, name, items)

    def import_dataset(
        self, name: str, source: str, source_hash: str, items: datasets.SplitItems, skipped: int, replace: bool = False
    ) -> bool:
        """Store a benchmark's items with their splits, all or none. `skipped` is the number of bad rows that were left
        out. Returns whether anything was stored; the same content is not imported twice.

        A dataset may be imported one split at a time. With `replace`, the new items replace the whole dataset; the
        replaced version stays for the runs that use it.

        Raises:
            UsageError: `replace` is not set, and the dataset already has items in one of these splits or with one of
                these ids.
        """
        if self.has_dataset(name, source_hash, replace):
            return False
        with self.transaction() as connection:
            if replace:
                datasets.archive(connection, name)
            datasets.refuse_clash(connection, name, items)
            datasets.add_files(connection, name, source, source_hash, items, skipped, now())
        return True

    # Training runs and evaluations

    def create_training(
        self, training: str, run: str, base: str, data_hash: str, settings: dict[str, Any], plan: dict[str, Any]
    ) -> None:
        """Record a training run. An existing training run keeps its curve and gets the new plan for its remaining
        steps.
        """
        with self.transaction() as connection:
            connection.execute(
                "INSERT INTO trainings (id, run, base, status, adapter, data_hash, settings, result, started_at,"
                " updated_at, plan) VALUES (?,?,?,'created','',?,?,'{}',?,?,?)"
                " ON CONFLICT (id) DO UPDATE SET plan = excluded.plan",
                (training, run, base, data_hash, canonical_json(settings), now(), now(), canonical_json(plan)),
            )

    def add_training_event(self, training: str, kind: str, step: int, event: dict[str, Any]) -> None:
        """Commit an event of a training run, such as a step or the end of an epoch."""
        with self.transaction() as connection:
            connection.execute(
                "INSERT INTO training_events (training, kind, step, event, at) VALUES (?,?,?,?,?)",
                (training, kind, step, canonical_json(event), now()),
            )

    def finish_training(
        self, training: str, status: str, adapter: str, result: dict[str, Any], message: str = "", seconds: float = 0.0
    ) -> None:
        """Record how a process ended its work on a training run, and add `seconds` to the run's wall-clock time."""
        with self.transaction() as connection:
            connection.execute(
                "UPDATE trainings SET status = ?, adapter = ?, result = ?, message = ?, seconds = seconds + ?,"
                " updated_at = ? WHERE id = ?",
                (status, adapter, canonical_json(result), message, seconds, now(), training),
            )

    def start_evaluation(
        self, evaluation: str, model: str, adapter: str, data: str, split: str, settings: dict[str, Any]
    ) -> None:
        """Record an evaluation. An existing evaluation is not changed: its id is the hash of its settings."""
        with self.transaction() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO evaluations (id, model, adapter, data, split, status, settings, result,"
                " started_at, updated_at) VALUES (?,?,?,?,?,'created',?,'{}',?,?)",
                (evaluation, model, adapter, data, split, canonical_json(settings), now(), now()),
            )

    def add_evaluation_item(
        self, evaluation: str, repeat: int, item: str, call: int, reading: str, verdict: str, soft: str = ""
    ) -> None:
        """Commit the reply to one item: the id of its call, the answer that was read from it, its mark, and its soft
        mark ("" if no judge was asked). An earlier reply to the same item and repeat is replaced.
        """
        with self.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO evaluation_items VALUES (?,?,?,?,?,?,?)",
                (evaluation, repeat, item, call, reading, verdict, soft),
            )

    def finish_evaluation(self, evaluation: str, status: str, result: dict[str, Any]) -> None:
        """Set the status and the result of an evaluation."""
        with self.transaction() as connection:
            connection.execute(
                "UPDATE evaluations SET status = ?, result = ?, updated_at = ? WHERE id = ?",
                (status, canonical_json(result), now(), evaluation),
            )

    # Executions of jobs

    def start_execution(self, kind: str, job_id: str, pid: int, boot: str, table: JobTable | None = None) -> int:
        """Record that a process executes a job; `boot` identifies the current boot of the machine. With `table`, the
        job's row there is set to "running" in the same transaction. Returns the id of the execution.
        """
        with self.transaction() as connection:
            execution_id = connection.execute(
                "INSERT INTO jobs (kind, subject, pid, boot, state, message, started_at, heartbeat_at, began_s, beat_s)"
                " VALUES (?,?,?,?,'running','',?,?,?,?)",
                (kind, job_id, pid, boot, now(), now(), time.monotonic(), time.monotonic()),
            ).lastrowid
            if table is not None:
                self._set_status(connection, table, job_id, "running", "", 0.0)
        assert execution_id is not None
        return execution_id

    def beat(self, execution_id: int) -> None:
        """Record a heartbeat of the execution's process."""
        with self.transaction() as connection:
            connection.execute(
                "UPDATE jobs SET heartbeat_at = ?, beat_s = ? WHERE id = ?", (now(), time.monotonic(), execution_id)
            )

    def close_dead_executions(self, kind: str, table: JobTable, job_id: str) -> None:
        """Mark the executions of killed processes as interrupted, and add the time up to their last heartbeats to the
        job's wall-clock time. Call this only while holding the job's lock, which proves that these processes have
        ended.
        """
        is_dead = "kind = ? AND subject = ? AND state = 'running'"
        with self.transaction() as connection:
            connection.execute(
                f"UPDATE {table} SET seconds = seconds"
                f" + (SELECT coalesce(sum(beat_s - began_s), 0.0) FROM jobs WHERE {is_dead}) WHERE id = ?",
                (kind, job_id, job_id),
            )
            connection.execute(f"UPDATE jobs SET state = 'interrupted' WHERE {is_dead}", (kind, job_id))

    def request_stop(self, execution_id: int, request: str) -> None:
        """Ask the process of an execution to pause, stop or end. It reads its requests a few times a second."""
        with self.transaction() as connection:
            connection.execute("UPDATE jobs SET wish = ? WHERE id = ?", (request, execution_id))

    def finish_execution(self, execution_id: int, state: str, message: str = "") -> None:
        """Record how the process of an execution ended, and its last heartbeat."""
        with self.transaction() as connection:
            connection.execute(
                "UPDATE jobs SET state = ?, message = ?, heartbeat_at = ?, beat_s = ? WHERE id = ?",
                (state, redact(message), now(), time.monotonic(), execution_id),
            )

    # Experiments

    def create_experiment(self, experiment: str, name: str, scale: str, plan: dict[str, Any]) -> None:
        """Record an experiment with its cells. An existing experiment is not changed."""
        with self.transaction() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO experiments VALUES (?,?,?,'created','',?,0.0,?,?)",
                (experiment, name, scale, canonical_json(plan), now(), now()),
            )
            connection.executemany(
                "INSERT OR IGNORE INTO cells VALUES (?,?,?,?,?,'waiting','','{}',?)",
                [
                    (experiment, cell["id"], position, cell["condition"], cell["seed"], now())
                    for position, cell in enumerate(plan["cells"])
                ],
            )

    def set_cell(
        self, experiment: str, cell: str, status: str, message: str = "", result: dict[str, Any] | None = None
    ) -> None:
        """Set the status, message and result of a cell."""
        with self.transaction() as connection:
            connection.execute(
                "UPDATE cells SET status = ?, message = ?, result = ?, at = ? WHERE experiment = ? AND id = ?",
                (status, redact(message), canonical_json(result or {}), now(), experiment, cell),
            )

    # Rounds

    def start_series(self, series: str, settings: dict[str, Any]) -> None:
        """Record a series of rounds with the status "created"."""
        with self.transaction() as connection:
            connection.execute(
                "INSERT INTO series VALUES (?,'created','',?,0.0,?,?)", (series, canonical_json(settings), now(), now())
            )

    def start_round(self, series: str, number: int, run: str) -> None:
        """Record a round before its work starts. An existing round is not changed."""
        with self.transaction() as connection:
            connection.execute("INSERT OR IGNORE INTO rounds VALUES (?,?,?,'','','{}',?)", (series, number, run, now()))

    def set_round_adapter(self, series: str, number: int, adapter: str) -> None:
        """Record the adapter that a round has trained."""
        with self.transaction() as connection:
            connection.execute(
                "UPDATE rounds SET adapter = ?, at = ? WHERE series = ? AND number = ?",
                (adapter, now(), series, number),
            )

    def finish_round(self, series: str, number: int, evaluation: str, result: dict[str, Any]) -> None:
        """Record the evaluation and the result of a round."""
        with self.transaction() as connection:
            connection.execute(
                "UPDATE rounds SET evaluation = ?, result = ?, at = ? WHERE series = ? AND number = ?",
                (evaluation, canonical_json(result), now(), series, number),
            )
