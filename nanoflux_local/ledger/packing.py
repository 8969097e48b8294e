"""Packed texts: the requests and replies of calls, compressed in a separate table, and unpacked whenever they are read.

A call's row keeps every column that is looked up, filtered or summed. Its request and reply, which make up most of a
ledger, move out of the pages that a run reads. Hashes are those of the canonical JSON, so packing changes no hash. This
module defines the format; `compaction` decides which calls are packed.
"""

import sqlite3
from collections.abc import Iterable

from zstandard import ZstdCompressionDict, ZstdCompressor, ZstdDecompressor, ZstdError, train_dictionary

DICTIONARY_BYTES = 112_640
"""The size of a trained dictionary that zstd's authors recommend."""
COMPRESSION_LEVEL = 3
NO_DICTIONARY = 0
"""Stands for the id of a dictionary if a text was packed without one."""
CALLS = (
    "(SELECT calls.id, key, kind, model, run, role, reply_hash, prompt_tokens, completion_tokens, usd, seconds, at,"
    " reasoning_tokens,"
    " iif(packs.call IS NULL, calls.request, unpacked(packs.dictionary, packs.request)) AS request,"
    " iif(packs.call IS NULL, calls.reply, unpacked(packs.dictionary, packs.reply)) AS reply"
    " FROM calls LEFT JOIN packs ON packs.call = calls.id)"
)
"""All calls with their texts, packed or not: for a FROM clause, on a connection prepared by `add_unpack_function`."""
WITH_KEY = "substr(key, 1, 10) = substr(?1, 1, 10) AND +key = ?1"
"""Selects the call with a key, for a WHERE clause. The index holds the first ten digits; the plus keeps SQLite from
substituting the key into the first comparison, which would then be true for every row."""


def add_unpack_function(connection: sqlite3.Connection) -> None:
    """Define the SQL function that `CALLS` uses."""
    unpackers: dict[int, ZstdDecompressor] = {}

    def unpack(dictionary: int, packed: bytes) -> str:
        try:
            if dictionary not in unpackers:
                unpackers[dictionary] = ZstdDecompressor(dict_data=read_stored_dictionary(connection, dictionary))
            return unpackers[dictionary].decompress(packed).decode("utf-8", "replace")
        except (ZstdError, LookupError, MemoryError):
            return ""  # damaged on disk: matches no hash, so `verify` reports it

    connection.create_function("unpacked", 2, unpack)


def read_stored_dictionary(connection: sqlite3.Connection, dictionary: int) -> ZstdCompressionDict | None:
    """A dictionary by its id, or None for texts that were packed without one.

    Raises:
        LookupError: the ledger has no such dictionary.
    """
    if dictionary == NO_DICTIONARY:
        return None
    row = connection.execute("SELECT content FROM dictionaries WHERE id = ?", (dictionary,)).fetchone()
    if row is None:
        raise LookupError(dictionary)
    return ZstdCompressionDict(row[0])


def train_packing_dictionary(samples: Iterable[bytes]) -> bytes | None:
    """A compression dictionary trained on `samples`, or None if they are too few or too short."""
    try:
        return bytes(train_dictionary(DICTIONARY_BYTES, list(samples)).as_bytes())
    except ZstdError:
        return None


class Packer:
    """Packs texts with one dictionary, and checks that each of them unpacks to the same bytes."""

    def __init__(self, dictionary: ZstdCompressionDict | None) -> None:
        self._compressor = ZstdCompressor(level=COMPRESSION_LEVEL, dict_data=dictionary)
        self._decompressor = ZstdDecompressor(dict_data=dictionary)

    def pack(self, text: bytes) -> bytes:
        packed = self._compressor.compress(text)
        if self._decompressor.decompress(packed) != text:
            raise AssertionError("a packed text unpacks differently")  # a broken library must not destroy data
        return packed
