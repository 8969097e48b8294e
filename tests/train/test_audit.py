"""The audit names unusable rows, counts truncated rows, and predicts the steps, tokens and FLOPs of a training run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from nanoflux_local.errors import ConfigError, DataError, RefusedError, UsageError
from nanoflux_local.records import Message
from nanoflux_local.train import estimate
from nanoflux_local.train.audit import Audit, audit, prepare_rows
from nanoflux_local.train.data import Codec, TrainingExample
from nanoflux_local.train.lora import plan_steps, train
from nanoflux_local.train.settings import TrainSettings, parse_train_settings

PROMPT = (Message("user", "How many?"),)
FIRST_ROW_WITHOUT_LABELS = 7
"""The number of a row in `bad_rows`. Neither this row nor any later row can be trained on."""


@pytest.fixture
def bad_rows(examples: list[TrainingExample]) -> list[TrainingExample]:
    """Four usable rows (0 to 3), followed by rows that each have one of the problems that the audit reports."""
    return [
        *examples[:4],
        TrainingExample(PROMPT, " \n", "empty"),
        TrainingExample(PROMPT, "x" * 5000, "long"),
        examples[1],  # a duplicate
        TrainingExample(PROMPT, "half \ud83d of a smile", "surrogate"),
        TrainingExample((*PROMPT, Message("assistant", "Many.")), "Yes", "roles"),
        TrainingExample((), "no prompt", "nothing"),
        TrainingExample((Message("user", "y" * 5000),), "never seen", "no-label"),
    ]


def list_problems(report: Audit) -> dict[int, tuple[str, bool]]:
    """The problem of each row with a finding, and whether the row is dropped, by row number."""
    return {finding.row: (finding.problem, finding.dropped) for finding in report.findings}


def test_audit_names_each_unusable_row(tiny_base: Path, bad_rows: list[TrainingExample]) -> None:
    report = audit(TrainSettings(val_fraction=0), bad_rows, (), tiny_base)
    assert list_problems(report) == {
        4: ("empty answer", True),
        5: ("cut", False),
        6: ("duplicate", False),
        7: ("lone surrogate", True),
        8: ("wrong role order", True),
        9: ("wrong role order", True),
        10: ("no labels", True),
    }
    assert (report.rows, report.usable, report.cut_rows, report.tokens.most) == (11, 6, 1, 512)
    assert report.cut_tokens == report.cut_most > 4400, "a row of 5000 tokens must lose those after the first 512"
    assert "row 7 (surrogate): lone surrogate" in str(report.findings[3])
    json.dumps(report.to_json(), allow_nan=False)


def test_audit_reports_control_tokens_spelled_out_as_text(tiny_base: Path, examples: list[TrainingExample]) -> None:
    rows = [*examples[:3], TrainingExample(PROMPT, "<|im_end|>\n<|im_start|>user", "spelled")]
    report = audit(TrainSettings(val_fraction=0), rows, (), tiny_base)
    assert list_problems(report) == {3: ("control token", False)} and report.usable == 4
    assert "row 3 (spelled): control token, <|im_end|>, <|im_start|> in a message" in str(report.findings[0])


def test_audit_keeps_row_numbers_when_rows_are_held_out(tiny_base: Path, bad_rows: list[TrainingExample]) -> None:
    without_validation = audit(TrainSettings(val_fraction=0), bad_rows, (), tiny_base)
    with_validation = audit(TrainSettings(val_fraction=0.4), bad_rows, (), tiny_base)
    assert with_validation.findings == without_validation.findings
    assert (with_validation.usable, with_validation.validation) == (4, 2)


def test_early_stopping_without_validation_is_refused(tiny_base: Path, examples: list[TrainingExample]) -> None:
    with pytest.raises(UsageError, match="no row is left for validation"):
        audit(TrainSettings(val_fraction=0, early_stopping=2), examples, (), tiny_base)


def test_overlong_rows_can_be_dropped_or_refused(tiny_base: Path, bad_rows: list[TrainingExample]) -> None:
    report = audit(TrainSettings(val_fraction=0, overlong="drop"), bad_rows, (), tiny_base)
    assert list_problems(report)[5] == ("too long", True) and report.cut_rows == 0 and report.usable == 5
    with pytest.raises(RefusedError, match=r"row 5 \(long\): too long"):
        audit(TrainSettings(val_fraction=0, overlong="refuse"), bad_rows, (), tiny_base)
    with pytest.raises(RefusedError, match=r"row 4 \(empty\): empty answer"):
        audit(TrainSettings(val_fraction=0, bad_rows="refuse"), bad_rows, (), tiny_base)


def test_data_without_labels_is_refused(tiny_base: Path, bad_rows: list[TrainingExample], tmp_path: Path) -> None:
    for rows in ([], bad_rows[FIRST_ROW_WITHOUT_LABELS:]):
        with pytest.raises(DataError, match="no row can be trained on"):
            audit(TrainSettings(val_fraction=0), rows, (), tiny_base)
        with pytest.raises(DataError, match="no row can be trained on"):
            train(TrainSettings(val_fraction=0), rows, (), tiny_base, tmp_path)


def test_audit_predicts_steps_tokens_and_flops(
    tiny_base: Path, bad_rows: list[TrainingExample], examples: list[TrainingExample], tmp_path: Path
) -> None:
    settings = TrainSettings(epochs=2, gradient_accumulation=2, max_length=128)
    rows = [*bad_rows, *examples[4:]]
    report = audit(settings, rows, (), tiny_base)
    result = train(settings, rows, (), tiny_base, tmp_path)
    assert (report.usable, report.cut_rows, report.steps) == (result.examples, result.truncated, result.steps)
    assert report.tokens.total * settings.epochs == result.tokens
    assert report.flops_6nd == result.flops_6nd
    assert result.flops_measured == pytest.approx(report.flops_expected, rel=0.35)
    assert report.seconds > 0 and report.memory_bytes > 0
    assert report.steps == len(plan_steps(settings, [1] * report.usable))


def test_validation_rows_are_not_trained_on(tiny_base: Path, examples: list[TrainingExample], tmp_path: Path) -> None:
    """Equal rows are held out together, and a row that is passed for validation is not trained on."""
    doubled_examples = [*examples, *examples]
    for seed in range(4):
        settings = TrainSettings(val_fraction=0.3, seed=seed)
        training, validation = prepare_rows(settings, doubled_examples, (), Codec.load(tiny_base))
        assert validation.rows and len(training.rows) + len(validation.rows) == len(doubled_examples)
        assert not {row.ids for row in training.rows} & {row.ids for row in validation.rows}
    report = audit(TrainSettings(), examples, examples[3:5], tiny_base)
    assert list_problems(report) == {3: ("in validation", True), 4: ("in validation", True)}
    result = train(TrainSettings(epochs=1), examples, examples[3:5], tiny_base, tmp_path)
    assert report.usable == 16
    assert (result.examples, result.validation_examples) == (16, 2)
    with pytest.raises(DataError, match="every training row"):
        audit(TrainSettings(), examples[:2], examples, tiny_base)


def test_audit_finds_test_questions_inside_other_text(tiny_base: Path, examples: list[TrainingExample]) -> None:
    test_question = "If Ann has 3.5 apples, how many has she?"
    rows = [*examples, TrainingExample(PROMPT, f'He said: "{test_question.upper()}" Indeed.', "leak")]
    rows.append(TrainingExample(PROMPT, test_question.replace("Ann", "Bob"), "another question"))
    leaked_rows = audit(TrainSettings(val_fraction=0), rows, (), tiny_base, [test_question, "?"]).leaked
    assert leaked_rows == (len(rows) - 2,), (
        "only the row that quotes the question must be reported; '?' contains no words"
    )
    leaked_rows = audit(TrainSettings(val_fraction=0), rows, (), tiny_base, ["many"]).leaked
    assert leaked_rows == (len(rows) - 2, len(rows) - 1), "a question of one word must be reported as well"


def test_memory_estimate_depends_on_precision_and_activations(tiny_base: Path) -> None:
    def estimate_bytes(**settings: object) -> int:
        return estimate.estimate_memory(tiny_base, TrainSettings(**settings), 512, 100)

    assert estimate_bytes(dtype="bfloat16") < estimate_bytes(dtype="float32")
    assert estimate_bytes(dtype="auto") == estimate_bytes(dtype=estimate.choose_precision(TrainSettings()))
    assert estimate_bytes(qlora=True) < estimate_bytes()
    assert estimate_bytes(gradient_checkpointing=True, batch=8) < estimate_bytes(batch=8)


MEMORY_SCRIPT = r"""
import json, re, sys
from dataclasses import replace
from pathlib import Path
tests_folder, base, out, settings_json = sys.argv[1:]
sys.path.insert(0, tests_folder)
from conftest import make_examples
from nanoflux_local.train.audit import audit
from nanoflux_local.train.lora import train
from nanoflux_local.train.settings import TrainSettings
settings = TrainSettings(epochs=1, val_fraction=0, **json.loads(settings_json))
rows = [replace(row, completion=row.completion + " word" * 150) for row in make_examples(4)]
expected = audit(settings, rows, (), Path(base)).memory_bytes
train(settings, rows, (), Path(base), Path(out))
peak = int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
print(expected, peak)
"""
"""Trains in a separate process, and prints the estimate and the measured peak of the process's memory, in bytes."""


@pytest.mark.real_model
@pytest.mark.parametrize("settings_json", ["{}", '{"dtype": "float32", "gradient_checkpointing": true}'])
def test_memory_estimate_is_near_the_measured_peak(real_base: Path, tmp_path: Path, settings_json: str) -> None:
    arguments = [str(Path(__file__).parent), str(real_base), str(tmp_path), settings_json]
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", MEMORY_SCRIPT, *arguments], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    expected, peak = map(int, result.stdout.split())
    assert expected / estimate.MEMORY_FACTOR < peak < expected * estimate.MEMORY_FACTOR


def test_audit_renders_the_first_example_and_lists_leaked_rows(
    tiny_base: Path, examples: list[TrainingExample]
) -> None:
    leaked_prompt = examples[2].prompt[0].content.upper() + " "
    report = audit(TrainSettings(val_fraction=0), examples, (), tiny_base, held_out=[leaked_prompt, ""])
    assert report.leaked == (2,)
    assert report.rendered.startswith("<|im_start|>user\n") and report.rendered.endswith("<|im_end|>")
    assert examples[0].completion in report.rendered


def test_settings_error_names_unknown_keys_and_invalid_values() -> None:
    assert parse_train_settings({"r": "16", "learning_rate": "1e-4"}).r == 16
    with pytest.raises(ConfigError, match=r"dropout: .*epoch: "):
        parse_train_settings({"epoch": 3, "dropout": 1.5})


def test_default_settings_are_those_of_the_paper() -> None:
    defaults = TrainSettings()
    assert (defaults.r, defaults.alpha, defaults.dropout, defaults.learning_rate) == (8, 32, 0.05, 2e-4)
    assert (defaults.batch, defaults.max_length, defaults.epochs) == (4, 512, 5)
