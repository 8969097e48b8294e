"""A user's own data: what a row may contain in each file format, and which rows are refused with their location."""

import csv
import json
from pathlib import Path

import pytest

from nanoflux_local.errors import DataError
from nanoflux_local.seeds.reading import read_benchmark
from nanoflux_local.transcript import Seed

OPTIONS = {"A": "ant", "B": "bee"}


def read_seeds(path: Path) -> list[Seed]:
    """The seeds in a user's data file."""
    return [item.seed for item in read_benchmark("mine", [path]).items]


def write_content(path: Path, content: bytes | str) -> Path:
    """Write a file, and return its path."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def write_parquet(path: Path, **columns: list[object]) -> Path:
    """Write a Parquet file with `columns`, and return its path."""
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


def write_csv(path: Path, *rows: list[str]) -> Path:
    """Write a CSV file with `rows`, and return its path."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


def write_xlsx(path: Path, *rows: list[object]) -> Path:
    """Write a workbook whose only sheet has `rows`, and return its path."""
    import openpyxl

    workbook = openpyxl.Workbook()
    for row in rows:
        workbook.active.append(row)
    workbook.save(path)
    return path


@pytest.mark.parametrize(
    ("json_answer", "answer"),
    [
        ("3.2e-7", "3.2e-7"), ("4.5e-8", "4.5e-8"), ("0.00025033", "0.00025033"), ("12.0", "12"), ("-0.0", "0"),
        ("1234.5", "1234.5"), ("12345678901234567890", "12345678901234567890"), ("1e16", "10000000000000000"),
        ("0.1", "0.1"), ('" 0.50 "', "0.50"), ("12345678901234567890123.5", "12345678901234567890123.5"),
        ("0.123456789012345678901234567890", "0.12345678901234567890123456789"), ("1e-400", "1e-400"),
        ("0.30000000000000004", "0.30000000000000004"), ("1.25E2", "125"),
    ],
)  # fmt: skip
def test_answers_keep_every_digit(tmp_path: Path, json_answer: str, answer: str) -> None:
    path = write_content(tmp_path / "rows.jsonl", f'{{"question": "Q?", "answer": {json_answer}}}\n')
    assert [seed.answer for seed in read_seeds(path)] == [answer]


NON_FINITE_ANSWERS = ["NaN", "Infinity", "-Infinity", "1e999", "9" * 400, "9" * 5000, '"nan"', '"-inf"', '"1e999"']
"""JSON values that are not finite numbers, or are too large for a double."""


@pytest.mark.parametrize("json_answer", NON_FINITE_ANSWERS, ids=lambda text: text[:12])
def test_error_on_a_non_finite_answer_names_the_line(tmp_path: Path, json_answer: str) -> None:
    good_row = '{"question": "P?", "answer": 1}\n'
    path = write_content(tmp_path / "rows.jsonl", f'{good_row}{{"question": "Q?", "answer": {json_answer}}}\n')
    with pytest.raises(DataError, match=r"rows\.jsonl, line 2: key 'answer' is .*not a finite number"):
        read_seeds(path)


@pytest.mark.parametrize("answer", [float("nan"), float("inf")])
def test_non_finite_answers_in_parquet_and_csv_are_refused(tmp_path: Path, answer: float) -> None:
    with pytest.raises(DataError, match="row 1: key 'answer' is not a finite number"):
        read_seeds(write_parquet(tmp_path / "rows.parquet", question=["Q?"], answer=[answer]))
    with pytest.raises(DataError, match=r"line 2: key 'answer' is .*not a finite number"):
        read_seeds(write_content(tmp_path / "rows.csv", f"question,answer\nQ?,{answer}\n"))


def test_parquet_decimals_keep_their_digits(tmp_path: Path) -> None:
    from decimal import Decimal

    path = write_parquet(tmp_path / "rows.parquet", question=["Q?"], answer=[Decimal("0.00000032")])
    assert read_seeds(path)[0].answer == "3.2e-7"


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("rows.jsonl", '{"question": "Q?", "answer": 4}\n'),
        ("rows.json", '[{"question": "Q?", "answer": 4}]'),
        ("rows.csv", "question,answer\nQ?,4\n"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_byte_order_mark_is_skipped(tmp_path: Path, file: str, content: str, encoding: str) -> None:
    path = write_content(tmp_path / file, content.encode(encoding))
    assert [seed.answer for seed in read_seeds(path)] == ["4"]


@pytest.mark.parametrize("file", ["rows.jsonl", "rows.json", "rows.csv"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_error_on_another_encoding_names_the_encoding(tmp_path: Path, file: str, encoding: str) -> None:
    path = write_content(tmp_path / file, '{"question": "Q?", "answer": 4}\n'.encode(encoding))
    with pytest.raises(DataError, match=f"the file is {encoding.upper()}, not (JSON|CSV) in UTF-8") as error:
        read_seeds(path)
    assert "iconv" in error.value.fix


ROW_WITH_REPEATED_KEY = '{"question": "Q?", "answer": 4, "answer": 5}'


@pytest.mark.parametrize(
    ("file", "content", "location"),
    [
        ("rows.jsonl", f'{{"question": "P?", "answer": 1}}\n{ROW_WITH_REPEATED_KEY}\n', "line 2"),
        ("rows.json", f"[{ROW_WITH_REPEATED_KEY}]", "entry 1"),
        ("rows.jsonl", '{"question": "Q?", "answer": "A", "options": {"A": "ant", "A": "bee"}}', "line 1"),
    ],
)
def test_error_on_a_repeated_key_names_the_location(tmp_path: Path, file: str, content: str, location: str) -> None:
    with pytest.raises(DataError, match=f"{location}: the key '(answer|A)' is given twice"):
        read_seeds(write_content(tmp_path / file, content))


def test_error_on_a_repeated_column_names_the_column(tmp_path: Path) -> None:
    csv_path = write_csv(tmp_path / "rows.csv", ["question", "answer", "answer"], ["Q?", "4", "5"])
    with pytest.raises(DataError, match="line 1: the column 'answer' is given twice"):
        read_seeds(csv_path)
    xlsx_path = write_xlsx(tmp_path / "rows.xlsx", ["question", "answer", " answer "], ["Q?", 4, 5])
    with pytest.raises(DataError, match="row 1: the column 'answer' is given twice"):
        read_seeds(xlsx_path)


def test_empty_columns_without_a_name_are_ignored(tmp_path: Path) -> None:
    csv_path = write_csv(tmp_path / "rows.csv", ["question", "answer", "", ""], ["Q?", "4", "", ""])
    xlsx_path = write_xlsx(tmp_path / "rows.xlsx", ["question", "answer", None, None], ["Q?", 4, None, None])
    for path in (csv_path, xlsx_path):
        assert [seed.answer for seed in read_seeds(path)] == ["4"]


@pytest.mark.parametrize("depth", [2_000, 200_000])
def test_error_on_a_too_deeply_nested_value_names_the_line(tmp_path: Path, depth: int) -> None:
    content = f'{{"question": "Q?", "answer": {"[" * depth}{"]" * depth}}}\n'
    with pytest.raises(DataError, match=r"line 1: (not JSON in UTF-8: nested too deep|key 'answer')"):
        read_seeds(write_content(tmp_path / "rows.jsonl", content))


def test_csv_options_are_columns_or_json_in_a_cell(tmp_path: Path) -> None:
    columns_path = write_csv(tmp_path / "a.csv", ["question", "A", "B", "C", "answer"], ["Q?", "ant", "bee", "", "B"])
    json_path = write_csv(tmp_path / "b.csv", ["question", "options", "answer"], ["Q?", json.dumps(OPTIONS), "B"])
    for path in (columns_path, json_path):
        assert [(seed.options, seed.answer) for seed in read_seeds(path)] == [(OPTIONS, "B")]


@pytest.mark.parametrize(
    "options", ["ant; bee", "{", '["ant", "bee"]', "[" * 100_000, '{"B": "bee"}', '{"A": 5}', '"ant"', "5"]
)
def test_error_on_unreadable_options_names_the_line(tmp_path: Path, options: str) -> None:
    path = write_csv(tmp_path / "rows.csv", ["question", "options", "answer"], ["Q?", options, "B"])
    with pytest.raises(DataError, match=r"line 2: key 'options' (is not|does not contain)"):
        read_seeds(path)
