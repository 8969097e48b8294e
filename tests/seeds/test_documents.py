"""Documents as seeds: import, places, near-duplicates, splits of whole documents, and draws of related passages."""

import json
import random
import shutil
from pathlib import Path

import pytest

from nanoflux_local.cli.main import main
from nanoflux_local.errors import ConfigError, DataError, NanofluxError, NothingMatchedError, UsageError
from nanoflux_local.evaluate.evaluation import make_plan
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.records import Identity
from nanoflux_local.seeds.datasets import build_seed_source
from nanoflux_local.seeds.documents import DocumentsRequest, import_documents
from nanoflux_local.seeds.near_duplicates import NearDuplicates
from nanoflux_local.seeds.related_passages import RelatedPassages
from nanoflux_local.seeds.splits import split_documents
from nanoflux_local.transcript import Seed

WORD_DOCUMENT = Path(__file__).parents[2] / "examples" / "guidelines" / "cold-chain.docx"
"""A document with three headings."""
RULE_FILES = {
    "hygiene.md": "# Hand hygiene\nStaff wash their hands for at least 40 seconds before they enter the ward.\n"
    "## Disinfection\nA handful of rub is 3 ml, and it stays wet on the hands for 30 seconds.\n",
    "wards/store.html": "<title>Store</title><h1>Stock</h1>"
    "<p>The store keeps 12 bottles of rub of 500 ml for every ward.</p>"
    "<h2>Orders</h2><p>Rub is ordered on Mondays when fewer than 4 bottles are left in the store.</p>",
    "wards/night.txt": "The night shift "
    "checks the doors at ten, at one and at four, and signs the list by the main door.",
    "wards/keys.txt": "A lost key is reported to the porter within 2 hours, who changes the lock on the same day.",
}  # fmt: skip
"""The invented rules of a ward, as text, Markdown and HTML files."""


def write_pdf(path: Path, *pages: str) -> None:
    """Write a PDF with matplotlib, with one line of text on each page."""
    from matplotlib.backends.backend_pdf import PdfPages
    from matplotlib.figure import Figure

    with PdfPages(path) as pdf:
        for text in pages:
            figure = Figure()
            figure.text(0.05, 0.5, text, wrap=True)
            pdf.savefig(figure)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with six documents, which have eleven passages in total, in all formats that can be imported."""
    folder = tmp_path / "rules"
    for name, text in RULE_FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    shutil.copy(WORD_DOCUMENT, folder)
    write_pdf(
        folder / "waste.pdf",
        "Sharps go into the yellow box, which is closed when it is three quarters full.",
        "A closed box is collected on Thursdays and kept for no longer than 7 days.",
    )
    return folder


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A new home."""
    return Home(tmp_path / "home").prepare()


def read_passages(home: Home, name: str, split: str | None = None) -> dict[str, Seed]:
    """The imported passages of a dataset, or of one split of it, by id."""
    with LedgerView(home.ledger) as view:
        return {item.id: item for item in view.items(name, split)}


def test_import_keeps_source_and_place_of_each_format(home: Home, folder: Path) -> None:
    summary = import_documents(home, DocumentsRequest("ward", [folder]))
    places = {(item.source, item.place) for item in read_passages(home, "ward").values()}
    assert places == {
        ("hygiene.md", "Hand hygiene"), ("hygiene.md", "Disinfection"), ("wards/store.html", "Stock"),
        ("wards/store.html", "Orders"), ("wards/night.txt", "part 1"), ("wards/keys.txt", "part 1"),
        ("waste.pdf", "page 1"), ("waste.pdf", "page 2"), ("cold-chain.docx", "Cold chain of the pharmacy"),
        ("cold-chain.docx", "Refrigerators"), ("cold-chain.docx", "Transport"),
    }  # fmt: skip
    assert (sum(summary.documents.values()), sum(summary.passages.values())) == (6, 11)
    assert (summary.near_duplicates, summary.short, summary.imported) == (0, 0, True)
    second_page = read_passages(home, "ward")["ward/waste.pdf#2"]
    assert (second_page.location, second_page.answer) == ("waste.pdf, page 2", "")
    assert "no longer than 7 days" in second_page.question


def test_further_passages_below_a_heading_are_numbered_parts(home: Home, tmp_path: Path) -> None:
    (tmp_path / "long.md").write_text(
        "# Rules\n" + " ".join(f"Rule {number} names item {number}." for number in range(80))
    )
    import_documents(home, DocumentsRequest("long", [tmp_path / "long.md"]))
    assert [item.place for item in read_passages(home, "long").values()] == ["Rules", "Rules, part 2", "Rules, part 3"]


def test_splits_contain_whole_documents(home: Home, folder: Path) -> None:
    summary = import_documents(home, DocumentsRequest("ward", [folder]))
    sources = {
        split: {item.source for item in read_passages(home, "ward", split).values()}
        for split in ("train", "dev", "test")
    }
    assert sources["test"] == set(summary.held_out)
    assert {split: len(documents) for split, documents in sources.items()} == {"train": 4, "dev": 1, "test": 1}
    assert not sources["train"] & (sources["test"] | sources["dev"])


@pytest.mark.parametrize(("count", "test", "dev"), [(1, 0, 0), (2, 0, 0), (3, 1, 0), (10, 2, 1), (40, 8, 4)])
def test_split_documents_holds_out_a_share_whatever_the_order(count: int, test: int, dev: int) -> None:
    hashes = [f"{number:064x}" for number in range(count)]
    splits = split_documents(hashes)
    assert (splits.count("test"), splits.count("dev"), len(splits)) == (test, dev, count)
    assert split_documents(hashes[::-1]) == splits[::-1], "the splits depend on the order of the documents"


def test_held_out_documents_form_the_test_split(home: Home, folder: Path) -> None:
    request = DocumentsRequest("ward", [folder], held_out=[folder / "wards"])
    summary = import_documents(home, request)
    assert set(summary.held_out) == {"wards/store.html", "wards/night.txt", "wards/keys.txt"}
    assert {item.source.split("/")[0] for item in read_passages(home, "ward", "test").values()} == {"wards"}
    assert summary.documents == {"train": 3, "dev": 0, "test": 3}


def test_import_without_a_train_document_is_refused(home: Home, folder: Path) -> None:
    with pytest.raises(NothingMatchedError, match="has a passage that is long enough") as error:
        import_documents(home, DocumentsRequest("ward", [folder], held_out=[folder]))
    assert "hold out fewer" in error.value.fix


def test_train_passage_that_repeats_a_held_out_passage_is_left_out(home: Home, folder: Path) -> None:
    """The train document contains a second version of a held-out document, with a changed number, under another name
    and in another format.
    """
    text = RULE_FILES["wards/night.txt"]
    (folder / "night-2.md").write_text(
        f"# Night\n{text.replace('at ten', 'at nine')}\n\n# Lamps\nThe lamps in the long corridor are dimmed at eleven."
    )
    summary = import_documents(home, DocumentsRequest("ward", [folder], held_out=[folder / "wards" / "night.txt"]))
    assert summary.near_duplicates == 1
    train_passages = read_passages(home, "ward", "train").values()
    assert any(item.source == "night-2.md" for item in train_passages)
    assert not any("signs the list" in item.question for item in train_passages)


def test_near_duplicates_compare_words_in_order() -> None:
    words = [f"word{number}" for number in range(60)]
    words_with_one_change = ["Word0,", *words[1:29], "other", *words[30:]]  # case and punctuation do not count
    seen_passages = NearDuplicates()
    assert seen_passages.add(" ".join(words))
    assert not seen_passages.add(" ".join(words_with_one_change))
    assert seen_passages.add(" ".join(reversed(words)))
    assert seen_passages.add(" ".join(words[:30]))
    assert seen_passages.add("two words")
    assert not seen_passages.add("Two words!")


def test_import_of_the_same_documents_changes_nothing(home: Home, folder: Path) -> None:
    import_documents(home, DocumentsRequest("ward", [folder]))
    assert not import_documents(home, DocumentsRequest("ward", [folder])).imported
    (folder / "hygiene.md").write_text("# Hand hygiene\nStaff wash their hands for at least 60 seconds in the morning.")
    with pytest.raises(UsageError, match="already has"):
        import_documents(home, DocumentsRequest("ward", [folder]))
    assert import_documents(home, DocumentsRequest("ward", [folder], replace=True)).imported


def test_unreadable_document_fails_the_import_unless_it_is_skipped(home: Home, folder: Path) -> None:
    (folder / "scan.pdf").write_bytes(b"no pdf")
    with pytest.raises(DataError, match=r"scan\.pdf: not a readable PDF"):
        import_documents(home, DocumentsRequest("ward", [folder]))
    summary = import_documents(home, DocumentsRequest("ward", [folder], skip_bad=True))
    assert len(summary.skipped) == 1 and sum(summary.documents.values()) == 6


@pytest.mark.parametrize(
    ("name", "text", "error", "message"),
    [
        (
            "gsm8k",
            "This passage has just the minimum number of words.",
            UsageError,
            "'gsm8k' is not a valid name for your own data",
        ),
        ("ward", "Too short.", NothingMatchedError, "has a passage that is long enough"),
    ],
)
def test_documents_with_an_invalid_name_or_too_little_text_are_refused(
    home: Home, tmp_path: Path, name: str, text: str, error: type[NanofluxError], message: str
) -> None:
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(error, match=message):
        import_documents(home, DocumentsRequest(name, [tmp_path / "a.txt"]))


# Draws of passages


def make_passages(*texts: str) -> list[Seed]:
    """Passages with the given texts and the ids "0", "1" and so on."""
    return [Seed(str(number), "d", text, "", source="a.md", place="p") for number, text in enumerate(texts)]


def test_related_passages_share_rare_words() -> None:
    """Ten of fifty passages are about pumps: if the first passage of a draw is one of them, the others are too."""
    pump_texts = [f"The pump type{number} of the station needs valve{number}." for number in range(10)]
    other_texts = [f"The subject{number} has colour{number} and shape{number}." for number in range(40)]
    source = RelatedPassages(make_passages(*pump_texts, *other_texts))
    draws = [source.draw(3, random.Random(seed)) for seed in range(300)]
    pump_draws = [seeds for seeds in draws if "pump" in seeds[0].question]
    assert 30 < len(pump_draws) < 90, "about a fifth of the draws must start with a pump passage"
    assert all("pump" in seed.question for seeds in pump_draws for seed in seeds)
    assert all(len({seed.id for seed in seeds}) == 3 for seeds in draws)


def test_related_passages_avoid_excluded_passages() -> None:
    source = RelatedPassages(make_passages(*(f"Rule number{number} names item{number}." for number in range(6))))
    assert {seed.id for seed in source.draw(3, random.Random(0), {"0", "1", "2"})} == {"3", "4", "5"}
    assert len(source.draw(6, random.Random(0), {"0"})) == 6, (
        "too few other passages are left, so an excluded one must be drawn"
    )
    with pytest.raises(NothingMatchedError, match="needs 7 seeds"):
        source.draw(7, random.Random(0))


def test_seed_source_draws_train_passages_only(home: Home, folder: Path) -> None:
    import_documents(home, DocumentsRequest("ward", [folder]))
    source = build_seed_source(home.ledger, ("ward",), chainable=False)
    train_ids = set(read_passages(home, "ward", "train"))
    assert {seed.id for seed in source.draw(len(train_ids), random.Random(1))} == train_ids


def test_seed_source_refuses_to_mix_passages_and_questions(home: Home, folder: Path) -> None:
    import_documents(home, DocumentsRequest("ward", [folder]))
    with pytest.raises(UsageError, match="hold passages and questions"):
        build_seed_source(home.ledger, ("ward", "starter-easy"), chainable=False)


def test_evaluation_on_passages_is_refused(home: Home, folder: Path) -> None:
    import_documents(home, DocumentsRequest("documents", [folder]))
    items = list(read_passages(home, "documents").values())
    with pytest.raises(UsageError, match="which have no answers"):
        make_plan(Identity("scripted", "m"), "documents", "test", items, 1, 0.0)


# The command


def run_command(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run `nanoflux` in this process. Returns the exit code, the output and the error output."""
    with pytest.raises(SystemExit) as exit_info:
        main(list(arguments))
    output = capsys.readouterr()
    return int(exit_info.value.code or 0), output.out, output.err


def test_data_documents_writes_a_domain_file(home: Home, folder: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("NANOFLUX_HOME", str(home.root))
    exit_code, out, err = run_command(
        capsys, "data", "documents", str(folder), "--as", "ward-rules", "--domain", "ward", "--json"
    )
    summary = json.loads(out)
    assert exit_code == 0 and summary["documents"] == {"train": 4, "dev": 1, "test": 1} and summary["imported"]
    assert "nanoflux run start --domain ward\n" in err
    path = home.root / "domains" / "ward.toml"
    assert summary["domain"] == str(path)
    assert path.read_text() == 'extends = "documents"\ntitle = "ward rules"\ndatasets = ["ward-rules"]\n'
    exit_code, _, _ = run_command(capsys, "data", "documents", str(folder), "--as", "ward-rules", "--domain", "ward")
    assert exit_code == 0, "an existing domain with the same dataset must be accepted"
    exit_code, _, err = run_command(capsys, "data", "documents", str(folder), "--as", "other", "--domain", "ward")
    assert exit_code == 2 and "draws its seeds from other data" in err
    assert not read_passages(home, "other"), "the documents were imported, although the domain was refused"
    exit_code, _, err = run_command(capsys, "data", "documents", str(folder), "--domain", "gsmhard")
    assert exit_code == 2 and "'gsmhard' is not a valid name for a new domain" in err


def test_data_documents_warns_if_no_document_is_held_out(home: Home, folder: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("NANOFLUX_HOME", str(home.root))
    two_files = [str(folder / "wards" / name) for name in ("night.txt", "keys.txt")]
    exit_code, out, err = run_command(capsys, "data", "documents", *two_files, "--json")
    assert exit_code == 0 and json.loads(out)["documents"] == {"train": 2, "dev": 0, "test": 0}
    assert "no document is held out for dev and test" in err and "--held-out" in err
    _, _, err = run_command(capsys, "data", "documents", *two_files, "--held-out", two_files[0], "--replace")
    assert "held out: night.txt" in err and "warning" not in err


def test_data_show_prints_the_source_of_a_passage(home: Home, folder: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("NANOFLUX_HOME", str(home.root))
    run_command(capsys, "data", "documents", str(folder), "--held-out", str(folder / "wards"))
    exit_code, out, _ = run_command(capsys, "data", "show", "documents", "--limit", "9")
    assert exit_code == 0 and "\n  waste.pdf, page 1\n" in out and "= \n" not in out
    _, out, _ = run_command(capsys, "data", "show", "documents", "--limit", "1", "--json")
    passage = json.loads(out)[0]
    assert passage["source"] and passage["place"]
    _, out, _ = run_command(capsys, "data", "show", "starter", "--limit", "1", "--json")
    question = json.loads(out)[0]
    assert "source" not in question, "a new key would change the digests of items that are not passages"


def test_existing_domain_with_other_data_is_refused(home: Home) -> None:
    from nanoflux_local.domains.own import find_documents_domain

    path = home.root / "domains" / "ward.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('extends = "documents"\ndatasets = ["other"]\n')
    with pytest.raises(ConfigError, match="draws its seeds from other data"):
        find_documents_domain(home.root, "ward", "rules")
