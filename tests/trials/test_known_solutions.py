"""The solutions of a trial: their kinds and their authors. They are equal at any concurrency, and the solutions of a
trial in an older ledger are rebuilt identically.
"""

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zstandard

from nanoflux_local.answers import same_number
from nanoflux_local.domains.own import load_domain
from nanoflux_local.errors import ConfigError
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.records import ChatReply, ChatRequest, CutReply, CutRequest, Identity
from nanoflux_local.run import configs, runs
from nanoflux_local.run.binding import build_rules
from nanoflux_local.run.trials.replies import MAX_ITEMS_PER_REPLY
from nanoflux_local.run.trials.solutions import KnownSolution, build_known_solutions
from nanoflux_local.run.turn import Rules
from nanoflux_local.seeds.source import Items
from nanoflux_local.transcript import Seed

IDENTITIES = {name: Identity("scripted", name) for name in ("duelist-a", "duelist-b", "arbiter", "embedder")}
OLDER_LEDGER = Path(__file__).parents[1] / "fixtures" / "ledger-before-findings.db.zst"
OLDER_RUN = "starter-68593da9"
"""A run in the older ledger. Its trial has only planted errors, like all trials of that version."""


def make_item(number: int) -> Seed:
    """A word problem with three quantities and a solution of two steps."""
    boxes, pens_per_box, lost_pens = number + 20, number + 300, number + 2
    pens = boxes * pens_per_box
    left_pens = pens - lost_pens
    question = f"Ann packs {boxes} boxes of {pens_per_box} pens and loses {lost_pens} pens. How many pens are left?"
    solution = f"{boxes} * {pens_per_box} = {pens}\n{pens} - {lost_pens} = {left_pens}"
    return Seed(f"item-{number}", "d", question, str(left_pens), solution)


ITEMS = [make_item(number) for number in range(60)]
ITEM_BY_QUESTION = {item.question: item for item in ITEMS}


class FakeModels:
    """A `Call` that stands in for both models of a run, and records the requests. The reply to an item is right if the
    item's number is even, and wrong if it is odd; but the replies to items 4, 9, 14 … are unreadable.
    """

    def __init__(self) -> None:
        self.requests: list[ChatRequest] = []

    async def __call__(self, request: Any) -> Any:
        if isinstance(request, CutRequest):
            return CutReply(request.text, exact=True)
        self.requests.append(request)
        question = request.messages[-1].content.rpartition("Problem: ")[2]
        item = ITEM_BY_QUESTION[question]
        number = int(item.id.removeprefix("item-"))
        if number % 5 == 4:
            return ChatReply("SOLUTION: it depends\nANSWER: many", "stop")
        answer = item.answer if number % 2 == 0 else str(int(item.answer) + 7)
        return ChatReply(f"SOLUTION: by {request.endpoint.model}\nANSWER: {answer}", "stop")


def make_rules(tmp_path: Path, items: list[Seed] = ITEMS, **judge: Any) -> Rules:
    """The rules of a scripted run with these train items and settings of the judge. Its trial has 20 right and 20 wrong
    solutions, unless `judge` says otherwise.
    """
    settings = {"seed": 3, "judge": {"trial": 20, **judge}}
    config = configs.resolve("starter", "scripted", settings, Home(tmp_path))
    rules = build_rules(config, IDENTITIES, Home(tmp_path))
    return replace(rules, seeds=Items(items))


async def build_solutions(rules: Rules, models: FakeModels | None = None) -> list[KnownSolution]:
    """The solutions of a run's trial; `models` stand in for the run's models."""
    domain = load_domain(rules.config.domain)
    solutions = await build_known_solutions(rules, domain, models or FakeModels(), lambda: False)
    assert solutions is not None
    return solutions


async def test_trial_alternates_right_and_wrong_solutions_of_all_kinds_of_the_domain(tmp_path: Path) -> None:
    solutions = await build_solutions(make_rules(tmp_path))
    kind_counts = Counter(solution.kind for solution in solutions)
    assert kind_counts == {"reference": 10, "own": 10, "slip": 4, "answer": 4, "mistake": 4, "removed": 4, "changed": 4}
    assert all(solution.right is (solution.number % 2 == 0) for solution in solutions)
    assert [solution.number for solution in solutions] == list(range(40))


async def test_answer_of_a_model_decides_whether_its_reply_is_a_mistake(tmp_path: Path) -> None:
    for solution in await build_solutions(make_rules(tmp_path)):
        if solution.kind not in ("own", "mistake"):
            assert not solution.author
            continue
        assert solution.author in ("duelist-a", "duelist-b")
        assert solution.attack.solution == f"by {solution.author}"
        right_answer = ITEM_BY_QUESTION[solution.attack.question].answer
        assert same_number(solution.attack.answer, right_answer) is (solution.kind == "own")


async def test_both_models_of_a_run_write_solutions(tmp_path: Path) -> None:
    solutions = await build_solutions(make_rules(tmp_path))
    assert {solution.author for solution in solutions if solution.author} == {"duelist-a", "duelist-b"}


async def test_broken_questions_keep_the_solutions_of_their_items(tmp_path: Path) -> None:
    item_by_id = {item.id: item for item in ITEMS}
    solutions = await build_solutions(make_rules(tmp_path))
    broken_solutions = [solution for solution in solutions if solution.kind in ("removed", "changed")]
    for solution in broken_solutions:
        item = item_by_id[solution.seed]
        assert (solution.attack.solution, solution.attack.answer) == (item.solution, item.answer)
        assert solution.attack.question != item.question
        assert ("a certain number of" in solution.attack.question) is (solution.kind == "removed")
    assert len({(solution.seed, solution.kind) for solution in broken_solutions}) == len(broken_solutions)


async def test_solutions_are_equal_at_any_concurrency(tmp_path: Path) -> None:
    rules = make_rules(tmp_path)
    sequential_rules = replace(rules, config=rules.config.model_copy(update={"concurrency": 1}))
    concurrent_rules = replace(rules, config=rules.config.model_copy(update={"concurrency": 64}))
    sequential_models, concurrent_models = FakeModels(), FakeModels()
    sequential_solutions = await build_solutions(sequential_rules, sequential_models)
    assert await build_solutions(concurrent_rules, concurrent_models) == sequential_solutions
    sequential_keys = sorted(request.key() for request in sequential_models.requests)
    assert sorted(request.key() for request in concurrent_models.requests) == sequential_keys


async def test_models_without_mistakes_get_a_limited_number_of_items(tmp_path: Path) -> None:
    """The trial needs three mistakes, but the models solve all items with even numbers."""
    even_items = ITEMS[::2]
    rules = make_rules(tmp_path, even_items, trial=5, trial_kinds=["mistake", "changed"])
    models = FakeModels()
    solutions = await build_solutions(rules, models)
    assert [solution.kind for solution in solutions if not solution.right] == ["changed", "changed"]
    assert len({request.messages[-1].content for request in models.requests}) <= 3 * MAX_ITEMS_PER_REPLY


async def test_trial_of_planted_errors_sends_no_request_to_a_model(tmp_path: Path) -> None:
    models = FakeModels()
    solutions = await build_solutions(make_rules(tmp_path, trial=4, trial_kinds=["slip", "answer"]), models)
    assert [solution.kind for solution in solutions] == ["reference", "slip", "reference", "answer"] * 2
    assert models.requests == []


async def test_trial_has_at_most_one_right_and_one_wrong_solution_for_each_seed_with_an_answer(tmp_path: Path) -> None:
    items = [*ITEMS[:9], replace(ITEMS[9], answer="")]
    solutions = await build_solutions(make_rules(tmp_path, items, trial=50, trial_kinds=["slip", "answer"]))
    assert len(solutions) == 18 and len({solution.seed for solution in solutions}) == 9


async def test_run_that_is_stopping_builds_no_solutions(tmp_path: Path) -> None:
    rules = make_rules(tmp_path)
    assert await build_known_solutions(rules, load_domain("starter"), FakeModels(), lambda: True) is None


async def test_solutions_of_a_trial_in_an_older_ledger_are_rebuilt_identically(tmp_path: Path) -> None:
    home = Home(tmp_path / "home").prepare()
    with OLDER_LEDGER.open("rb") as compressed_ledger, home.ledger.open("wb") as ledger:
        shutil.copyfileobj(zstandard.ZstdDecompressor().stream_reader(compressed_ledger), ledger)
    config, identities, _ = runs.load_run(home, OLDER_RUN)
    assert config.judge.trial_kinds == ("slip", "answer")
    with LedgerView(home.ledger) as view:
        rows = view.rows("SELECT number, record FROM trials WHERE run = ? ORDER BY number", OLDER_RUN)
        records = [(row["number"], json.loads(row["record"])) for row in rows]
    solutions = await build_solutions(build_rules(config, identities, home))
    assert [(solution.number, solution.seed, solution.kind) for solution in solutions] == [
        (number, record["seed"], record["fault"] or "reference") for number, record in records
    ]
    assert [solution.attack.answer for solution in solutions] == [record["attack"]["answer"] for _, record in records]


def test_trial_kinds_must_suit_the_domain(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no solutions of the kind 'removed'"):
        configs.resolve("starter-genetics", "scripted", {"judge": {"trial_kinds": ["removed"]}}, Home(tmp_path))
    with pytest.raises(ConfigError, match="trial_kinds must name at least one kind of wrong solution"):
        configs.resolve("starter", "scripted", {"judge": {"trial_kinds": ["own"]}}, Home(tmp_path))


async def test_trial_of_a_program_as_judge_has_only_planted_errors(tmp_path: Path) -> None:
    config = configs.resolve("starter", "embedded", {"judge": {"trial": 4}}, Home(tmp_path))
    assert config.roles.judge.endpoint == "program"
    names = (*config.role_endpoints, "embedder", "sandbox")
    identities = {name: Identity("scripted", name) for name in names}
    models = FakeModels()
    solutions = await build_solutions(build_rules(config, identities, Home(tmp_path)), models)
    assert {solution.kind for solution in solutions} == {"reference", "slip", "answer"} and not models.requests
    assert all(solution.attack.program for solution in solutions)
