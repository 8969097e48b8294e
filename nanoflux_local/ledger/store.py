"""The writer: the one class that changes a ledger. WAL, short transactions, each committed before anything is shown.

It refuses a ledger from a newer version, and it never rewrites what a call or a turn has recorded.
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
from nanoflux_local.ledger.packing import CALLS, OF_KEY, read_packed
from nanoflux_local.ledger.schema import migrations
from nanoflux_local.records import Fault, Reply, Request, canonical_json, costs, digest, storable
from nanoflux_local.redaction import redact
from nanoflux_local.transcript import Example, TurnRecord

BUSY_TIMEOUT_S = 30.0
Table = Literal["runs", "trainings", "evaluations", "series", "experiments"]
"""The tables whose rows have a status, a message and the seconds that were worked on them."""


def now() -> str:
    """The time as the ledger writes it: UTC, ISO 8601, milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@contextmanager
def told_as_ledger_errors(path: Path) -> Iterator[None]:
    """Turn SQLite's exceptions into messages that say which file and what to do."""
    try:
        yield
    except sqlite3.OperationalError as error:
        text = str(error)
        if "disk" in text or "full" in text:
            raise LedgerError(
                f"{path}: {text}", "free some space and resume: everything recorded so far is kept"
            ) from error
        if "locked" in text or "busy" in text:
            raise LedgerError(f"{path} is locked by another process", "wait for it to end, then try again") from error
        if "malformed" in text:
            raise LedgerError(f"{path}: {text}", "find what was damaged with `nanoflux run verify RUN`") from error
        raise LedgerError(f"{path}: {text}", "check the permissions of the file and its folder") from error
    except sqlite3.DatabaseError as error:
        raise LedgerError(
            f"{path} is not a readable ledger: {error}", "restore a backup, or move it away to start afresh"
        ) from error


def refuse_newer(database: Database, path: Path) -> None:
    """Raise when the file holds migrations that this version does not know."""
    applied = {migration.name for migration in migrations.applied(database)}
    ours = {migration.name for migration in migrations._migrations}
    unknown = sorted(applied - ours)
    if unknown:
        raise LedgerError(
            f"{path} was written by a newer version of NanoFlux (it holds {unknown[-1]})",
            "update NanoFlux, or name another home with --home",
        )


class Ledger:
    """A ledger opened for writing.

    Raises:
        LedgerError: the file is not a ledger, comes from a newer version, or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with told_as_ledger_errors(path):
            self._connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
            path.chmod(0o600)
            read_packed(self._connection)
            self._database = Database(self._connection)
            if not self._is_in_use():
                self._prepare()
            self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.execute("PRAGMA foreign_keys = ON")

    def _is_in_use(self) -> bool:
        """Whether someone has it open, as this version writes it. Then nobody waits here for another process that
        opens it, which may be a stopped one. Without a log there is no look: it could get in the way of `_prepare`.
        """
        if not Path(f"{self.path}-wal").exists():
            return False
        refuse_newer(self._database, self.path)
        return not migrations.pending(self._database)

    def _prepare(self) -> None:
        with self.path.with_suffix(".migrate").open("w") as gate:
            # Two processes may open a new ledger at the same moment, and a change of journal mode waits for no one.
            fcntl.flock(gate, fcntl.LOCK_EX)
            refuse_newer(self._database, self.path)
            self._connection.execute("PRAGMA journal_mode = WAL")
            pending = [migration.name for migration in migrations.pending(self._database)]
            if pending:
                migrations.apply(self._database)
            if pending and "m001_calls" not in pending:  # one that was written anew, and its log with it
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    @property
    def connection(self) -> sqlite3.Connection:
        """For reading beside the writer's own transactions."""
        return self._connection

    def shrink(self) -> None:
        """Rebuild the file without the room that nothing uses; whoever else writes waits meanwhile. It happens whole
        or not at all, and needs as much free disk again as the file is going to take.
        """
        with told_as_ledger_errors(self.path):
            self._connection.execute("VACUUM")
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """One write transaction; it is on disk when the block is left, or not at all."""
        with told_as_ledger_errors(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # a full disk has rolled back already
                    self._connection.execute("ROLLBACK")
                raise

    def rows(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Read through the writer's own connection."""
        with told_as_ledger_errors(self.path):
            return self._connection.execute(sql, values).fetchall()

    # Calls

    def recall(self, request: Request[Any]) -> tuple[int, Reply] | None:
        """The remembered reply of a request with its row id, or None."""
        rows = self.rows(f"SELECT id, reply FROM {CALLS} WHERE {OF_KEY}", request.key())
        if not rows:
            return None
        row, text = rows[0]
        try:
            return row, request.read_reply(json.loads(text))
        except (ValueError, TypeError) as error:
            raise LedgerError(
                f"{self.path}: the reply of call {row} cannot be read",
                "find what was damaged with `nanoflux run verify RUN`",
            ) from error

    def remember(self, run: str, request: Request[Any], reply: Reply, role: str = "") -> tuple[int, Reply]:
        """Commit a reply under its request's hash, with the role that the call was made for."""
        return self.remember_all(run, [(request, reply, role)])[0]

    def remember_all(self, run: str, calls: Sequence[tuple[Request[Any], Reply, str]]) -> list[tuple[int, Reply]]:
        """Commit replies, all or nothing. The first one under a hash stands, so what is returned is what is stored:
        another process may have been quicker.
        """
        moment = now()
        with self.transaction() as connection:
            return [self._insert_call(connection, run, *call, moment) for call in calls]

    def _insert_call(
        self, connection: sqlite3.Connection, run: str, request: Request[Any], reply: Reply, role: str, moment: str
    ) -> tuple[int, Reply]:
        stored = self.recall(request)
        if stored is not None:
            return stored
        asked, body = request.to_json(), reply.to_json()
        text = canonical_json(body)
        if "\\ud" in text:  # as it will be read: paired surrogates are one
            body = json.loads(text)
            text, reply = canonical_json(body), request.read_reply(body)
        spent = costs(body)
        row = connection.execute(
            "INSERT INTO calls (key, kind, model, run, request, reply, reply_hash, prompt_tokens, completion_tokens,"
            " usd, seconds, at, role, reasoning_tokens) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
            (request.key(), request.kind, asked["endpoint"]["model"], run,
             canonical_json(asked), text, hashlib.sha256(text.encode()).hexdigest(), spent["prompt_tokens"],
             spent["completion_tokens"], spent["usd"], spent["seconds"], moment, role,
             spent["reasoning_tokens"]),
        ).lastrowid  # fmt: skip
        assert row is not None
        return row, reply

    def last_reply(self, calls: Sequence[int]) -> str:
        """The text of the last chat reply among these calls, "" if it is a refusal or there is none."""
        for call in reversed(calls):
            (kind, reply), *_ = self.rows(f"SELECT kind, reply FROM {CALLS} WHERE id = ?", call)
            if kind == "chat":
                return str(json.loads(reply).get("text", ""))
        return ""

    def has_answer(self, run: str, kind: str, model: str) -> bool:
        """Whether a run holds any reply of this model to a request of this kind that is no refusal."""
        answered = f"SELECT 1 FROM {CALLS} WHERE run = ? AND kind = ? AND model = ? AND reply NOT LIKE ? LIMIT 1"
        return bool(self.rows(answered, run, kind, model, '%"refused":%'))

    def add_fault(self, run: str, fault: Fault, role: str = "") -> None:
        """Commit a failed attempt, as it happens: it may have cost something, and a kill must not hide that."""
        values = asdict(fault)
        values.update(told=storable(fault.told), raw=storable(fault.raw), run=run, role=role, at=now())
        with self.transaction() as connection:
            connection.execute(
                "INSERT INTO faults (run, role, model, kind, told, raw, tokens, usd, seconds, at)"
                " VALUES (:run, :role, :model, :kind, :told, :raw, :tokens, :usd, :seconds, :at)",
                values,
            )

    # Runs

    def create_run(self, run: str, name: str, config: dict[str, Any], environment: dict[str, Any]) -> None:
        with self.transaction() as connection:
            connection.execute(
                "INSERT INTO runs VALUES (?,?,?,'created','',?,?,?,?,?,0.0,?,?,?)",
                (run, name, config["domain"], config["target"], config["max_turns"], canonical_json(config),
                 digest(config), canonical_json(environment), now(), now(), digest(environment)),
            )  # fmt: skip

    def set_run_status(self, run: str, status: str, message: str = "", seconds: float = 0.0) -> None:
        """Move a run to `status`; `seconds` of work are added to what it has taken so far."""
        self.set_status("runs", run, status, message, seconds)

    def set_status(self, table: Table, subject: str, status: str, message: str = "", seconds: float = 0.0) -> None:
        """The same for whatever has a status."""
        with self.transaction() as connection:
            self._set_status(connection, table, subject, status, message, seconds)

    def _set_status(
        self, connection: sqlite3.Connection, table: Table, subject: str, status: str, message: str, seconds: float
    ) -> None:
        connection.execute(
            f"UPDATE {table} SET status = ?, message = ?, seconds = seconds + ?, updated_at = ? WHERE id = ?",
            (status, redact(message), seconds, now(), subject),
        )

    def commit_turn(self, run: str, record: TurnRecord, calls: Sequence[int]) -> None:
        """Commit one turn with its calls and its example, all or nothing."""
        body = record.to_json()
        with self.transaction() as connection:
            turn = connection.execute(
                "INSERT INTO turns (run, number, outcome, kept, record, record_hash, at, attempts, uses, fresh)"
                " VALUES (?,?,?,?,?,?,?,?,?,?)",
                (run, record.number, record.outcome, int(record.kept), canonical_json(body), digest(body), now(),
                 " ".join(attempt.outcome for attempt in record.attempts), len(calls),
                 sum(self._is_fresh(connection, run, call) for call in set(calls))),
            ).lastrowid  # fmt: skip
            connection.executemany(
                "INSERT INTO turn_calls VALUES (?,?,?)",
                [(turn, position, call) for position, call in enumerate(calls)],
            )
            if record.kept:
                quality = record.last.quality
                self._insert_example(connection, run, Example.of(record), quality.level if quality else None)
            connection.execute("UPDATE runs SET updated_at = ? WHERE id = ?", (now(), run))

    def _is_fresh(self, connection: sqlite3.Connection, run: str, call: int) -> bool:
        """Whether the run made this call and none of its turns has used it yet. From the call to its few turns: CROSS
        JOIN keeps SQLite from going through all turns of the run instead.
        """
        used = "SELECT 1 FROM turn_calls CROSS JOIN turns ON turns.id = turn_calls.turn WHERE call = ? AND run = ?"
        row = connection.execute(
            f"SELECT EXISTS (SELECT 1 FROM calls WHERE run = ? AND id = ?) AND NOT EXISTS ({used})",
            (run, call, call, run),
        )
        return bool(row.fetchone()[0])

    def _insert_example(self, connection: sqlite3.Connection, run: str, example: Example, level: int | None) -> None:
        content = example.hash()
        connection.execute(
            "INSERT INTO examples (id, run, turn, reason, question, solution, answer, content_hash, at, level)"
            " VALUES (?,?,?,?,?,?,?,?,?,?)",
            (digest([run, content])[:16], run, example.turn, example.reason, example.question, example.solution,
             example.answer, content, now(), level),
        )  # fmt: skip

    def add_trial(self, run: str, number: int, worth: str, record: dict[str, Any]) -> None:
        """Commit how the judge judged a solution that is known to be "good" or "bad"."""
        with self.transaction() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO trials VALUES (?,?,?,?,?,?)",
                (run, number, worth, canonical_json(record), digest(record), now()),
            )

    def add_reviews(self, run: str, reviews: Sequence[tuple[int, int, str, str]], reviewer: str, blind: bool) -> None:
        """Commit a person's words, all or nothing: (turn, attempt, word, note) of each."""
        with self.transaction() as connection:
            connection.executemany(
                "INSERT INTO reviews (run, turn, attempt, reviewer, verdict, note, blind, at) VALUES (?,?,?,?,?,?,?,?)",
                [
                    (run, turn, attempt, reviewer, word, note, int(blind), now())
                    for turn, attempt, word, note in reviews
                ],
            )

    # Benchmarks

    def has_dataset(self, name: str, source_hash: str) -> bool:
        """Whether files of this very content are here under `name`."""
        with self.transaction() as connection:
            return datasets.holds_files(connection, name, source_hash)

    def refuse_clash(self, name: str, items: datasets.Rows) -> None:
        """Raise UsageError where these items cannot be added to the dataset: it has their split or their ids."""
        with self.transaction() as connection:
            datasets.refuse_clash(connection, name, items)

    def import_dataset(
        self, name: str, source: str, source_hash: str, items: datasets.Rows, skipped: int, replace: bool = False
    ) -> bool:
        """Store a benchmark's items with their splits, all or nothing. False if this very content is here already.

        A dataset may come in one split at a time. With `replace` the new items take the place of all others under the
        name; those stay as a former version, which the runs so far go on reading.

        Raises:
            UsageError: the name has items of the same split, or of the same id, and `replace` is not set.
        """
        if self.has_dataset(name, source_hash):
            return False
        with self.transaction() as connection:
            if replace:
                datasets.set_aside(connection, name)
            datasets.refuse_clash(connection, name, items)
            datasets.add_files(connection, name, source, source_hash, items, skipped, now())
        return True

    # Trainings and evaluations

    def create_training(
        self, training: str, run: str, base: str, data_hash: str, settings: dict[str, Any], plan: dict[str, Any]
    ) -> None:
        """Write a training down; one that is there already keeps its curve, and takes the plan for what is left."""
        with self.transaction() as connection:
            connection.execute(
                "INSERT INTO trainings (id, run, base, status, adapter, data_hash, settings, result, started_at,"
                " updated_at, plan) VALUES (?,?,?,'created','',?,?,'{}',?,?,?)"
                " ON CONFLICT (id) DO UPDATE SET plan = excluded.plan",
                (training, run, base, data_hash, canonical_json(settings), now(), now(), canonical_json(plan)),
            )

    def add_training_event(self, training: str, kind: str, step: int, event: dict[str, Any]) -> None:
        with self.transaction() as connection:
            connection.execute(
                "INSERT INTO training_events (training, kind, step, event, at) VALUES (?,?,?,?,?)",
                (training, kind, step, canonical_json(event), now()),
            )

    def finish_training(
        self, training: str, status: str, adapter: str, result: dict[str, Any], message: str = "", seconds: float = 0.0
    ) -> None:
        """How a process's work on a training ended; `seconds` are added to what it has taken so far."""
        with self.transaction() as connection:
            connection.execute(
                "UPDATE trainings SET status = ?, adapter = ?, result = ?, message = ?, seconds = seconds + ?,"
                " updated_at = ? WHERE id = ?",
                (status, adapter, canonical_json(result), message, seconds, now(), training),
            )

    def start_evaluation(
        self, evaluation: str, model: str, adapter: str, data: str, split: str, settings: dict[str, Any]
    ) -> None:
        """Write an evaluation down; one that is there already stays as it is: its id is the hash of what decides it."""
        with self.transaction() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO evaluations (id, model, adapter, data, split, status, settings, result,"
                " started_at, updated_at) VALUES (?,?,?,?,?,'created',?,'{}',?,?)",
                (evaluation, model, adapter, data, split, canonical_json(settings), now(), now()),
            )

    def add_evaluation_item(
        self, evaluation: str, repeat: int, item: str, call: int, reading: str, verdict: str, soft: str = ""
    ) -> None:
        with self.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO evaluation_items VALUES (?,?,?,?,?,?,?)",
                (evaluation, repeat, item, call, reading, verdict, soft),
            )

    def finish_evaluation(self, evaluation: str, status: str, result: dict[str, Any]) -> None:
        with self.transaction() as connection:
            connection.execute(
                "UPDATE evaluations SET status = ?, result = ?, updated_at = ? WHERE id = ?",
                (status, canonical_json(result), now(), evaluation),
            )

    # Jobs

    def start_job(self, kind: str, subject: str, pid: int, boot: str, table: Table | None = None) -> int:
        """Record a process that works on `subject`; `boot` tells this start of the machine from others. With `table`,
        the subject's row there is running from the same moment: whoever sees the one sees the other.
        """
        with self.transaction() as connection:
            row = connection.execute(
                "INSERT INTO jobs (kind, subject, pid, boot, state, message, started_at, heartbeat_at, began_s, beat_s)"
                " VALUES (?,?,?,?,'running','',?,?,?,?)",
                (kind, subject, pid, boot, now(), now(), time.monotonic(), time.monotonic()),
            ).lastrowid
            if table is not None:
                self._set_status(connection, table, subject, "running", "", 0.0)
        assert row is not None
        return row

    def beat(self, job: int) -> None:
        """The job's process is alive and not stuck."""
        with self.transaction() as connection:
            connection.execute(
                "UPDATE jobs SET heartbeat_at = ?, beat_s = ? WHERE id = ?", (now(), time.monotonic(), job)
            )

    def bury_jobs(self, kind: str, table: Table, subject: str) -> None:
        """Close the jobs of processes that were killed, and count what they worked up to their last beat. For whoever
        holds the subject's lock: only then is it known that they are gone."""
        dead = "kind = ? AND subject = ? AND state = 'running'"
        with self.transaction() as connection:
            connection.execute(
                f"UPDATE {table} SET seconds = seconds"
                f" + (SELECT coalesce(sum(beat_s - began_s), 0.0) FROM jobs WHERE {dead}) WHERE id = ?",
                (kind, subject, subject),
            )
            connection.execute(f"UPDATE jobs SET state = 'interrupted' WHERE {dead}", (kind, subject))

    def wish(self, job: int, wish: str) -> None:
        """Ask something of the process that holds `job`; it looks a few times a second."""
        with self.transaction() as connection:
            connection.execute("UPDATE jobs SET wish = ? WHERE id = ?", (wish, job))

    def reconfigure_run(self, run: str, config: dict[str, Any]) -> None:
        """Write a run's configuration with other values of what may change while it is played."""
        with self.transaction() as connection:
            connection.execute(
                "UPDATE runs SET config = ?, config_hash = ?, target = ?, max_turns = ?, updated_at = ? WHERE id = ?",
                (canonical_json(config), digest(config), config["target"], config["max_turns"], now(), run),
            )

    def finish_job(self, job: int, state: str, message: str = "") -> None:
        with self.transaction() as connection:
            connection.execute(
                "UPDATE jobs SET state = ?, message = ?, heartbeat_at = ?, beat_s = ? WHERE id = ?",
                (state, redact(message), now(), time.monotonic(), job),
            )

    # Experiments

    def create_experiment(self, experiment: str, name: str, scale: str, plan: dict[str, Any]) -> None:
        """Write an experiment down with its cells; one that is there already stays as it is."""
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
        """How far a cell is, and what came of it."""
        with self.transaction() as connection:
            connection.execute(
                "UPDATE cells SET status = ?, message = ?, result = ?, at = ? WHERE experiment = ? AND id = ?",
                (status, redact(message), canonical_json(result or {}), now(), experiment, cell),
            )

    # Rounds

    def start_series(self, series: str, settings: dict[str, Any]) -> None:
        with self.transaction() as connection:
            connection.execute(
                "INSERT INTO series VALUES (?,'created','',?,0.0,?,?)", (series, canonical_json(settings), now(), now())
            )

    def start_round(self, series: str, number: int, run: str) -> None:
        """Write a round down before anything of it is done; one that is there already stays as it is."""
        with self.transaction() as connection:
            connection.execute("INSERT OR IGNORE INTO rounds VALUES (?,?,?,'','','{}',?)", (series, number, run, now()))

    def set_round_adapter(self, series: str, number: int, adapter: str) -> None:
        with self.transaction() as connection:
            connection.execute(
                "UPDATE rounds SET adapter = ?, at = ? WHERE series = ? AND number = ?",
                (adapter, now(), series, number),
            )

    def finish_round(self, series: str, number: int, evaluation: str, result: dict[str, Any]) -> None:
        with self.transaction() as connection:
            connection.execute(
                "UPDATE rounds SET evaluation = ?, result = ?, at = ? WHERE series = ? AND number = ?",
                (evaluation, canonical_json(result), now(), series, number),
            )
