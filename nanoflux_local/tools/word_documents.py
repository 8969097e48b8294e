"""Reads the text of Word documents (.docx), section by section: paragraphs, lists and tables below each heading.

A document is a zip archive of XML. Only `word/document.xml` and the names of styles in `word/styles.xml` are read.
Entities, external references and archives that unpack to too many bytes are refused.
"""

import io
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from nanoflux_local.errors import DataError

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

MAX_UNPACKED_BYTES = 256 * 2**20
"""The maximum size of a document's files after decompression."""
_NAMESPACE = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_HEADING = re.compile(r"(heading \d|title)", re.IGNORECASE)
"""Word's built-in names of heading styles, which are the same in every interface language."""


def read_word_sections(path: Path, content: bytes) -> Iterator[tuple[str, str]]:
    """The sections of a document as (heading, text), with an empty line between paragraphs. `path` is named in errors.

    Raises:
        DataError: the content is not a Word document.
    """
    heading = ""
    paragraphs: list[str] = []
    root, heading_styles = _parse_document(path, content)
    for paragraph in root.iter(f"{_NAMESPACE}p"):
        text = _read_text(paragraph)
        if _read_style_id(paragraph) in heading_styles and text:
            yield heading, "\n\n".join(paragraphs)
            heading, paragraphs = text, []
        else:
            paragraphs.append(text)
    yield heading, "\n\n".join(paragraphs)


def _parse_document(path: Path, content: bytes) -> tuple["Element", set[str]]:
    """The root of the document's XML, and the ids of the styles that mark headings."""
    from defusedxml.ElementTree import fromstring

    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MAX_UNPACKED_BYTES:
                raise DataError(
                    f"{path}: it unpacks to more than {MAX_UNPACKED_BYTES // 2**20} MiB",
                    "split the document and add the parts; nothing was added",
                )
            root = fromstring(archive.read("word/document.xml"))
            has_styles = "word/styles.xml" in archive.namelist()
            styles = fromstring(archive.read("word/styles.xml")) if has_styles else None
    except DataError:
        raise
    except Exception as error:  # noqa: BLE001 - a damaged or hostile file can make the libraries raise anything
        raise DataError(
            f"{path}: not a readable Word document: {error}"[:300],
            "save it again as .docx or leave it out; nothing was added",
        ) from None
    return root, _list_heading_styles(styles)


def _list_heading_styles(styles: "Element | None") -> set[str]:
    """The ids of the styles whose names are those of Word's heading styles."""
    style_ids = set[str]()
    for style in styles.iter(f"{_NAMESPACE}style") if styles is not None else ():
        name = style.find(f"{_NAMESPACE}name")
        if name is not None and _HEADING.fullmatch(name.get(f"{_NAMESPACE}val", "")):
            style_ids.add(style.get(f"{_NAMESPACE}styleId", ""))
    return style_ids


def _read_style_id(paragraph: "Element") -> str:
    """The id of a paragraph's style, or ""."""
    style = paragraph.find(f"{_NAMESPACE}pPr/{_NAMESPACE}pStyle")
    return "" if style is None else style.get(f"{_NAMESPACE}val", "")


def _read_text(paragraph: "Element") -> str:
    """A paragraph's text with single spaces between words, without text that was deleted under change tracking."""
    texts = []
    for element in paragraph.iter():
        if element.tag in (f"{_NAMESPACE}tab", f"{_NAMESPACE}br"):
            texts.append(" ")
        elif element.tag == f"{_NAMESPACE}t":
            texts.append(element.text or "")
    return " ".join("".join(texts).split())
