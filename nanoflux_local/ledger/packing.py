"""Packed texts: the requests and replies of calls, stored compressed in a separate table and unpacked whenever they are
read.

A call's row keeps every column that is looked up, filtered or summed. Its request and reply, which make up most of a
ledger, are moved out of the pages that a run reads. Hashes are computed from the unpacked canonical JSON, so packing
changes no hash. This module defines the format; `compaction` decides which calls are packed.
"""

import sqlite3
from collections.abc import Iterable

from zstandard import ZstdCompressionDict, ZstdCompressor, ZstdDecompressor, ZstdError, train_dictionary

DICTIONARY_BYTES = 112_640
"""The size, in bytes, that zstd's authors recommend for a trained dictionary."""
COMPRESSION_LEVEL = 3
"""The level of zstd's compression, from 1 (fastest) to 22 (smallest)."""
NO_DICTIONARY = 0
"""The dictionary id of texts that were packed without a dictionary."""
CALLS = (
    "(SELECT calls.id, key, kind, model, run, role, reply_hash, prompt_tokens, completion_tokens, usd, seconds, at,"
    " reasoning_tokens,"
    " iif(packs.call IS NULL, calls.request, unpacked(packs.dictionary, packs.request)) AS request,"
    " iif(packs.call IS NULL, calls.reply, unpacked(packs.dictionary, packs.reply)) AS reply"
    " FROM calls LEFT JOIN packs ON packs.call = calls.id)"
)
"""A subquery for a FROM clause: all calls with their texts, packed or not. The connection needs the SQL function that
`add_unpack_function` defines.
"""
WITH_KEY = "substr(key, 1, 10) = substr(?1, 1, 10) AND +key = ?1"
"""A condition for a WHERE clause that selects the call with the key `?1`. The index holds the first ten digits of each
key. The plus keeps SQLite from substituting the key into the first comparison, which would then be true for every row.
"""


def add_unpack_function(connection: sqlite3.Connection) -> None:
    """Define the SQL function that `CALLS` uses."""
    unpackers: dict[int, ZstdDecompressor] = {}

    def unpack(dictionary_id: int, packed: bytes) -> str:
        try:
            if dictionary_id not in unpackers:
                dictionary = read_stored_dictionary(connection, dictionary_id)
                unpackers[dictionary_id] = ZstdDecompressor(dict_data=dictionary)
            return unpackers[dictionary_id].decompress(packed).decode("utf-8", "replace")
        except (ZstdError, LookupError, MemoryError):
            return ""  # the text is damaged on disk; "" matches no hash, so `verify` reports the call

    connection.create_function("unpacked", 2, unpack)


def read_stored_dictionary(connection: sqlite3.Connection, dictionary_id: int) -> ZstdCompressionDict | None:
    """The compression dictionary with this id; None for `NO_DICTIONARY`.

    Raises:
        LookupError: the ledger has no such dictionary.
    """
    if dictionary_id == NO_DICTIONARY:
        return None
    row = connection.execute("SELECT content FROM dictionaries WHERE id = ?", (dictionary_id,)).fetchone()
    if row is None:
        raise LookupError(f"the ledger has no dictionary {dictionary_id}")
    return ZstdCompressionDict(row[0])


def train_packing_dictionary(samples: Iterable[bytes]) -> bytes | None:
    """A compression dictionary trained on `samples`, or None if they are too few or too short."""
    try:
        return bytes(train_dictionary(DICTIONARY_BYTES, list(samples)).as_bytes())
    except ZstdError:
        return None


class Packer:
    """Packs texts with one dictionary, and checks that each packed text unpacks to the same bytes."""

    def __init__(self, dictionary: ZstdCompressionDict | None) -> None:
        self._compressor = ZstdCompressor(level=COMPRESSION_LEVEL, dict_data=dictionary)
        self._decompressor = ZstdDecompressor(dict_data=dictionary)

    def pack(self, text: bytes) -> bytes:
        """Compress a text. Raises AssertionError if it does not unpack to the same bytes."""
        packed = self._compressor.compress(text)
        if self._decompressor.decompress(packed) != text:
            raise AssertionError("a packed text unpacks differently")
        return packed
