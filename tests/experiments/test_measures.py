"""Experiments of the kind `judge` read the judge's sensitivity and specificity from a run's trial; those of the kind
`discriminativity` measure distances between right and wrong solutions.
"""

import asyncio

import numpy as np
import pytest

from nanoflux_local.errors import NothingMatchedError
from nanoflux_local.experiments.grid import Condition
from nanoflux_local.experiments.kinds.discriminativity import load_run_solutions, measure_distances
from nanoflux_local.experiments.kinds.judge import load_judge_rates
from nanoflux_local.experiments.tables import format_compute
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.run import configs, runs
from tests.executed_runs import execute_run


def normalize(rows: list[list[float]]) -> np.ndarray:
    """The rows as unit vectors."""
    vectors = np.array(rows, dtype=np.float64)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_measure_distances_compares_centres_and_pairs() -> None:
    """The wrong vectors are the right ones with both coordinates swapped."""
    right_vectors = normalize([[1, 0], [0, 1], [1, 1], [1, 2]])
    equal = measure_distances(right_vectors, right_vectors)
    assert equal.centres.distance == pytest.approx(0) and equal.within_pairs.distance == pytest.approx(0)
    wrong_vectors = normalize([[0, 1], [1, 0], [1, 1], [2, 1]])
    swapped = measure_distances(right_vectors, wrong_vectors)
    right_centre, wrong_centre = right_vectors.mean(axis=0), wrong_vectors.mean(axis=0)
    expected = 1 - right_centre @ wrong_centre / np.linalg.norm(right_centre) / np.linalg.norm(wrong_centre)
    assert swapped.centres.distance == pytest.approx(expected, abs=1e-12)
    assert swapped.within_pairs.distance == pytest.approx((1 + 1 + 0 + (1 - 4 / 5)) / 4, abs=1e-12)
    for measured in (swapped.centres, swapped.within_pairs):
        low, high = measured.ci95
        assert low <= measured.distance <= high
    assert measure_distances(right_vectors, wrong_vectors) == swapped, "two calls gave different intervals"


@pytest.fixture(scope="module")
def judged_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, str]:
    """The home and id of a scripted run whose judge has the code check and was measured by a trial."""
    home = Home(tmp_path_factory.mktemp("judged")).prepare()
    judge = {"trial": 3, "code_check": True}  # the trial has 3 right and 3 wrong solutions
    config = configs.resolve("starter", "scripted", {"target": 6, "seed": 7, "judge": judge}, home)
    return home, execute_run(home, config)


def test_check_by_itself_rejects_the_solutions_that_it_contradicts(judged_run) -> None:
    home, run = judged_run
    result = load_judge_rates(home, Condition(name="c", check="code"), run)
    finding_counts_of_right_and_wrong = result["findings"].values()
    assert sum(sum(counts.values()) for counts in finding_counts_of_right_and_wrong) == result["solutions"]
    contradicted_count = sum(counts["contradicts"] for counts in finding_counts_of_right_and_wrong)
    sensitivity, specificity = result["rates"]["sensitivity"], result["rates"]["specificity"]
    assert sensitivity["n"] + specificity["n"] == result["solutions"]
    rejected_wrong_count = round((sensitivity["share"] or 0) * sensitivity["n"])
    assert 0 < rejected_wrong_count <= contradicted_count
    for check in ("blind", "blind supports", "code+blind"):
        with pytest.raises(NothingMatchedError, match="the blind check reached no conclusion"):
            load_judge_rates(home, Condition(name="c", check=check), run)


def test_support_of_a_check_accepts_no_more_than_its_silence(judged_run) -> None:
    home, run = judged_run
    unless_contradicted = load_judge_rates(home, Condition(name="c", check="code"), run)
    if_supported = load_judge_rates(home, Condition(name="c", check="code supports"), run)
    supported_count = sum(counts["supports"] for counts in if_supported["findings"].values())
    accepted_counts = []
    for result in (unless_contradicted, if_supported):
        sensitivity, specificity = result["rates"]["sensitivity"], result["rates"]["specificity"]
        accepted_right = round((specificity["share"] or 0) * specificity["n"])
        accepted_wrong = round((1 - (sensitivity["share"] or 0)) * sensitivity["n"])
        accepted_counts.append(accepted_right + accepted_wrong)
    assert accepted_counts[1] == supported_count <= accepted_counts[0]


def test_check_does_not_lower_the_sensitivity_of_the_judge(judged_run) -> None:
    home, run = judged_run
    sensitivities = []
    for code_check in (False, True):
        result = load_judge_rates(home, Condition(name="c", code_check=code_check), run)
        rates = result["rates"]
        assert result["solutions"] == 6
        assert rates["sensitivity"]["n"] + rates["specificity"]["n"] == 6 - result["unjudged"]
        sensitivities.append(rates["sensitivity"]["share"] or 0)
    sensitivity_without_check, sensitivity_with_check = sensitivities
    assert sensitivity_with_check >= sensitivity_without_check, (
        "the check lowered the share of rejected wrong solutions, although a check can only reject more"
    )


def test_judge_rates_of_a_run_without_a_trial_are_refused(tmp_path) -> None:
    home = Home(tmp_path).prepare()
    config = configs.resolve("starter", "scripted", {"target": 1, "seed": 7}, home)
    run = asyncio.run(runs.start(home, config))
    with pytest.raises(NothingMatchedError, match="has no judge trial"):
        load_judge_rates(home, Condition(name="c"), run)


def test_run_solutions_pair_attacks_with_failed_defences(judged_run) -> None:
    home, run = judged_run
    with LedgerView(home.ledger) as view:
        last_attempts = [record.last_attempt for record in view.turn_records(run)]
    failed_attempts = [attempt for attempt in last_attempts if attempt.outcome == "kept_failed"]
    pairs = load_run_solutions(home, run)
    assert len(pairs) == len(failed_attempts) > 0
    assert [pair.right for pair in pairs] == [attempt.attack.solution for attempt in failed_attempts]
    assert [pair.wrong for pair in pairs] == [attempt.defence.solution for attempt in failed_attempts]


def test_compute_that_was_not_saved_is_reported_as_more_compute() -> None:
    sentence = format_compute({"training_6nd": 25.0, "training_measured": 20.0, "with_generation": 0.5})
    assert sentence == (
        "training on the run's examples took 25.0 times less compute than on the full set (6ND; 20.0 times less as "
        "measured); with the generation of the examples 2.0 times more"
    )
