"""Replays with other settings from the ledger alone, compared with runs that were executed with those settings."""

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from nanoflux_local.endpoints.scripted import HashingEmbedder, ScriptedEndpoint
from nanoflux_local.errors import ConfigError, NothingMatchedError, RefusedError
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.run import configs, runs
from nanoflux_local.run.whatif import replay_with
from nanoflux_local.transcript import TurnRecord
from tests.executed_runs import execute_run, read_digest

TURNS = 24
"""The turn limit of the recorded runs."""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home").prepare()


def start(home: Home, **settings: Any) -> str:
    """Start a run, and return its id."""
    shared = {"max_turns": TURNS, "seed": 5, "seeds": {"min": 2}, "concurrency": 1}
    return asyncio.run(runs.start(home, configs.resolve("starter-genetics", "scripted", {**shared, **settings}, home)))


def execute(home: Home, **settings: Any) -> str:
    """Start a run, execute it to its end, and return its id."""
    run = start(home, **settings)
    asyncio.run(runs.execute(home, run))
    return run


def read_records(home: Home, run: str) -> list[TurnRecord]:
    with LedgerView(home.ledger) as view:
        return view.turn_records(run)


def replay(home: Home, run: str, **settings: Any) -> dict[str, Any]:
    """Replay a run with these settings, and return the result as printed by `run replay --json`."""
    return asdict(asyncio.run(replay_with(home, run, settings)))


@pytest.mark.parametrize("settings", [{"novelty": {"solution": 0.3}}, {"max_turns": 9}, {"target": 4}])
def test_replay_with_changed_settings_equals_an_executed_run(
    home: Home, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    run, other_home = execute(home), Home(home.root / "elsewhere").prepare()
    executed_run = execute(other_home, **settings)
    for owner, name in ((ScriptedEndpoint, "chat"), (HashingEmbedder, "embed")):
        monkeypatch.setattr(owner, name, None)
    result = replay(home, run, **settings)
    assert result["complete"] and result["digest"] == read_digest(other_home, executed_run)
    assert result["turns"] == len(read_records(other_home, executed_run)) and result["needed"]["turns"] == 0
    recorded_kept_turns = {record.number for record in read_records(home, run) if record.kept}
    executed_kept_turns = {record.number for record in read_records(other_home, executed_run) if record.kept}
    assert {example["turn"] for example in result["come"]} >= executed_kept_turns - recorded_kept_turns
    assert {example["turn"] for example in result["go"]} >= recorded_kept_turns - executed_kept_turns
    assert result["stay"] + len(result["come"]) == result["kept"] == len(executed_kept_turns)
    assert result["same"] == (result["digest"] == read_digest(home, run))


def test_turn_that_needs_a_new_call_is_unknown_and_the_replay_continues(home: Home) -> None:
    run = execute(home)
    result = replay(home, run, novelty={"question": 0.4})
    assert not result["complete"] and result["digest"] is None and result["same"] is None
    unknown_turns = {entry["turn"] for entry in result["unknown"]}
    assert 0 < len(unknown_turns) < TURNS and result["turns"] == TURNS
    needed = result["needed"]
    assert needed["turns"] == needed["at_least"] == len(unknown_turns) == sum(entry["calls"] for entry in needed["by"])
    assert needed["expected"] > needed["at_least"]
    assert {(entry["role"], entry["kind"]) for entry in needed["by"]} == {("attacker", "chat")}
    # Before the first unknown turn, the replay keeps the same turns as an executed run.
    other_home = Home(home.root / "elsewhere").prepare()
    executed_run = execute(other_home, novelty={"question": 0.4})
    first_unknown = min(unknown_turns)
    recorded_kept_turns = {record.number for record in read_records(home, run)[:first_unknown] if record.kept}
    executed_records = read_records(other_home, executed_run)[:first_unknown]
    executed_kept_turns = {record.number for record in executed_records if record.kept}
    added_turns = {example["turn"] for example in result["come"] if example["turn"] < first_unknown}
    assert added_turns == executed_kept_turns - recorded_kept_turns
    removed_turns = {example["turn"] for example in result["go"]}
    assert not unknown_turns & (added_turns | removed_turns)


def test_question_that_only_the_replay_accepts_needs_a_new_call_of_the_judge(home: Home) -> None:
    run = execute(home, novelty={"question": 0.4})
    result = replay(home, run, novelty={"question": 0.99})
    assert ("judge", "chat") in {(entry["role"], entry["kind"]) for entry in result["needed"]["by"]}


def test_replay_stops_at_the_first_unrecorded_turn_that_needs_a_new_call(home: Home) -> None:
    run = execute(home)
    result = replay(home, run, max_turns=TURNS + 5)
    assert (result["turns"], result["complete"], result["go"], result["come"]) == (TURNS, False, [], [])


def test_unchanged_settings_replay_the_same_dataset_and_write_nothing(home: Home) -> None:
    run = execute(home)
    ledger_bytes = home.ledger.read_bytes()
    result = replay(home, run, concurrency=3)
    assert result["same"] and result["digest"] == read_digest(home, run) and result["come"] == result["go"] == []
    assert home.ledger.read_bytes() == ledger_bytes


@pytest.mark.parametrize(
    "settings",
    [
        {"seed": 6},
        {"endpoints": {"arbiter": {"model": "other"}}},
        {"roles": {"judge": {"sampling": {"temperature": 0.5}}}},
        {"seeds": {"max": 9}},
        {"reply_tokens": 99},
    ],
)
def test_error_on_a_setting_that_changes_requests_suggests_a_fork(home: Home, settings: dict[str, Any]) -> None:
    run = execute(home, max_turns=2)
    with pytest.raises(RefusedError, match="no stored reply applies") as error:
        replay(home, run, **settings)
    (key,) = settings
    assert error.value.exit_code == 3 and f"run start --fork {run} --set {key}" in error.value.fix


PROVABLE_SETTINGS: dict[str, Any] = {"samples": 3, "keep": "provable", "judge": {"checks": ["blind"]}}


def test_replay_under_other_rules_estimates_the_cost_of_missing_calls(home: Home) -> None:
    """The estimated tokens are compared with the tokens that a fork with the same settings needs."""
    run = execute(home, max_turns=12)
    what_if = asyncio.run(replay_with(home, run, PROVABLE_SETTINGS))
    assert what_if.stay == 0 and what_if.come == [] and not what_if.complete
    kept_turns = {record.number for record in read_records(home, run) if record.kept}
    assert kept_turns <= {turn.turn for turn in what_if.unknown} | {example.turn for example in what_if.go}
    fork = execute_run(home, runs.fork_config(home, run, PROVABLE_SETTINGS), forked_from=run)
    with LedgerView(home.ledger) as view:
        summary = view.summarize_run(fork)
    spent_tokens = summary.usage.prompt_tokens + summary.usage.completion_tokens
    assert 0.3 * spent_tokens < what_if.needed.tokens < 3 * spent_tokens
    assert what_if.needed.usd is None
    replay_after_fork = asyncio.run(replay_with(home, run, PROVABLE_SETTINGS))
    assert replay_after_fork.unknown == [], "the replay did not use the calls of the fork"
    assert replay_after_fork.digest == summary.digest


def test_replay_under_proven_rules_keeps_the_attacker_of_each_turn(home: Home) -> None:
    """Although the rule set ends the swap of the two models, the replay judges the recorded questions."""
    run = execute(home, max_turns=6)
    records = read_records(home, run)
    assert len({record.attacker for record in records}) == 2
    what_if = asyncio.run(replay_with(home, run, {"rules": "proven"}))
    kept_turns = {record.number for record in records if record.kept}
    assert kept_turns <= {turn.turn for turn in what_if.unknown} | {example.turn for example in what_if.go}
    assert {turn.role for turn in what_if.unknown} == {"judge"}, "a turn lacks an attack"
    with pytest.raises(RefusedError, match="swap_roles is part of the run's requests"):
        asyncio.run(replay_with(home, run, {"swap_roles": False}))


@pytest.mark.parametrize("changes", [{"samples": 2}, {"keep": "provable", "samples": 2}])
def test_replay_with_fewer_samples_needs_no_new_call(home: Home, changes: dict[str, Any]) -> None:
    run = execute(home, samples=3)
    what_if = asyncio.run(replay_with(home, run, changes))
    assert what_if.unknown == []
    other_home = Home(home.root / "elsewhere").prepare()
    assert what_if.digest == read_digest(other_home, execute(other_home, **changes))


def test_replay_refuses_runs_without_turns_and_unknown_keys(home: Home) -> None:
    run = start(home)
    with pytest.raises(NothingMatchedError, match="has no turns"):
        replay(home, run, novelty={"question": 0.4})
    asyncio.run(runs.execute(home, run))
    with pytest.raises(ConfigError, match="unknown key"):
        replay(home, run, noveltee={"question": 0.4})
