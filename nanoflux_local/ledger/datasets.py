"""Datasets in a ledger: their files, their items, and the replaced versions that runs still use.

A replaced version is kept as `NAME@HASH`, and every run that exists at that time is pinned to it.
"""

import sqlite3
from collections.abc import Sequence

from nanoflux_local.errors import UsageError
from nanoflux_local.records import canonical_json, digest
from nanoflux_local.transcript import Seed

SplitItems = Sequence[tuple[Seed, str]]
"""Pairs of an item and its split."""


def has_files(connection: sqlite3.Connection, name: str, source_hash: str) -> bool:
    """Whether files with this content hash are already part of the dataset."""
    sql = "SELECT 1 FROM dataset_files WHERE dataset = ? AND source_hash = ?"
    return connection.execute(sql, (name, source_hash)).fetchone() is not None


def consists_of_files(connection: sqlite3.Connection, name: str, source_hash: str) -> bool:
    """Whether files with this content hash are the whole dataset, rather than a part of it."""
    sql = "SELECT 1 FROM datasets WHERE name = ? AND source_hash = ?"
    return connection.execute(sql, (name, source_hash)).fetchone() is not None


def refuse_clash(connection: sqlite3.Connection, name: str, items: SplitItems) -> None:
    """Raise UsageError if the dataset already has items in a split of `items`, or an item with one of their ids."""
    row = connection.execute("SELECT source FROM datasets WHERE name = ?", (name,)).fetchone()
    if row is None:
        return
    (source,) = row
    split_by_id = dict(connection.execute("SELECT id, split FROM items WHERE dataset = ?", (name,)))
    new_splits = {split for _, split in items}
    common_splits = sorted(new_splits & set(split_by_id.values()))
    duplicate_id = next((item.id for item, _ in items if item.id in split_by_id), "")
    if not (common_splits or duplicate_id):
        return
    clash = f"{' and '.join(common_splits)} items" if common_splits else f"an item {duplicate_id!r}"
    raise UsageError(
        f"the dataset {name} already has {clash}, imported from other files ({source})",
        "replace the whole dataset with --replace, or import these files under another name with --as NAME",
    )


def archive(connection: sqlite3.Connection, name: str) -> str:
    """Turn the dataset into a replaced version, and pin every existing run to that version. Returns the version's name,
    or "" if the dataset does not exist.
    """
    row = connection.execute("SELECT source_hash FROM datasets WHERE name = ?", (name,)).fetchone()
    if row is None:
        return ""
    (source_hash,) = row
    version = find_free_name(connection, f"{name}@{source_hash[:8]}")
    connection.execute(
        "INSERT INTO datasets SELECT ?, source, source_hash, items, skipped, at FROM datasets WHERE name = ?",
        (version, name),
    )
    for table in ("items", "dataset_files"):
        connection.execute(f"UPDATE {table} SET dataset = ? WHERE dataset = ?", (version, name))
    connection.execute("DELETE FROM datasets WHERE name = ?", (name,))
    connection.execute("INSERT OR IGNORE INTO pinned SELECT id, ?, ? FROM runs", (name, version))
    return version


def add_files(
    connection: sqlite3.Connection,
    name: str,
    source: str,
    source_hash: str,
    items: SplitItems,
    skipped: int,
    added_at: str,
) -> None:
    """Add the items of one import to a dataset, which is created if it does not exist. `skipped` is the number of bad
    rows that the import left out.
    """
    row = connection.execute("SELECT source, items, skipped FROM datasets WHERE name = ?", (name,)).fetchone()
    if row is None:
        values = (name, source, source_hash, len(items), skipped, added_at)
        connection.execute("INSERT INTO datasets VALUES (?,?,?,?,?,?)", values)
    connection.execute("INSERT INTO dataset_files VALUES (?,?,?)", (name, source_hash, added_at))
    if row is not None:  # the hash of an extended dataset covers all its files, including the new ones
        old_source, old_items, old_skipped = row
        hash_rows = connection.execute("SELECT source_hash FROM dataset_files WHERE dataset = ?", (name,)).fetchall()
        hash_of_all_files = digest(sorted(hash_row[0] for hash_row in hash_rows))
        connection.execute(
            "UPDATE datasets SET source = ?, source_hash = ?, items = ?, skipped = ?, at = ? WHERE name = ?",
            (f"{old_source}, {source}", hash_of_all_files, old_items + len(items), old_skipped + skipped,
             added_at, name),
        )  # fmt: skip
    (first_position,) = connection.execute(
        "SELECT coalesce(max(position) + 1, 0) FROM items WHERE dataset = ?", (name,)
    ).fetchone()
    connection.executemany(
        "INSERT INTO items VALUES (?,?,?,?,?,?)",
        [
            (name, position, item.id, split, canonical_json(item.to_json()), digest(item.to_json()))
            for position, (item, split) in enumerate(items, first_position)
        ],
    )


def find_free_name(connection: sqlite3.Connection, name: str) -> str:
    """`name`, or, if a dataset already has that name, `name-2`, `name-3` and so on."""
    names = {row[0] for row in connection.execute("SELECT name FROM datasets")}
    candidate, number = name, 1
    while candidate in names:
        number += 1
        candidate = f"{name}-{number}"
    return candidate
