"""`run start --dry-run` prints the settings with their sources, a GPU plan and an estimate, and starts nothing."""

import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

START_COMMAND = ("run", "start", "--domain", "starter-genetics", "--profile", "scripted")


@pytest.fixture
def preview(tmp_path: Path, invoke: Callable) -> Callable[..., dict]:
    """A function that makes a dry run, checks that it succeeds, and returns its JSON."""

    def call(*options: str, home: Path = tmp_path / "home") -> dict:
        result = invoke(home, *START_COMMAND, *options, "--dry-run", "--json")
        assert result.code == 0, result.err
        return dict(result.json)

    return call


def test_dry_run_names_the_source_of_each_setting(tmp_path: Path, preview: Callable) -> None:
    config_file = tmp_path / "mine.toml"
    config_file.write_text("reply_tokens = 300\nseeds.max = 6\nseed = 1\n")
    document = preview("--config", str(config_file), "--set", "seeds.max=7", "--set", "seed=2", "--seed", "3")
    values = {setting["key"]: setting["value"] for setting in document["settings"]}
    sources = {setting["key"]: setting["source"] for setting in document["settings"]}
    assert (values["reply_tokens"], sources["reply_tokens"]) == (300, str(config_file))
    assert (values["seeds.max"], sources["seeds.max"]) == (7, "--set")
    assert (values["seed"], sources["seed"]) == (3, "--seed")
    assert (values["concurrency"], sources["concurrency"]) == (16, "profile scripted")
    assert (values["roles.judge.endpoint"], sources["roles.judge.endpoint"]) == ("arbiter", "profile scripted")
    assert (values["max_turns"], sources["max_turns"]) == (1000, "default")
    assert (values["retries.parse"], sources["retries.parse"]) == (2, "default")
    assert (sources["budgets.ANSWER"], sources["datasets"]) == ("domain", "imported benchmarks")


def test_dry_run_starts_nothing_and_prints_the_configuration_that_a_start_stores(
    tmp_path: Path, invoke: Callable, preview: Callable
) -> None:
    options = ("--max-turns", "1", "--set", "novelty.question=0.8")
    document = preview(*options)
    assert not (tmp_path / "home").exists()
    assert invoke(tmp_path / "home", *START_COMMAND, *options, "--name", "r").code == 0
    stored = invoke(tmp_path / "home", "run", "show", "r", "--config", "--json").json
    assert stored["config"] == document["config"] and stored["moves"] == []


def test_dry_run_estimates_from_an_earlier_run_with_the_same_models(
    tour_home: Path, invoke: Callable, preview: Callable
) -> None:
    first_estimate = preview("--set", "seeds.min=2")["estimate"]
    assert first_estimate["forecast"] is None and first_estimate["basis"] == "", (
        "the estimate is based on an earlier run, although the home has none"
    )
    assert first_estimate["least_calls"] == 200 * 4
    calls_by_role = {cost["role"]: cost["calls"] for cost in first_estimate["attempt"]}
    assert calls_by_role == {"attacker": 1, "defender": 1, "judge": 2}
    for cost in first_estimate["attempt"]:
        assert cost["prompt_tokens"] > 50 and cost["most_completion_tokens"] > 50
    estimate = preview("--set", "seeds.min=2", "--examples", "20", home=tour_home)["estimate"]
    tour_run = invoke(tour_home, "run", "show", "tour", "--json").json["run"]
    assert estimate["basis"] == tour_run
    assert estimate["forecast"]["turns"]["expected"] >= 20 and estimate["calls"]["expected"] >= 20
    other_judge_estimate = preview("--set", "judge.confidence=0.5", home=tour_home)["estimate"]
    assert other_judge_estimate["basis"] == "", "the estimate is based on a run with another judge"


def test_dry_run_plans_gpus(tmp_path: Path, invoke: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for nvidia-smi reports two A100s. The weights are missing, so the command exits with 4."""
    nvidia_smi = tmp_path / "bin" / "nvidia-smi"
    nvidia_smi.parent.mkdir()
    nvidia_smi.write_text("#!/bin/sh\nprintf 'A100, 40960, 570\\nA100, 40960, 570\\n'\n")
    nvidia_smi.chmod(0o755)
    dry_run = ("run", "start", "--domain", "starter", "--profile", "a100-40g-x2", "--dry-run")
    plan_without_gpus = invoke(tmp_path / "home", *dry_run, "--json").json["gpu_plan"]
    assert plan_without_gpus["fits"] is False and "CPU" in plan_without_gpus["problem"]
    monkeypatch.setenv("PATH", f"{nvidia_smi.parent}:/usr/bin:/bin")
    result = invoke(tmp_path / "home", *dry_run, "--json")
    plan = result.json["gpu_plan"]
    assert plan["gpus"] == [40.0, 40.0] and plan["fits"] and len(plan["servers"]) == 3
    fix = result.json["obstacle"]["fix"]
    assert result.code == 4 and fix.startswith("nanoflux models pull ")
    assert {"gemma-3-4b-it", "all-minilm-l6-v2"} < set(fix.split())
    assert "gemma-3-4b-it" in invoke(tmp_path / "home", *dry_run).out


def test_dry_run_refuses_what_a_start_refuses(tmp_path: Path, invoke: Callable, monkeypatch) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    hosted = invoke(tmp_path, "run", "start", "--domain", "starter", "--profile", "hosted", "--dry-run")
    assert hosted.code == 2 and "ANTHROPIC_API_KEY is not set" in hosted.err and "at most 0." in hosted.out
    misspelt = invoke(tmp_path, *START_COMMAND, "--set", "sed=1", "--dry-run")
    assert misspelt.code == 2 and misspelt.out == ""


def test_dry_run_of_a_fork_shows_only_its_changes(tour_home: Path, invoke: Callable) -> None:
    result = invoke(tour_home, "run", "start", "--fork", "tour", "--set", "judge.strikes=2", "--dry-run")
    _, changed_setting, summary, *_ = result.out.splitlines()
    assert changed_setting.split() == ["judge.strikes", "2", "--set"]
    assert "settings as in run starter-genetics-" in summary


def test_printed_configuration_of_a_run_starts_an_equal_run(tmp_path: Path, tour_home: Path, invoke: Callable) -> None:
    configuration = invoke(tour_home, "run", "show", "tour", "--config").out
    config_file = tmp_path / "tour.toml"
    config_file.write_text(configuration)
    assert tomllib.loads(configuration)["max_turns"] == 12
    document = invoke(tour_home, *START_COMMAND, "--config", str(config_file), "--dry-run", "--json").json
    assert document["config"] == invoke(tour_home, "run", "show", "tour", "--config", "--json").json["config"]
