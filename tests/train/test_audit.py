"""The audit names every bad row, counts every cut, and tells what training would do."""

import json
from pathlib import Path

import pytest

from nanoflux_local.errors import ConfigError, DataError, RefusedError, UsageError
from nanoflux_local.records import Message
from nanoflux_local.train.audit import Audit, audit
from nanoflux_local.train.data import TrainingExample
from nanoflux_local.train.lora import plan, train
from nanoflux_local.train.settings import TrainSettings, train_settings

USER = (Message("user", "How many?"),)


@pytest.fixture
def bad_rows(examples: list[TrainingExample]) -> list[TrainingExample]:
    return [
        *examples[:4],
        TrainingExample(USER, " \n", "empty"),
        TrainingExample(USER, "x" * 5000, "long"),
        examples[1],
        TrainingExample(USER, "half \ud83d of a smile", "surrogate"),
        TrainingExample((*USER, Message("assistant", "Many.")), "Yes", "roles"),
        TrainingExample((), "no prompt", "nothing"),
        TrainingExample((Message("user", "y" * 5000),), "never seen", "no-label"),
    ]


def seen(report: Audit) -> dict[int, tuple[str, bool]]:
    return {finding.row: (finding.problem, finding.dropped) for finding in report.findings}


def test_each_bad_row_is_named(tiny_base: Path, bad_rows: list[TrainingExample]) -> None:
    report = audit(TrainSettings(val_fraction=0), bad_rows, (), tiny_base)
    assert seen(report) == {
        4: ("empty answer", True),
        5: ("cut", False),
        6: ("duplicate", False),
        7: ("lone surrogate", True),
        8: ("wrong role order", True),
        9: ("wrong role order", True),
        10: ("no labels", True),
    }
    assert (report.rows, report.usable, report.cut_rows, report.tokens.most) == (11, 6, 1, 512)
    assert report.cut_tokens == report.cut_most > 4400
    assert "row 7 (surrogate): lone surrogate" in str(report.findings[3])
    json.dumps(report.to_json(), allow_nan=False)


def test_rows_keep_the_callers_numbers_when_some_are_held_out(tiny_base: Path, bad_rows: list[TrainingExample]) -> None:
    whole = audit(TrainSettings(val_fraction=0), bad_rows, (), tiny_base)
    held = audit(TrainSettings(val_fraction=0.4), bad_rows, (), tiny_base)
    assert held.findings == whole.findings and (held.usable, held.validation) == (4, 2)


def test_early_stopping_without_validation_is_refused(tiny_base: Path, examples: list[TrainingExample]) -> None:
    with pytest.raises(UsageError, match="no row to validate on"):
        audit(TrainSettings(val_fraction=0, early_stopping=2), examples, (), tiny_base)


def test_overlong_rows_can_be_dropped_or_refused(tiny_base: Path, bad_rows: list[TrainingExample]) -> None:
    report = audit(TrainSettings(val_fraction=0, overlong="drop"), bad_rows, (), tiny_base)
    assert seen(report)[5] == ("too long", True) and report.cut_rows == 0 and report.usable == 5
    with pytest.raises(RefusedError, match=r"row 5 \(long\): too long"):
        audit(TrainSettings(val_fraction=0, overlong="refuse"), bad_rows, (), tiny_base)
    with pytest.raises(RefusedError, match=r"row 4 \(empty\): empty answer"):
        audit(TrainSettings(val_fraction=0, bad_rows="refuse"), bad_rows, (), tiny_base)


def test_no_label_at_all_is_refused(tiny_base: Path, bad_rows: list[TrainingExample], tmp_path: Path) -> None:
    for rows in ([], bad_rows[7:]):
        with pytest.raises(DataError, match="no example has a label"):
            audit(TrainSettings(val_fraction=0), rows, (), tiny_base)
        with pytest.raises(DataError, match="no example has a label"):
            train(TrainSettings(val_fraction=0), rows, (), tiny_base, tmp_path)


def test_training_does_what_the_audit_said(
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
    assert report.steps == len(plan(settings, [1] * report.usable))


def test_the_text_is_shown_and_leaks_are_named(tiny_base: Path, examples: list[TrainingExample]) -> None:
    prompt = examples[2].prompt[0].content
    report = audit(TrainSettings(val_fraction=0), examples, (), tiny_base, held_out=[prompt.upper() + " ", ""])
    assert report.leaked == (2,)
    assert report.rendered.startswith("<|im_start|>user\n") and report.rendered.endswith("<|im_end|>")
    assert examples[0].completion in report.rendered


def test_settings_name_wrong_keys_and_values() -> None:
    assert train_settings({"r": "16", "learning_rate": "1e-4"}).r == 16
    with pytest.raises(ConfigError, match=r"dropout: .*epoch: "):
        train_settings({"epoch": 3, "dropout": 1.5})
    paper = TrainSettings()
    assert (paper.r, paper.alpha, paper.dropout, paper.learning_rate) == (8, 32, 0.05, 2e-4)
    assert (paper.batch, paper.max_length, paper.epochs) == (4, 512, 5)
