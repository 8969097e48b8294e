"""Merging: adds the runs, training runs and evaluations of another ledger to this one, and overwrites nothing.

Calls are identified by the hashes of their requests, everything else by its id and its content. Rows that exist in both
ledgers are not changed. A run, training or evaluation of the other ledger that differs from the one with the same id in
this ledger is a conflict: it is left out and reported.
"""

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from nanoflux_local.ledger.datasets import find_free_name
from nanoflux_local.ledger.packing import CALLS, WITH_KEY
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.quantities import format_quantity

COST_KEYS = ("seconds", "usd", "wall_s")
"""The keys of a reply that may differ when the same request is answered twice."""
COUNT_FRESH = """
UPDATE turns SET fresh = (
    SELECT count(DISTINCT calls.id) FROM turn_calls CROSS JOIN calls ON calls.id = turn_calls.call
    WHERE turn_calls.turn = turns.id AND calls.run = turns.run AND NOT EXISTS (
        SELECT 1 FROM turn_calls AS others CROSS JOIN turns AS earlier ON earlier.id = others.turn
        WHERE others.call = calls.id AND earlier.run = turns.run AND earlier.number < turns.number
    )
) WHERE run = ?
"""
"""Counts for each turn the calls that its run made and first used in it (the column `fresh`)."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """A run, training or evaluation of the other ledger that was left out, and why."""

    kind: str
    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}: {self.reason}"


@dataclass(slots=True)
class MergeResult:
    """The result of a merge: the names of what was added and of what was already present, by kind ("run", "adapter",
    …), and the conflicts. A review is named by its run and turn.
    """

    added: dict[str, list[str]] = field(default_factory=dict)
    present: dict[str, list[str]] = field(default_factory=dict)
    conflicts: list[Conflict] = field(default_factory=list)

    def record(self, kind: str, name: str, added: bool) -> None:
        """Record the name of something that was added or, if not `added`, that was already present."""
        names_by_kind = self.added if added else self.present
        names_by_kind.setdefault(kind, []).append(name)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class _DifferenceError(Exception):
    """A run, training or evaluation differs from the one with the same id in this ledger; the message states the
    difference.
    """


def merge_rows(connection: sqlite3.Connection, source: LedgerView, result: MergeResult) -> None:
    """Add everything that `source` has and this ledger lacks, and record the outcome in `result`. `connection` is the
    connection of this ledger's writer, inside a transaction.
    """
    merger = _Merger(connection, source, result)
    merger.add_datasets()
    merger.add_each("run", "runs", merger.add_run)
    merger.add_each("training", "trainings", merger.add_training)
    merger.add_each("evaluation", "evaluations", merger.add_evaluation)
    merger.add_reviews()
    merger.add_notes()


class _Merger:
    """One merge. `_names_here` maps the name of each dataset in the source to its name in this ledger; `_insertions`
    caches the INSERT statement of each table.
    """

    def __init__(self, connection: sqlite3.Connection, source: LedgerView, result: MergeResult) -> None:
        self._connection = connection
        self._source = source
        self._result = result
        self._names_here: dict[str, str] = {}
        self._insertions: dict[str, str] = {}

    def add_each(self, kind: str, table: str, add: Callable[[Mapping[str, Any]], bool]) -> None:
        """Call `add`, which returns whether it added anything, with each row of a table, in order. A row that differs
        from this ledger's row with the same id is left out with everything that belongs to it, and recorded as a
        conflict.
        """
        for row in list(self._source.rows(f"SELECT * FROM {table} ORDER BY rowid")):
            try:
                with _savepoint(self._connection):
                    added = add(dict(row))
            except _DifferenceError as difference:
                self._result.conflicts.append(Conflict(kind, row["id"], str(difference)))
            else:
                self._result.record(kind, row["id"], added)

    # Datasets

    def add_datasets(self) -> None:
        """Add the datasets. If a dataset in this ledger has the same name but different items, the source's dataset is
        added as a version, like a replaced dataset.
        """
        for row in self._source.rows("SELECT * FROM datasets ORDER BY rowid"):
            name = row["name"]
            items = _list_items(self._source.rows, name)
            existing_name = self._find_dataset(name, items)
            name_here = existing_name if existing_name else self._name_dataset(name, row["source_hash"])
            self._names_here[name] = name_here
            if not existing_name:
                self._copy("datasets", [{**dict(row), "name": name_here}])
                for table in ("items", "dataset_files"):
                    item_rows = self._source.rows(f"SELECT * FROM {table} WHERE dataset = ?", name)
                    self._copy(table, ({**dict(item_row), "dataset": name_here} for item_row in item_rows))
            self._result.record("dataset", name_here, added=not existing_name)

    def _find_dataset(self, name: str, items: list[tuple[Any, ...]]) -> str:
        """The dataset in this ledger with these items, which is `name` or a version of it; "" if there is none."""
        original = name.partition("@")[0]
        names = self._rows(
            "SELECT name FROM datasets WHERE name = ? OR substr(name, 1, ?) = ? ORDER BY name",
            original,
            len(original) + 1,
            f"{original}@",
        )
        for (version,) in names:
            if _list_items(self._rows, version) == items:
                return str(version)
        return ""

    def _name_dataset(self, name: str, source_hash: str) -> str:
        """The name under which to add a dataset: its name in the source, or a version's name if that is taken."""
        if not self._rows("SELECT 1 FROM datasets WHERE name = ?", name):
            return name
        original = name.partition("@")[0]
        return find_free_name(self._connection, f"{original}@{source_hash[:8]}")

    # Runs

    def add_run(self, run: Mapping[str, Any]) -> bool:
        """Add a run with its turns, calls, examples, faults and trial."""
        run_id = run["id"]
        rows_here = self._rows("SELECT config_hash FROM runs WHERE id = ?", run_id)
        if rows_here:
            (config_hash_here,) = rows_here[0]
            self._compare_runs(run, config_hash_here)
            return False
        self._copy("runs", [run])
        call_ids, reused = self._add_calls(
            run_id, "SELECT call FROM turn_calls JOIN turns ON turns.id = turn_calls.turn WHERE run = ?1"
        )
        for turn in self._source.rows("SELECT * FROM turns WHERE run = ? ORDER BY number", run_id):
            new_turn_id = self._insert("turns", {**dict(turn), "id": None})
            used_calls = self._source.rows("SELECT position, call FROM turn_calls WHERE turn = ?", turn["id"])
            self._copy("turn_calls", ({"turn": new_turn_id, "position": position, "call": call_ids[call]}
                                      for position, call in used_calls))  # fmt: skip
        if reused:  # the reused calls belong to other runs, so this run's turns must not count them
            self._connection.execute(COUNT_FRESH, (run_id,))
        for table in ("examples", "trials"):
            rows = self._source.rows(f"SELECT * FROM {table} WHERE run = ?", run_id)
            self._copy(table, (dict(row) for row in rows))
        faults = self._source.rows("SELECT * FROM faults WHERE run = ?", run_id)
        self._copy("faults", ({**dict(fault), "id": None} for fault in faults))  # faults get new ids here
        self._pin(run_id)
        return True

    def _compare_runs(self, run: Mapping[str, Any], config_hash_here: str) -> None:
        """Raise _DifferenceError if a run differs in more than its status from this ledger's run with the same id."""
        if run["config_hash"] != config_hash_here:
            raise _DifferenceError("this home has a run with the same id but different settings")
        query = "SELECT number, record_hash FROM turns WHERE run = ? ORDER BY number"
        source_turns = [tuple(row) for row in self._source.rows(query, run["id"])]
        turns_here = self._rows(query, run["id"])
        if source_turns != turns_here:
            verb = "differs" if len(source_turns) == 1 else "differ"
            raise _DifferenceError(
                f"its {format_quantity(len(source_turns), 'turn')} {verb} from the "
                f"{format_quantity(len(turns_here), 'turn')} in this home"
            )

    def _pin(self, run: str) -> None:
        """Pin a new run to the versions of its datasets that were added under another name, and to the versions to
        which it was pinned in the source.
        """
        pinned = {
            name: name_here for name, name_here in self._names_here.items() if name_here != name and "@" not in name
        }
        source_pins = self._source.rows("SELECT dataset, version FROM pinned WHERE run = ?", run)
        pinned |= {name: self._names_here.get(version, version) for name, version in source_pins}
        self._copy("pinned", ({"run": run, "dataset": name, "version": version} for name, version in pinned.items()))

    def add_reviews(self) -> None:
        """Add the reviews that this ledger lacks, including those of runs that it already had."""
        columns = ("run", "turn", "attempt", "reviewer", "verdict", "note", "blind", "at")
        reviews_here = set(self._rows(f"SELECT {', '.join(columns)} FROM reviews"))
        runs = {*self._result.added.get("run", ()), *self._result.present.get("run", ())}
        for row in self._source.rows(f"SELECT {', '.join(columns)} FROM reviews ORDER BY id"):
            if row["run"] in runs:
                added = tuple(row) not in reviews_here
                if added:
                    self._copy("reviews", [dict(row)])
                self._result.record("review", f"{row['run']} turn {row['turn']}", added)

    def add_notes(self) -> None:
        """Add the notes that this ledger lacks, if their run or training was added or already present."""
        columns = "kind, subject, note, at"
        notes_here = set(self._rows(f"SELECT {columns} FROM notes"))
        for row in self._source.rows(f"SELECT {columns} FROM notes ORDER BY id"):
            subjects = {*self._result.added.get(row["kind"], ()), *self._result.present.get(row["kind"], ())}
            if row["subject"] in subjects:
                added = tuple(row) not in notes_here
                if added:
                    self._copy("notes", [dict(row)])
                self._result.record("note", f"{row['kind']} {row['subject']}", added)

    # Training runs and evaluations

    def add_training(self, training: Mapping[str, Any]) -> bool:
        """Add a training run with its events. An equal training run with the same id is not changed."""
        keys = ("run", "base", "adapter", "data_hash", "settings")
        rows_here = self._rows(f"SELECT {', '.join(keys)} FROM trainings WHERE id = ?", training["id"])
        if rows_here:
            differences = [key for key, value in zip(keys, rows_here[0], strict=True) if value != training[key]]
            if differences:
                raise _DifferenceError(
                    f"this home has a training run with the same id but a different {', '.join(differences)}"
                )
            return False
        self._copy("trainings", [training])
        events = self._source.rows("SELECT * FROM training_events WHERE training = ? ORDER BY id", training["id"])
        self._copy("training_events", ({**dict(event), "id": None} for event in events))
        return True

    def add_evaluation(self, evaluation: Mapping[str, Any]) -> bool:
        """Add an evaluation with its items and calls."""
        evaluation_id = evaluation["id"]
        marks_query = "SELECT repeat, item, reading, verdict, soft FROM evaluation_items WHERE evaluation = ?"
        if self._rows("SELECT 1 FROM evaluations WHERE id = ?", evaluation_id):
            source_marks = {tuple(row) for row in self._source.rows(marks_query, evaluation_id)}
            marks_here = set(self._rows(marks_query, evaluation_id))
            if source_marks != marks_here:
                count = len({row[:2] for row in source_marks ^ marks_here})
                verb = "differs" if count == 1 else "differ"
                raise _DifferenceError(f"{count} of its marks {verb} from those in this home")
            return False
        self._copy("evaluations", [evaluation])
        call_ids, _ = self._add_calls(evaluation_id, "SELECT call FROM evaluation_items WHERE evaluation = ?1")
        items = self._source.rows("SELECT * FROM evaluation_items WHERE evaluation = ?", evaluation_id)
        self._copy("evaluation_items", ({**dict(item), "call": call_ids[item["call"]]} for item in items))
        return True

    # Calls

    def _add_calls(self, owner: str, used_calls_sql: str) -> tuple[dict[int, int], bool]:
        """Add the calls made for a run or evaluation, the `owner`, and the calls that the owner uses, which
        `used_calls_sql` selects. Returns the calls' ids in this ledger by their ids in the source, and whether this
        ledger already had some of them.

        Raises:
            _DifferenceError: a call that the owner uses has a different reply in this ledger.
        """
        used_calls = {row[0] for row in self._source.rows(used_calls_sql, owner)}
        call_ids: dict[int, int] = {}
        reused = False
        differences = 0
        condition = f"run = ?1 OR id IN ({used_calls_sql})"
        for row in self._source.rows(f"SELECT * FROM {CALLS} WHERE {condition} ORDER BY id", owner):
            rows_here = self._rows(f"SELECT id, reply FROM {CALLS} WHERE {WITH_KEY}", row["key"])
            if rows_here:
                id_here, reply_here = rows_here[0]
                call_ids[row["id"]] = id_here
                reused = True
                if row["id"] in used_calls and _remove_costs(row["reply"]) != _remove_costs(reply_here):
                    differences += 1
            else:
                call_ids[row["id"]] = self._insert("calls", {**dict(row), "id": None})
        if differences:
            predicate = "has a different reply" if differences == 1 else "have different replies"
            raise _DifferenceError(f"{differences} of its calls {predicate} in this home")
        return call_ids, reused

    # Rows

    def _rows(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """The rows of a query on this ledger."""
        return self._connection.execute(sql, values).fetchall()

    def _insert(self, table: str, row: Mapping[str, Any]) -> int:
        """Insert a row and return its id."""
        row_id = self._connection.execute(self._build_insertion(table), row).lastrowid
        assert row_id is not None
        return row_id

    def _copy(self, table: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Insert rows of the source. Rows without an id, or with the id None, get a new id."""
        self._connection.executemany(self._build_insertion(table), ({"id": None, **row} for row in rows))

    def _build_insertion(self, table: str) -> str:
        """The statement that inserts a row into a table. `PRAGMA table_info` does not list generated columns, which
        cannot be inserted.
        """
        if table not in self._insertions:
            names = [row[1] for row in self._rows(f"PRAGMA table_info({table})")]
            placeholders = ", ".join(f":{name}" for name in names)
            self._insertions[table] = f"INSERT INTO {table} ({', '.join(names)}) VALUES ({placeholders})"
        return self._insertions[table]


def _list_items(rows: Callable[..., Iterable[Any]], dataset: str) -> list[tuple[Any, ...]]:
    """The items of a dataset in order, each as (id, split, hash)."""
    sql = "SELECT id, split, record_hash FROM items WHERE dataset = ? ORDER BY position"
    return [tuple(row) for row in rows(sql, dataset)]


def _remove_costs(reply: str) -> Any:
    """The parsed reply without the keys in `COST_KEYS`; the unchanged text if it is not JSON."""
    try:
        reply_json = json.loads(reply)
    except ValueError:
        return reply
    return {key: value for key, value in reply_json.items() if key not in COST_KEYS}


@contextmanager
def _savepoint(connection: sqlite3.Connection) -> Iterator[None]:
    """A savepoint of the transaction: if the block raises an error, the rows that it wrote are rolled back."""
    connection.execute("SAVEPOINT part")
    try:
        yield
    except BaseException:
        if connection.in_transaction:  # SQLite itself rolls back when the disk is full
            connection.execute("ROLLBACK TO part")
            connection.execute("RELEASE part")
        raise
    connection.execute("RELEASE part")
