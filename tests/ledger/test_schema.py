"""Released migrations keep their order, and the schema that all migrations create equals the pinned `schema.sql`."""

import sqlite3
from pathlib import Path

from nanoflux_local.ledger.schema import migrations
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.ledger.views import LedgerView

PINNED_SCHEMA = Path(__file__).with_name("schema.sql")
RELEASED_MIGRATIONS = [
    "m001_calls",
    "m002_runs",
    "m003_data",
    "m004_training_and_evaluation",
    "m005_jobs",
    "m012_control",
    "m014_faults",
    "m017_trainings",
    "m016_rounds",
    "m015_size",
    "m008_experiments",
    "m018_judged",
    "m019_evaluations",
    "m020_short_keys",
    "m021_reasoning",
    "m022_dataset_files",
    "m023_pass_rates",
    "m024_notes",
]
"""The names of all released migrations, in the order in which they are applied."""


def read_schema(path: Path) -> str:
    """Every CREATE statement of a ledger, one per line, with normalized white space."""
    with sqlite3.connect(path) as connection:
        rows = connection.execute(
            "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY tbl_name, type DESC, name"
        )
        return "\n".join(" ".join(sql.split()) + ";" for (sql,) in rows) + "\n"


def test_schema_equals_the_pinned_schema(ledger: Ledger, path: Path) -> None:
    assert read_schema(path) == PINNED_SCHEMA.read_text()


def test_migrations_are_applied_in_their_released_order(ledger: Ledger, path: Path) -> None:
    with sqlite3.connect(path) as connection:
        applied_names = [name for (name,) in connection.execute("SELECT name FROM _sqlite_migrations ORDER BY id")]
    assert applied_names == [migration.name for migration in migrations._migrations] == RELEASED_MIGRATIONS


def test_reopening_a_ledger_changes_nothing(ledger: Ledger, path: Path) -> None:
    ledger.close()
    bytes_before = path.read_bytes()
    Ledger(path).close()
    assert path.read_bytes() == bytes_before


def test_migration_counts_the_calls_of_older_turns(run_copy) -> None:
    """The test removes everything that `m015_size` added, damages the record of one turn, and applies the migration
    again.
    """
    columns = ("attempts", "uses", "fresh")
    with LedgerView(run_copy.path) as view:
        summary = view.summarize_run("tour").to_json()
        counts_before = [tuple(row) for row in view.rows(f"SELECT {', '.join(columns)} FROM turns ORDER BY number")]
    with sqlite3.connect(run_copy.path) as connection:
        for index in ("turns_tally", "turn_calls_call"):
            connection.execute(f"DROP INDEX {index}")
        for column in columns:
            connection.execute(f"ALTER TABLE turns DROP COLUMN {column}")
        connection.execute("ALTER TABLE runs DROP COLUMN environment_hash")
        for table in ("packs", "dictionaries"):
            connection.execute(f"DROP TABLE {table}")
        connection.execute("DELETE FROM _sqlite_migrations WHERE name = 'm015_size'")
        damaged_turns = connection.execute(
            "UPDATE turns SET record = substr(record, 2) WHERE number = 3 RETURNING number"
        )
        assert damaged_turns.fetchall() == [(3,)]
    connection.close()
    with LedgerView(run_copy.path) as view:
        counts_after = [tuple(row) for row in view.rows(f"SELECT {', '.join(columns)} FROM turns ORDER BY number")]
        expected_counts = list(counts_before)
        expected_counts[3] = ("", *counts_before[3][1:])  # the outcomes in a damaged record cannot be read
        assert counts_after == expected_counts
        assert view.summarize_run("tour").to_json()["calls"] == summary["calls"]
    assert min(uses for _, uses, _ in counts_before) > 0
    assert len({fresh for _, _, fresh in counts_before}) > 1
