"""The examples of docs/how-to/extending.md work: each adds one new module and changes no other file."""

import asyncio
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from nanoflux_local.cli.main import main
from nanoflux_local.domains.own import load_domain
from nanoflux_local.endpoints import kinds as endpoint_modules
from nanoflux_local.endpoints.kinds.base import endpoint_kinds
from nanoflux_local.errors import ConfigError
from nanoflux_local.experiments import kinds
from nanoflux_local.experiments.kinds.base import experiment_kinds
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.records import ChatReply
from nanoflux_local.report.experiment_report import write_experiment_report
from nanoflux_local.roles import checks
from nanoflux_local.roles.checks.base import list_check_classes
from nanoflux_local.roles.sections import Unparsed
from nanoflux_local.run import configs, runs
from nanoflux_local.run.trials.result import summarize_trial
from nanoflux_local.seeds import benchmarks
from nanoflux_local.seeds.benchmarks.base import list_benchmarks
from nanoflux_local.seeds.datasets import find_dataset_licence, list_seed_datasets

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "extending.md").read_text("utf-8")


def read_example(heading: str) -> str:
    """The first Python block below a heading of the page."""
    match = re.search(rf"^## {re.escape(heading)}$.*?```python\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE)
    assert match is not None
    return match[1]


AddModule = Callable[[ModuleType, str, str], None]
"""Adds a module to a package: `add_module(package, name, source)`."""


def clear_registries() -> None:
    """Clear the cached lists of modules, so that their next use includes an added module."""
    for registry in (list_check_classes, experiment_kinds, endpoint_kinds, list_benchmarks):
        registry.cache_clear()


@pytest.fixture
def add_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[AddModule]:
    """A function that adds a module to a package; when the test ends, the module is removed."""
    added_modules: list[str] = []

    def add(package: ModuleType, name: str, source: str) -> None:
        folder = tmp_path / f"more-{package.__name__}"
        folder.mkdir()
        (folder / f"{name}.py").write_text(source, "utf-8")
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
        added_modules.append(f"{package.__name__}.{name}")
        clear_registries()

    yield add
    clear_registries()
    for module_name in added_modules:
        sys.modules.pop(module_name, None)


def test_check_needs_only_one_new_module(add_module: AddModule, tmp_path: Path) -> None:
    add_module(checks, "units", read_example("A check"))
    home = Home(tmp_path / "home").prepare()
    settings = {"target": 2, "seed": 5, "max_turns": 8, "judge": {"checks": ["units", "code"], "trial": 2}}
    config = configs.resolve("starter", "scripted", settings, home)
    run = asyncio.run(runs.start(home, config))
    asyncio.run(runs.execute(home, run))
    with LedgerView(home.ledger) as view:
        attempts = [attempt for record in view.turn_records(run) for attempt in record.attempts]
        trial = summarize_trial(view, run)
    verdicts = [attempt.validation for attempt in attempts if attempt.validation]
    assert verdicts and all(verdict.finding("units") and verdict.finding("code") for verdict in verdicts)
    assert trial is not None and set(trial.checks) <= {"units", "code"}
    assert asyncio.run(runs.replay(home, run)).same


def test_check_that_calls_a_model_needs_only_one_new_module(add_module: AddModule, tmp_path: Path) -> None:
    add_module(checks, "plausible", read_example("A check that calls a model"))
    home = Home(tmp_path / "home").prepare()
    settings = {"target": 2, "seed": 5, "max_turns": 4, "judge": {"checks": ["plausible"], "trial": 0}}
    run = asyncio.run(runs.start(home, configs.resolve("starter", "scripted", settings, home)))
    asyncio.run(runs.execute(home, run))
    with LedgerView(home.ledger) as view:
        attempts = [attempt for record in view.turn_records(run) for attempt in record.attempts]
        requests = list(view.rows("SELECT request FROM calls WHERE run = ? AND role = 'judge'", run))
    findings = [attempt.validation.finding("plausible") for attempt in attempts if attempt.validation]
    examined = [finding for finding in findings if finding is not None and "had rejected" not in finding.reason]
    assert examined and {finding.conclusion for finding in examined} == {"not checked"}, (
        "the scripted model is unreadable"
    )
    assert any("Could the numbers of this problem be real?" in row["request"] for row in requests)
    assert asyncio.run(runs.replay(home, run)).same


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("VERDICT: PLAUSIBLE\nREASON: People walk 5 km an hour.", (True, "People walk 5 km an hour.")),
        ("VERDICT: implausible\nREASON: Nobody is 300 years old.", (False, "Nobody is 300 years old.")),
        ("VERDICT: not implausible\nREASON: so", None),
        ("VERDICT: PLAUSIBLE or IMPLAUSIBLE\nREASON: one sentence", None),
        ("It is plausible.", None),
    ],
)
def test_check_that_calls_a_model_reads_only_clear_verdicts(text: str, verdict: tuple[bool, str] | None) -> None:
    namespace: dict[str, Any] = {"__name__": "plausible"}
    exec(read_example("A check that calls a model"), namespace)
    result = namespace["read_verdict"](ChatReply(text, "stop"))
    assert result == verdict if verdict else isinstance(result, Unparsed)


LENGTH_GRID = """
title = "Length"
question = "How long are the questions?"
kind = "length"
[[conditions]]
name = "run"
title = "the run"
source = "run"
[scales.tiny]
base = "smollm2-135m"
domain = "starter"
profile = "scripted"
examples = 2
run = { seed = 5, max_turns = 12 }
test = ["starter-easy"]
"""


def test_experiment_kind_needs_only_one_new_module(
    add_module: AddModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    add_module(kinds, "length", read_example("A kind of experiment"))
    (tmp_path / "length.toml").write_text(LENGTH_GRID, "utf-8")
    monkeypatch.setenv("NANOFLUX_HOME", str(tmp_path / "home"))
    with pytest.raises(SystemExit) as command_exit:
        main(["experiment", "run", str(tmp_path / "length.toml"), "--scale", "tiny"])
    assert command_exit.value.code == 0
    assert re.search(r"condition +words per question\n.*the run +\d+\.\d", capfd.readouterr().out, re.DOTALL)
    page = write_experiment_report(Home(tmp_path / "home"), "length", tmp_path / "report").read_text("utf-8")
    assert "words per question" in page and re.search(r"the run: \d+\.\d words", page)


def test_endpoint_kind_needs_only_one_new_module(add_module: AddModule, tmp_path: Path) -> None:
    add_module(endpoint_modules, "echo", read_example("A kind of endpoint"))
    home = Home(tmp_path / "home").prepare()
    settings = {
        "seed": 5,
        "max_turns": 3,
        "endpoints": {"parrot": {"interface": "echo", "model": "parrot"}},
        "roles": {"judge": {"endpoint": "parrot"}},
    }
    config = configs.resolve("starter", "scripted", settings, home)
    run = asyncio.run(runs.start(home, config))
    asyncio.run(runs.execute(home, run))
    with LedgerView(home.ledger) as view:
        assert view.summarize_run(run).to_json()["calls"]["made"] > 0
    assert asyncio.run(runs.replay(home, run)).same
    with pytest.raises(ConfigError, match=r"endpoints\.parrot: structured: the interface 'echo' does not support it"):
        configs.derive_config(config, {"endpoints": {"parrot": {"structured": True}}}, home)


def test_error_on_an_unknown_endpoint_kind_lists_the_valid_kinds(tmp_path: Path) -> None:
    settings = {"endpoints": {"arbiter": {"interface": "echo"}}}
    with pytest.raises(ConfigError, match=r"endpoints\.arbiter\.interface: there is no interface 'echo'") as error:
        configs.resolve("starter", "scripted", settings, Home(tmp_path))
    assert "openai_chat" in error.value.fix and "merged" not in error.value.fix


def test_merged_endpoint_kind_is_refused_in_a_profile(tmp_path: Path) -> None:
    settings = {"endpoints": {"arbiter": {"interface": "merged"}}}
    with pytest.raises(ConfigError, match="'merged' cannot be part of a profile"):
        configs.resolve("starter", "scripted", settings, Home(tmp_path))


def test_benchmark_needs_only_one_new_module(
    add_module: AddModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    add_module(benchmarks, "riddles", read_example("A benchmark"))
    monkeypatch.setenv("NANOFLUX_HOME", str(tmp_path / "home"))
    (tmp_path / "train.jsonl").write_text('{"riddle": "Legs of a spider?", "number": 8}\n{"riddle": "Twice 3?"}\n')

    def run_data_command(*arguments: str) -> tuple[int, str]:
        """The exit code of a command `data …`, and its output on both streams."""
        with pytest.raises(SystemExit) as command_exit:
            main(["data", *arguments])
        return int(command_exit.value.code or 0), "".join(capfd.readouterr())

    code, output = run_data_command("import", "riddles", str(tmp_path / "train.jsonl"))
    assert code == 2 and "train.jsonl, line 2: key 'number' is missing" in output
    code, output = run_data_command("import", "riddles", str(tmp_path / "train.jsonl"), "--skip-bad")
    assert code == 0 and "riddles: 1 item," in output
    code, output = run_data_command("show", "riddles")
    assert code == 0 and "[riddles-train-1] Legs of a spider?\n  = 8" in output
    code, output = run_data_command("import", "riddles", "--hub")
    assert code == 3 and "riddles is published on huggingface.co (example/riddles)" in output
    domain = load_domain("gsmhard", tmp_path / "home")
    assert list_seed_datasets(domain) == ("gsmhard", "riddles") and find_dataset_licence("riddles") == "CC-BY-4.0"
    config = configs.resolve("gsmhard", "scripted", {}, Home(tmp_path / "home"))
    assert config.datasets == ("riddles",)


def test_unknown_check_is_refused(tmp_path: Path) -> None:
    home = Home(tmp_path / "home").prepare()
    config = configs.resolve("starter", "scripted", {"judge": {"checks": ["unit"]}}, home)
    with pytest.raises(Exception, match=r"judge\.checks: there is no check 'unit'"):
        asyncio.run(runs.start(home, config))
