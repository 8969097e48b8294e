"""Compaction: compress the texts of calls (`packing`) in short transactions, then optionally shrink the file.

Each transaction packs whole calls, so every call stays readable if the process is killed at any moment; the next
compaction packs the rest. No text and no hash changes: stored bytes that are not valid UTF-8 (a damaged ledger) are
packed byte for byte.
"""

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nanoflux_local.errors import RefusedError
from nanoflux_local.ledger.packing import NO_DICTIONARY, Packer, read_stored_dictionary, train_packing_dictionary
from nanoflux_local.ledger.store import Ledger, now

CALLS_PER_BATCH = 1000
"""The number of calls packed in one transaction. A transaction of this size delays a run's writes by tens of
milliseconds.
"""
DICTIONARY_SAMPLES = 2000
"""The number of calls that a dictionary is trained on."""
MIN_CALLS_FOR_DICTIONARY = 1000
"""The minimum number of unpacked calls for which a new dictionary is trained."""

UNPACKED = "NOT EXISTS (SELECT 1 FROM packs WHERE packs.call = calls.id)"
"""A condition for a WHERE clause that selects the calls that are not packed."""


@dataclass(frozen=True, slots=True)
class Compaction:
    """The result of a compaction: the number of packed calls, the bytes of their texts and of the ledger's files before
    and after, and whether the file was rebuilt.
    """

    packed: int
    texts_before: int
    texts_after: int
    bytes_before: int
    bytes_after: int
    shrunk: bool


def compact(
    path: Path, shrink: bool = True, on_progress: Callable[[int, int], None] = lambda _done, _total: None
) -> Compaction:
    """Pack every unpacked call. If `shrink` is true, rebuild the file afterwards, so that the freed space is returned
    to the file system.

    Raises:
        RefusedError: another process is compacting the ledger.
        LedgerError: the disk is full, or the ledger stays locked; calls packed so far stay packed.
    """
    with hold_compaction_lock(path), Ledger(path) as ledger:
        bytes_before = measure_file_bytes(path)
        total = ledger.rows("SELECT (SELECT count(*) FROM calls) - (SELECT count(*) FROM packs)")[0][0]
        last_id = ledger.rows("SELECT coalesce(max(id), 0) FROM calls")[0][0]
        dictionary_id = _choose_dictionary(ledger, total)
        packer = Packer(read_stored_dictionary(ledger.connection, dictionary_id))
        packed = texts_before = texts_after = 0
        for batch in _read_unpacked(ledger, last_id):
            batch_before, batch_after = _pack_batch(ledger, packer, dictionary_id, batch)
            packed += len(batch)
            texts_before += batch_before
            texts_after += batch_after
            on_progress(packed, total)
        if shrink:
            ledger.shrink()
        return Compaction(packed, texts_before, texts_after, bytes_before, measure_file_bytes(path), shrink)


def measure_file_bytes(path: Path) -> int:
    """The size of the ledger's file and its write-ahead log."""
    files = (path, path.with_name(path.name + "-wal"))
    return sum(file.stat().st_size for file in files if file.exists())


@contextmanager
def hold_compaction_lock(path: Path) -> Iterator[None]:
    """Hold the lock that allows one compaction of a ledger at a time.

    Raises:
        RefusedError: another process holds the lock.
    """
    with path.with_suffix(".compact").open("w") as lock_file:
        try:
            fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RefusedError("another process is compacting this ledger", "wait for it to end") from None
        yield


def _choose_dictionary(ledger: Ledger, unpacked: int) -> int:
    """Train a new dictionary if at least `MIN_CALLS_FOR_DICTIONARY` calls are unpacked. Returns the id of the newest
    dictionary, which is the one to pack with, or `NO_DICTIONARY` if there is none.
    """
    if unpacked >= MIN_CALLS_FOR_DICTIONARY:
        sampling_interval = max(1, unpacked // DICTIONARY_SAMPLES)
        rows = ledger.rows(
            f"SELECT CAST(request AS BLOB), CAST(reply AS BLOB) FROM calls WHERE id % ? = 0 AND {UNPACKED}"
            " ORDER BY id DESC LIMIT ?",
            sampling_interval,
            DICTIONARY_SAMPLES,
        )
        content = train_packing_dictionary(text for row in rows for text in row)
        if content is not None:
            with ledger.transaction() as connection:
                connection.execute("INSERT INTO dictionaries (content, at) VALUES (?,?)", (content, now()))
    newest_id = ledger.rows("SELECT coalesce(max(id), ?) FROM dictionaries", NO_DICTIONARY)[0][0]
    return int(newest_id)


def _read_unpacked(ledger: Ledger, last_id: int) -> Iterator[list[tuple[int, bytes, bytes]]]:
    """The unpacked calls up to `last_id`, in batches of (id, request, reply)."""
    previous_id = 0
    while True:
        batch = ledger.rows(
            "SELECT id, CAST(request AS BLOB), CAST(reply AS BLOB) FROM calls"
            f" WHERE id > ? AND id <= ? AND {UNPACKED} ORDER BY id LIMIT ?",
            previous_id,
            last_id,
            CALLS_PER_BATCH,
        )
        if not batch:
            return
        yield batch
        previous_id = batch[-1][0]


def _pack_batch(
    ledger: Ledger, packer: Packer, dictionary_id: int, batch: list[tuple[int, bytes, bytes]]
) -> tuple[int, int]:
    """Pack the calls of a batch, all or none. Returns the bytes of its texts before and after."""
    packs = [(call_id, dictionary_id, packer.pack(request), packer.pack(reply)) for call_id, request, reply in batch]
    with ledger.transaction() as connection:
        connection.executemany("INSERT INTO packs (call, dictionary, request, reply) VALUES (?,?,?,?)", packs)
        connection.executemany(
            "UPDATE calls SET request = '', reply = '' WHERE id = ?", [(call_id,) for call_id, _, _ in batch]
        )
    return (
        sum(len(request) + len(reply) for _, request, reply in batch),
        sum(len(request) + len(reply) for _, _, request, reply in packs),
    )
