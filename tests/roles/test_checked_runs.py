"""Runs whose judge uses several checks give the same examples at any concurrency, and replay from the ledger alone."""

import asyncio
import itertools
from collections import Counter
from pathlib import Path

import pytest

from nanoflux_local.cli.main import main
from nanoflux_local.ledger.verify import verify_run
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.run import configs, runs
from nanoflux_local.run.trials.result import summarize_trial
from nanoflux_local.run.whatif import replay_with
from nanoflux_local.transcript import Attempt
from tests.executed_runs import execute_run, read_digest

CHECKS = ["answerable", "blind", "restated"]
SETTINGS = {
    "max_turns": 8,
    "seed": 5,
    "retries": {"parse": 0},
    "endpoints": {name: {"interface": "scripted", "model": f"{name}-solver"} for name in ("second", "unused")},
    "judge": {"checks": CHECKS, "code_check": True, "solvers": ["arbiter", "second"], "panel": ["second"], "trial": 2},
}
"""The settings of the run: four checks, two solvers, a panel of two judges, and an endpoint that only a replay uses."""


def complete_run(home: Home, concurrency: int) -> str:
    """Start a run with several checks, complete it, and return its id."""
    config = configs.resolve("starter", "scripted", {**SETTINGS, "concurrency": concurrency}, home)
    return execute_run(home, config)


@pytest.fixture(scope="module")
def checked_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, str]:
    """A home with a completed run, and the run's id."""
    home = Home(tmp_path_factory.mktemp("checked") / "home").prepare()
    return home, complete_run(home, concurrency=1)


def read_judged_attempts(home: Home, run: str) -> list[Attempt]:
    """The attempts of a run whose questions the judge validated."""
    with LedgerView(home.ledger) as view:
        return [attempt for record in view.turn_records(run) for attempt in record.attempts if attempt.validation]


@pytest.mark.parametrize("concurrency", [8, 64])
def test_checked_run_digest_does_not_depend_on_concurrency(
    checked_run: tuple[Home, str], tmp_path: Path, concurrency: int
) -> None:
    home = Home(tmp_path / "home").prepare()
    assert read_digest(home, complete_run(home, concurrency)) == read_digest(*checked_run)


@pytest.mark.parametrize("concurrency", [1, 64])
def test_run_that_keeps_confirmed_questions_asks_the_judge_only_about_supported_ones(
    tmp_path: Path, concurrency: int
) -> None:
    home = Home(tmp_path / "home").prepare()
    judge_settings = {**SETTINGS["judge"], "trial": 8, "grading": "program"}
    settings = {**SETTINGS, "concurrency": concurrency, "keep": "confirmed", "judge": judge_settings}
    run = execute_run(home, configs.resolve("starter", "scripted", settings, home))
    outcome_counts: Counter[str] = Counter()
    for attempt in read_judged_attempts(home, run):
        assert attempt.validation is not None
        blind_finding = attempt.validation.finding("blind")
        assert blind_finding is not None
        was_judge_asked = attempt.validation.asked > 0
        assert was_judge_asked == (blind_finding.conclusion == "supports"), attempt.outcome
        if attempt.evaluation is not None:
            assert attempt.evaluation.asked == 0, "the judge was asked although a program grades"
        outcome_counts[attempt.outcome] += 1
        if attempt.outcome == "unproven":
            assert attempt.reason == blind_finding.reason and attempt.defence is None
    assert outcome_counts["unproven"] and outcome_counts["kept_failed"], outcome_counts
    with LedgerView(home.ledger) as view:
        trial_result, funnel = summarize_trial(view, run), view.funnel(run)
    assert trial_result is not None and trial_result.predicted is not None
    supported_count = funnel["kept_failed"] + funnel["kept_novel"] + funnel["defender_right"]
    assert trial_result.predicted.accepted == supported_count
    assert trial_result.predicted.judged >= supported_count + funnel["unproven"]
    assert asyncio.run(runs.replay(home, run)).same


def test_checked_run_replays_and_verifies(checked_run: tuple[Home, str]) -> None:
    home, run = checked_run
    assert asyncio.run(runs.replay(home, run)).same
    with LedgerView(home.ledger) as view:
        assert list(verify_run(view, run)) == []


def test_checked_run_records_every_finding(checked_run: tuple[Home, str]) -> None:
    conclusions: Counter[tuple[str, str]] = Counter()
    for attempt in read_judged_attempts(*checked_run):
        findings = attempt.validation.findings
        assert {finding.check for finding in findings} == {*CHECKS, "code"}
        assert all(finding.reason for finding in findings)
        conclusions.update((finding.check, finding.conclusion) for finding in findings)
        if any(finding.conclusion == "contradicts" for finding in findings):
            assert attempt.outcome == "invalid"
    for conclusion in ("supports", "contradicts", "not checked"):
        assert conclusions["answerable", conclusion], conclusions
    assert conclusions["blind", "supports"] and conclusions["blind", "not checked"], conclusions
    assert conclusions["restated", "supports"], conclusions


def test_checked_run_has_blind_solutions_of_every_solver(checked_run: tuple[Home, str]) -> None:
    findings = [attempt.validation.finding("blind") for attempt in read_judged_attempts(*checked_run)]
    exhibits = [exhibit for finding in findings for exhibit in finding.evidence]
    kinds_and_authors = {(exhibit.kind, exhibit.author) for exhibit in exhibits}
    assert kinds_and_authors == set(itertools.product(("program", "solution"), ("arbiter", "second")))
    assert {exhibit.agrees for exhibit in exhibits} == {True, False, None}


def test_blind_requests_in_the_ledger_contain_no_solution(checked_run: tuple[Home, str]) -> None:
    """The blind check's requests are recognised by the reply that only they offer: CANNOT BE ANSWERED."""
    home, _ = checked_run
    with LedgerView(home.ledger) as view:
        requests = [str(row["request"]) for row in view.rows("SELECT request FROM calls WHERE kind = 'chat'")]
    blind_requests = [request for request in requests if "CANNOT BE ANSWERED" in request]
    solutions = [attempt.attack.solution for attempt in read_judged_attempts(*checked_run)]
    assert len(blind_requests) > 10
    for solution in solutions:
        assert not any(solution in request for request in blind_requests)


def test_replay_with_other_blind_settings_lacks_only_the_calls_of_a_new_solver(checked_run: tuple[Home, str]) -> None:
    """The ledger has every call that a check with fewer agreeing solutions needs, but no call of a new solver."""
    replay_with_one_agreeing = asyncio.run(replay_with(*checked_run, {"judge": {"agreeing": 1}}))
    assert replay_with_one_agreeing.turns == SETTINGS["max_turns"]
    assert all(turn.role != "judge" for turn in replay_with_one_agreeing.unknown)
    replay_with_new_solver = asyncio.run(replay_with(*checked_run, {"judge": {"solvers": ["unused"]}}))
    assert {(turn.kind, turn.role) for turn in replay_with_new_solver.unknown} == {("chat", "judge")}


def test_commands_show_the_blind_solutions_of_a_run(
    checked_run: tuple[Home, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home, run = checked_run
    monkeypatch.setenv("NANOFLUX_HOME", str(home.root))
    with LedgerView(home.ledger) as view:
        example_id = view.row("SELECT id FROM examples WHERE run = ? ORDER BY turn", run)["id"]
    for arguments, expected_text in (
        (("run", "show", run), "blind"),
        (("examples", "show", str(example_id)), "Blind check: "),
    ):
        with pytest.raises(SystemExit) as exit_info:
            main(list(arguments))
        output = capsys.readouterr().out
        assert exit_info.value.code == 0 and expected_text in output, output
