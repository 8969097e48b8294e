"""What-if: other settings answered from the ledger alone, compared with a run that was really played with them."""

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
from tests.played_runs import play_run, read_digest

TURNS = 24


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home").prepare()


def start(home: Home, **settings: Any) -> str:
    shared = {"max_turns": TURNS, "seed": 5, "seeds": {"min": 2}, "concurrency": 1}
    return asyncio.run(runs.start(home, configs.resolve("starter-genetics", "scripted", {**shared, **settings}, home)))


def play(home: Home, **settings: Any) -> str:
    run = start(home, **settings)
    asyncio.run(runs.play(home, run))
    return run


def records(home: Home, run: str) -> list[TurnRecord]:
    with LedgerView(home.ledger) as view:
        return view.turn_records(run)


def ask(home: Home, run: str, **settings: Any) -> dict[str, Any]:
    return asdict(asyncio.run(replay_with(home, run, settings)))


@pytest.mark.parametrize("settings", [{"novelty": {"solution": 0.3}}, {"max_turns": 9}, {"target": 4}])
def test_replay_with_settings_equals_playing_them(
    home: Home, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    run, elsewhere = play(home), Home(home.root / "elsewhere").prepare()
    real = play(elsewhere, **settings)
    for owner, name in ((ScriptedEndpoint, "chat"), (HashingEmbedder, "embed")):
        monkeypatch.setattr(owner, name, None)
    answer = ask(home, run, **settings)
    assert answer["complete"] and answer["digest"] == read_digest(elsewhere, real)
    assert answer["turns"] == len(records(elsewhere, real)) and answer["needed"]["turns"] == 0
    before = {record.number for record in records(home, run) if record.kept}
    after = {record.number for record in records(elsewhere, real) if record.kept}
    assert {example["turn"] for example in answer["come"]} >= after - before
    assert {example["turn"] for example in answer["go"]} >= before - after
    assert answer["stay"] + len(answer["come"]) == answer["kept"] == len(after)
    assert answer["same"] == (answer["digest"] == read_digest(home, run))


def test_turn_that_misses_a_call_is_unknown_and_the_replay_continues(home: Home) -> None:
    run = play(home)
    answer = ask(home, run, novelty={"question": 0.4})
    assert not answer["complete"] and answer["digest"] is None and answer["same"] is None
    unknown = {entry["turn"] for entry in answer["unknown"]}
    assert 0 < len(unknown) < TURNS and answer["turns"] == TURNS
    needed = answer["needed"]
    assert needed["turns"] == needed["at_least"] == len(unknown) == sum(entry["calls"] for entry in needed["by"])
    assert needed["expected"] > needed["at_least"]
    assert {(entry["role"], entry["kind"]) for entry in needed["by"]} == {("attacker", "chat")}
    real = Home(home.root / "elsewhere").prepare()
    truth = records(real, play(real, novelty={"question": 0.4}))
    first = min(unknown)
    recorded = records(home, run)
    come = {example["turn"] for example in answer["come"] if example["turn"] < first}
    assert come == {record.number for record in truth[:first] if record.kept and not recorded[record.number].kept}
    assert all(turn not in unknown for turn in (*come, *(example["turn"] for example in answer["go"])))


def test_question_accepted_only_by_the_change_misses_its_judge(home: Home) -> None:
    run = play(home, novelty={"question": 0.4})
    answer = ask(home, run, novelty={"question": 0.99})
    assert ("judge", "chat") in {(entry["role"], entry["kind"]) for entry in answer["needed"]["by"]}


def test_replay_stops_at_the_first_unplayed_turn_that_misses_a_call(home: Home) -> None:
    run = play(home)
    answer = ask(home, run, max_turns=TURNS + 5)
    assert (answer["turns"], answer["complete"], answer["go"], answer["come"]) == (TURNS, False, [], [])


def test_unchanged_settings_replay_the_same_dataset_and_write_nothing(home: Home) -> None:
    run = play(home)
    before = home.ledger.read_bytes()
    answer = ask(home, run, concurrency=3)
    assert answer["same"] and answer["digest"] == read_digest(home, run) and answer["come"] == answer["go"] == []
    assert home.ledger.read_bytes() == before


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
def test_setting_of_the_requests_is_refused_with_the_fork_command(home: Home, settings: dict[str, Any]) -> None:
    run = play(home, max_turns=2)
    with pytest.raises(RefusedError, match="no remembered call applies") as refused:
        ask(home, run, **settings)
    assert refused.value.exit_code == 3 and f"run start --fork {run} --set {next(iter(settings))}" in refused.value.fix


PROVABLE: dict[str, Any] = {"samples": 3, "keep": "provable", "judge": {"checks": ["blind"]}}


def test_replay_of_other_rules_says_what_the_missing_calls_would_cost(home: Home) -> None:
    """The estimate of tokens is compared with those that a fork under these rules really needed."""
    run = play(home, max_turns=12)
    estimate = asyncio.run(replay_with(home, run, PROVABLE))
    assert estimate.stay == 0 and estimate.come == [] and not estimate.complete
    kept = {record.number for record in records(home, run) if record.kept}
    assert kept <= {turn.turn for turn in estimate.unknown} | {example.turn for example in estimate.go}
    fork = play_run(home, runs.fork_config(home, run, PROVABLE), forked_from=run)
    with LedgerView(home.ledger) as view:
        summary = view.summarize_run(fork)
    made = summary.usage.prompt_tokens + summary.usage.completion_tokens
    assert 0.3 * made < estimate.needed.tokens < 3 * made
    assert estimate.needed.usd is None
    again = asyncio.run(replay_with(home, run, PROVABLE))
    assert again.unknown == [] and again.digest == summary.digest, "the fork's calls answer the replay"


@pytest.mark.parametrize("changes", [{"samples": 2}, {"keep": "provable", "samples": 2}])
def test_replay_answers_fewer_samples_from_the_ledger(home: Home, changes: dict[str, Any]) -> None:
    several = play(home, samples=3)
    what_if = asyncio.run(replay_with(home, several, changes))
    assert what_if.unknown == []
    elsewhere = Home(home.root / "elsewhere").prepare()
    assert what_if.digest == read_digest(elsewhere, play(elsewhere, **changes))


def test_unknown_key_and_run_without_turns_are_refused(home: Home) -> None:
    run = start(home)
    with pytest.raises(NothingMatchedError, match="has no turns"):
        ask(home, run, novelty={"question": 0.4})
    asyncio.run(runs.play(home, run))
    with pytest.raises(ConfigError, match="unknown key"):
        ask(home, run, noveltee={"question": 0.4})
