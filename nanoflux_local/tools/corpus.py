"""The local search engine: the user's documents in an SQLite full-text index, for fact checks without a network.

The index is the file `corpus.db` in the home directory. A call of `Corpus.add` adds all of its documents or none.
Adding a file again replaces its former content.
"""

import re
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Self

from nanoflux_local.errors import DataError, NothingMatchedError, UsageError
from nanoflux_local.records import digest
from nanoflux_local.tools.documents import Document, list_documents, read_document

SCHEMA = """
CREATE TABLE IF NOT EXISTS documents (
    id INTEGER PRIMARY KEY,
    source TEXT NOT NULL UNIQUE,
    sha256 TEXT NOT NULL,
    size INTEGER NOT NULL
) STRICT;
CREATE VIRTUAL TABLE IF NOT EXISTS passages USING fts5 (
    title, text, place UNINDEXED, document UNINDEXED, tokenize = 'porter unicode61 remove_diacritics 2'
);
"""
SNIPPET_TOKENS = 48
"""The maximum length of a snippet, in tokens of the index."""
MAX_QUERY_WORDS = 16
"""The maximum number of words of a query; further words are ignored, since every pair of words becomes a search term.
"""
STEPS_BETWEEN_CHECKS = 10_000
"""The number of instructions that SQLite's virtual machine executes between two checks of the time limit."""
BUSY_TIMEOUT_S = 5.0
"""Seconds for which a command waits while another command writes to the index."""
_STOP_WORDS = frozenset([
    "a", "an", "and", "are", "as", "at", "be", "by", "for", "from", "has", "have", "how", "in", "is", "it",
    "its", "not", "of", "on", "or", "that", "the", "their", "this", "to", "was", "were", "what", "when",
    "where", "which", "who", "why", "will", "with", "does", "do", "can", "may",
])  # fmt: skip


@dataclass(frozen=True, slots=True)
class SearchHit:
    """A passage that matches a query: its title, its place in the document, and the words around the matches."""

    title: str
    place: str
    snippet: str


@dataclass(frozen=True, slots=True)
class IndexedDocument:
    """A document in the index: its source, its hash, and its number of passages."""

    source: str
    sha256: str
    passages: int


class Corpus:
    """The index, opened for reading. If `write` is true, documents can also be added, and a missing index is created.

    Raises:
        NothingMatchedError: the corpus is empty.
        DataError: the file is not an index.
    """

    def __init__(self, path: Path, write: bool = False) -> None:
        self.path = path
        if not write and not path.exists():
            fix = "add documents: nanoflux corpus add PATH; or turn fact checks off: --set judge.fact_check=false"
            raise NothingMatchedError("the search corpus is empty", fix)
        with self._translate_errors():
            mode = "rwc" if write else "ro"
            uri = f"{path.absolute().as_uri()}?mode={mode}"
            self._connection = sqlite3.connect(
                uri, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
            if write:
                path.chmod(0o600)
                self._connection.executescript(SCHEMA)
            self._connection.execute("SELECT count(*) FROM documents")  # fails if the file is not an index

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        """Raise TimeoutError for a search that the progress handler interrupted, and DataError for other errors."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            if "interrupted" in str(error):
                raise TimeoutError from error
            fix = _find_fix(getattr(error, "sqlite_errorcode", 0))
            raise DataError(f"the corpus index {self.path} cannot be used: {error}", fix) from error

    def add(self, paths: Sequence[Path]) -> dict[str, int]:
        """Add documents, all of them or none. Returns how many were added, replaced and unchanged, and the number of
        passages in the corpus.

        Raises:
            DataError: a file is missing, or is not in the format of its suffix.
            NothingMatchedError: a directory contains no documents.
        """
        counts = {"added": 0, "replaced": 0, "unchanged": 0, "passages": 0}
        with self._translate_errors():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                for path in list_documents(paths):
                    change = self._store_document(read_document(path))
                    counts[change] += 1
                self._connection.execute("COMMIT")
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            (counts["passages"],) = self._connection.execute("SELECT count(*) FROM passages").fetchone()
        return counts

    def _store_document(self, document: Document) -> str:
        """Store a document in place of its former content. Returns "added", "replaced" or "unchanged"."""
        stored_row = self._connection.execute(
            "SELECT id, sha256 FROM documents WHERE source = ?", (document.source,)
        ).fetchone()
        if stored_row and stored_row[1] == document.sha256:
            return "unchanged"
        if stored_row:
            former_id = stored_row[0]
            self._connection.execute("DELETE FROM passages WHERE document = ?", (former_id,))
            self._connection.execute("DELETE FROM documents WHERE id = ?", (former_id,))
        document_id = self._connection.execute(
            "INSERT INTO documents (source, sha256, size) VALUES (?,?,?)",
            (document.source, document.sha256, len(document.passages)),
        ).lastrowid
        self._connection.executemany(
            "INSERT INTO passages (title, text, place, document) VALUES (?,?,?,?)",
            [(passage.title, passage.text, passage.place, document_id) for passage in document.passages],
        )
        return "replaced" if stored_row else "added"

    def documents(self) -> list[IndexedDocument]:
        """The documents, ordered by source."""
        with self._translate_errors():
            rows = self._connection.execute("SELECT source, sha256, size FROM documents ORDER BY source")
            return [IndexedDocument(*row) for row in rows]

    def digest(self) -> str:
        """A hash of the names and contents of the documents: everything that determines the results of a search."""
        return digest([[Path(document.source).name, document.sha256] for document in self.documents()])[:16]

    def search(self, query: str, top: int, timeout_s: float = 30.0) -> list[SearchHit]:
        """The `top` best passages that contain a word of the query, or two of its words if it has three or more.
        Passages are ranked by BM25; words in titles count twice.

        Raises:
            TimeoutError: the search took longer than `timeout_s`.
            UsageError: the query contains no word.
        """
        deadline = time.monotonic() + timeout_s
        words = extract_terms(query)
        if not words:
            raise UsageError(
                f"the query {query!r} contains no word to search for", "write a query with at least one word"
            )
        self._connection.set_progress_handler(lambda: time.monotonic() > deadline, STEPS_BETWEEN_CHECKS)
        with self._translate_errors():
            rows = self._connection.execute(
                f"SELECT passages.title, documents.source, passages.place,"
                f" snippet(passages, 1, '', '', '…', {SNIPPET_TOKENS})"
                " FROM passages JOIN documents ON documents.id = passages.document WHERE passages MATCH ?"
                " ORDER BY bm25(passages, 2.0, 1.0), passages.rowid LIMIT ?",
                (_build_match_expression(words), top),
            ).fetchall()
        return [
            SearchHit(title, f"{Path(source).name}, {place}", " ".join(snippet.split()))
            for title, source, place, snippet in rows
        ]


def _find_fix(error_code: int) -> str:
    """What the user can do about an SQLite error with this extended code."""
    primary_code = error_code & 0xFF
    if primary_code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return "wait until the other command that uses the index has ended, and try again"
    if primary_code == sqlite3.SQLITE_FULL:
        return "free disk space, and try again"
    # SQLITE_ERROR means that the database does not have the tables of an index.
    if primary_code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR):
        return "move the file away and add the documents again"
    return "check the permissions of the file and its directory, and the state of the disk"


def _build_match_expression(words: Sequence[str]) -> str:
    """The FTS5 query for passages that contain one of at most two words, or two of three or more words: "body" alone is
    a poor match for "Lewy body dementia".
    """
    quoted_words = [f'"{word}"' for word in words]
    if len(quoted_words) < 3:
        return " OR ".join(quoted_words)
    word_pairs = combinations(quoted_words[:MAX_QUERY_WORDS], 2)
    return " OR ".join(f"({first} AND {second})" for first, second in word_pairs)


def extract_terms(query: str) -> list[str]:
    """The query's different words without stop words; all of them if every word is a stop word."""
    words = list(dict.fromkeys(re.findall(r"\w+", query.casefold())))
    return [word for word in words if word not in _STOP_WORDS] or words
