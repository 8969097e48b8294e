"""Splits documents into passages, for the search corpus and for runs whose seeds are passages. A file's suffix
determines how it is read: as plain text, Markdown, HTML, PDF, DOCX or JSON Lines.

Only text is read: no script is run, and no link or image is loaded. A file that is not in the format of its suffix, or
is too large, is refused with an error that names it.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from nanoflux_local.errors import DataError, NothingMatchedError
from nanoflux_local.records import storable
from nanoflux_local.text_files import EncodingError, decode_utf8
from nanoflux_local.tools.word_documents import read_word_sections

MAX_BYTES = 64 * 2**20
"""Maximum size of a file, in bytes."""
MAX_PASSAGE_WORDS = 180
"""Maximum number of words in a passage. A passage consists of whole paragraphs, except that a longer paragraph is split
between sentences.
"""
MAX_HEADING_WORDS = 10
"""A paragraph of plain text with more words is not a heading."""
TEXT_KEYS = ("text", "content", "body", "passage", "abstract", "solution", "answer")
"""The keys of a JSON Lines object whose strings are read as its text."""
TITLE_KEYS = ("title", "name", "question", "id")
"""The keys of a JSON Lines object that may contain its title; the first that is present is used."""
HEADING_TAGS = ("h1", "h2", "h3", "h4", "h5", "h6")
"""HTML tags of headings, each of which begins a section."""
SKIPPED_TAGS = ("script", "style", "head", "template", "noscript")
"""HTML tags whose text is not read."""
BLOCK_TAGS = ("p", "div", "li", "tr", "section", "article", "br", "table", "pre", *HEADING_TAGS)
"""HTML tags that separate blocks of text."""


@dataclass(frozen=True, slots=True)
class Passage:
    """Some consecutive paragraphs of a document. `place` is their position in it ("page 3", "line 12", "part 2");
    `heading` is the heading above them, or "" if there is none.
    """

    title: str
    place: str
    text: str
    heading: str = ""


@dataclass(frozen=True, slots=True)
class Document:
    """One file: its absolute path, the SHA-256 of its bytes, and its passages."""

    source: str
    sha256: str
    passages: tuple[Passage, ...]


def list_documents(paths: Sequence[Path]) -> list[Path]:
    """The files in `paths`, and all documents inside the directories in `paths` except hidden ones.

    Raises:
        DataError: a file is missing, or its suffix is not supported.
        NothingMatchedError: a directory contains no documents.
    """
    suffixes = ", ".join(sorted(READER_BY_SUFFIX))
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            documents_inside = [entry for entry in sorted(path.rglob("*")) if _is_listed_document(entry, path)]
            if not documents_inside:
                raise NothingMatchedError(f"{path} contains no documents", f"add files that end in {suffixes}")
            files += documents_inside
        elif not path.exists():
            raise DataError(f"{path}: there is no such file", "pass files or directories of documents")
        elif path.suffix.lower() not in READER_BY_SUFFIX:
            raise DataError(f"{path}: its suffix is not supported", f"convert it to a file that ends in {suffixes}")
        else:
            files.append(path)
    return list(dict.fromkeys(files))


def _is_listed_document(entry: Path, directory: Path) -> bool:
    """Whether `entry` is a file in a supported format, and neither it nor a folder below `directory` is hidden."""
    return entry.suffix.lower() in READER_BY_SUFFIX and entry.is_file() and not _is_hidden(entry.relative_to(directory))


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def read_document(path: Path) -> Document:
    """Read a file and split it into passages.

    Raises:
        DataError: the file cannot be read, is too large, or is not in the format of its suffix.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(
                f"{path}: larger than {MAX_BYTES // 2**20} MiB", "split the file and add the parts; nothing was added"
            )
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}", "pass a file that can be read") from error
    read_passages = READER_BY_SUFFIX[path.suffix.lower()]
    passages = tuple(read_passages(path, content))
    if not passages:
        raise DataError(f"{path}: the file holds no text", "run OCR on a scanned document first, or leave it out")
    return Document(str(path.resolve()), hashlib.sha256(content).hexdigest(), passages)


def _decode_text(path: Path, content: bytes) -> str:
    """The text of a file. Raises DataError if it is not UTF-8."""
    try:
        return storable(decode_utf8(content))
    except EncodingError as error:
        raise DataError(f"{path}: {error}", "convert the file to UTF-8; nothing was added") from None


def _read_text(path: Path, content: bytes) -> Iterator[Passage]:
    yield from _group_into_passages(path.stem, _decode_text(path, content))


def _read_markdown(path: Path, content: bytes) -> Iterator[Passage]:
    """The passages of a Markdown file, each with the heading above it as its title."""
    heading = ""
    section_lines: list[str] = []
    for line in [*_decode_text(path, content).splitlines(), "# "]:  # an empty heading ends the last section
        if re.match(r"#{1,6}\s", line):
            for passage in _group_into_passages(heading or path.stem, "\n".join(section_lines)):
                yield replace(passage, heading=heading)
            heading, section_lines = line.lstrip("#").strip(" #"), []
        else:
            section_lines.append(line)


class _PageText(HTMLParser):
    """Collects the text of a web page by section, with an empty line between blocks. The parser passes text in pieces:
    `sections` has the pieces of each section's heading and of its text, `title_pieces` those of the page's title.
    """

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.sections: list[tuple[list[str], list[str]]] = [([], [])]
        self.title_pieces: list[str] = []
        self._open_skipped_tags: list[str] = []
        self._in_title = False
        self._in_heading = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        del attrs
        self._in_title = tag == "title"
        if tag in HEADING_TAGS:
            self._in_heading = True
            self.sections.append(([], []))
        if tag in SKIPPED_TAGS:
            self._open_skipped_tags.append(tag)
        elif tag in BLOCK_TAGS:
            self._end_block()

    def _end_block(self) -> None:
        _, text_pieces = self.sections[-1]
        text_pieces.append("\n\n")

    def handle_endtag(self, tag: str) -> None:
        self._in_title = False
        if tag in HEADING_TAGS:
            self._in_heading = False
        if tag in self._open_skipped_tags:
            del self._open_skipped_tags[self._open_skipped_tags.index(tag) :]
        elif tag in BLOCK_TAGS:
            self._end_block()

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self.title_pieces.append(data)
        elif not self._open_skipped_tags:
            heading_pieces, text_pieces = self.sections[-1]
            pieces = heading_pieces if self._in_heading else text_pieces
            pieces.append(data)


def _read_html(path: Path, content: bytes) -> Iterator[Passage]:
    """The passages of a web page, each with the heading of its section."""
    page = _PageText()
    page.feed(_decode_text(path, content))
    page.close()
    title = " ".join("".join(page.title_pieces).split()) or path.stem
    sections = [("".join(heading_pieces), "".join(text_pieces)) for heading_pieces, text_pieces in page.sections]
    yield from _group_sections(title, sections)


def _read_docx(path: Path, content: bytes) -> Iterator[Passage]:
    yield from _group_sections(path.stem, read_word_sections(path, content))


def _read_pdf(path: Path, content: bytes) -> Iterator[Passage]:
    """The passages of each page; a scanned page without text has none."""
    import io
    import logging

    import pypdf

    logging.getLogger("pypdf").setLevel(logging.ERROR)  # pypdf logs a warning for each irregular byte
    try:
        reader = pypdf.PdfReader(io.BytesIO(content))
        pages = [page.extract_text() for page in reader.pages]
        stated_title = reader.metadata.title if reader.metadata else ""
        title = str(stated_title or path.stem)
    except Exception as error:  # noqa: BLE001 - a damaged or hostile file can make the library raise anything
        raise DataError(
            f"{path}: not a readable PDF: {error}"[:300], "repair the file or leave it out; nothing was added"
        ) from None
    for number, text in enumerate(pages, 1):
        for passage in _group_into_passages(title, storable(text)):
            yield Passage(passage.title, f"page {number}", passage.text)


def _read_json_lines(path: Path, content: bytes) -> Iterator[Passage]:
    """The passages of a JSON Lines file. The text of each line's object is under one or more keys of `TEXT_KEYS`."""
    for number, line in enumerate(_decode_text(path, content).splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise DataError(f"{path}, line {number}: not valid JSON", "correct the line; nothing was added") from None
        texts = _find_texts(row, TEXT_KEYS) if isinstance(row, dict) else []
        if not texts:
            keys = ", ".join(TEXT_KEYS)
            raise DataError(
                f"{path}, line {number}: the object has no text",
                f"add the text under one of the keys {keys}; nothing was added",
            )
        titles = _find_texts(row, TITLE_KEYS)
        title = titles[0] if titles else path.stem
        for passage in _group_into_passages(" ".join(title.split())[:200], "\n".join(texts)):
            yield Passage(passage.title, f"line {number}", passage.text)


def _find_texts(row: dict[str, Any], keys: Iterable[str]) -> list[str]:
    """The strings under `keys` that are not blank, in the order of the keys."""
    values = [row.get(key) for key in keys]
    return [storable(value) for value in values if isinstance(value, str) and value.strip()]


def _group_sections(title: str, sections: Iterable[tuple[str, str]]) -> Iterator[Passage]:
    """The passages of a document's sections (heading, text), numbered consecutively through the document."""
    number = 0
    for heading, text in sections:
        for passage in _group_into_passages(title, storable(text)):
            number += 1
            yield replace(passage, place=f"part {number}", heading=storable(" ".join(heading.split())))


def _group_into_passages(title: str, text: str) -> Iterator[Passage]:
    """Group the text's paragraphs into passages of at most `MAX_PASSAGE_WORDS` words. A heading stays with the
    paragraph after it.
    """
    paragraphs: list[list[str]] = []
    heading_words: list[str] = []
    for paragraph_text in re.split(r"\n\s*\n", text):
        words = paragraph_text.split()
        if _is_heading(words):
            heading_words += words
        else:
            paragraphs += _split_paragraph(heading_words + words)
            heading_words = []
    paragraphs += _split_paragraph(heading_words)
    passages: list[list[str]] = []
    for paragraph in paragraphs:
        if passages and len(passages[-1]) + len(paragraph) <= MAX_PASSAGE_WORDS:
            passages[-1] += paragraph
        else:
            passages.append(list(paragraph))
    for number, words in enumerate(passages, 1):
        yield Passage(title, f"part {number}", " ".join(words))


def _is_heading(words: Sequence[str]) -> bool:
    """Whether a paragraph of plain text looks like a heading: a few words that do not end as a sentence does."""
    return 0 < len(words) <= MAX_HEADING_WORDS and not words[-1].endswith((".", "!", "?", ":", ";", ","))


def _split_paragraph(words: list[str]) -> Iterator[list[str]]:
    """A paragraph's words in pieces of at most `MAX_PASSAGE_WORDS` words. A piece ends after the last sentence that
    fits into it, unless the piece would then have at most half of that number of words.
    """
    while len(words) > MAX_PASSAGE_WORDS:
        sentence_ends = [
            index
            for index in range(MAX_PASSAGE_WORDS // 2, MAX_PASSAGE_WORDS)
            if words[index].endswith((".", "!", "?"))
        ]
        piece_end = sentence_ends[-1] + 1 if sentence_ends else MAX_PASSAGE_WORDS
        yield words[:piece_end]
        words = words[piece_end:]
    if words:
        yield words


READER_BY_SUFFIX = {
    ".txt": _read_text, ".md": _read_markdown, ".html": _read_html, ".htm": _read_html, ".pdf": _read_pdf,
    ".docx": _read_docx, ".jsonl": _read_json_lines,
}  # fmt: skip
