"""Training rows are selected by how often the base model solves them, and its replies can be their solutions."""

import asyncio
import random
import re
from pathlib import Path

import pytest

from nanoflux_local.domains.own import load_domain
from nanoflux_local.endpoints.scripted import ScriptedEndpoint
from nanoflux_local.errors import NothingMatchedError
from nanoflux_local.evaluate.evaluation import evaluate, make_plan
from nanoflux_local.experiments.answers import Answers, choose_items, load_answers, sample_train_items
from nanoflux_local.experiments.grid import ANSWERS, GENERATE, Condition
from nanoflux_local.experiments.planning import make_plan as make_grid_plan
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.seeds.benchmarks.starter_stories import make_story_items
from nanoflux_local.transcript import Seed

TRIES = 3
"""The number of answers to each item."""
ITEMS = make_story_items("train")[:9]
ANSWER_BY_QUESTION = {item.question: item.answer for item in ITEMS}


def write_answer(prompt: str, rng: random.Random) -> str:
    """A right answer to the first three items, a wrong one to the last three, and one or the other at random to the
    rest.
    """
    question = re.findall(r"Problem: (.*)", prompt)[-1]
    position = list(ANSWER_BY_QUESTION).index(question)
    is_right = position < 3 or (position < 6 and rng.random() < 0.5)
    answer = ANSWER_BY_QUESTION[question] if is_right else "9999"
    return f"SOLUTION: my own words {position}\nANSWER: {answer}"


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Answers]:
    """The answers of a scripted model to `ITEMS`, by item, as an experiment loads them from its cell `answers`."""
    home = Home(tmp_path_factory.mktemp("answers"))
    endpoint = ScriptedEndpoint("m", script=write_answer)
    evaluation_plan = make_plan(endpoint.identity, "starter-stories", "train", ITEMS, TRIES, 0.7, domain_name="starter")
    plan = make_grid_plan("worth", "tiny")
    with Ledger(home.ledger) as ledger:
        asyncio.run(evaluate(ledger, endpoint, evaluation_plan))
        ledger.create_experiment(plan.id, plan.name, plan.scale_name, plan.model_dump(mode="json"))
        with LedgerView(home.ledger) as view, pytest.raises(NothingMatchedError, match="no stored answers"):
            load_answers(view, plan.id)
        ledger.set_cell(plan.id, ANSWERS, "done", "", {"evaluation": evaluation_plan.id})
    with LedgerView(home.ledger) as view:
        return load_answers(view, plan.id)


def choose_items_for(answers: dict[str, Answers], **settings: object) -> list[Seed]:
    """The items that a condition with `settings` selects."""
    condition = Condition.model_validate({"name": "c", "source": "benchmark", **settings})
    return choose_items(condition, ITEMS, answers, load_domain("starter"))


def test_solved_setting_selects_items_by_how_often_the_base_solves_them(answers) -> None:
    def choose_ids(solved: str) -> set[str]:
        return {item.id for item in choose_items_for(answers, solved=solved)}

    always, sometimes, never, ever = map(choose_ids, ("always", "sometimes", "never", "ever"))
    assert {item.id for item in ITEMS[:3]} <= always and {item.id for item in ITEMS[6:]} <= never
    assert sometimes and sorted([*always, *sometimes, *never]) == sorted(item.id for item in ITEMS)
    assert ever == always | sometimes


def test_own_solutions_are_the_right_replies_of_the_base(answers) -> None:
    own_items = choose_items_for(answers, solved="ever", solution="own")
    benchmark_items = choose_items_for(answers, solved="ever")
    assert [item.id for item in own_items] == [item.id for item in benchmark_items]
    assert {item.solution for item in own_items} <= {f"my own words {position}" for position in range(6)}
    assert all(item.answer == ANSWER_BY_QUESTION[item.question] for item in own_items)
    assert not any(item.solution.startswith("my own words") for item in benchmark_items)


def test_worth_plan_has_one_cell_for_each_run_and_one_for_the_answers() -> None:
    plan = make_grid_plan("worth", "tiny")
    preparation_cells = [cell for cell in plan.cells if cell.condition in (GENERATE, ANSWERS)]
    assert [cell.id for cell in preparation_cells] == ["generate-paper", "generate-proven", "answers"]
    assert [cell.rules for cell in preparation_cells[:2]] == ["paper", "proven"]
    assert {condition.run_key for condition in plan.conditions if condition.source == "run"} == {"paper", "proven"}
    assert ("paper-6", "proven-6") in plan.compared_pairs and ("gold-6", "own-6") in plan.compared_pairs


def test_sample_train_items_draws_the_same_items_in_every_call(tmp_path: Path) -> None:
    home, plan = Home(tmp_path), make_grid_plan("worth", "tiny")
    items = sample_train_items(home, plan)
    assert len(items) == plan.scale.sampled and items == sample_train_items(home, plan)
