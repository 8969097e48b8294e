"""Scripts read the documented JSON keys of commands, so none of these keys may disappear or move."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from nanoflux_local.cli.main import nanoflux

# Each dictionary below maps the path of an object in a JSON document to the object's keys. The path "" is the whole
# document, "calls" the object under `calls`.
SUMMARY_KEYS = {
    "": "run name domain rules forked_from status message turns max_turns kept target digest note levels pass_rates"
    " funnel contaminated cut_in_reasoning calls wasted_share usage faults lost seconds repeatable created_at worker",
    "funnel": "attempts unparsed novelty_rejected contaminated invalid low_confidence defender_right unproven"
    " kept_failed kept_novel failed",
    "calls": "made remembered wasted",
    "usage": "prompt_tokens completion_tokens usd reasoning_tokens",
    "lost": "tokens usd",
}
RATE_KEYS = "sensitivity specificity errors caught passed"
SHOW_KEYS = {
    **SUMMARY_KEYS,
    "": f"{SUMMARY_KEYS['']} forecast judge_trial panel review rule_changes unread refused",
    "forecast": "kept_per_hour reason level reaches_target turns seconds tokens usd",
    "forecast.turns": "expected low high",
    "judge_trial": "solutions unjudged checked without_check with_check judge checks kinds predicted",
    "judge_trial.predicted": "judged accepted among_accepted among_kept",
    "judge_trial.judge": RATE_KEYS,
    "judge_trial.judge.sensitivity": "n share ci95",
    "judge_trial.judge.caught": "slip answer",
    "judge_trial.judge.passed": "reference own",
    "review.reviewers.ada": "reviewed keep drop fix agree kappa ci95",
}
REPLAY_KEYS = {"": "run turns kept digest recorded_digest same"}
WHAT_IF_KEYS = {
    "": "run settings turns kept target complete digest recorded_digest same stay come go unknown needed",
    "needed": "turns at_least expected by tokens usd",
    "needed.by.0": "kind role calls",
    "unknown.0": "turn kept_before kind role",
}
EVALUATION_KEYS = {"eval", "model", "adapter", "data", "n", "strict", "soft", "unscored", "runs"}
PAIR_KEYS = {"a", "b", "n", "difference", "ci95", "mcnemar_p", "bootstrap_p", "holm_p", "minimum_detectable"}
SANDBOX_RUN_KEYS = {"status", "exit_code", "stdout", "stderr", "truncated", "wall_s", "backend"}
EVAL_COMMAND = ("eval", "--profile", "scripted", "--data", "starter-easy", "--limit", "4", "--runs", "2", "--json")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the unfinished run "keys", which has a trial of its judge and a reviewed example."""
    home = tmp_path_factory.mktemp("keys")
    settings = ("--set", "max_turns=20", "--set", "seeds.min=2", "--set", "judge.trial=2")
    start_command = ("run", "start", "--domain", "starter-genetics", "--profile", "scripted", "--name", "keys")
    read_json(home, *start_command, *settings)
    # With higher limits the run is unfinished, so that it has a forecast.
    read_json(home, "run", "set", "keys", "max_turns=200", "target=100")
    example = read_json(home, "examples", "list", "keys")[0]["id"]
    read_json(home, "examples", "review", example, "--verdict", "keep", "--reviewer", "ada")
    return home


def read_json(home: Path, *arguments: str) -> Any:
    """The JSON document that a command prints."""
    result = CliRunner().invoke(nanoflux, [*arguments, "--json"], env={"NANOFLUX_HOME": str(home)})
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.parametrize(
    ("command", "keys_by_path"),
    [
        ("run show keys", SHOW_KEYS),
        ("run replay keys", REPLAY_KEYS),
        ("run replay keys --set novelty.question=0.4", WHAT_IF_KEYS),
    ],
)
def test_json_has_exactly_its_documented_keys(home: Path, command: str, keys_by_path: dict[str, str]) -> None:
    document = read_json(home, *command.split())
    for path, keys in keys_by_path.items():
        part = document
        for step in path.split(".") if path else ():
            part = part[int(step)] if isinstance(part, list) else part[step]
        assert set(part) == set(keys.split()), path


def test_run_list_has_exactly_its_documented_keys(home: Path) -> None:
    (entry,) = read_json(home, "run", "list")
    assert set(entry) == set(SUMMARY_KEYS[""].split())


def test_eval_and_compare_print_the_documented_keys(tmp_path: Path, invoke: Callable) -> None:
    soft_evaluation = invoke(tmp_path, *EVAL_COMMAND, "--endpoint", "duelist-a", "--mode", "soft").json
    strict_evaluation = invoke(tmp_path, *EVAL_COMMAND, "--endpoint", "duelist-b").json
    assert soft_evaluation.keys() >= EVALUATION_KEYS and strict_evaluation.keys() == soft_evaluation.keys()
    assert strict_evaluation["soft"] is None and strict_evaluation["adapter"] is None and strict_evaluation["runs"] == 2
    assert soft_evaluation["strict"].keys() == {"mean", "sd", "ci95"} and len(soft_evaluation["strict"]["ci95"]) == 2
    assert soft_evaluation["soft"].keys() == {"n", "mean", "sd", "ci95", "unscored", "by_run", "judge"}
    comparison = invoke(tmp_path, "compare", soft_evaluation["eval"], strict_evaluation["eval"], "--json").json
    assert comparison.keys() == {"pairs"}
    (pair,) = comparison["pairs"]
    assert pair.keys() >= PAIR_KEYS and "data" not in pair and len(pair["ci95"]) == 2
    assert pair["holm_p"] == pair["mcnemar_p"], "Holm's correction changed the p-value of a single pair"


def test_doctor_prints_the_documented_keys(tmp_path: Path, invoke: Callable) -> None:
    report = invoke(tmp_path, "doctor", "--json").json
    assert report.keys() == {"ok", "checks"} and report["checks"]
    assert all(check.keys() == {"name", "ok", "found", "fix"} for check in report["checks"])


def test_sandbox_prints_the_documented_keys(tmp_path: Path, invoke: Callable) -> None:
    check = invoke(tmp_path, "sandbox", "check", "--json").json
    assert check.keys() >= {"backend", "layers", "safe", "reasons"}
    assert all(isinstance(active, bool) for active in check["layers"].values())
    program = tmp_path / "program.py"
    program.write_text("print(6 * 7)\n")
    outcome = invoke(tmp_path, "sandbox", "run", str(program), "--json")
    assert outcome.json.keys() >= SANDBOX_RUN_KEYS
    assert outcome.code == {"ok": 0, "unavailable": 3}.get(outcome.json["status"], 1)
