"""`nanoflux export`: `train` reads the exported rows, each format can be read back, and no file is overwritten."""

import errno
import hashlib
import json
import shlex
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import yaml

from nanoflux_local import files
from nanoflux_local.cli.export import FORMATS, TRAINERS
from nanoflux_local.errors import DataError
from nanoflux_local.examples import export as export_module
from nanoflux_local.examples import trainers
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.records import Message
from nanoflux_local.train.data import TrainingExample, data_digest
from nanoflux_local.train.rows import read_rows
from nanoflux_local.train.trainings import load_run_data

JSONL_FORMATS = [name for name in FORMATS if name not in ("parquet", "preference")]
"""The formats with one line per example, a JSON object that `train --data` can read."""
DIALOGUE = (
    Message("system", "Be brief."),
    Message("user", "1 + 1?"),
    Message("assistant", "2"),
    Message("user", "2 + 2?\u2028"),
)


def change_ledger(home: Path, sql: str, *values: object) -> None:
    with sqlite3.connect(Home(home).ledger) as ledger:
        ledger.execute(sql, values)
    ledger.close()


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def list_example_ids(home: Path, invoke: Callable[..., Any]) -> list[str]:
    """The ids of the examples of the run "tour", in turn order."""
    return [example["id"] for example in json.loads(invoke(home, "examples", "list", "tour", "--json").out)]


def test_help_offers_every_format_and_trainer() -> None:
    assert export_module.FORMATS == FORMATS and tuple(trainers.TRAINERS) == TRAINERS


@pytest.mark.parametrize("file_format", JSONL_FORMATS)
def test_exported_rows_are_read_back_as_the_training_rows_of_the_run(
    home: Path, tmp_path: Path, invoke: Callable[..., Any], file_format: str
) -> None:
    out = tmp_path / "new" / "rows.jsonl"
    result = invoke(home, "export", "tour", "--format", file_format, "-o", str(out), "--json")
    assert result.code == 0, result.err
    exported, rows = json.loads(result.out), read_rows(out)
    run_rows = load_run_data(Home(home), "tour").rows
    assert [(row.prompt, row.completion) for row in rows] == [(row.prompt, row.completion) for row in run_rows]
    assert exported["data_digest"] == data_digest(rows) == data_digest(run_rows)
    assert exported["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
    summary = json.loads(invoke(home, "run", "show", "tour", "--json").out)
    assert (exported["digest"], exported["rows"]) == (summary["digest"], summary["kept"])
    keys_by_row = [set(row) for row in read_json_lines(out)]
    assert all(keys == keys_by_row[0] for keys in keys_by_row) and {"id", "turn", "reason"} < keys_by_row[0]
    example = invoke(home, "examples", "show", rows[0].id, "--json")
    assert json.loads(example.out)["id"] == rows[0].id, "the id of a row is not the id of its example"


@pytest.mark.parametrize(
    ("trainer", "file_format"),
    [(name, file_format) for name, trainer in trainers.TRAINERS.items() for file_format in trainer.formats],
)
def test_export_for_a_trainer_writes_a_dataset_description(
    home: Path, tmp_path: Path, invoke: Callable[..., Any], trainer: str, file_format: str
) -> None:
    out = tmp_path / "rows.jsonl"
    result = invoke(home, "export", "tour", "--format", file_format, "--for", trainer, "-o", str(out), "--json")
    assert result.code == 0, result.err
    exported = json.loads(result.out)
    rows = read_json_lines(out)
    description_file = Path(exported["description"])
    file_name, columns = DESCRIPTION_READERS[trainer](yaml.safe_load(description_file.read_text("utf-8")))
    assert description_file.parent / file_name == out
    assert exported["command"] in out.with_suffix(".md").read_text()
    assert rows and all(columns <= set(row) for row in rows)
    if file_format == "preference":
        answer_type = dict if trainer == "llama-factory" else list
        assert all(type(row[key]) is answer_type for row in rows for key in ("chosen", "rejected"))
    second_out = tmp_path / "b.jsonl"
    repeated = invoke(home, "export", "tour", "--format", file_format, "--for", trainer, "-o", str(second_out))
    overwrites_description = trainer == "llama-factory"  # its description is always called dataset_info.json
    assert repeated.code == (2 if overwrites_description else 0), repeated.err


def read_axolotl_description(description: dict[str, Any]) -> tuple[str, set[str]]:
    (entry,) = description["datasets"]
    answer_columns = {"chosen", "rejected"} if description.get("rl") == "dpo" else set()
    return entry["path"], {entry["field_messages"], *answer_columns}


def read_trl_description(description: dict[str, Any]) -> tuple[str, set[str]]:
    (entry,) = description["datasets"]
    return entry["data_files"], set(entry["columns"])


def read_llama_factory_description(description: dict[str, Any]) -> tuple[str, set[str]]:
    (entry,) = description.values()
    return entry["file_name"], set(entry["columns"].values())


DESCRIPTION_READERS = {
    "trl": read_trl_description,
    "llama-factory": read_llama_factory_description,
    "axolotl": read_axolotl_description,
}
"""For each trainer, the function that reads the file name and the columns from its description."""


def test_export_refuses_formats_that_the_trainer_cannot_read(
    home: Path, tmp_path: Path, invoke: Callable[..., Any]
) -> None:
    refusal = invoke(home, "export", "tour", "--format", "parquet", "--for", "axolotl", "-o", str(tmp_path / "rows"))
    assert refusal.code == 2 and "axolotl does not read the format 'parquet'" in refusal.err
    assert not list(tmp_path.glob("rows*"))


def test_parquet_export_has_the_rows_of_the_run_and_example_columns(
    home: Path, tmp_path: Path, invoke: Callable[..., Any]
) -> None:
    out = tmp_path / "rows.parquet"
    assert invoke(home, "export", "tour", "--format", "parquet", "-o", str(out)).code == 0
    exported_rows = pyarrow.parquet.read_table(out).to_pylist()
    for row, example in zip(exported_rows, load_run_data(Home(home), "tour").rows, strict=True):
        assert [Message(**message) for message in row["messages"][:-1]] == list(example.prompt)
        assert row["messages"][-1] == {"role": "assistant", "content": example.completion}
        assert row["solution"] in example.completion and row["answer"] in example.completion and row["question"]


@pytest.mark.parametrize("file_format", JSONL_FORMATS)
def test_export_keeps_system_message_and_worked_examples(tmp_path: Path, file_format: str) -> None:
    example = TrainingExample(DIALOGUE, "4", "mine")
    path = tmp_path / "rows.jsonl"
    path.write_bytes(export_module.encode_line({"id": "mine", **export_module.FORMATTERS[file_format](example)}))
    assert read_rows(path) == [example]
    assert len(path.read_text("utf-8").splitlines()) == 1, "U+2028 is not escaped, so some readers would split the row"


def test_card_records_the_origin_and_selection_of_the_rows(
    home: Path, tmp_path: Path, invoke: Callable[..., Any]
) -> None:
    out = tmp_path / "few.jsonl"
    options = ("--reason", "kept_failed", "--where", "turn > 1 OR 'a|b' = ''", "--size", "3", "--seed", "5")
    result = invoke(home, "export", "tour", "-o", str(out), *options, "--json")
    assert result.code == 0, result.err
    exported, card = json.loads(result.out), out.with_suffix(".md").read_text("utf-8")
    assert exported["rows"] == 3 and exported["reasons"] == {"kept_failed": 3} and exported["levels"] == {}
    assert all(row["turn"] > 1 for row in read_json_lines(out))
    for text in (
        exported["run"], exported["digest"], exported["sha256"],
        "kept_failed 3", "not scored", "drawn by seed 5", "duelist-a",
        "Apache-2.0", 'load_dataset("json", data_files="few.jsonl"', r"'a\|b'",
    ):  # fmt: skip
        assert text in card, text
    second_out = tmp_path / "again" / "few.jsonl"
    assert invoke(home, "export", "tour", "-o", str(second_out), *options).code == 0
    assert (second_out.read_bytes(), second_out.with_suffix(".md").read_text("utf-8")) == (out.read_bytes(), card)


def test_export_counts_rows_by_quality_level(home: Path, tmp_path: Path, invoke: Callable[..., Any]) -> None:
    change_ledger(home, "UPDATE examples SET level = 3 + (turn > 2)")
    out = tmp_path / "rows.jsonl"
    exported = json.loads(invoke(home, "export", "tour", "-o", str(out), "--json").out)
    assert set(exported["levels"]) == {"3", "4"} and sum(exported["levels"].values()) == exported["rows"]
    assert {row["level"] for row in read_json_lines(out)} == {3, 4}


@pytest.mark.parametrize(
    ("words", "code", "error"),
    [
        (("tour", "-o", "rows.md"), 2, "is the path where the dataset card is written"),
        (("tour", "-o", "taken.jsonl"), 2, "taken.jsonl already exists"),
        (("tour", "-o", "half.jsonl"), 2, "half.md already exists"),
        (("tour", "-o", "taken.jsonl/x.jsonl"), 1, "cannot be written"),
        (("tour", "-o", "x.jsonl", "--where", "no(", ), 2, "--where is not a valid SQL expression"),
        (("tour", "-o", "x.jsonl", "--level", "3"), 3, "have no quality levels"),
        (("tour", "-o", "x.jsonl", "--where", "turn < 0"), 4, " matches: "),
        (("tour", "-o", "x.jsonl", "--size", "999"), 4, "999 examples are requested"),
        (("nobody", "-o", "x.jsonl"), 4, "there is no run"),
        (("tour",), 2, "-o"),
        (("tour", "-o", "x.jsonl", "--format", "csv"), 2, "csv"),
    ],
)  # fmt: skip
def test_failed_export_is_reported_and_leaves_no_file(
    home: Path, tmp_path: Path, invoke: Callable[..., Any], monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...], code: int, error: str,
) -> None:  # fmt: skip
    folder = tmp_path / "out"
    folder.mkdir()
    monkeypatch.chdir(folder)
    existing_files = {"taken.jsonl": "mine", "half.md": "mine too"}
    for name, text in existing_files.items():
        Path(name).write_text(text)
    result = invoke(home, "export", *words)
    assert (result.code, result.out) == (code, "") and error in result.err, result.err
    assert {path.name: path.read_text() for path in folder.iterdir()} == existing_files


def test_full_disk_leaves_no_export_files(
    home: Path, tmp_path: Path, invoke: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_atomically = files.write_atomically

    def fail_on_rows(path: Path, content: bytes) -> None:
        if "jsonl" in path.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        write_atomically(path, content)

    monkeypatch.setattr(files, "write_atomically", fail_on_rows)
    folder = tmp_path / "out"
    result = invoke(home, "export", "tour", "-o", str(folder / "rows.jsonl"))
    assert result.code == 1 and "No space left" in result.err and "no partial output is left" in result.err
    assert list(folder.iterdir()) == []


def test_export_refuses_a_secret_and_suggests_a_condition_that_excludes_it(
    home: Path, tmp_path: Path, invoke: Callable[..., Any]
) -> None:
    change_ledger(home, "UPDATE examples SET question = question || ' sk-abcdefghijklmnop1234' WHERE turn = 1")
    out = tmp_path / "rows.jsonl"
    for file_format in FORMATS:
        result = invoke(home, "export", "tour", "--format", file_format, "-o", str(out))
        assert result.code == 3 and "seems to contain a secret" in result.err and "sk-abc" not in result.err
        assert not out.exists() and not out.with_suffix(".md").exists()
    suggested_condition = result.err.split("--where ")[1].strip().strip('"')
    assert invoke(home, "export", "tour", "-o", str(out), "--where", suggested_condition).code == 0, (
        "the suggested condition does not exclude the secret"
    )
    assert "sk-abc" not in out.read_text("utf-8")


def test_export_refuses_a_lone_surrogate() -> None:
    with pytest.raises(DataError, match="example e-7 contains a lone surrogate"):
        export_module.encode_line({"id": "e-7", "output": "half \ud83d"})


def test_preference_rows_pair_a_right_solution_with_each_wrong_answer(
    home: Path, tmp_path: Path, invoke: Callable[..., Any]
) -> None:
    out = tmp_path / "pairs.jsonl"
    result = invoke(home, "export", "tour", "--format", "preference", "-o", str(out), "--json")
    assert result.code == 0, result.err
    exported, pairs = json.loads(result.out), read_json_lines(out)
    with LedgerView(Home(home).ledger) as view:
        kept_turns = [record for record in view.turn_records(exported["run"]) if record.kept]
    last_attempts = {record.number: record.last_attempt for record in kept_turns}
    failed_turns = {turn for turn, attempt in last_attempts.items() if attempt.outcome == "kept_failed"}
    assert [pair["turn"] for pair in pairs] == sorted(failed_turns) and 0 < len(failed_turns) < len(kept_turns)
    row_by_id = {row.id: row for row in load_run_data(Home(home), "tour").rows}
    for pair in pairs:
        row, attempt = row_by_id[f"turn-{pair['turn']}"], last_attempts[pair["turn"]]
        assert attempt.defence is not None
        assert [Message(**message) for message in pair["prompt"]] == list(row.prompt)
        assert pair["chosen"] == [{"role": "assistant", "content": row.completion}]
        (rejected,) = pair["rejected"]
        assert attempt.defence.solution in rejected["content"] and rejected["content"] != row.completion
    assert (exported["rows"], exported["examples"]) == (len(pairs), len(failed_turns))
    assert exported["without_rejected"] == len(kept_turns) - len(failed_turns)
    assert f"left out: {exported['without_rejected']} without a wrong answer" in result.err
    card = out.with_suffix(".md").read_text("utf-8")
    assert "DPOTrainer" in card and f"{exported['without_rejected']} without a wrong answer of the defender" in card
    refusal = invoke(home, "export", "tour", "--format", "preference", "-o", "x.jsonl", "--reason", "kept_novel")
    assert refusal.code == 4 and "records a wrong answer of the defender" in refusal.err


@pytest.mark.parametrize("trainer", ["trl", "llama-factory", "axolotl"])
def test_command_for_a_trainer_quotes_the_file_name(
    home: Path, tmp_path: Path, invoke: Callable[..., Any], trainer: str
) -> None:
    result = invoke(home, "export", "tour", "-o", str(tmp_path / "my rows.jsonl"), "--for", trainer, "--json")
    words = shlex.split(json.loads(result.out)["command"])
    assert any(word.startswith("my rows") for word in words)


def test_export_of_defender_solutions_leaves_out_examples_without_one(
    home: Path, tmp_path: Path, invoke: Callable[..., Any]
) -> None:
    out = tmp_path / "own.jsonl"
    result = invoke(home, "export", "tour", "--solution", "own", "-o", str(out), "--json")
    assert result.code == 0, result.err
    exported, rows = json.loads(result.out), read_json_lines(out)
    solution_counts = exported["choice"]["solution"]
    assert exported["reasons"] == {"kept_novel": len(rows)} and solution_counts["origins"] == {"own": len(rows)}
    assert all(row["origin"] == "own" for row in rows)
    without = solution_counts["without"]
    sentence = f"{without} of {without + len(rows)} without a right solution by the defender"
    assert sentence in result.err and sentence in out.with_suffix(".md").read_text("utf-8")
    refusal = invoke(home, "export", "tour", "--solution", "likeliest", "-o", str(tmp_path / "x.jsonl"))
    assert refusal.code == 2 and "--base" in refusal.err


def test_dropped_examples_are_neither_exported_nor_trained_on(
    home: Path, tmp_path: Path, invoke: Callable[..., Any]
) -> None:
    example_ids = list_example_ids(home, invoke)
    assert invoke(home, "examples", "review", example_ids[0], "--verdict", "drop").code == 0
    out = tmp_path / "kept.jsonl"
    result = invoke(home, "export", "tour", "-o", str(out), "--json")
    assert [row["id"] for row in read_json_lines(out)] == example_ids[1:]
    assert "left out: 1 that a reviewer dropped" in result.err
    assert json.loads(result.out)["choice"]["dropped"] == {"included": False, "rows": 1}
    complete_export = invoke(home, "export", "tour", "-o", str(tmp_path / "all.jsonl"), "--include-dropped", "--json")
    assert json.loads(complete_export.out)["rows"] == len(example_ids)
    assert len(load_run_data(Home(home), "tour").rows) == len(example_ids) - 1
    assert invoke(home, "examples", "review", example_ids[0], "--verdict", "open").code == 0
    assert len(load_run_data(Home(home), "tour").rows) == len(example_ids)


def test_examples_marked_fix_are_counted_but_exported_and_trained_on(
    home: Path, tmp_path: Path, invoke: Callable[..., Any]
) -> None:
    example_ids = list_example_ids(home, invoke)
    for example_id in example_ids[:2]:
        assert invoke(home, "examples", "review", example_id, "--verdict", "fix", "--reviewer", "ada").code == 0
    result = invoke(home, "export", "tour", "-o", str(tmp_path / "rows.jsonl"), "--json")
    assert "included: 2 that a reviewer marked `fix`: correct or drop them" in result.err
    summary = json.loads(result.out)
    assert (summary["rows"], summary["choice"]["fix"]) == (len(example_ids), {"rows": 2})
    condition = f"id = '{example_ids[0]}'"
    export_of_one = invoke(home, "export", "tour", "-o", str(tmp_path / "one.jsonl"), "--where", condition)
    assert "included: 1 that a reviewer marked `fix`: correct or drop it" in export_of_one.err
    run_data = load_run_data(Home(home), "tour")
    assert (len(run_data.rows), run_data.source["fix"]) == (len(example_ids), {"rows": 2})
    for example_id in example_ids[:2]:
        assert invoke(home, "examples", "review", example_id, "--verdict", "open", "--reviewer", "ada").code == 0
    assert "fix" not in load_run_data(Home(home), "tour").source


def test_export_of_solver_solutions_uses_the_blind_check(tmp_path: Path, invoke: Callable[..., Any]) -> None:
    start_command = (
        "run", "start", "--domain", "starter", "--profile", "scripted", "--rules", "proven", "--name", "proven",
        "--set", "keep=provable", "--set", "judge.solutions=4", "--set", "judge.agreeing=2"
    )  # fmt: skip
    assert invoke(tmp_path, *start_command, "--examples", "6", "--seed", "7").code == 0
    out = tmp_path / "solver.jsonl"
    result = invoke(tmp_path, "export", "proven", "--solution", "solver", "-o", str(out), "--json")
    assert result.code == 0, result.err
    with LedgerView(Home(tmp_path).ledger) as view:
        finding_by_turn = {
            record.number: record.last_attempt.validation.finding("blind")
            for record in view.turn_records(json.loads(result.out)["run"])
            if record.kept and record.last_attempt.validation
        }
    rows = read_json_lines(out)
    solutions_by_turn = {
        turn: [exhibit.text for exhibit in finding.evidence if exhibit.kind == "solution" and exhibit.agrees]
        for turn, finding in finding_by_turn.items()
        if finding
    }
    solved_turns = {turn for turn, solutions in solutions_by_turn.items() if solutions}
    assert {row["turn"] for row in rows} == solved_turns != set(solutions_by_turn)
    for row in rows:
        first_solution = solutions_by_turn[row["turn"]][0]
        assert row["origin"] == "solver" and first_solution in row["messages"][-1]["content"]
