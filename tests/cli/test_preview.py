"""`run start --dry-run` prints settings with their sources, GPU plan and estimate, and starts nothing."""

import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

START = ("run", "start", "--domain", "starter-genetics", "--profile", "scripted")


@pytest.fixture
def preview(tmp_path: Path, invoke: Callable) -> Callable[..., dict]:
    """Make a dry run of a start that would succeed, and return its JSON."""

    def call(*words: str, home: Path = tmp_path / "home") -> dict:
        result = invoke(home, *START, *words, "--dry-run", "--json")
        assert result.code == 0, result.err
        return dict(result.json)

    return call


def test_dry_run_names_the_source_of_each_setting(tmp_path: Path, preview: Callable) -> None:
    config_file = tmp_path / "mine.toml"
    config_file.write_text("reply_tokens = 300\nseeds.max = 6\nseed = 1\n")
    document = preview("--config", str(config_file), "--set", "seeds.max=7", "--set", "seed=2", "--seed", "3")
    setting_by_key = {setting["key"]: (setting["value"], setting["source"]) for setting in document["settings"]}
    assert setting_by_key["reply_tokens"] == (300, str(config_file))
    assert setting_by_key["seeds.max"] == (7, "--set")
    assert setting_by_key["seed"] == (3, "--seed")
    assert setting_by_key["budgets.ANSWER"][1] == "domain" and setting_by_key["concurrency"] == (16, "profile scripted")
    assert setting_by_key["roles.judge.endpoint"] == ("arbiter", "profile scripted")
    assert setting_by_key["max_turns"] == (1000, "default") and setting_by_key["retries.parse"] == (2, "default")
    assert setting_by_key["datasets"][1] == "imported benchmarks"


def test_dry_run_starts_nothing_and_prints_the_configuration_that_a_start_stores(
    tmp_path: Path, invoke: Callable, preview: Callable
) -> None:
    words = ("--max-turns", "1", "--set", "novelty.question=0.8")
    document = preview(*words)
    assert not (tmp_path / "home").exists()
    assert invoke(tmp_path / "home", *START, *words, "--name", "r").code == 0
    stored = invoke(tmp_path / "home", "run", "show", "r", "--config", "--json").json
    assert stored["config"] == document["config"] and stored["moves"] == []


def test_dry_run_estimates_from_an_earlier_run_with_the_same_models(
    tour_home: Path, invoke: Callable, preview: Callable
) -> None:
    estimate_without_history = preview("--set", "seeds.min=2")["estimate"]
    assert estimate_without_history["forecast"] is None and estimate_without_history["basis"] == ""
    assert estimate_without_history["least_calls"] == 200 * 4
    calls_by_role = {cost["role"]: cost["calls"] for cost in estimate_without_history["attempt"]}
    assert calls_by_role == {"attacker": 1, "defender": 1, "judge": 2}
    assert all(
        cost["prompt_tokens"] > 50 and cost["most_completion_tokens"] > 50
        for cost in estimate_without_history["attempt"]
    )
    estimate = preview("--set", "seeds.min=2", "--examples", "20", home=tour_home)["estimate"]
    summary = invoke(tour_home, "run", "show", "tour", "--json").json
    assert estimate["basis"] == summary["run"]
    assert estimate["forecast"]["turns"]["expected"] >= 20 and estimate["calls"]["expected"] >= 20
    other_judge_estimate = preview("--set", "judge.confidence=0.5", home=tour_home)["estimate"]
    assert other_judge_estimate["basis"] == "", "the estimate is based on a run with another judge"


def test_dry_run_plans_gpus(tmp_path: Path, invoke: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for nvidia-smi reports two A100s. The weights are missing, so the command exits with 4."""
    smi = tmp_path / "bin" / "nvidia-smi"
    smi.parent.mkdir()
    smi.write_text("#!/bin/sh\nprintf 'A100, 40960, 570\\nA100, 40960, 570\\n'\n")
    smi.chmod(0o755)
    words = ("run", "start", "--domain", "starter", "--profile", "a100-40g-x2", "--dry-run")
    without_gpus = invoke(tmp_path / "home", *words, "--json")
    assert without_gpus.json["gpu_plan"]["fits"] is False and "CPU" in without_gpus.json["gpu_plan"]["problem"]
    monkeypatch.setenv("PATH", f"{smi.parent}:/usr/bin:/bin")
    result = invoke(tmp_path / "home", *words, "--json")
    plan = result.json["gpu_plan"]
    assert plan["gpus"] == [40.0, 40.0] and plan["fits"] and len(plan["servers"]) == 3
    assert result.code == 4 and result.json["obstacle"]["fix"].startswith("nanoflux models pull ")
    assert {"gemma-3-4b-it", "all-minilm-l6-v2"} < set(result.json["obstacle"]["fix"].split())
    assert "gemma-3-4b-it" in invoke(tmp_path / "home", *words).out


def test_dry_run_refuses_what_a_start_refuses(tmp_path: Path, invoke: Callable, monkeypatch) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    hosted = invoke(tmp_path, "run", "start", "--domain", "starter", "--profile", "hosted", "--dry-run")
    assert hosted.code == 2 and "ANTHROPIC_API_KEY is not set" in hosted.err and "at most 0." in hosted.out
    misspelt = invoke(tmp_path, *START, "--set", "sed=1", "--dry-run")
    assert misspelt.code == 2 and misspelt.out == ""


def test_dry_run_of_a_fork_shows_only_its_changes(tour_home: Path, invoke: Callable) -> None:
    result = invoke(tour_home, "run", "start", "--fork", "tour", "--set", "judge.strikes=2", "--dry-run")
    lines = result.out.splitlines()
    assert lines[1].split() == ["judge.strikes", "2", "--set"] and "settings as in run starter-genetics-" in lines[2]


def test_configuration_of_a_run_starts_an_equal_run(tmp_path: Path, tour_home: Path, invoke: Callable) -> None:
    configuration = invoke(tour_home, "run", "show", "tour", "--config")
    config_file = tmp_path / "tour.toml"
    config_file.write_text(configuration.out)
    assert tomllib.loads(configuration.out)["max_turns"] == 12
    document = invoke(tour_home, *START, "--config", str(config_file), "--dry-run", "--json").json
    assert document["config"] == invoke(tour_home, "run", "show", "tour", "--config", "--json").json["config"]
