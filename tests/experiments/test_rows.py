"""The training rows that an experiment takes from a benchmark have the same prompts as its evaluations."""

from pathlib import Path

from nanoflux_local.evaluate.evaluation import make_plan as make_evaluation_plan
from nanoflux_local.experiments.grid import Condition
from nanoflux_local.experiments.planning import make_plan
from nanoflux_local.experiments.rows import load_condition_rows
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.paths import Home
from nanoflux_local.records import Identity
from nanoflux_local.transcript import Seed

GRID = """
title = "Rows of items with three, four and five options"
question = "Which letters does a prompt offer?"
[[conditions]]
name = "full"
source = "benchmark"
[scales.tiny]
base = "tiny"
domain = "multimedqa"
benchmark = ["medqa"]
test = ["medqa"]
"""


def make_item(letters: str, split: str) -> Seed:
    """An item with an option for each letter; the last option is right."""
    options = {letter: f"remedy {letter}" for letter in letters}
    question = f"Which remedy of {split} list {letters} helps?"
    return Seed(f"{split}-{letters}", "medqa", question, letters[-1], f"The last of {len(letters)}.", options=options)


def test_benchmark_rows_have_the_prompt_of_their_evaluation(tmp_path: Path) -> None:
    """Items of MedQA have four or five options, those of PubMedQA three."""
    home = Home(tmp_path / "home").prepare()
    items = [make_item(letters, "train") for letters in ("ABC", "ABCD", "ABCDE")]
    with Ledger(home.ledger) as ledger:
        items_with_splits = [*((item, "train") for item in items), (make_item("ABCD", "test"), "test")]
        ledger.import_dataset("medqa", "medqa", "content", items_with_splits, 0)
    (tmp_path / "grid.toml").write_text(GRID)
    plan = make_plan(str(tmp_path / "grid.toml"), "tiny")
    rows = load_condition_rows(home, plan, Condition(name="full", source="benchmark"), 0, {}).rows
    evaluation = make_evaluation_plan(Identity("scripted", "m"), "medqa", "train", items, 1, 0.0)
    assert [row.id for row in rows] == [item.id for item in items]
    for row, item in zip(rows, items, strict=True):
        assert f"({', '.join(item.options)})" in row.prompt[-1].content
        assert row.prompt == evaluation.build_request(item, 0).messages
