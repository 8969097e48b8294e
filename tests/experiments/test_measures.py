"""The grid `judge` measures the rates of a run's trial; `discriminativity` measures distances between solutions."""

import asyncio

import numpy as np
import pytest

from nanoflux_local.errors import NothingMatchedError
from nanoflux_local.experiments.grid import Condition
from nanoflux_local.experiments.kinds.discriminativity import load_run_solutions, measure_distances
from nanoflux_local.experiments.kinds.judge import load_judge_rates
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.run import configs, runs
from tests.executed_runs import execute_run


def normalize(rows: list[list[float]]) -> np.ndarray:
    vectors = np.array(rows, dtype=np.float64)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_distances_of_centres_and_pairs_differ() -> None:
    right_vectors = normalize([[1, 0], [0, 1], [1, 1], [1, 2]])
    unchanged = measure_distances(right_vectors, right_vectors)
    assert unchanged.centres.distance == pytest.approx(0) and unchanged.within_pairs.distance == pytest.approx(0)
    wrong_vectors = normalize([[0, 1], [1, 0], [1, 1], [2, 1]])
    swapped = measure_distances(right_vectors, wrong_vectors)
    centre, swapped_centre = right_vectors.mean(axis=0), wrong_vectors.mean(axis=0)
    expected = 1 - centre @ swapped_centre / np.linalg.norm(centre) / np.linalg.norm(swapped_centre)
    assert swapped.centres.distance == pytest.approx(expected, abs=1e-12)
    assert swapped.within_pairs.distance == pytest.approx((1 + 1 + 0 + (1 - 4 / 5)) / 4, abs=1e-12)
    for measured in (swapped.centres, swapped.within_pairs):
        low, high = measured.ci95
        assert low <= measured.distance <= high
    assert measure_distances(right_vectors, right_vectors[::-1]) == measure_distances(
        right_vectors, right_vectors[::-1]
    ), "two calls gave different intervals"


@pytest.fixture(scope="module")
def judged_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, str]:
    """A scripted run whose judge writes programs and holds a trial."""
    home = Home(tmp_path_factory.mktemp("judged")).prepare()
    judge = {"trial": 3, "code_check": True}
    config = configs.resolve("starter", "scripted", {"target": 6, "seed": 7, "judge": judge}, home)
    return home, execute_run(home, config)


def test_judge_rates_of_a_check_by_itself(judged_run) -> None:
    home, run = judged_run
    result = load_judge_rates(home, Condition(name="c", check="code"), run)
    assert sum(sum(counts.values()) for counts in result["findings"].values()) == result["solutions"]
    contradicted = sum(counts["contradicts"] for counts in result["findings"].values())
    rates = result["rates"]
    assert sum(rates[name]["n"] for name in ("sensitivity", "specificity")) == result["solutions"]
    rejected = round((rates["sensitivity"]["share"] or 0) * rates["sensitivity"]["n"])
    assert 0 < rejected <= contradicted
    with pytest.raises(NothingMatchedError, match="the blind check reached no conclusion"):
        load_judge_rates(home, Condition(name="c", check="blind"), run)


def test_judge_rates_exist_with_and_without_the_check(judged_run) -> None:
    home, run = judged_run
    unchecked, checked = (load_judge_rates(home, Condition(name="c", code_check=check), run) for check in (False, True))
    assert unchecked["solutions"] == checked["solutions"] == 6
    for entry in (unchecked, checked):
        rates = entry["rates"]
        assert rates["sensitivity"]["n"] + rates["specificity"]["n"] == 6 - entry["unjudged"]
    unchecked_sensitivity, checked_sensitivity = (
        entry["rates"]["sensitivity"]["share"] or 0 for entry in (unchecked, checked)
    )
    assert checked_sensitivity >= unchecked_sensitivity, "a check lowered the sensitivity, although it can only reject"


def test_run_without_a_trial_is_refused(tmp_path) -> None:
    home = Home(tmp_path).prepare()
    config = configs.resolve("starter", "scripted", {"target": 1, "seed": 7}, home)
    run = asyncio.run(runs.start(home, config))
    with pytest.raises(NothingMatchedError, match="has no judge trial"):
        load_judge_rates(home, Condition(name="c"), run)


def test_run_solutions_come_from_failed_defences(judged_run) -> None:
    home, run = judged_run
    with LedgerView(home.ledger) as view:
        failed_attempts = [record.last for record in view.turn_records(run) if record.last.outcome == "kept_failed"]
    pairs = load_run_solutions(home, run)
    assert len(pairs) == len(failed_attempts) > 0
    assert [pair.right for pair in pairs] == [attempt.attack.solution for attempt in failed_attempts]
    assert [pair.wrong for pair in pairs] == [attempt.defence.solution for attempt in failed_attempts]
