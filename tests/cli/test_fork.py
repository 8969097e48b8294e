"""A fork copies the settings of a run, changes some of them, and reuses every recorded call that still applies."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nanoflux_local.config import RunConfig, format_settings, parse_settings
from nanoflux_local.errors import ConfigError, RefusedError
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.run import configs, runs
from tests.executed_runs import execute_run


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home").prepare()


def execute(home: Home, config: RunConfig, forked_from: str = "") -> dict[str, Any]:
    """Execute a run and return its summary as `run show --json` prints it."""
    run = execute_run(home, config, forked_from=forked_from)
    with LedgerView(home.ledger) as view:
        return view.summarize_run(run).to_json()


def execute_origin(home: Home) -> dict[str, Any]:
    """Execute the scripted run that the tests fork, and return its summary."""
    settings = {"max_turns": 20, "seed": 5, "seeds": {"min": 2}, "concurrency": 1}
    return execute(home, configs.resolve("starter-genetics", "scripted", settings, home))


def test_fork_sends_only_changed_requests(home: Home) -> None:
    origin = execute_origin(home)
    fork_config = runs.fork_config(home, origin["run"], {"novelty": {"question": 0.4}})
    fork = execute(home, fork_config, origin["run"])
    empty_home = Home(home.root / "elsewhere").prepare()
    separate_run = execute(empty_home, fork_config)
    assert fork["digest"] == separate_run["digest"] != origin["digest"]
    assert fork["forked_from"] == origin["run"] and origin["forked_from"] == separate_run["forked_from"] == ""
    assert 0 < fork["calls"]["made"] < separate_run["calls"]["made"]
    assert fork["calls"]["made"] + fork["calls"]["remembered"] == separate_run["calls"]["made"]


def test_fork_with_a_different_solution_threshold_sends_no_request(home: Home) -> None:
    origin = execute_origin(home)
    fork = execute(home, runs.fork_config(home, origin["run"], {"novelty": {"solution": 0.2}}), origin["run"])
    assert fork["calls"]["made"] == 0 and fork["calls"]["remembered"] == origin["calls"]["made"]
    assert fork["kept"] < origin["kept"]


def test_fork_keeps_other_settings_and_refuses_unknown_keys(home: Home) -> None:
    origin = execute_origin(home)
    with LedgerView(home.ledger) as view:
        origin_config = RunConfig.model_validate_json(view.find_run(origin["run"])["config"])
    assert runs.fork_config(home, origin["run"], {"seed": 6}) == origin_config.model_copy(update={"seed": 6})
    with pytest.raises(ConfigError, match=r"unknown key 'novelty\.questoin'"):
        runs.fork_config(home, origin["run"], {"novelty": {"questoin": 0.4}})
    with pytest.raises(ConfigError, match="the settings are for the domain"):
        runs.fork_config(home, origin["run"], {"domain": "starter"})


def test_fork_uses_the_novelty_thresholds_of_its_embedder(home: Home) -> None:
    origin = execute_origin(home)
    minilm_settings = {
        "endpoints": {"minilm": {"interface": "embedder", "model": "all-minilm-l6-v2"}},
        "embedder": "minilm",
    }
    assert runs.fork_config(home, origin["run"], minilm_settings).novelty.question == 0.85
    novelty = runs.fork_config(home, origin["run"], {**minilm_settings, "novelty": {"question": 0.5}}).novelty
    assert (novelty.question, novelty.solution) == (0.5, 0.75)


def test_run_set_refuses_a_frozen_setting_and_prints_the_fork_command(home: Home, invoke: Callable) -> None:
    origin = execute_origin(home)
    settings = {"novelty": {"question": 0.4}, "domain": "it's", "budgets": {"ANSWER": 5}, "concurrency": 2}
    assert parse_settings(format_settings(settings)) == settings
    with pytest.raises(RefusedError, match="affects the result") as refusal:
        runs.change(home, origin["run"], {"novelty": {"question": 0.4}, "concurrency": 2})
    _, _, fork_command = refusal.value.fix.partition(": ")
    program, *arguments = shlex.split(fork_command)
    assert program == "nanoflux"
    result = invoke(home.root, *arguments, "--json")
    assert result.code == 0, result.err
    summary = json.loads(result.out)
    assert summary["forked_from"] == origin["run"] and summary["calls"]["remembered"] > 0


REFUSED_FORKS = [
    (("--fork", "RUN", "--domain", "starter"), 2, "keeps the domain and the profile"),
    (("--fork", "RUN", "--profile", "scripted"), 2, "keeps the domain and the profile"),
    (("--fork", "nobody"), 4, "there is no run 'nobody'"),
]
"""Options of `run start` ("RUN" stands for the id of a run), the exit code, and a part of the message."""


@pytest.mark.parametrize(("options", "code", "message"), REFUSED_FORKS)
def test_invalid_fork_is_refused(
    home: Home, invoke: Callable, options: tuple[str, ...], code: int, message: str
) -> None:
    run = execute_origin(home)["run"]
    options_with_run = [run if word == "RUN" else word for word in options]
    result = invoke(home.root, "run", "start", *options_with_run)
    assert (result.code, result.out) == (code, "") and message in result.err


def test_run_table_names_the_origin_of_a_fork(home: Home, invoke: Callable) -> None:
    run = execute_origin(home)["run"]
    result = invoke(home.root, "run", "start", "--fork", run, "--max-turns", "3")
    assert any(line.split() == ["fork", "of", run] for line in result.out.splitlines()), result.out
