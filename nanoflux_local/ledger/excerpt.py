"""An excerpt: a ledger with only some runs, adapters, evaluations and benchmarks, and everything needed to verify and
replay the runs.

It is a checked backup from which all other rows are deleted; the ledger itself is only read. Jobs, series and
experiments are left out, since they concern only the computer that ran them.
"""

import sqlite3
from collections.abc import Collection
from contextlib import closing
from dataclasses import dataclass, fields
from pathlib import Path

from nanoflux_local.ledger.backup import back_up
from nanoflux_local.ledger.store import translate_sqlite_errors

_SEED_DATASETS = """SELECT dataset FROM items WHERE id IN (
    SELECT seed.value FROM turns, json_each(iif(json_valid(turns.record), turns.record, '{}'), '$.attempts') AS attempt,
    json_each(attempt.value, '$.seeds') AS seed)"""
"""The datasets whose items served as seeds."""
_HELD_OUT_DATASETS = "SELECT held.value FROM runs, json_each(runs.config, '$.held_out') AS held"
"""The datasets of held-out items."""
_KEPT_TRAININGS = "SELECT id FROM trainings WHERE run IN wanted_runs OR adapter IN wanted_adapters"
_KEPT_EVALUATIONS = """SELECT name AS id FROM wanted_evaluations UNION
    SELECT id FROM evaluations WHERE adapter IN adapters UNION
    SELECT base.id FROM evaluations AS base JOIN evaluations AS tuned USING (model, data, split, settings)
    WHERE base.adapter = '' AND tuned.adapter IN adapters"""
"""The wanted evaluations, those of the kept adapters, and those of the base model with the same items and settings."""
DELETIONS = f"""
DELETE FROM turn_calls WHERE turn IN (SELECT id FROM turns WHERE run NOT IN wanted_runs);
DELETE FROM turns WHERE run NOT IN wanted_runs;
DELETE FROM examples WHERE run NOT IN wanted_runs;
DELETE FROM faults WHERE run NOT IN wanted_runs;
DELETE FROM trials WHERE run NOT IN wanted_runs;
DELETE FROM reviews WHERE run NOT IN wanted_runs;
DELETE FROM pinned WHERE run NOT IN wanted_runs;
DELETE FROM runs WHERE id NOT IN wanted_runs;
DELETE FROM notes WHERE kind = 'run' AND subject NOT IN wanted_runs;
DELETE FROM training_events WHERE training NOT IN ({_KEPT_TRAININGS});
DELETE FROM trainings WHERE id NOT IN ({_KEPT_TRAININGS});
DELETE FROM notes WHERE kind = 'training' AND subject NOT IN (SELECT id FROM trainings);
CREATE TEMP TABLE adapters AS SELECT adapter FROM trainings WHERE adapter != '' UNION SELECT name FROM wanted_adapters;
CREATE TEMP TABLE kept_evaluations AS {_KEPT_EVALUATIONS};
DELETE FROM evaluation_items WHERE evaluation NOT IN kept_evaluations;
DELETE FROM evaluations WHERE id NOT IN kept_evaluations;
CREATE TEMP TABLE kept_calls AS SELECT id FROM calls WHERE run IN wanted_runs
    UNION SELECT call FROM turn_calls UNION SELECT call FROM evaluation_items;
DELETE FROM packs WHERE call NOT IN kept_calls;
DELETE FROM calls WHERE id NOT IN kept_calls;
DELETE FROM dictionaries WHERE id NOT IN (SELECT dictionary FROM packs);
CREATE TEMP TABLE kept_datasets AS SELECT name FROM wanted_datasets UNION {_SEED_DATASETS}
    UNION SELECT data FROM evaluations UNION {_HELD_OUT_DATASETS} UNION SELECT version FROM pinned;
DELETE FROM items WHERE dataset NOT IN kept_datasets;
DELETE FROM dataset_files WHERE dataset NOT IN kept_datasets;
DELETE FROM datasets WHERE name NOT IN kept_datasets;
DELETE FROM rounds;
DELETE FROM series;
DELETE FROM cells;
DELETE FROM experiments;
DELETE FROM jobs;
"""
"""The script that deletes everything outside the excerpt. `_delete_unwanted` creates the `wanted_` tables that it
reads.
"""


@dataclass(frozen=True, slots=True)
class ExcerptContents:
    """What an excerpt contains: runs and evaluations by id, adapters by hash (with their training runs and
    evaluations), and datasets by name.
    """

    runs: Collection[str] = ()
    datasets: Collection[str] = ()
    adapters: Collection[str] = ()
    evaluations: Collection[str] = ()


def write_excerpt(ledger: Path, target: Path, wanted: ExcerptContents) -> None:
    """Write the part of `ledger` that `wanted` describes as a new ledger, `target`.

    Raises:
        RefusedError: `target` exists.
        LedgerError: the excerpt could not be written.
    """
    back_up(ledger, target)
    try:
        with translate_sqlite_errors(target), closing(sqlite3.connect(target, isolation_level=None)) as copy:
            _delete_unwanted(copy, wanted)
    except BaseException:
        target.unlink(missing_ok=True)  # the file may still contain rows that must not be shared
        raise


def _delete_unwanted(copy: sqlite3.Connection, wanted: ExcerptContents) -> None:
    """Delete all rows that `wanted` does not need, and shrink the file."""
    copy.execute("PRAGMA temp_store = MEMORY")
    for field in fields(wanted):
        copy.execute(f"CREATE TEMP TABLE wanted_{field.name} (name TEXT PRIMARY KEY)")
        name_rows = {(name,) for name in getattr(wanted, field.name)}
        copy.executemany(f"INSERT INTO wanted_{field.name} VALUES (?)", name_rows)
    copy.executescript(DELETIONS)
    copy.execute("VACUUM")  # removes the deleted rows from the file itself
