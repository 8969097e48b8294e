"""`eval` with the endpoints of a profile: the documented keys, soft scores by a judge, prompts and usage errors."""

from collections.abc import Callable
from pathlib import Path

import pytest

from nanoflux_local.ledger.views import LedgerView

ITEM_COUNT = 6
EVAL_COMMAND = (
    "eval", "--profile", "scripted", "--data", "starter-easy", "--limit", str(ITEM_COUNT), "--runs", "2", "--json"
)  # fmt: skip
"""The arguments of an evaluation; the tests add the endpoint, the scripted model `duelist-a` or `duelist-b`."""
PROMISED_KEYS = {"eval", "model", "adapter", "data", "n", "strict", "soft", "unscored", "runs"}
"""Keys of `eval --json` on which scripts may rely."""


def test_eval_computes_strict_and_soft_scores_of_profile_endpoints(tmp_path: Path, invoke: Callable) -> None:
    soft_evaluation = invoke(tmp_path, *EVAL_COMMAND, "--endpoint", "duelist-a", "--mode", "soft").json
    strict_evaluation = invoke(tmp_path, *EVAL_COMMAND, "--endpoint", "duelist-b").json
    assert soft_evaluation.keys() >= PROMISED_KEYS
    assert (soft_evaluation["n"], soft_evaluation["runs"]) == (ITEM_COUNT, 2)
    assert soft_evaluation["soft"]["judge"] == "arbiter" and strict_evaluation["soft"] is None
    pair = invoke(tmp_path, "compare", soft_evaluation["eval"], strict_evaluation["eval"], "--json").json["pairs"][0]
    assert (pair["a"], pair["b"], pair["n"]) == (soft_evaluation["eval"], strict_evaluation["eval"], ITEM_COUNT)


def test_eval_prints_one_item_and_one_run_in_the_singular(tmp_path: Path, invoke: Callable) -> None:
    command = ("eval", "--profile", "scripted", "--data", "starter-easy", "--limit", "1", "--runs", "1")
    result = invoke(tmp_path, *command, "--endpoint", "duelist-a")
    assert result.code == 0 and "starter-easy test, 1 item, 1 run\n" in result.out
    evaluation = invoke(tmp_path, "eval", "list", "--json").json[0]["eval"]
    assert "starter-easy test, 1 item, 1 run\n" in invoke(tmp_path, "eval", "show", evaluation).out


def test_eval_corrects_soft_accuracy_for_the_judges_errors(tmp_path: Path, invoke: Callable) -> None:
    start_command = ("run", "start", "--domain", "starter", "--profile", "scripted", "--examples", "1")
    for name, seed, trial_size in (("good-judge", 12, 4), ("chance-judge", 13, 4), ("no-trial", 7, 0)):
        invoke(tmp_path, *start_command, "--name", name, "--seed", str(seed), "--set", f"judge.trial={trial_size}")
    soft_command = (*EVAL_COMMAND, "--endpoint", "duelist-a", "--mode", "soft", "--judge-errors")
    trial_rates = invoke(tmp_path, "run", "show", "good-judge", "--json").json["judge_trial"]["judge"]
    specificity, sensitivity = trial_rates["specificity"]["share"], trial_rates["sensitivity"]["share"]
    assert specificity + sensitivity > 1, "the judge is no better than chance"
    soft_accuracy = invoke(tmp_path, *soft_command, "good-judge").json["soft"]
    corrected = soft_accuracy["corrected"]
    low, high = corrected["ci95"]
    mean = round(soft_accuracy["mean"] * ITEM_COUNT) / ITEM_COUNT  # the correction uses a whole number of right items
    # The estimator of Rogan and Gladen. It defines sensitivity on right replies, but a trial measures it on wrong
    # solutions, so sensitivity and specificity are exchanged.
    estimate = (mean + sensitivity - 1) / (specificity + sensitivity - 1)
    assert corrected["estimate"] == pytest.approx(min(1, max(0, estimate)))
    assert low <= corrected["estimate"] <= high
    assert "no better than chance" in invoke(tmp_path, *soft_command, "chance-judge").err
    assert "has no judge trial" in invoke(tmp_path, *soft_command, "no-trial").err


def test_eval_uses_the_prompts_of_a_user_domain(tmp_path: Path, invoke: Callable) -> None:
    (tmp_path / "domains").mkdir()
    (tmp_path / "domains" / "bare.toml").write_text(
        'extends = "starter"\nevaluates = ["starter-easy"]\nexamples = []\n'
    )
    evaluation_by_domain = {
        domain: invoke(tmp_path, *EVAL_COMMAND, "--endpoint", "duelist-a", "--domain", domain).json["eval"]
        for domain in ("starter", "bare")
    }
    with LedgerView(tmp_path / "ledger.db") as view:
        longest_request = {}
        for domain, evaluation in evaluation_by_domain.items():
            calls = view.rows("SELECT request FROM calls WHERE run = ?", evaluation)
            longest_request[domain] = max(len(call["request"]) for call in calls)
    assert longest_request["bare"] < longest_request["starter"], "the prompt still has the worked examples"


def test_eval_explains_usage_errors(tmp_path: Path, invoke: Callable) -> None:
    for arguments, message in (
        (("--runs", "1"), "needs either --model or --endpoint"),
        (("--endpoint", "duelist-a"), "need a profile"),
        (("--endpoint", "nobody", "--profile", "scripted"), "no endpoint 'nobody'"),
        (("--model", "m", "--profile", "scripted"), "--profile applies only to --endpoint and --mode soft"),
        (("--model", "m", "--temperature", "0"), "every repeat gives the same replies"),
        (
            ("--model", "m", "--domain", "gsmhard"),
            "the domain 'gsmhard' does not exist or does not use the benchmark 'starter'",
        ),
        (("--model", "m", "--domain", "nothing"), "the domain 'nothing' does not exist"),
    ):
        result = invoke(tmp_path, "eval", "--data", "starter", *arguments)
        assert result.code == 2 and message in result.err
