"""The local corpus: documents in every format, searches, and malformed files."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from nanoflux_local.cli.main import main
from nanoflux_local.errors import DataError, NothingMatchedError, UsageError
from nanoflux_local.tools import documents
from nanoflux_local.tools.corpus import Corpus, extract_terms
from nanoflux_local.tools.documents import MAX_PASSAGE_WORDS, read_document


def make_pdf(*pages: str) -> bytes:
    """A PDF with a line of text on each page."""
    objects = ["<< /Type /Catalog /Pages 2 0 R >>", ""]  # the second object, the list of pages, is set below
    page_references = []
    for text in pages:
        stream = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET"
        page_references.append(f"{len(objects) + 1} 0 R")
        font = "<< /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >>"
        objects.append(f"<< /Type /Page /Parent 2 0 R /Resources {font} /Contents {len(objects) + 2} 0 R >>")
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
    objects[1] = f"<< /Type /Pages /Kids [{' '.join(page_references)}] /Count {len(pages)} >>"
    body, offsets = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        offsets.append(len(body))
        body += f"{number} 0 obj\n{content}\nendobj\n".encode()
    offset_lines = "".join(f"{offset:010} 00000 n \n" for offset in offsets)
    trailer = f"trailer << /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{len(body)}\n%%EOF"
    return body + f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{offset_lines}{trailer}".encode()


# Documents in five of the formats that the corpus reads, by name.
FILES = {
    "insulin.txt": b"Insulin lowers blood glucose.\n\nGlucagon raises it.",
    "heart.md": b"# Rhythm\nThe sinoatrial node sets the pace of the heart.\n"
    b"## Valves\nThe mitral valve has two cusps.",
    "lungs.html": b"<html><head><title>Lungs &amp; gas</title><script>var surfactant = 1;</script></head>"
    b"<body><p>Alveoli exchange oxygen.</p><style>p {}</style><p>Surfactant &mdash; a lipid.</p></body></html>",
    "kidney.pdf": make_pdf("The nephron filters plasma.", "Aldosterone retains sodium."),
    "facts.jsonl": b'{"title": "Vitamin C", "text": "Scurvy follows its lack."}\n\n'
    b'{"question": "Rickets?", "answer": "Vitamin D."}\n',
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the five documents, one of them in a subfolder, and two files that are not imported."""
    folder = tmp_path / "documents"
    subfolder = folder / "below"
    subfolder.mkdir(parents=True)
    for name, content in FILES.items():
        parent = subfolder if name.endswith(".md") else folder
        (parent / name).write_bytes(content)
    (folder / ".hidden.txt").write_text("glucose")
    (folder / "picture.png").write_bytes(b"\x89PNG")
    return folder


@pytest.fixture
def corpus(folder: Path, tmp_path: Path) -> Corpus:
    """A corpus of the five documents."""
    with Corpus(tmp_path / "corpus.db", write=True) as corpus:
        assert corpus.add([folder])["added"] == 5
        yield corpus


@pytest.mark.parametrize(
    ("query", "title", "place", "snippet"),
    [
        ("what lowers glucose", "insulin", "insulin.txt, part 1", "Insulin lowers blood glucose. Glucagon raises it."),
        ("pace of the heart", "Rhythm", "heart.md, part 1", "The sinoatrial node sets the pace of the heart."),
        ("mitral cusps", "Valves", "heart.md, part 1", "The mitral valve has two cusps."),
        ("surfactant", "Lungs & gas", "lungs.html, part 1", "Alveoli exchange oxygen. Surfactant — a lipid."),
        ("sodium retention", "kidney", "kidney.pdf, page 2", "Aldosterone retains sodium."),
        ("scurvy", "Vitamin C", "facts.jsonl, line 1", "Scurvy follows its lack."),
        ("rickets", "Rickets?", "facts.jsonl, line 3", "Vitamin D."),
        ("valve prolapse of the mitral kind", "Valves", "heart.md, part 1", "The mitral valve has two cusps."),
        ('"quoted" OR (mitral) *', "Valves", "heart.md, part 1", "The mitral valve has two cusps."),
    ],
)  # fmt: skip
def test_corpus_finds_passages_of_every_format(corpus, query, title, place, snippet) -> None:
    best_result = corpus.search(query, 5)[0]
    assert (best_result.title, best_result.place, best_result.snippet) == (title, place, snippet)


def test_corpus_search_limits_results_and_requires_enough_matching_words(corpus: Corpus) -> None:
    assert corpus.search("quasar", 5) == []
    assert len(corpus.search("insulin alveoli", 1)) == 1 and len(corpus.search("insulin alveoli", 5)) == 2
    assert corpus.search("blood pressure in the UK", 5) == [], (
        "a passage that has only one common word of three matches"
    )
    with pytest.raises(UsageError, match="contains no word"):
        corpus.search(" ?! ", 5)


def test_extract_terms_drops_common_words_unless_all_words_are_common() -> None:
    assert extract_terms("What is the Vitamin in it?") == ["vitamin"]
    assert extract_terms("who is it") == ["who", "is", "it"]


def test_corpus_search_times_out(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nanoflux_local.tools.corpus.STEPS_BETWEEN_CHECKS", 1)
    with pytest.raises(TimeoutError):
        corpus.search("the insulin node", 5, timeout_s=-1)


def test_corpus_add_replaces_changed_documents(corpus: Corpus, folder: Path) -> None:
    digest_before = corpus.digest()
    assert corpus.add([folder])["unchanged"] == 5 and corpus.digest() == digest_before
    (folder / "insulin.txt").write_text("Insulin is a peptide.")
    summary = corpus.add([folder])
    assert (summary["replaced"], summary["unchanged"]) == (1, 4) and corpus.digest() != digest_before
    assert corpus.search("glucagon", 5) == [] and corpus.search("peptide", 5)


# The content of each malformed file, and part of the error, by file name.
MALFORMED_FILES = {
    "latin.txt": (b"caf\xe9", "line 1 is not UTF-8 (byte 0xe9)"),
    "empty.md": (b"", "holds no text"),
    "scan.pdf": (make_pdf(""), "holds no text"),
    "no.pdf": (b"hello", "not a readable PDF"),
    "cut.pdf": (make_pdf("text")[:200], "not a readable PDF"),
    "cut.jsonl": (b'{"text": "a"}\n{"text": ', "line 2: not valid JSON"),
    "deep.jsonl": (b"[" * 100_000, "line 1: not valid JSON"),
    "list.jsonl": (b"[1]", "line 1: the object has no text"),
    "other.jsonl": (b'{"label": "a"}', "line 1: the object has no text"),
}


@pytest.mark.parametrize("name", MALFORMED_FILES)
def test_corpus_add_refuses_a_malformed_file_and_adds_no_other(corpus: Corpus, folder: Path, name: str) -> None:
    content, message = MALFORMED_FILES[name]
    digest_before = corpus.digest()
    (folder / "aaa.txt").write_text("A good file, which is read before the malformed one.")
    (folder / name).write_bytes(content)
    with pytest.raises(DataError) as error:
        corpus.add([folder])
    assert name in error.value.message and message in error.value.message
    assert corpus.digest() == digest_before


def test_corpus_error_advises_moving_the_index_away_only_if_it_is_damaged(
    corpus: Corpus, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nanoflux_local.tools.corpus.BUSY_TIMEOUT_S", 0.0)
    with Corpus(corpus.path, write=True) as waiting_corpus, closing(sqlite3.connect(corpus.path)) as other_connection:
        other_connection.execute("BEGIN IMMEDIATE")
        with pytest.raises(DataError, match="cannot be used: database is locked") as error_when_locked:
            waiting_corpus.add([folder])
    assert error_when_locked.value.fix.startswith("wait until the other command")
    damaged_path = tmp_path / "damaged.db"
    damaged_path.write_bytes(b"not a database" * 100)
    with pytest.raises(DataError, match=r"the corpus index .*damaged\.db cannot be used") as error_when_damaged:
        Corpus(damaged_path)
    assert error_when_damaged.value.fix.startswith("move the file away")


def test_document_too_large_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MAX_BYTES", 10)
    with pytest.raises(DataError, match="larger than"):
        read_document(folder / "insulin.txt")


def test_long_paragraph_is_split_between_sentences(tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    path.write_text("One sentence of five words. " * 100)
    passages = read_document(path).passages
    assert all(len(passage.text.split()) <= MAX_PASSAGE_WORDS for passage in passages)
    assert all(passage.text.endswith("words.") for passage in passages)
    assert " ".join(passage.text for passage in passages) == path.read_text().strip()


def run_cli(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run `nanoflux` in this process; return its exit code and its output on stdout and stderr."""
    with pytest.raises(SystemExit) as exit_info:
        main(list(arguments))
    output = capsys.readouterr()
    return int(exit_info.value.code or 0), output.out, output.err


def test_corpus_commands_add_search_and_show_documents(
    folder: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NANOFLUX_HOME", str(tmp_path / "home"))
    exit_code, _, err = run_cli(capsys, "corpus", "search", "heart")
    assert exit_code == 4 and "corpus is empty" in err
    exit_code, out, _ = run_cli(capsys, "corpus", "add", str(folder), "--json")
    assert exit_code == 0 and json.loads(out)["added"] == 5 and json.loads(out)["passages"] == 8
    exit_code, out, _ = run_cli(capsys, "corpus", "search", "mitral", "--json")
    assert exit_code == 0 and json.loads(out)[0]["title"] == "Valves"
    exit_code, out, _ = run_cli(capsys, "corpus", "search", "mitral")
    assert exit_code == 0 and "heart.md, part 1" in out
    exit_code, _, _ = run_cli(capsys, "corpus", "search", "quasar")
    assert exit_code == 4, "wrong exit code if no passage matches"
    exit_code, out, _ = run_cli(capsys, "corpus", "show")
    assert exit_code == 0 and "kidney.pdf" in out
    exit_code, _, err = run_cli(capsys, "corpus", "add", str(folder / "picture.png"))
    assert exit_code == 2 and "its suffix is not supported" in err
    exit_code, _, _ = run_cli(capsys, "corpus", "add", str(folder / "missing.txt"))
    assert exit_code == 2, "wrong exit code if the file does not exist"
    assert (tmp_path / "home" / "corpus.db").stat().st_mode & 0o077 == 0
    (tmp_path / "home" / "corpus.db").write_text("no index")
    exit_code, _, err = run_cli(capsys, "corpus", "search", "mitral")
    assert exit_code == 2 and "not a database" in err


def test_corpus_add_refuses_an_empty_folder(tmp_path: Path) -> None:
    with (
        Corpus(tmp_path / "c.db", write=True) as corpus,
        pytest.raises(NothingMatchedError, match="contains no documents"),
    ):
        (tmp_path / "empty").mkdir()
        corpus.add([tmp_path / "empty"])
