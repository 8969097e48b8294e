"""Mixing benchmark rows into training data: how many rows are added, that the random seed decides which, and which
items are excluded.
"""

import asyncio
import json

import pytest

from nanoflux_local.errors import NothingMatchedError, UsageError
from nanoflux_local.paths import Home
from nanoflux_local.run import configs, runs
from nanoflux_local.seeds.datasets import load_items
from nanoflux_local.seeds.importing import ImportRequest, import_benchmark
from nanoflux_local.train import trainings
from nanoflux_local.train.choice import Choice
from nanoflux_local.train.data import data_digest
from nanoflux_local.train.mixing import Mix, parse_mix
from nanoflux_local.train.trainings import TrainingData

NOUNS = ("pears", "plums", "figs", "dates", "limes", "nuts", "kiwis", "beans")
TRAIN_QUESTIONS = [f"Ann has {n} apples and buys {n + 1} {noun}. How many?" for n, noun in enumerate(NOUNS, start=2)]
TEST_QUESTION = "Bob sells 7 lamps for 3 coins each. How many coins?"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with a run of the starter domain (four examples) and a benchmark "gsm8k". Its train items include one
    duplicate, and four that restate the test item with different numbers. The import assigns one of the remaining
    train items to the dev split.
    """
    home = Home(tmp_path_factory.mktemp("home")).prepare()
    config = configs.resolve("starter", "scripted", {"target": 4, "max_turns": 40, "seed": 7}, home)
    asyncio.run(runs.execute(home, asyncio.run(runs.start(home, config))))
    restating_questions = [TEST_QUESTION.replace("7", str(count)) for count in range(8, 12)]
    train_questions = [*TRAIN_QUESTIONS, TRAIN_QUESTIONS[0], *restating_questions]
    paths = home.root / "train.jsonl", home.root / "test.jsonl"
    for path, questions in zip(paths, (train_questions, [TEST_QUESTION]), strict=True):
        rows = [{"question": question, "answer": f"Add. {n}\n#### {n}"} for n, question in enumerate(questions)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    import_benchmark(home, ImportRequest("gsm8k", "gsm8k", paths, ""), lambda _done, _total: None)
    return home


def load_data(home: Home, *mixes: Mix, seed: int = 0) -> TrainingData:
    return trainings.load_run_data(home, "starter", Choice(seed=seed), mixes=mixes)


def list_mixed_questions(data: TrainingData) -> list[str]:
    """The user messages of the rows that do not come from the run."""
    return [row.prompt[-1].content for row in data.rows if not row.id.startswith("turn-")]


def test_mix_adds_rows_in_proportion(home: Home) -> None:
    unmixed, mixed = load_data(home), load_data(home, Mix("gsm8k", 1.0))
    assert list(mixed.rows[: len(unmixed.rows)]) == list(unmixed.rows)
    added_rows = mixed.rows[len(unmixed.rows) :]
    assert len(added_rows) == len(unmixed.rows) == 4 and "mix" not in unmixed.source
    assert mixed.source["mix"] == [
        {"dataset": "gsm8k", "ratio": 1.0, "rows": 4, "usable": 7, "digest": data_digest(added_rows)}
    ]
    assert len(load_data(home, Mix("gsm8k", 0.5), Mix("starter", 1.5)).rows) == 4 + 2 + 6


def test_random_seed_decides_which_rows_are_mixed_in(home: Home) -> None:
    questions = list_mixed_questions(load_data(home, Mix("gsm8k", 1.0)))
    assert questions == list_mixed_questions(load_data(home, Mix("gsm8k", 1.0)))
    assert any(questions != list_mixed_questions(load_data(home, Mix("gsm8k", 1.0), seed=seed)) for seed in range(1, 5))


def test_mix_excludes_dev_items_restated_test_items_and_duplicates(home: Home) -> None:
    dev_questions = [item.question for item in load_items(home.ledger, "gsm8k", "dev")]
    mixed_text = "\n".join(list_mixed_questions(load_data(home, Mix("gsm8k", 1.75))))
    for question in TRAIN_QUESTIONS:
        assert mixed_text.count(question) == (0 if question in dev_questions else 1), question
    assert "lamps" not in mixed_text, "a mixed row restates the test item with other numbers"
    with pytest.raises(NothingMatchedError, match="asks for 8 rows, but gsm8k has 7 usable") as error_info:
        load_data(home, Mix("gsm8k", 2.0))
    assert "at most 1.75" in error_info.value.fix


def test_mix_error_names_a_missing_benchmark(home: Home) -> None:
    with pytest.raises(NothingMatchedError, match="'medqa' has no train items"):
        load_data(home, Mix("medqa", 1.0))


def test_parse_mix_accepts_a_dataset_with_a_positive_ratio() -> None:
    assert (parse_mix("gsm8k=0.5"), parse_mix("gsm8k")) == (Mix("gsm8k", 0.5), Mix("gsm8k", 1.0))
    for text in ("gsm8k=", "=1", "gsm8k=0", "gsm8k=-1", "gsm8k=many", "gsm8k=inf", "gsm8k=nan"):
        with pytest.raises(UsageError, match="positive number"):
            parse_mix(text)
