"""A run's process is killed at random moments (with a fixed seed), and the run is resumed until it is done."""

import importlib.util
import random
import sys
from pathlib import Path
from types import ModuleType

import pytest

KILLS_BENCHMARK = Path(__file__).parents[2] / "bench" / "kills.py"
PROFILE_WITH_PROGRAMS = """
embedder = "hashing"
[endpoints]
hashing = { interface = "scripted", model = "hashing" }
duelist-a = { interface = "scripted", model = "duelist-a" }
duelist-b = { interface = "scripted", model = "duelist-b" }
arbiter = { interface = "scripted", model = "arbiter" }
[roles]
attacker = { endpoint = "program" }
defender = { endpoint = "duelist-b" }
judge = { endpoint = "program" }
"""
"""A profile whose attacker and judge are programs instead of models, so that a run uses the sandbox."""


@pytest.fixture(scope="module")
def kills() -> ModuleType:
    """The benchmark bench/kills.py as a module."""
    spec = importlib.util.spec_from_file_location("bench_kills", KILLS_BENCHMARK)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look up their module there
    spec.loader.exec_module(module)
    return module


def check_killed_run(kills: ModuleType, folder: Path, settings: tuple[str, ...], times: int, concurrency: int) -> None:
    """Kill a run up to `times` times and resume it each time; compare its dataset with that of an undisturbed run."""
    undisturbed = kills.Trial(folder / "plain", settings)
    killed = kills.Trial(folder / "killed", settings)
    undisturbed.finish()
    kills.disturb(killed, times, len(undisturbed.sent_keys()), random.Random(0))
    assert 1 <= killed.kills <= times  # kills come at random times, so the run may end before the last kill
    expected, outcome = undisturbed.outcome(), killed.outcome()
    assert expected["status"] == "done" and len(expected["examples"]) > 10 and expected["problems"] == []
    assert kills.find_differences(expected, outcome, killed, concurrency) == []


def test_run_killed_at_random_times_produces_the_undisturbed_dataset(kills: ModuleType, tmp_path: Path) -> None:
    check_killed_run(kills, tmp_path, kills.make_scripted_settings(60, 8, 0.02), times=6, concurrency=8)


def test_killed_run_with_sandboxed_programs_produces_the_undisturbed_dataset(kills: ModuleType, tmp_path: Path) -> None:
    profile = tmp_path / "programs.toml"
    profile.write_text(PROFILE_WITH_PROGRAMS)
    settings = kills.make_scripted_settings(14, 4, 0.05, str(profile))
    # The questions of the domain starter have programs, those of starter-genetics have none.
    settings = tuple("starter" if word == "starter-genetics" else word for word in settings)
    check_killed_run(kills, tmp_path, settings, times=3, concurrency=4)


def test_killed_run_under_proven_rules_produces_the_undisturbed_dataset(kills: ModuleType, tmp_path: Path) -> None:
    # One blind solution instead of three: the scripted solvers seldom agree three times.
    rules = ("--rules", "proven", "--set", "judge.solutions=1")
    settings = (*kills.make_scripted_settings(80, 8, 0.005), *rules)
    check_killed_run(kills, tmp_path, settings, times=3, concurrency=8)
