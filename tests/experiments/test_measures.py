"""What the grids on judges and on solutions measure: rates of a run's trial, distances of clusters and of pairs."""

import asyncio

import numpy as np
import pytest

from nanoflux_local.errors import NothingMatchedError
from nanoflux_local.experiments.grid import Condition
from nanoflux_local.experiments.kinds.discriminativity import distances, of_run
from nanoflux_local.experiments.kinds.judge import judge_rates
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.run import configs, runs


def unit(rows: list[list[float]]) -> np.ndarray:
    vectors = np.array(rows, dtype=np.float64)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_centres_and_pairs_are_told_apart() -> None:
    right = unit([[1, 0], [0, 1], [1, 1], [1, 2]])
    same = distances(right, right)
    assert same["centres"]["distance"] == pytest.approx(0) and same["each"]["distance"] == pytest.approx(0)
    turned = distances(right, unit([[0, 1], [1, 0], [1, 1], [2, 1]]))
    centre, other = right.mean(axis=0), unit([[0, 1], [1, 0], [1, 1], [2, 1]]).mean(axis=0)
    expected = 1 - centre @ other / np.linalg.norm(centre) / np.linalg.norm(other)
    assert turned["centres"]["distance"] == pytest.approx(expected, abs=1e-12)
    assert turned["each"]["distance"] == pytest.approx((1 + 1 + 0 + (1 - 4 / 5)) / 4, abs=1e-12)
    for name in ("centres", "each"):
        low, high = turned[name]["ci95"]
        assert low <= turned[name]["distance"] <= high
    assert distances(right, right[::-1]) == distances(right, right[::-1]), "the resamples are seeded"


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, str]:
    """A scripted run whose judge writes programs and holds a trial."""
    home = Home(tmp_path_factory.mktemp("judged")).prepare()
    judge = {"trial": 3, "code_check": True}
    config = configs.resolve("starter", "scripted", {"target": 6, "seed": 7, "judge": judge}, home)
    run = asyncio.run(runs.start(home, config))
    asyncio.run(runs.play(home, run))
    return home, run


def test_judge_rates_of_a_check_by_itself(played) -> None:
    home, run = played
    result = judge_rates(home, Condition(name="c", check="code"), run)
    assert sum(sum(counts.values()) for counts in result["findings"].values()) == result["solutions"]
    contradicted = sum(counts["contradicts"] for counts in result["findings"].values())
    rates = result["rates"]
    assert sum(rates[name]["n"] for name in ("sensitivity", "specificity")) == result["solutions"]
    rejected = round((rates["sensitivity"]["share"] or 0) * rates["sensitivity"]["n"])
    assert 0 < rejected <= contradicted
    with pytest.raises(NothingMatchedError, match="the blind check reached no conclusion"):
        judge_rates(home, Condition(name="c", check="blind"), run)


def test_judge_rates_are_given_with_and_without_the_check(played) -> None:
    home, run = played
    alone, checked = (judge_rates(home, Condition(name="c", code_check=check), run) for check in (False, True))
    assert alone["solutions"] == checked["solutions"] == 6
    for entry in (alone, checked):
        rates = entry["rates"]
        assert rates["sensitivity"]["n"] + rates["specificity"]["n"] == 6 - entry["unjudged"]
    both = [entry["rates"]["sensitivity"] for entry in (alone, checked)]
    assert (both[1]["share"] or 0) >= (both[0]["share"] or 0), "a check only ever rejects"


def test_run_without_a_trial_is_refused(tmp_path) -> None:
    home = Home(tmp_path).prepare()
    config = configs.resolve("starter", "scripted", {"target": 1, "seed": 7}, home)
    run = asyncio.run(runs.start(home, config))
    with pytest.raises(NothingMatchedError, match="has no judge trial"):
        judge_rates(home, Condition(name="c"), run)


def test_run_solutions_come_from_failed_defences(played) -> None:
    home, run = played
    with LedgerView(home.ledger) as view:
        failed = [record.last for record in view.turn_records(run) if record.last.outcome == "kept_failed"]
    pairs = of_run(home, run)
    assert len(pairs) == len(failed) > 0
    assert [pair.right for pair in pairs] == [last.attack.solution for last in failed]
    assert [pair.wrong for pair in pairs] == [last.defence.solution for last in failed]
