"""Rows are read from files in three shapes, errors name the file and the line, and written rows read back equal."""

import json
from pathlib import Path
from typing import Any

import pytest

from nanoflux_local.errors import DataError, NothingMatchedError
from nanoflux_local.records import Message
from nanoflux_local.train.audit import audit
from nanoflux_local.train.data import TrainingExample
from nanoflux_local.train.rows import read_rows, write_rows
from nanoflux_local.train.settings import TrainSettings

QUESTION = {"role": "user", "content": "How many?"}
ANSWER = {"role": "assistant", "content": "Two."}
PROMPT = (Message("user", "How many?"),)
"""The prompt that consists of `QUESTION`."""


def write_lines(path: Path, *rows: Any) -> Path:
    """Write rows as JSON lines and return the path. A string is written unchanged."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(line + "\n" for line in lines))
    return path


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"messages": [QUESTION, ANSWER]}, PROMPT),
        (
            {"messages": [{"role": "system", "content": "Brief."}, QUESTION, ANSWER]},
            (Message("system", "Brief."), *PROMPT),
        ),
        ({"prompt": "How many?", "completion": "Two."}, PROMPT),
        ({"prompt": [QUESTION], "completion": [ANSWER]}, PROMPT),
        ({"instruction": "How many?", "input": "", "output": "Two."}, PROMPT),
        ({"instruction": "How many?", "input": "a b", "output": "Two."}, (Message("user", "How many?\n\na b"),)),
        (
            {"system": "Brief.", "instruction": "How many?", "output": "Two."},
            (Message("system", "Brief."), *PROMPT),
        ),
    ],
)
def test_rows_are_read_in_each_shape(tmp_path: Path, row: dict[str, Any], prompt: tuple[Message, ...]) -> None:
    path = write_lines(tmp_path / "rows.jsonl", "", row, {**row, "id": "mine"})
    assert read_rows(path) == [TrainingExample(prompt, "Two.", "line 2"), TrainingExample(prompt, "Two.", "mine")]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{half", "is not JSON"),
        ("[1, 2]", "not a JSON object"),
        ({"question": "?", "answer": "!"}, "known shapes: its keys are question, answer"),
        ({"messages": "hello"}, '"messages" is not a list of messages'),
        ({"messages": [{"role": "user"}]}, "is NoneType, not a string"),
        ({"prompt": "How many?", "completion": 2}, '"completion" is int, not a string'),
        ({"completion": "Two."}, '"prompt" is not a list'),
        ({"prompt": "How many?", "completion": [QUESTION]}, "not a single assistant message"),
        ({"output": "Two."}, '"instruction" is NoneType'),
        (
            '{"prompt": "How many?", "completion": "Two.", "completion": "Three."}',
            ": the key 'completion' appears twice",
        ),
        ('{"prompt": ' + "[" * 100_000, "nested too deeply"),
        ({"messages": [QUESTION, {**ANSWER, "weight": 0}]}, '"weight": 0 excludes it from the loss'),
        ({"prompt": "How many?", "completion": "Two.", "weight": 0}, '"weight": 0 excludes'),
        ({"prompt": [QUESTION], "completion": [{**ANSWER, "weight": 0.5}]}, '"weight": 0.5 is neither 0 nor 1'),
    ],
)
def test_error_on_an_unreadable_row_names_file_and_line(tmp_path: Path, row: Any, message: str) -> None:
    path = write_lines(tmp_path / "rows.jsonl", {"prompt": "How many?", "completion": "Two."}, row)
    with pytest.raises(DataError, match=rf"rows\.jsonl line 2.*{message}"):
        read_rows(path)


def test_weight_1_and_weights_of_earlier_answers_are_accepted(tmp_path: Path) -> None:
    messages = [QUESTION, {**ANSWER, "weight": 0}, QUESTION, {**ANSWER, "weight": 1}]
    (row,) = read_rows(write_lines(tmp_path / "rows.jsonl", {"messages": messages, "weight": 1}))
    assert (len(row.prompt), row.completion) == (3, "Two.")


def test_byte_order_mark_is_skipped_and_utf_16_is_refused(tmp_path: Path) -> None:
    text = json.dumps({"prompt": "How many?", "completion": "Two."})
    (tmp_path / "rows.jsonl").write_text(text, encoding="utf-8-sig")
    assert read_rows(tmp_path / "rows.jsonl") == [TrainingExample(PROMPT, "Two.", "line 1")]
    (tmp_path / "rows.jsonl").write_text(text, encoding="utf-16")
    with pytest.raises(DataError, match="the file is UTF-16, not UTF-8"):
        read_rows(tmp_path / "rows.jsonl")


def test_missing_empty_and_non_utf_8_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_rows(tmp_path / "nowhere.jsonl")
    (tmp_path / "latin.jsonl").write_bytes('{"prompt": "é"}'.encode("latin-1"))
    with pytest.raises(DataError, match="cannot be read"):
        read_rows(tmp_path / "latin.jsonl")
    with pytest.raises(NothingMatchedError, match="no rows"):
        read_rows(write_lines(tmp_path / "empty.jsonl", "", "  "))


def test_audit_names_unusable_rows_by_line(tiny_base: Path, tmp_path: Path) -> None:
    path = write_lines(
        tmp_path / "rows.jsonl",
        {"prompt": "How many?", "completion": "Two."},
        {"prompt": "How many?", "completion": ""},
        {"prompt": "How many?", "completion": "x" * 5000},
        {"messages": [QUESTION, ANSWER]},
        '{"prompt": "half \\ud83d of a smile", "completion": "Two."}',
        {"messages": [QUESTION, QUESTION, ANSWER]},
        {"messages": [QUESTION, ANSWER, QUESTION]},
    )
    findings = audit(TrainSettings(val_fraction=0), read_rows(path), (), tiny_base).findings
    assert [(finding.id, finding.problem) for finding in findings] == [
        ("line 2", "empty answer"),
        ("line 3", "cut"),
        ("line 4", "duplicate"),
        ("line 5", "lone surrogate"),
        ("line 6", "wrong role order"),
        ("line 7", "empty answer"),
    ]


def test_rows_are_equal_after_they_are_written_and_read(tmp_path: Path) -> None:
    rows = [
        TrainingExample((Message("system", "s"), *PROMPT), "two\u2028lines\n", "line separator"),
        TrainingExample(PROMPT, "half \ud83d of a smile", "lone surrogate"),
        TrainingExample((), "", "empty"),
    ]
    write_rows(tmp_path / "rows.jsonl", rows)
    assert read_rows(tmp_path / "rows.jsonl") == rows
