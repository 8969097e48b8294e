"""`nanoflux run attempts`, `calls`, `problems` and `log` show what happened in a run."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from nanoflux_local import redaction
from nanoflux_local.cli.main import nanoflux
from nanoflux_local.errors import NothingMatchedError
from nanoflux_local.jobs import RUN, Job
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.records import Fault
from nanoflux_local.run import configs, runs


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, str]:
    """A home with a finished scripted run, and the id of the run."""
    home = Home(tmp_path_factory.mktemp("attempts") / "home").prepare()
    config = configs.resolve("starter-genetics", "scripted", {"max_turns": 25, "seed": 7, "seeds": {"min": 2}}, home)

    async def start_and_execute() -> str:
        run = await runs.start(home, config)
        await runs.execute(home, run)
        return run

    return home, asyncio.run(start_and_execute())


def run_command(home: Home, *arguments: str) -> Result:
    return CliRunner().invoke(nanoflux, arguments, env={"NANOFLUX_HOME": str(home.root)})


def read_json(home: Home, *arguments: str) -> Any:
    """The JSON document that a command prints."""
    return json.loads(run_command(home, *arguments, "--json").stdout)


def find_retried_turn(attempts: list[dict[str, Any]]) -> int:
    """The number of the first turn with a second attempt (attempts count from 0)."""
    return int(next(entry["turn"] for entry in attempts if entry["attempt"] == 1))


def test_attempts_lists_every_attempt_and_filters_by_outcome_and_turn(finished_run: tuple[Home, str]) -> None:
    home, run = finished_run
    funnel = read_json(home, "run", "show", run)["funnel"]
    attempts = read_json(home, "run", "attempts", run)
    assert len(attempts) == funnel["attempts"] and attempts[0]["attack"]["question"]
    invalid_attempts = read_json(home, "run", "attempts", run, "--outcome", "invalid")
    assert len(invalid_attempts) == funnel["invalid"] > 0
    assert [entry for entry in attempts if entry["outcome"] == "invalid"] == invalid_attempts
    turn = find_retried_turn(attempts)
    attempts_of_turn = read_json(home, "run", "attempts", run, "--turn", str(turn))
    assert {entry["turn"] for entry in attempts_of_turn} == {turn}
    table = run_command(home, "run", "attempts", run, "--outcome", "invalid").stdout
    assert len(table.splitlines()) == len(invalid_attempts) + 1 and "invalid" in table
    assert isinstance(run_command(home, "run", "attempts", run, "--turn", "9999").exception, NothingMatchedError)


def test_attempts_of_a_run_without_a_turn_says_so(tmp_path: Path) -> None:
    home = Home(tmp_path / "home").prepare()
    run = asyncio.run(runs.start(home, configs.resolve("starter-genetics", "scripted", {}, home)))
    error = run_command(home, "run", "attempts", run).exception
    assert isinstance(error, NothingMatchedError) and "has no attempts yet" in str(error)


def test_calls_prints_the_requests_and_replies_of_a_turn_or_attempt(finished_run: tuple[Home, str]) -> None:
    home, run = finished_run
    turn = find_retried_turn(read_json(home, "run", "attempts", run))
    calls = read_json(home, "run", "calls", run, str(turn))
    with LedgerView(home.ledger) as view:
        row = view.row("SELECT uses FROM turns WHERE run = ? AND number = ?", run, turn)
        assert row is not None and len(calls) == row["uses"]
    second_attempt_calls = read_json(home, "run", "calls", run, str(turn), "--attempt", "1")
    assert second_attempt_calls == [entry for entry in calls if entry["attempt"] == 1]
    attack_call = second_attempt_calls[0]
    assert attack_call["step"] == "attack"
    prompt, reply = attack_call["request"]["messages"][0]["content"], attack_call["reply"]["text"]
    output = run_command(home, "run", "calls", run, str(turn), "--attempt", "1").stdout
    assert prompt.splitlines()[0] in output and reply.splitlines()[0] in output


def test_calls_redacts_secrets(finished_run: tuple[Home, str], monkeypatch: pytest.MonkeyPatch) -> None:
    home, run = finished_run
    secret = read_json(home, "run", "attempts", run, "--turn", "0")[0]["attack"]["question"][:30]
    monkeypatch.setenv("SOME_API_KEY", secret)
    output = run_command(home, "run", "calls", run, "0").stdout
    assert secret not in output and redaction.MARK in output


def test_problems_groups_equal_problems_and_suggests_fixes(finished_run: tuple[Home, str]) -> None:
    home, run = finished_run
    warnings = read_json(home, "run", "problems", run)
    unreadable_attempts = read_json(home, "run", "attempts", run, "--outcome", "unparsed", "--outcome", "failed")
    assert {entry["severity"] for entry in warnings} == {"warning"}
    assert sum(entry["count"] for entry in warnings) == len(unreadable_attempts) > 1
    reasoning_warning = next(entry for entry in warnings if "reasoning" in entry["message"])
    assert "--set endpoints.duelist-" in reasoning_warning["fix"] and ".reasoning_tokens=N`" in reasoning_warning["fix"]
    with Ledger(home.ledger) as ledger:
        for seconds in (1.0, 2.0):
            ledger.add_fault(run, Fault("duelist-b", "unreachable", "it does not answer", seconds=seconds), "defender")
    fault, *other_problems = read_json(home, "run", "problems", run)
    assert other_problems == warnings
    assert fault["severity"] == "fault" and fault["count"] == 2 and fault["where"] == "defender duelist-b: unreachable"
    fork_command = f"nanoflux run start --fork {run} --set endpoints.duelist-b.url=URL"
    assert fork_command in fault["fix"], "`run resume` refuses a new address of an endpoint without a revision"
    assert "it does not answer (2 times)" in run_command(home, "run", "problems", run).stdout


def test_log_prints_the_last_lines_and_reports_a_missing_log(finished_run: tuple[Home, str]) -> None:
    home, run = finished_run
    assert isinstance(run_command(home, "run", "log", run).exception, NothingMatchedError)
    log_file = Job(RUN, run).log(home)
    log_file.parent.mkdir(exist_ok=True)
    log_file.write_text("".join(f"line {number}\n" for number in range(9)))
    assert run_command(home, "run", "log", run, "--lines", "2").stdout == "line 7\nline 8\n"
    assert read_json(home, "run", "log", run, "--lines", "1")["lines"] == ["line 8"]
