"""Runs whose judge uses checks, some of which execute programs in the real sandbox: equal at any concurrency, and
replayed from the ledger alone.
"""

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from nanoflux_local.cli.overview import show_run
from nanoflux_local.endpoints.scripted import HashingEmbedder, ScriptedEndpoint
from nanoflux_local.errors import NothingMatchedError, RefusedError
from nanoflux_local.ledger.verify import verify_run
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.report.run_report import write_report
from nanoflux_local.run import configs, runs
from nanoflux_local.run.agreement import summarize_panel
from nanoflux_local.run.whatif import replay_with
from nanoflux_local.tools.corpus import Corpus
from nanoflux_local.tools.python_check import PythonTool
from nanoflux_local.train.choice import Choice, choose_rows
from nanoflux_local.transcript import Attempt
from tests.executed_runs import execute_run, read_digest

SETTINGS = {"max_turns": 24, "seed": 5, "judge": {"code_check": True}, "retries": {"parse": 0}}


def execute_judged_run(home: Home, **settings: Any) -> str:
    """Execute a run with `SETTINGS` and these settings to its end, and return its id."""
    return execute_run(home, configs.resolve("starter", "scripted", {**SETTINGS, **settings}, home))


@pytest.fixture(scope="module")
def checked_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, str]:
    """A home, and the id of a finished run in it with the code check, whose turns ran one after another."""
    home = Home(tmp_path_factory.mktemp("checked") / "home").prepare()
    return home, execute_judged_run(home, concurrency=1)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disable the endpoints, the embedder and the sandbox."""
    for owner, name in ((ScriptedEndpoint, "chat"), (HashingEmbedder, "embed"), (PythonTool, "run")):
        monkeypatch.setattr(owner, name, None)


def read_validated_attempts(home: Home, run: str) -> list[Attempt]:
    """The attempts of a run whose questions the judge validated, in order."""
    with LedgerView(home.ledger) as view:
        return [attempt for record in view.turn_records(run) for attempt in record.attempts if attempt.validation]


def test_finding_of_the_code_check_is_recorded_and_rejects_contradicted_questions(
    checked_run: tuple[Home, str],
) -> None:
    attempt_by_conclusion = {}
    for attempt in read_validated_attempts(*checked_run):
        finding = attempt.validation.finding("code")
        assert finding.reason
        assert finding.conclusion != "contradicts" or attempt.outcome == "invalid"
        assert finding.conclusion == "not checked" or "# STEPS" in finding.evidence[0].text
        attempt_by_conclusion[finding.conclusion] = attempt
    assert set(attempt_by_conclusion) == {"supports", "contradicts", "not checked"}
    assert attempt_by_conclusion["contradicts"].reason.startswith("[the program disagrees]")
    home, run = checked_run
    with LedgerView(home.ledger) as view:
        assert list(verify_run(view, run)) == []


def test_judged_run_is_equal_at_any_concurrency(checked_run: tuple[Home, str], tmp_path: Path) -> None:
    other_home = Home(tmp_path / "home").prepare()
    assert read_digest(other_home, execute_judged_run(other_home, concurrency=16)) == read_digest(*checked_run)


def test_judged_run_replays_from_the_ledger_alone(checked_run: tuple[Home, str], offline: None) -> None:
    assert asyncio.run(runs.replay(*checked_run)).same
    without_check = asyncio.run(replay_with(*checked_run, {"judge": {"code_check": False}}))
    conclusions = [attempt.validation.finding("code").conclusion for attempt in read_validated_attempts(*checked_run)]
    # Without the check, contradicted questions are accepted, and no stored defence answers them.
    assert 0 < without_check.needed.turns <= conclusions.count("contradicts")


@pytest.mark.parametrize(
    ("setting", "value"), [("code_check", True), ("fact_check", True), ("panel", ["duelist-a", "second"])]
)
def test_replay_counts_missing_calls_of_a_check_that_the_run_did_not_use(
    tmp_path: Path, setting: str, value: Any
) -> None:
    home = Home(tmp_path / "home").prepare()
    endpoints = {"second": {"interface": "scripted", "model": "second-arbiter"}}
    run = execute_judged_run(home, judge={"code_check": False}, endpoints=endpoints, max_turns=1)
    what_if = asyncio.run(replay_with(home, run, {"judge": {setting: value}}))
    assert [(turn.turn, turn.role) for turn in what_if.unknown] == [(0, "judge")] and not what_if.complete
    assert what_if.needed.expected >= 1


def test_run_show_reports_levels_and_panel_agreement(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = Home(tmp_path / "home").prepare()
    endpoint = {"interface": "scripted", "model": "second-arbiter"}
    judge = {"code_check": False, "quality": True, "panel": ["second"]}
    run = execute_judged_run(home, judge=judge, endpoints={"second": endpoint}, max_turns=12)
    with LedgerView(home.ledger) as view:
        records, summary = view.turn_records(run), view.summarize_run(run).to_json()
        levels = [row["level"] for row in view.rows("SELECT level FROM examples ORDER BY turn")]
        first_level = next(level for level in levels if level)
        chosen_rows, _ = choose_rows(view, run, Choice(level=first_level))
        panel = summarize_panel(view, run)
        assert list(verify_run(view, run)) == []
    kept_attempts = [record.last_attempt for record in records if record.kept]
    assert levels == [attempt.quality.level if attempt.quality else None for attempt in kept_attempts]
    assert all(attempt.quality or attempt.unrated for attempt in kept_attempts)
    assert sum(summary["levels"].values()) == len(kept_attempts) and 0 < len(chosen_rows) <= len(kept_attempts)
    verdicts = [attempt.validation for record in records for attempt in record.attempts if attempt.validation]
    assert {vote.judge for verdict in verdicts for vote in verdict.votes} == {"arbiter", "second"}
    assert panel is not None and panel.judgements >= len(verdicts)
    show_run(home, run, as_json=False)
    output = capsys.readouterr().out
    assert "Krippendorff's alpha" in output and "quality levels" in output
    page = write_report(home.ledger, run, tmp_path / "report").read_text()
    assert "Reasoning of the kept examples: " in page and "Reasoning: L" in page
    assert asyncio.run(runs.replay(home, run)).same
    with sqlite3.connect(home.ledger) as connection:
        connection.execute("UPDATE examples SET level = 6 - level WHERE level <> 3")
    with LedgerView(home.ledger) as view:
        assert any("the column level is" in problem for problem in verify_run(view, run))


def test_fact_check_searches_the_corpus_and_replays_without_the_corpus(tmp_path: Path) -> None:
    home = Home(tmp_path / "home").prepare()
    (tmp_path / "facts.md").write_text("# Apples\nApples and books, coins and hats.\n# Deeds\nHe counts and packs.")
    judge = {"code_check": False, "fact_check": True}
    with pytest.raises(NothingMatchedError, match="corpus is empty"):
        execute_judged_run(home, judge=judge)
    with Corpus(home.corpus, write=True) as corpus:
        corpus.add([tmp_path / "facts.md"])
    run = execute_judged_run(home, judge=judge, max_turns=8)
    findings = [attempt.validation.finding("facts") for attempt in read_validated_attempts(home, run)]
    outcomes = {search.outcome for finding in findings for search in finding.evidence}
    assert outcomes == {"found", "nothing"} and all(finding.reason for finding in findings)
    other_home = Home(tmp_path / "elsewhere").prepare()
    home.corpus.rename(other_home.corpus)
    assert asyncio.run(runs.replay(home, run)).same
    sequential_run = execute_judged_run(other_home, judge=judge, max_turns=8, concurrency=1)
    assert read_digest(other_home, sequential_run) == read_digest(home, run)
    (tmp_path / "facts.md").write_text("Other words.")
    with Corpus(home.corpus, write=True) as corpus:
        corpus.add([tmp_path / "facts.md"])
    with pytest.raises(RefusedError, match=r"^the search has changed since this run started: revision was "):
        asyncio.run(runs.execute(home, run))
