"""Documents of a lab as passages to search: plain text, Markdown, HTML, PDF and JSON Lines, told by the file's suffix.

Reads text and nothing else: no script, no link, no image is followed. A file that is not what its suffix says, or too
large to be read in bounded memory, is refused by name.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from nanoflux_local.errors import DataError, NothingMatchedError
from nanoflux_local.records import storable
from nanoflux_local.text_files import EncodingError, decode_utf8

LARGEST = 64 * 2**20
"""Bytes of one file."""
WORDS = 180
"""A passage is as many whole paragraphs as have at most these words; a longer paragraph is cut at sentences."""
TEXTS = ("text", "content", "body", "passage", "abstract", "solution", "answer")
TITLES = ("title", "name", "question", "id")
UNREAD = ("script", "style", "head", "template", "noscript")
BLOCKS = ("p", "div", "li", "tr", "h1", "h2", "h3", "h4", "h5", "h6", "section", "article", "br", "table", "pre")


@dataclass(frozen=True, slots=True)
class Passage:
    """Some paragraphs of a document; `place` says where they stand in it ("page 3", "line 12", "part 2")."""

    title: str
    place: str
    text: str


@dataclass(frozen=True, slots=True)
class Document:
    """One file: where it lies, the hash of its bytes, its passages."""

    source: str
    sha256: str
    passages: tuple[Passage, ...]


def found_files(paths: Sequence[Path]) -> list[Path]:
    """The files named, and those of known kinds in the folders named; hidden ones are left out.

    Raises:
        DataError: a named file is missing or of no known kind.
        NothingMatchedError: a folder holds no documents.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = [
                entry
                for entry in sorted(path.rglob("*"))
                if entry.suffix.lower() in READERS and entry.is_file() and not _hidden(entry.relative_to(path))
            ]
            if not inside:
                raise NothingMatchedError(f"{path} holds no documents", f"known are: {', '.join(sorted(READERS))}")
            files += inside
        elif not path.exists():
            raise DataError(f"{path}: there is no such file", "name files or folders of documents")
        elif path.suffix.lower() not in READERS:
            raise DataError(f"{path}: documents end in {', '.join(sorted(READERS))}", "convert it, or leave it out")
        else:
            files.append(path)
    return list(dict.fromkeys(files))


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def read_document(path: Path) -> Document:
    """A file's passages.

    Raises:
        DataError: it cannot be read, is too large, or is not what its suffix says.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise DataError(f"{path}: is larger than {LARGEST // 2**20} MiB", "split it; nothing was added")
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}", "name a file that can be read") from error
    passages = tuple(READERS[path.suffix.lower()](path, content))
    if not passages:
        raise DataError(f"{path}: holds no text", "a scanned document needs text recognition first; or leave it out")
    return Document(str(path.resolve()), hashlib.sha256(content).hexdigest(), passages)


def _decode_text(path: Path, content: bytes) -> str:
    try:
        return storable(decode_utf8(content))
    except EncodingError as error:
        raise DataError(f"{path}: {error}", "convert it to UTF-8; nothing was added") from None


def _read_text(path: Path, content: bytes) -> Iterator[Passage]:
    yield from _parts(path.stem, _decode_text(path, content))


def _read_markdown(path: Path, content: bytes) -> Iterator[Passage]:
    """Under the titles of their headings."""
    title, begun = path.stem, list[str]()
    for line in [*_decode_text(path, content).splitlines(), "# "]:
        if re.match(r"#{1,6}\s", line):
            yield from _parts(title, "\n".join(begun))
            title, begun = line.lstrip("#").strip(" #") or path.stem, []
        else:
            begun.append(line)


class _Text(HTMLParser):
    """The text of a page, a line break where a block ends."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self.title: list[str] = []
        self._unread: list[str] = []
        self._in_title = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        del attrs
        self._in_title = tag == "title"
        if tag in UNREAD:
            self._unread.append(tag)
        elif tag in BLOCKS:
            self.parts.append("\n\n")

    def handle_endtag(self, tag: str) -> None:
        self._in_title = False
        if tag in self._unread:
            del self._unread[self._unread.index(tag) :]
        elif tag in BLOCKS:
            self.parts.append("\n\n")

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self.title.append(data)
        elif not self._unread:
            self.parts.append(data)


def _read_html(path: Path, content: bytes) -> Iterator[Passage]:
    page = _Text()
    page.feed(_decode_text(path, content))
    page.close()
    yield from _parts(" ".join("".join(page.title).split()) or path.stem, "".join(page.parts))


def _read_pdf(path: Path, content: bytes) -> Iterator[Passage]:
    """Page by page, by the text that the file holds."""
    import io
    import logging

    import pypdf

    logging.getLogger("pypdf").setLevel(logging.ERROR)  # it warns of each irregular byte
    try:
        reader = pypdf.PdfReader(io.BytesIO(content))
        pages = [page.extract_text() for page in reader.pages]
        title = str((reader.metadata.title if reader.metadata else "") or path.stem)
    except Exception as error:  # noqa: BLE001 - whatever a damaged or hostile file makes of its reader
        raise DataError(f"{path}: is no readable PDF: {error}"[:300], "mend it; nothing was added") from None
    for number, text in enumerate(pages, 1):
        for passage in _parts(title, storable(text)):
            yield Passage(passage.title, f"page {number}", passage.text)


def _read_json_lines(path: Path, content: bytes) -> Iterator[Passage]:
    """An object a line, with its text under one of the usual keys."""
    for number, line in enumerate(_decode_text(path, content).splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise DataError(f"{path}, line {number}: is no JSON", "correct the line; nothing was added") from None
        texts = _texts_of(row, TEXTS) if isinstance(row, dict) else []
        if not texts:
            keys = ", ".join(TEXTS)
            raise DataError(f"{path}, line {number}: has no text", f"give it a key of {keys}; nothing was added")
        title = (_texts_of(row, TITLES) or [path.stem])[0]
        for passage in _parts(" ".join(title.split())[:200], "\n".join(texts)):
            yield Passage(passage.title, f"line {number}", passage.text)


def _texts_of(row: dict[str, Any], keys: Iterable[str]) -> list[str]:
    return [storable(row[key]) for key in keys if isinstance(row.get(key), str) and row[key].strip()]


def _parts(title: str, text: str) -> Iterator[Passage]:
    """The text's paragraphs in passages of at most `WORDS` words."""
    pieces = [piece for paragraph in re.split(r"\n\s*\n", text) for piece in _pieces(paragraph.split())]
    number, begun = 1, list[str]()
    for piece in [*pieces, []]:
        if begun and (not piece or len(begun) + len(piece) > WORDS):
            yield Passage(title, f"part {number}", " ".join(begun))
            number, begun = number + 1, []
        begun += piece


def _pieces(words: list[str]) -> Iterator[list[str]]:
    """A paragraph, cut after the last sentence that fits where it is too long."""
    while len(words) > WORDS:
        ends = [place for place in range(WORDS // 2, WORDS) if words[place].endswith((".", "!", "?"))]
        cut = ends[-1] + 1 if ends else WORDS
        yield words[:cut]
        words = words[cut:]
    if words:
        yield words


READERS = {
    ".txt": _read_text, ".md": _read_markdown, ".html": _read_html, ".htm": _read_html, ".pdf": _read_pdf,
    ".jsonl": _read_json_lines,
}  # fmt: skip
