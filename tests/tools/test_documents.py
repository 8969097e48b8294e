"""Documents are split into passages at the headings of their format; malformed Word documents are refused."""

import io
import zipfile
from pathlib import Path

import pytest

from nanoflux_local.errors import DataError
from nanoflux_local.tools import word_documents
from nanoflux_local.tools.documents import read_document

WORD_DOCUMENT = Path(__file__).parents[2] / "examples" / "guidelines" / "cold-chain.docx"
"""A document that was written with python-docx: headings, text that is partly bold, a list and a table."""


def test_word_document_is_split_at_its_headings() -> None:
    passages = read_document(WORD_DOCUMENT).passages
    assert [(passage.heading, passage.place) for passage in passages] == [
        ("Cold chain of the pharmacy", "part 1"), ("Refrigerators", "part 2"), ("Transport", "part 3"),
    ]  # fmt: skip
    refrigerators, transport = passages[1].text, passages[2].text
    assert "2 and 8 degrees. The thermometer is read at seven" in refrigerators, "plain and bold text are not joined"
    assert refrigerators.endswith("within 30 minutes."), "the list items are missing"
    assert transport.endswith("Measles vaccine at most 45 minutes"), "the table is missing"


def test_html_passages_have_the_heading_above_them(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(
        "<title>Store</title><p>Preface.</p><h1>A <b>stock</b></h1><p>Twelve bottles.</p><h3>Orders</h3>Now."
    )
    passages = [(passage.title, passage.heading, passage.text) for passage in read_document(path).passages]
    assert passages == [
        ("Store", "", "Preface."), ("Store", "A stock", "Twelve bottles."), ("Store", "Orders", "Now."),
    ]  # fmt: skip


def test_markdown_passages_have_the_heading_above_them(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text("Preface.\n\n## Stock ##\nTwelve bottles.\n")
    passages = [(passage.title, passage.heading) for passage in read_document(path).passages]
    assert passages == [("page", ""), ("Stock", "Stock")]


def make_word_document(document: str) -> bytes:
    """A Word document (a zip archive) that contains the XML text `document`."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", document)
    return buffer.getvalue()


NAMESPACE = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
DOCUMENT_WITH_ENTITY = f'<!DOCTYPE w [<!ENTITY e SYSTEM "file:///etc/passwd">]><w:p {NAMESPACE}><w:t>&e;</w:t></w:p>'
"""The XML of a Word document whose text is an entity that refers to a local file."""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"hello", "not a readable Word document"),
        (WORD_DOCUMENT.read_bytes()[:9000], "not a readable Word document"),
        (make_word_document("<w:p>"), "not a readable Word document"),
        (make_word_document(DOCUMENT_WITH_ENTITY), "not a readable Word document"),
        (make_word_document(f"<w:p {NAMESPACE}/>"), "holds no text"),
    ],
    ids=["no archive", "truncated", "malformed xml", "entity", "empty"],
)
def test_error_on_a_malformed_word_document_names_the_file(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.docx"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        read_document(path)
    assert error.value.message.startswith(str(path)) and error.value.fix


def test_word_document_whose_unpacked_size_exceeds_the_limit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(word_documents, "MAX_UNPACKED_BYTES", 2**20)
    path = tmp_path / "bomb.docx"
    path.write_bytes(make_word_document(f"<w:p {NAMESPACE}><w:t>{'x' * 2**21}</w:t></w:p>"))
    with pytest.raises(DataError, match="unpacks to more than 1 MiB"):
        read_document(path)


def test_deleted_text_of_a_word_document_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "changed.docx"
    path.write_bytes(
        make_word_document(f"<w:p {NAMESPACE}><w:t>kept</w:t><w:tab/><w:delText>gone</w:delText><w:t>text</w:t></w:p>")
    )
    (passage,) = read_document(path).passages
    assert passage.text == "kept text"


def test_heading_of_a_text_file_stays_with_the_paragraph_after_it(tmp_path: Path) -> None:
    path = tmp_path / "devices.txt"
    sections = [f"Device {number} (archive)\n\n{'It is checked on Monday. ' * 30}" for number in range(3)]
    path.write_text("\n\n".join([*sections, "The end"]))
    texts = [passage.text for passage in read_document(path).passages]
    assert [text.partition(" It")[0] for text in texts] == [f"Device {number} (archive)" for number in range(3)]
    assert texts[-1].endswith("The end"), "the heading without a paragraph is missing"
