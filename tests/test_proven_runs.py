"""Runs under the rule set "proven": the questions that they keep, which are the same at any concurrency, and how pass
rates are shown and used.
"""

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from nanoflux_local.cli.main import main
from nanoflux_local.ledger.verify import verify_run
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.report.run_report import write_report
from nanoflux_local.run import configs, runs
from nanoflux_local.run.rule_sets import RULE_SETS, describe_rules, list_rule_changes
from nanoflux_local.run.whatif import replay_with
from nanoflux_local.train.choice import Choice, choose_rows
from nanoflux_local.transcript import Attempt
from tests.executed_runs import execute_run, read_digest

SETTINGS: dict[str, Any] = {"rules": "proven", "max_turns": 30, "seed": 5, "retries": {"parse": 0}}
"""The settings of the run that most tests use."""


def execute(home: Home, **settings: Any) -> str:
    """Execute a run with `SETTINGS` and these settings to its end, and return its id."""
    config = configs.resolve("starter", "scripted", {**SETTINGS, **settings}, home)
    return execute_run(home, config)


@pytest.fixture(scope="module")
def proven_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, str]:
    """A home, and the id of a finished run in it, whose turns ran one after another."""
    home = Home(tmp_path_factory.mktemp("proven") / "home").prepare()
    return home, execute(home, concurrency=1)


def read_last_attempts(home: Home, run: str) -> list[Attempt]:
    """The last attempt of each turn, in the order of the turns."""
    with LedgerView(home.ledger) as view:
        return [record.last_attempt for record in view.turn_records(run)]


def run_command(home: Home, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """Run a command in this process, and check that it succeeds."""
    monkeypatch.setenv("NANOFLUX_HOME", str(home.root))
    with pytest.raises(SystemExit) as exit_info:
        main(list(arguments))
    assert exit_info.value.code == 0


def test_rule_changes_are_the_settings_that_differ_from_the_rule_set(tmp_path: Path) -> None:
    home = Home(tmp_path)

    def list_changes(profile: str = "scripted", **settings: Any) -> dict[str, str]:
        config = configs.resolve("starter", profile, settings, home)
        return list_rule_changes(config.model_dump(mode="json"))

    assert list_changes() == list_changes(rules="proven") == {}
    assert list_changes(rules="proven", keep="supported") == {"keep": "supported"}
    assert list_changes(samples=4, judge={"checks": ["blind"]}) == {"samples": "4", "judge.checks": "blind"}
    assert list_changes("embedded", rules="proven") == {"judge.checks": "none, because a program judges"}
    config = configs.resolve("starter", "scripted", {"samples": 4, "keep": "provable"}, home)
    assert describe_rules(config.model_dump(mode="json")).endswith(", but samples = 4; keep = provable")


def test_rule_set_sets_its_settings_and_explicit_settings_override_them(tmp_path: Path) -> None:
    home = Home(tmp_path)
    proven_config = configs.resolve("starter", "scripted", {"rules": "proven"}, home)
    assert (proven_config.rules, proven_config.samples, proven_config.keep) == ("proven", 4, "confirmed")
    assert proven_config.judge.checks == ("answerable", "blind", "restated")
    two_samples_config = configs.resolve("starter", "scripted", {"rules": "proven", "samples": 2}, home)
    assert two_samples_config == proven_config.model_copy(update={"samples": 2})
    paper_config = configs.resolve("starter", "scripted", {}, home)
    assert configs.resolve("starter", "scripted", {"rules": "paper"}, home) == paper_config
    assert (paper_config.rules, paper_config.samples, paper_config.keep) == ("paper", 1, "failed")
    assert paper_config.judge.checks == ()
    assert configs.derive_config(paper_config, {"rules": "proven"}, home) == proven_config
    assert configs.derive_config(proven_config, {"rules": "paper"}, home) == paper_config
    assert set(RULE_SETS) == {"paper", "proven"}


def test_profile_may_name_the_rule_set(tmp_path: Path) -> None:
    home = Home(tmp_path)
    profile_path = tmp_path / "mine.toml"
    scripted_profile = configs.load_profile("scripted")
    lines = ['rules = "proven"', "samples = 3", f'embedder = "{scripted_profile["embedder"]}"']
    for name, endpoint in scripted_profile["endpoints"].items():
        lines += [f"[endpoints.{name}]", *format_toml_lines(endpoint)]
    for role, table in scripted_profile["roles"].items():
        lines += [f"[roles.{role}]", *format_toml_lines({"endpoint": table["endpoint"]})]
    profile_path.write_text("\n".join(lines))
    config = configs.resolve("starter", str(profile_path), {}, home)
    assert (config.rules, config.samples, config.keep) == ("proven", 3, "confirmed")


def format_toml_lines(table: dict[str, Any]) -> list[str]:
    """The settings of a TOML table, one per line."""
    return [f"{key} = {json.dumps(value)}" for key, value in table.items()]


def test_proven_run_keeps_questions_that_are_solved_sometimes_or_have_a_supported_answer(
    proven_run: tuple[Home, str],
) -> None:
    outcome_counts: Counter[str] = Counter()
    for attempt in read_last_attempts(*proven_run):
        outcome_counts[attempt.outcome] += 1
        if attempt.evaluation is None:
            continue
        right_count, answer_count = attempt.pass_rate
        assert len(attempt.samples) == 3 and 1 <= answer_count <= 4
        blind_finding = attempt.finding("blind")
        is_supported = blind_finding is not None and blind_finding.conclusion == "supports"
        is_solved_sometimes = 0 < right_count < answer_count
        is_kept = is_solved_sometimes or (right_count == 0 and is_supported)
        assert (attempt.outcome == "kept_failed") is is_kept
        assert (attempt.outcome == "defender_right") is (right_count == answer_count)
    assert outcome_counts["kept_failed"] > 3 and outcome_counts["defender_right"], outcome_counts


@pytest.mark.parametrize("concurrency", [8, 64])
def test_proven_run_is_equal_at_any_concurrency(proven_run: tuple[Home, str], tmp_path: Path, concurrency: int) -> None:
    home = Home(tmp_path / "home").prepare()
    run = execute(home, concurrency=concurrency)
    assert read_digest(home, run) == read_digest(*proven_run)
    assert read_last_attempts(home, run) == read_last_attempts(*proven_run)


def test_proven_run_replays_and_verifies(proven_run: tuple[Home, str]) -> None:
    home, run = proven_run
    assert asyncio.run(runs.replay(home, run)).same
    with LedgerView(home.ledger) as view:
        assert list(verify_run(view, run)) == []


def test_replay_of_a_paper_run_under_proven_rules_estimates_the_cost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    home = Home(tmp_path / "home").prepare()
    run = execute(home, rules="paper", max_turns=8)
    what_if = asyncio.run(replay_with(home, run, {"rules": "proven"}))
    unknown_turns = {turn.turn for turn in what_if.unknown}
    last_attempts = read_last_attempts(home, run)
    kept_turns = {turn for turn, attempt in enumerate(last_attempts) if attempt.outcome.startswith("kept")}
    turns_no_longer_kept = {example.turn for example in what_if.go}
    assert kept_turns and kept_turns <= unknown_turns | turns_no_longer_kept
    assert what_if.needed.tokens > 0 and what_if.needed.expected > what_if.needed.at_least
    run_command(home, monkeypatch, "run", "replay", run, "--rules", "proven")
    captured = capfd.readouterr()
    output = captured.err + captured.out
    assert "expected if these turns continue" in output
    assert f"nanoflux run start --fork {run} --set rules=proven" in output


def test_examples_are_chosen_by_pass_rate(proven_run: tuple[Home, str]) -> None:
    home, run = proven_run
    pass_rate_by_turn = {
        turn: attempt.pass_rate
        for turn, attempt in enumerate(read_last_attempts(home, run))
        if attempt.outcome == "kept_failed"
    }
    count_by_rate = Counter(f"{passes} of {tries}" for passes, tries in pass_rate_by_turn.values())
    with LedgerView(home.ledger) as view:
        rows, _ = choose_rows(view, run, Choice(where="pass_rate < 0.6"))
        assert view.summarize_run(run).pass_rates == dict(sorted(count_by_rate.items()))
    hard_turns = {turn for turn, (passes, tries) in pass_rate_by_turn.items() if passes / tries < 0.6}
    assert {row["turn"] for row in rows} == hard_turns and 0 < len(hard_turns) < len(pass_rate_by_turn)


def test_pass_rates_are_shown_and_exported(
    proven_run: tuple[Home, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    home, run = proven_run
    with LedgerView(home.ledger) as view:
        example = view.row("SELECT id, passes, tries FROM examples WHERE run = ? ORDER BY turn", run)
        assert example is not None
    run_command(home, monkeypatch, "run", "show", run)
    output = capfd.readouterr().out
    assert "proven" in output and "pass rates" in output
    run_command(home, monkeypatch, "examples", "list", run)
    assert "pass rate" in capfd.readouterr().out
    run_command(home, monkeypatch, "examples", "show", example["id"])
    assert f"{example['passes']} of {example['tries']} right" in capfd.readouterr().out
    run_command(home, monkeypatch, "examples", "list", run, "--json")
    listed_examples = json.loads(capfd.readouterr().out)
    assert listed_examples[0]["pass_rate"] == [example["passes"], example["tries"]]
    export_path = tmp_path / "kept.jsonl"
    run_command(home, monkeypatch, "export", run, "--out", str(export_path))
    first_row = json.loads(export_path.read_text().splitlines()[0])
    assert first_row["pass_rate"] == [example["passes"], example["tries"]]
    page = write_report(home.ledger, run, tmp_path / "report").read_text()
    assert "Rules: proven: " in page and "Right answers of the defender to the kept questions" in page
    card = export_path.with_suffix(".md").read_text()
    assert "| rules | proven: " in card and "| right answers of the defender | " in card
