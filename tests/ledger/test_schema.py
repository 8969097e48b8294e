"""The schema, pinned: a released migration is never edited, and a new one changes `schema.sql` on purpose."""

import sqlite3
from pathlib import Path

from nanoflux_local.ledger.schema import migrations
from nanoflux_local.ledger.store import Ledger

PINNED = Path(__file__).with_name("schema.sql")
RELEASED = [
    "m001_calls",
    "m002_runs",
    "m003_data",
    "m004_training_and_evaluation",
    "m005_jobs",
    "m012_control",
    "m014_faults",
    "m017_trainings",
    "m016_rounds",
]


def schema(path: Path) -> str:
    """Every CREATE statement of a ledger, whatever its white space."""
    with sqlite3.connect(path) as connection:
        rows = connection.execute(
            "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY tbl_name, type DESC, name"
        )
        return "\n".join(" ".join(sql.split()) + ";" for (sql,) in rows) + "\n"


def test_the_tables_and_indexes_are_the_pinned_ones(ledger: Ledger, path: Path) -> None:
    assert schema(path) == PINNED.read_text()


def test_the_migrations_are_applied_in_their_released_order(ledger: Ledger, path: Path) -> None:
    with sqlite3.connect(path) as connection:
        applied = [name for (name,) in connection.execute("SELECT name FROM _sqlite_migrations ORDER BY id")]
    assert applied == [migration.name for migration in migrations._migrations] == RELEASED


def test_opening_again_changes_nothing(ledger: Ledger, path: Path) -> None:
    ledger.close()
    before = path.read_bytes()
    Ledger(path).close()
    assert path.read_bytes() == before
