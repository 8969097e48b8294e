"""Missing calls: the estimated number and cost of the calls that a replay with other settings would need."""

from pathlib import Path

import pytest

from nanoflux_local.config import RunConfig
from nanoflux_local.paths import Home
from nanoflux_local.run.configs import derive_config, resolve
from nanoflux_local.run.missing import CallCost, CallType, RecordedCosts, count_missing, find_added_calls

JUDGE_CHAT, DEFENDER_CHAT = CallType("chat", "judge"), CallType("chat", "defender")
JUDGE_PROGRAM, JUDGE_EMBEDDING = CallType("python", "judge"), CallType("embed", "judge")
RECORDED_COSTS = RecordedCosts(
    per_call={JUDGE_CHAT: CallCost(1, 100, 0.01), DEFENDER_CHAT: CallCost(1, 50, 0.002)},
    remaining={JUDGE_CHAT: CallCost(3, 250, 0.022)},
    defence_calls=2.0,
)
"""The costs of a run that made only chat calls, two of them by the defender in each turn."""


@pytest.fixture
def paper_config(tmp_path: Path) -> RunConfig:
    return resolve("starter", "scripted", {}, Home(tmp_path))


def test_proven_rules_add_the_calls_of_checks_and_samples(tmp_path: Path, paper_config: RunConfig) -> None:
    proven_config = derive_config(paper_config, {"rules": "proven"}, Home(tmp_path))
    assert find_added_calls(RECORDED_COSTS, paper_config, proven_config) == {
        JUDGE_CHAT: 4.0,
        JUDGE_PROGRAM: 2.0,
        JUDGE_EMBEDDING: 2.0,
        DEFENDER_CHAT: 6.0,
    }
    assert find_added_calls(RECORDED_COSTS, proven_config, paper_config) == {}


def test_cost_of_missing_calls_includes_the_rest_of_the_turn_and_the_added_calls(paper_config: RunConfig) -> None:
    three_samples_config = paper_config.model_copy(update={"samples": 3})
    missing = count_missing(
        [JUDGE_CHAT, JUDGE_CHAT, JUDGE_PROGRAM], RECORDED_COSTS, paper_config, three_samples_config, priced=True
    )
    assert (missing.turns, missing.at_least) == (3, 3)
    assert [(entry.kind, entry.role, entry.calls) for entry in missing.by] == [
        ("chat", "judge", 2), ("python", "judge", 1)
    ]  # fmt: skip
    assert missing.expected == 2 * 3 + 1 + 3 * 4, (
        "a call without a recorded cost does not count as one, or two more samples not as four calls per turn"
    )
    assert missing.tokens == 2 * 250 + 3 * 4 * 50
    assert missing.usd == pytest.approx(2 * 0.022 + 3 * 4 * 0.002)
    assert count_missing([JUDGE_CHAT], RECORDED_COSTS, paper_config, paper_config, priced=False).usd is None


def test_proven_rules_add_no_checks_if_a_program_judges(tmp_path: Path) -> None:
    embedded_config = resolve("starter", "embedded", {}, Home(tmp_path))
    proven_config = derive_config(embedded_config, {"rules": "proven"}, Home(tmp_path))
    assert set(find_added_calls(RECORDED_COSTS, embedded_config, proven_config)) == {DEFENDER_CHAT}
