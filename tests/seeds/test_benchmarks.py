"""Benchmarks: official files have the published numbers of items, and the hub's files give the same items."""

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from nanoflux_local.domains.base import list_built_in
from nanoflux_local.domains.own import load_domain
from nanoflux_local.errors import DataError, NothingMatchedError, UsageError
from nanoflux_local.seeds.benchmarks.base import list_benchmarks, list_importable_benchmarks
from nanoflux_local.seeds.datasets import list_seed_datasets
from nanoflux_local.seeds.importing import hash_content
from nanoflux_local.seeds.reading import read_benchmark
from nanoflux_local.seeds.source import Items
from nanoflux_local.seeds.splits import count_restated, extract_stem, hash_into_split, read_file_split
from nanoflux_local.transcript import Seed

DATA = Path(__file__).parents[3] / "shared" / "data"
"""The folder with the official files of the benchmarks, in the folder `shared` next to the project."""
OFFICIAL_FILES: dict[str, tuple[tuple[str, ...], int, dict[str, int]]] = {
    "gsmhard": (("gsm-hard/gsmhardv2.jsonl",), 1319, {"train": 798, "dev": 142, "test": 379}),
    "gsm8k": (("gsm8k/train.jsonl", "gsm8k/test.jsonl"), 7473 + 1319, {"train": 6726, "dev": 747, "test": 1319}),
    "genomebench": (("genome-bench/format_sample_1row.jsonl",), 1, {"test": 1}),
    "medqa": (("medqa/phrases_no_exclude_test.jsonl",), 1273, {"test": 1273}),
    "medmcqa": (("medmcqa/dev.json",), 4183, {"dev": 4183}),
    "pubmedqa": (
        ("pubmedqa/ori_pqal.json", "pubmedqa/test_ground_truth.json"), 1000, {"train": 441, "dev": 59, "test": 500},
    ),
    "mmlu": (
        tuple(
            f"mmlu/{subject}_test.csv"
            for subject in ("anatomy", "clinical_knowledge", "college_biology", "college_medicine", "medical_genetics",
                            "professional_medicine")
        ),
        135 + 265 + 144 + 173 + 100 + 272, {"test": 1089},
    ),
    "liveqa": (("liveqa/TREC-2017-LiveQA-Medical-Test.xml",), 104, {"train": 65, "dev": 5, "test": 34}),
    "medicationqa": (("medicationqa/MedInfo2019-QA-Medications.xlsx",), 690, {"train": 421, "dev": 63, "test": 206}),
    "healthsearchqa": (
        ("healthsearchqa/healthsearch_qa_test.jsonl",), 3173, {"train": 1905, "dev": 303, "test": 965},
    ),
}  # fmt: skip
"""For each benchmark: its official files, their number of items, and the number of items in each split."""


def find_official_paths(name: str) -> list[Path]:
    """The paths of a benchmark's official files; skips the test if one is missing."""
    relative_paths, _, _ = OFFICIAL_FILES[name]
    paths = [DATA / path for path in relative_paths]
    if not all(path.exists() for path in paths):
        pytest.skip(f"the official files of {name} are not under {DATA}")
    return paths


@pytest.mark.parametrize("name", OFFICIAL_FILES)
def test_official_files_have_the_published_counts(name):
    content = read_benchmark(name, find_official_paths(name))
    _, count, count_by_split = OFFICIAL_FILES[name]
    assert (len(content.items), content.skipped) == (count, [])
    assert Counter(item.split for item in content.items) == count_by_split
    assert len({item.seed.id for item in content.items}) == count
    for item in content.items:
        assert item.seed.question and item.seed.question == item.seed.question.strip()
        assert not item.seed.options or item.seed.answer in item.seed.options
    assert content.blank == (1263 if name == "healthsearchqa" else 0)


@pytest.mark.parametrize("name", [name for name in OFFICIAL_FILES if name != "genomebench"])
def test_benchmark_states_the_size_of_its_official_files(name):
    """Only splits whose official files are installed are compared. Genome-Bench is left out, because only one row of
    its official file is published.
    """
    benchmark = list_importable_benchmarks()[name]
    paths = find_official_paths(name)
    has_splits = benchmark.format.official_splits
    split_by_path = {str(path): read_file_split(path) if has_splits else "" for path in paths}
    item_paths = [item.location.rpartition(", ")[0] for item in read_benchmark(name, paths).items]
    count_by_split = Counter(split_by_path[path] for path in item_paths)
    assert count_by_split == {split: benchmark.counts[split] for split in count_by_split}


@pytest.mark.parametrize("name", [name for name in list_built_in() if load_domain(name).datasets != ("documents",)])
def test_domain_lists_the_benchmarks_that_seed_it(name):
    """A domain's file lists its benchmarks in order, and each benchmark's module lists the domains that it seeds: both
    must agree. Domains about a user's documents have no benchmark.
    """
    datasets = load_domain(name).datasets
    assert set(datasets) == {benchmark.name for benchmark in list_benchmarks().values() if name in benchmark.domains}
    assert list_seed_datasets(load_domain(name)) == datasets


def test_labels_of_official_files_are_read_correctly():
    """The expected counts are those that the publishers state."""
    pubmedqa_items = read_benchmark("pubmedqa", find_official_paths("pubmedqa")).items
    assert Counter(item.seed.answer for item in pubmedqa_items) == {"A": 552, "B": 338, "C": 110}
    test_answers = Counter(item.seed.answer for item in pubmedqa_items if item.split == "test")
    assert test_answers == {"A": 276, "B": 169, "C": 55}
    (medqa_path,) = find_official_paths("medqa")
    medqa_items = read_benchmark("medqa", [medqa_path]).items
    for line, item in zip(medqa_path.read_text().splitlines(), medqa_items, strict=True):
        assert item.seed.options[item.seed.answer] == json.loads(line)["answer"]
    healthsearchqa_items = read_benchmark("healthsearchqa", find_official_paths("healthsearchqa")).items
    assert not any(item.seed.question.startswith(",") for item in healthsearchqa_items)


def test_gsm_hard_restates_the_test_set_of_gsm8k():
    gsmhard_items = read_benchmark("gsmhard", find_official_paths("gsmhard")).items
    gsm8k_items = read_benchmark("gsm8k", find_official_paths("gsm8k")).items
    gsmhard_stems = [extract_stem(item.seed.question) for item in gsmhard_items]
    restated_counts = {
        split: count_restated(gsmhard_stems, [item.seed for item in gsm8k_items if item.split == split])
        for split in ("train", "dev", "test")
    }
    assert restated_counts["test"] >= 1245
    assert restated_counts["train"] == restated_counts["dev"] == 0


# Values that several of the rows below contain.
FOUR_OPTIONS = {"A": "one", "B": "two", "C": "three", "D": "four"}
MEDMCQA_OPTIONS = {f"op{letter}": letter for letter in "abcd"}
GENOME_QUESTION = (
    'How is a guide chosen? Please choose one of the following options: a. "by length" b. "by score" c. "at random" '
    'd. "by cost" e. "by colour"'
)
PUBMED_ROW = {
    "question": "Does it?", "context": {"contexts": ["First.", "Second."], "labels": [], "meshes": []},
    "long_answer": "It does.", "final_decision": "yes",
}  # fmt: skip

HUB_AND_OFFICIAL_ROWS: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]] | dict[str, Any]]] = {
    "gsm8k": (
        [{"question": "What is 2+3?", "answer": "2+3=<<2+3=5>>5\n#### 1,005"}],
        [{"question": "What is 2+3?", "answer": "2+3=<<2+3=5>>5\n#### 1,005"}],
    ),
    "gsmhard": (
        [{"input": "What?", "code": "def solution():\n    return 7", "target": 7.0}],
        [{"input": "What?", "code": "def solution():\n    return 7", "target": 7}],
    ),
    "genomebench": (
        [{"question": GENOME_QUESTION, "answer": "<explanation>As it says.</explanation> <answer>b</answer>"}],
        [{"question": GENOME_QUESTION, "answer": "<explanation>As it says.</explanation>\n<answer>b</answer>"}],
    ),
    "medqa": (
        [{"question": "Which?", "answer": "two", "options": FOUR_OPTIONS, "answer_idx": "B", "metamap_phrases": ["x"]}],
        [{"question": "Which?", "answer": "two", "options": FOUR_OPTIONS, "answer_idx": "B", "meta_info": "step1"}],
    ),
    "medmcqa": (
        [{"id": str(number), "question": f"Which {number}?", "cop": number - 1, "exp": None, **MEDMCQA_OPTIONS}
         for number in (1, 2, 4)],
        [{"id": str(number), "question": f"Which {number}?", "cop": number, "exp": None, **MEDMCQA_OPTIONS}
         for number in (1, 2, 4)],
    ),
    "pubmedqa": (
        [{"pubid": 123, **PUBMED_ROW}],
        {"123": {"QUESTION": "Does it?", "CONTEXTS": ["First.", "Second."], "LONG_ANSWER": "It does.",
                 "final_decision": "yes"}},
    ),
    "medicationqa": (
        [{"Question": "How?", "Focus (Drug)": "x", "Answer": "So.", "URL": "u"}],
        [{"Question": "How?", "Answer": "So."}],
    ),
    "healthsearchqa": (
        [{"id": 1.0, "question": "Is it?"}, {"id": None, "question": ""}],
        [{"Question": ", Is it?"}, {"Question": ""}],
    ),
}  # fmt: skip
"""For each benchmark: the same rows in the layout of the hub and in that of the official files."""


def _write_parquet(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows as a Parquet file of the train split, and return its path."""
    path = folder / "train-00000-of-00001.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def _write_saved_folder(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows as the `datasets` library saves a dataset with a train split, and return the dataset's folder."""
    table = pyarrow.Table.from_pylist(rows)
    split_folder = folder / "saved" / "train"
    split_folder.mkdir(parents=True)
    arrow_path = str(split_folder / "data-00000-of-00001.arrow")
    with pyarrow.OSFile(arrow_path, "wb") as sink, pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return folder / "saved"


def _write_json_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows as JSON Lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _write_json_lines_of_hub(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows as JSON Lines in a file whose name ends in `.json`, and return its path."""
    _write_json_lines(folder / "train.json", rows)
    return folder / "train.json"


@pytest.mark.parametrize(
    "write_hub_file",
    [_write_parquet, _write_saved_folder, _write_json_lines_of_hub],
    ids=["parquet", "save_to_disk folder", "JSON Lines in .json"],
)
@pytest.mark.parametrize("name", HUB_AND_OFFICIAL_ROWS)
def test_hub_files_give_the_items_of_official_files(tmp_path, name, write_hub_file):
    hub_rows, official_rows = HUB_AND_OFFICIAL_ROWS[name]
    if isinstance(official_rows, list):
        official_path = tmp_path / "train.jsonl"
        _write_json_lines(official_path, official_rows)
    else:
        official_path = tmp_path / "train.json"
        official_path.write_text(json.dumps(official_rows))
    (tmp_path / "hub").mkdir()
    hub_path = write_hub_file(tmp_path / "hub", hub_rows)
    official_items = [(item.seed, item.split) for item in read_benchmark(name, [official_path]).items]
    hub_items = [(item.seed, item.split) for item in read_benchmark(name, [hub_path]).items]
    assert hub_items == official_items != []


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("header", ["", "question,A,B,C,D,answer"])
def test_mmlu_items_of_csv_files_and_of_the_hub_are_equal(tmp_path, line_end, header):
    rows = ['"Which, of\n two?",one,two,three,four,B', "Why?,1,2,3,4,D"]
    lines = [header, *rows] if header else rows
    path = tmp_path / "anatomy_test.csv"
    path.write_bytes((line_end.join(lines) + line_end).encode())
    hub_rows = [
        {"question": "Which, of\n two?", "subject": "anatomy", "choices": list(FOUR_OPTIONS.values()), "answer": 1},
        {"question": "Why?", "subject": "anatomy", "choices": ["1", "2", "3", "4"], "answer": 3},
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(hub_rows), tmp_path / "test-00000-of-00001.parquet")
    csv_items = read_benchmark("mmlu", [path]).items
    hub_items = read_benchmark("mmlu", [tmp_path / "test-00000-of-00001.parquet"]).items
    assert [item.seed for item in csv_items] == [item.seed for item in hub_items]
    assert [item.seed.id for item in csv_items] == ["mmlu-anatomy-test-1", "mmlu-anatomy-test-2"]
    assert {item.split for item in [*csv_items, *hub_items]} == {"test"}


def test_medmcqa_answers_may_count_from_zero_or_one(tmp_path):
    def read_answers(file: str, *cops: int) -> str:
        """The answers' letters in a file with these values of `cop`, the number of the correct option."""
        path = tmp_path / file
        rows = [{"id": str(number), "question": "Q", "cop": cop, **MEDMCQA_OPTIONS} for number, cop in enumerate(cops)]
        _write_json_lines(path, rows)
        return "".join(item.seed.answer for item in read_benchmark("medmcqa", [path]).items)

    assert read_answers("dev.json", 1, 2, 4) == "ABD"
    assert read_answers("dev.json", 0, 2, 3) == "ACD", "a file that contains a 0 must count from zero"
    assert read_answers("dev.json", 1, 2) == "AB", "a JSON file with neither 0 nor 4 must count from one"
    with pytest.raises(DataError, match="counts from 0 in some rows"):
        read_answers("dev.json", 0, 4)
    with pytest.raises(DataError, match="has no answers"):
        read_answers("test.json", -1)


def test_seeds_are_divided_evenly_among_benchmarks():
    """A large benchmark gives no more seeds than a small one, unless the small one runs out of items."""
    size_by_name = {"large": 500, "middle": 50, "small": 2}
    items = [Seed(f"{name}-{number}", name, "Q?", "1") for name, size in size_by_name.items() for number in range(size)]
    source = Items(items)
    rng = random.Random(0)
    for count in (1, 2, 3, 7, 12):
        seeds = source.draw(count, rng)
        assert len({seed.id for seed in seeds}) == count
        drawn_counts = Counter(seed.dataset for seed in seeds)
        assert min(2, count // 3) <= drawn_counts["small"] <= 2
        assert abs(drawn_counts["large"] - drawn_counts["middle"]) <= 1
    counts_of_single_draws = Counter(source.draw(1, rng)[0].dataset for _ in range(600))
    for count in counts_of_single_draws.values():  # a third of the draws, within five standard deviations
        assert count == pytest.approx(200, abs=60)
    assert len({seed.id for seed in source.draw(552, rng)}) == 552, "a draw of all items must contain each item once"
    with pytest.raises(NothingMatchedError, match="needs 553 seeds, but there are only 552"):
        source.draw(553, rng)
    assert source.draw(9, random.Random(3)) == source.draw(9, random.Random(3))


def test_bad_rows_are_skipped_and_listed_with_skip_bad(tmp_path):
    path = tmp_path / "train.jsonl"
    good_row = json.dumps({"question": "What is 1+1?", "answer": "#### 2"})
    bad_rows = [b"{", b'{"question": 3}', b"\xff", b"x" * (5 * 2**20)]
    path.write_bytes(b"\n".join([good_row.encode(), *bad_rows, good_row.encode()]))
    with pytest.raises(DataError, match="line 2: not JSON"):
        read_benchmark("gsm8k", [path])
    content = read_benchmark("gsm8k", [path], skip_bad=True)
    assert [item.seed.id for item in content.items] == ["gsm8k-train-1", "gsm8k-train-6"]
    assert [message.split(": ")[0] for message in content.skipped] == [f"{path}, line {line}" for line in (2, 3, 4, 5)]


def test_split_comes_from_the_file_name_or_a_hash_of_the_question(tmp_path):
    split_by_file = {
        "train-00000-of-00001.parquet": "train", "phrases_no_exclude_test.jsonl": "test", "dev.json": "dev",
        "validation-00000-of-00001.parquet": "dev", "anatomy_val.csv": "dev", "gsmhardv2.jsonl": "",
    }  # fmt: skip
    folder = Path("/test/train")  # the names of folders do not matter
    assert {name: read_file_split(folder / name) for name in split_by_file} == split_by_file
    path = tmp_path / "test.jsonl"
    rows = [{"question": f"{letter}?", "answer": "#### 1"} for letter in "abcdefghij"]
    _write_json_lines(path, rows)
    assert {item.split for item in read_benchmark("gsm8k", [path]).items} == {"test"}
    items = read_benchmark("gsm8k", [path], hashed=True).items
    assert [item.split for item in items] == [hash_into_split(item.seed.question) for item in items]
    assert len({item.split for item in items}) > 1


def test_repeated_files_and_labels_without_items_are_refused(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps({"question": "Q?", "answer": "#### 1"}) + "\n")
    with pytest.raises(UsageError, match=r"is in .* too"):
        read_benchmark("gsm8k", [path, path])
    labels = tmp_path / "test_ground_truth.json"
    labels.write_text(json.dumps({"123": "yes", "124": "no"}))
    with pytest.raises(DataError, match="no item has the id '123'"):
        read_benchmark("pubmedqa", [labels])


def test_content_hash_is_independent_of_the_order_of_files(tmp_path):
    first_path, second_path = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    first_path.write_text("a")
    second_path.write_text("b")
    assert hash_content([first_path, second_path]) == hash_content([second_path, first_path])
    assert hash_content([first_path]) != hash_content([first_path, second_path])


# XML whose entities expand to a longer text, or to the content of a file of this machine.
XML_WITH_ENTITIES = (
    """<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;">]><x><NLM-QUESTION>&b;</NLM-QUESTION></x>"""
)
EXTERNAL_ENTITY = '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>'
XML_WITH_EXTERNAL_ENTITY = f"""{EXTERNAL_ENTITY}<x><NLM-QUESTION>&e;</NLM-QUESTION></x>"""


def _make_zip_bomb() -> bytes:
    """A workbook of a few hundred kilobytes that unpacks to 300 MiB."""
    import io
    import zipfile

    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("xl/workbook.xml", "w") as member:
        for _ in range(300):
            member.write(bytes(2**20))
    return file.getvalue()


def _make_workbook(sheet: str, claimed_size: int | None = None) -> bytes:
    """A workbook whose sheet has the XML `sheet`. `claimed_size` is the size of that XML in the archive's directory."""
    import io
    import zipfile

    import openpyxl

    empty_workbook = io.BytesIO()
    openpyxl.Workbook().save(empty_workbook)
    file = io.BytesIO()
    with zipfile.ZipFile(empty_workbook) as source, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry in source.infolist():
            text = sheet.encode() if entry.filename == "xl/worksheets/sheet1.xml" else source.read(entry)
            archive.writestr(entry.filename, text)
        for entry in archive.infolist():
            if claimed_size is not None and entry.filename == "xl/worksheets/sheet1.xml":
                entry.file_size = claimed_size
    return file.getvalue()


def _make_sheet(row_count: int) -> str:
    """The XML of a sheet with a column "Question"."""
    cell = '<c t="inlineStr"><is><t>Question</t></is></c>'
    rows = "".join(f'<row r="{number}">{cell}</row>' for number in range(1, row_count + 1))
    return f'<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><sheetData>{rows}</sheetData></worksheet>'


def _make_workbook_with_entity() -> bytes:
    """A workbook whose cells contain an entity that reads a file of the machine."""
    return _make_workbook(EXTERNAL_ENTITY + _make_sheet(3).replace(">Question<", ">&e;<"))


MALFORMED_FILES = {
    "XLSX with an external entity": ("medicationqa", "x.xlsx", _make_workbook_with_entity, "not an XLSX"),
    "XLSX that understates its size": (
        "medicationqa", "x.xlsx", lambda: _make_workbook(_make_sheet(9999), claimed_size=99), "not an XLSX",
    ),
    "JSON in UTF-16": ("pubmedqa", "x.json", '{"1": {}}'.encode("utf-16"), "not JSON in UTF-8"),
    "JSON of numbers": ("pubmedqa", "x.json", b"[1]", "entry 1: not a JSON object"),
    "Parquet truncated": ("gsm8k", "x.parquet", b"PAR1" + bytes(100) + b"PAR1", "not a Parquet file"),
    "CSV whose quotes never close": (
        "mmlu", "anatomy_test.csv", lambda: b'"' + b"x\n" * (3 * 2**20), "field larger than field limit",
    ),
    "XLSX with other content": ("medicationqa", "x.xlsx", b"no workbook", "not an XLSX workbook"),
    "zip bomb": ("medicationqa", "x.xlsx", _make_zip_bomb, "are more than the"),
    "JSON Lines in place of XML": ("liveqa", "x.jsonl", b'{"question": "Q?"}', "not an XML file with NLM-QUESTION"),
    "XML truncated": ("liveqa", "x.xml", b"<a><NLM-QUESTION>", "not XML"),
    "XML with entities": ("liveqa", "x.xml", XML_WITH_ENTITIES.encode(), "XML with entities or external references"),
    "XML with an external entity": (
        "liveqa", "x.xml", XML_WITH_EXTERNAL_ENTITY.encode(), "XML with entities or external references",
    ),
    "Parquet with other content": ("gsm8k", "x.parquet", b"PAR1 no", "not a Parquet file"),
    "JSON truncated": ("pubmedqa", "x.json", b'{"1": {"QUESTION": "', "not JSON in UTF-8"),
    "CSV in Latin-1": ("mmlu", "anatomy_test.csv", b"caf\xe9,1,2,3,4,A\n", "line 1: not UTF-8"),
    "CSV with a missing cell": ("mmlu", "anatomy_test.csv", b"Q?,1,2,3,4,A\nQ?,1,2,A\n", "line 2: 4 cells, but 6"),
    "CSV with one endless line": ("mmlu", "anatomy_test.csv", lambda: b"x" * (5 * 2**20), "line 1: longer than"),
    "subject outside medicine": ("mmlu", "astronomy_test.csv", b"Q?,1,2,3,4,A\n", "names none of the subjects"),
    "answer that is not an option": ("mmlu", "anatomy_test.csv", b"Q?,1,2,3,4,E\n", "'E' is not one of the options"),
}  # fmt: skip
"""Malformed files: for each the benchmark, the file's name, its content (or a function that makes it), and a part of
the error.
"""


@pytest.mark.parametrize(("name", "file", "content", "message"), MALFORMED_FILES.values(), ids=MALFORMED_FILES)
def test_error_on_a_malformed_file_names_the_file(tmp_path, name, file, content, message):
    path = tmp_path / file
    path.write_bytes(content() if callable(content) else content)
    with pytest.raises(DataError) as error:
        read_benchmark(name, [path])
    assert error.value.message.startswith(str(path))
    assert message in error.value.message


def test_error_on_a_broken_arrow_file_names_the_file(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "data-00000-of-00001.arrow").write_bytes(b"no stream of tables")
    with pytest.raises(DataError, match=r"data-00000-of-00001\.arrow: not an Arrow stream"):
        read_benchmark("gsm8k", [tmp_path])


def test_medqa_reads_four_or_five_options_from_an_object_or_a_list(tmp_path):
    def read_seed(options: Any, letter: str) -> Any:
        path = tmp_path / "train.jsonl"
        path.write_text(json.dumps({"question": "Which?", "options": options, "answer": "x", "answer_idx": letter}))
        return read_benchmark("medqa", [path]).items[0].seed

    five_options = {**FOUR_OPTIONS, "E": "five"}
    seed = read_seed(five_options, "E")
    assert (seed.options, seed.answer) == (five_options, "E")
    listed_options = [{"key": letter, "value": text} for letter, text in FOUR_OPTIONS.items()]
    assert read_seed(listed_options, "B") == read_seed(FOUR_OPTIONS, "B")
    for options, letter in ((FOUR_OPTIONS, "E"), ({**five_options, "F": "six"}, "A"), ({"A": "one", "B": "two"}, "A")):
        with pytest.raises(DataError, match="line 1: "):
            read_seed(options, letter)


def test_huge_line_is_refused_in_bounded_memory(tmp_path):
    """The line is a sparse file of 1 GiB: zeros without a line break."""
    import tracemalloc

    path = tmp_path / "train.jsonl"
    with path.open("wb") as file:
        file.truncate(2**30)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="line 1: the line is longer"):
            read_benchmark("gsm8k", [path])
        _, peak_bytes = tracemalloc.get_traced_memory()
        assert peak_bytes < 64 * 2**20
    finally:
        tracemalloc.stop()
