"""Packed texts: what a call said, compressed in a table of its own, and read as if it had never been moved.

A call's row keeps everything that is looked up, filtered or summed; compaction moves its request and reply, which are
most of a ledger, out of the pages that a run reads. Hashes are over the canonical JSON, so packing changes none. Owns
the format; decides neither what is packed nor when.
"""

import sqlite3
from collections.abc import Iterable

from zstandard import ZstdCompressionDict, ZstdCompressor, ZstdDecompressor, ZstdError, train_dictionary

DICTIONARY_BYTES = 112_640
"""The size that zstd's authors found best: a few thousand prompts share more than that seldom."""
LEVEL = 3
NO_DICTIONARY = 0
CALLS = (
    "(SELECT calls.id, key, kind, model, run, role, reply_hash, prompt_tokens, completion_tokens, usd, seconds, at,"
    " reasoning_tokens,"
    " iif(packs.call IS NULL, calls.request, unpacked(packs.dictionary, packs.request)) AS request,"
    " iif(packs.call IS NULL, calls.reply, unpacked(packs.dictionary, packs.reply)) AS reply"
    " FROM calls LEFT JOIN packs ON packs.call = calls.id)"
)
"""Calls with their texts, packed or not: to stand after FROM on a connection that `read_packed` has prepared."""
OF_KEY = "substr(key, 1, 10) = substr(?1, 1, 10) AND +key = ?1"
"""The call with a key, for WHERE: the index holds the first ten digits. The plus keeps SQLite from putting the key into
the first comparison too, which then would hold for every row."""


def read_packed(connection: sqlite3.Connection) -> None:
    """Teach a connection the function that `CALLS` needs."""
    unpackers: dict[int, ZstdDecompressor] = {}

    def unpack(dictionary: int, packed: bytes) -> str:
        try:
            if dictionary not in unpackers:
                unpackers[dictionary] = ZstdDecompressor(dict_data=stored_dictionary(connection, dictionary))
            return unpackers[dictionary].decompress(packed).decode("utf-8", "replace")
        except (ZstdError, LookupError, MemoryError):
            return ""  # was damaged on disk: matches no hash, which is how `verify` finds it

    connection.create_function("unpacked", 2, unpack)


def stored_dictionary(connection: sqlite3.Connection, dictionary: int) -> ZstdCompressionDict | None:
    """A dictionary by its id; none for texts that were packed without.

    Raises:
        LookupError: it is not there.
    """
    if dictionary == NO_DICTIONARY:
        return None
    row = connection.execute("SELECT content FROM dictionaries WHERE id = ?", (dictionary,)).fetchone()
    if row is None:
        raise LookupError(dictionary)
    return ZstdCompressionDict(row[0])


def train_packing_dictionary(samples: Iterable[bytes]) -> bytes | None:
    """A dictionary of what texts have in common, or None where they are too few or too short for one."""
    try:
        return bytes(train_dictionary(DICTIONARY_BYTES, list(samples)).as_bytes())
    except ZstdError:
        return None


class Packer:
    """Packs texts with one dictionary, and proves of each that it can be read again."""

    def __init__(self, dictionary: ZstdCompressionDict | None) -> None:
        self._compressor = ZstdCompressor(level=LEVEL, dict_data=dictionary)
        self._decompressor = ZstdDecompressor(dict_data=dictionary)

    def pack(self, text: bytes) -> bytes:
        packed = self._compressor.compress(text)
        if self._decompressor.decompress(packed) != text:
            raise AssertionError("a packed text reads differently")  # a broken library must destroy nothing
        return packed
