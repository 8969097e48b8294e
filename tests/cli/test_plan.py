"""`models plan` prints a table or explains which models would fit instead, and every packaged profile resolves."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from nanoflux_local.cli.main import nanoflux
from nanoflux_local.config import parse_setting
from nanoflux_local.errors import NanofluxError
from nanoflux_local.paths import Home
from nanoflux_local.run.configs import list_profiles, resolve

GPU_PROFILES = ("a100-40g-x1", "a100-40g-x2", "a100-40g-x4", "hybrid")
"""The packaged profiles with models on GPUs."""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """An empty home, which the commands of the test use."""
    monkeypatch.setenv("NANOFLUX_HOME", str(tmp_path))
    return Home(tmp_path)


def run_plan(*arguments: str) -> Result:
    return CliRunner().invoke(nanoflux, ["models", "plan", *arguments])


def plan_sleep_groups(profile: str, gpus: str) -> dict[str, str]:
    """The sleep group of each planned server: the servers of a group take turns on a GPU. "" means no group."""
    return {server["name"]: server["shares"] for server in make_plan(profile, gpus)["servers"]}


def make_plan(profile: str, gpus: str, *options: str) -> dict[str, Any]:
    """The JSON of a plan whose models fit."""
    plan: dict[str, Any] = json.loads(run_plan(profile, "--gpus", gpus, "--json", *options).stdout)
    assert plan["fits"]
    return plan


@pytest.mark.parametrize("profile", GPU_PROFILES)
@pytest.mark.parametrize("gpus", ["40", "40,40", "80", "24"])
def test_plan_prints_a_table_or_explains_what_does_not_fit(profile: str, gpus: str) -> None:
    result = run_plan(profile, "--gpus", gpus)
    if result.exit_code == 0:
        assert "utilisation" in result.stdout and "qwen3-32b-awq" in result.stdout
    else:
        assert isinstance(result.exception, NanofluxError) and result.exception.exit_code == 1
        assert "do not fit" in result.exception.message and "GPUs of" in result.exception.fix


def test_plan_puts_all_models_on_one_gpu_and_separates_them_on_two() -> None:
    assert set(plan_sleep_groups("a100-40g-x1", "40").values()) == {"gpu0"}
    assert set(plan_sleep_groups("a100-40g-x2", "40,40").values()) == {""}
    assert set(plan_sleep_groups("a100-40g-x4", "40,40,40,40").values()) == {""}
    assert set(plan_sleep_groups("hybrid", "40,40").values()) == {"gpu0"}, "the profile's `shares` were not used"


def test_plan_uses_the_concurrency_and_context_of_the_profile() -> None:
    plan = make_plan("a100-40g-x2", "40,40")
    assert plan["asked"]["qwen3-32b-awq"] == {"sequences": 32, "context": 16384}
    assert plan["asked"]["gemma-3-4b-it"] == {"sequences": 32, "context": 8192}
    limited_plan = make_plan("a100-40g-x2", "40,40", "--sequences", "2", "--context", "1024")
    assert limited_plan["asked"]["gemma-3-4b-it"] == {"sequences": 2, "context": 1024}


@pytest.mark.parametrize(
    ("profile", "gpus"),
    [("a100-40g-x1", "40"), ("a100-40g-x2", "40,40"), ("a100-40g-x4", "40,40,40,40"), ("hybrid", "40")],
)
def test_planned_memory_adds_up_to_the_utilisation_of_each_server(profile: str, gpus: str) -> None:
    plan = make_plan(profile, gpus)
    margins = plan["margins"]
    overhead = margins["cuda_gib"] + margins["activations_gib"] + margins["graphs_gib"]
    for server in plan["servers"]:
        used_gib = server["weights_gib"] + server["kv_gib"] + server["lora_gib"] + overhead
        assert server["tensor"] == 1 and server["overhead_gib"] == pytest.approx(overhead)
        assert used_gib == pytest.approx(server["utilisation"] * 40, abs=0.02)
        assert server["requests"] >= 1 and server["lora_gib"] == 0, (
            "memory is reserved for adapters that no profile uses"
        )
        assert server["utilisation"] <= margins["limit"]


def test_plan_gives_the_whole_gpu_to_the_awake_model() -> None:
    servers_on_one_gpu = make_plan("a100-40g-x1", "40")["servers"]
    servers_on_four_gpus = make_plan("a100-40g-x4", "40,40,40,40")["servers"]
    assert {server["utilisation"] for server in servers_on_one_gpu} == {0.87}, (
        "expected 92% of the GPU minus 1 GiB for each of two sleeping models"
    )
    assert {server["utilisation"] for server in servers_on_four_gpus} == {0.92}
    assert len({server["gpus"][0] for server in servers_on_four_gpus}) == 3, "the fourth GPU is not free"


def test_plan_reports_concurrent_requests_that_do_not_fit() -> None:
    result = run_plan("a100-40g-x1", "--gpus", "40")
    assert "3/32 x 16384" in result.stdout and "CUDA graphs" in result.stderr
    assert "qwen3-32b-awq: 3 of the 32 concurrent requests fit" in result.stderr


def test_plan_includes_the_models_of_a_panel(home: Home) -> None:
    packaged_profile = (files("nanoflux_local.profiles") / "a100-40g-x2.toml").read_text()
    panel_tables = (
        '[endpoints.second]\ninterface = "vllm"\nmodel = "deepseek-r1-distill-qwen-14b"\n'
        '[judge]\npanel = ["second"]\n'
    )  # fmt: skip
    profile_with_panel = home.root / "mine.toml"
    profile_with_panel.write_text(packaged_profile + panel_tables)
    models_without_panel = set(plan_sleep_groups("a100-40g-x2", "80,80"))
    models_with_panel = set(plan_sleep_groups(str(profile_with_panel), "80,80"))
    assert models_with_panel - models_without_panel == {"deepseek-r1-distill-qwen-14b"}


def test_plan_refuses_a_32b_model_on_24_gib() -> None:
    result = run_plan("a100-40g-x1", "--gpus", "24")
    assert isinstance(result.exception, NanofluxError)
    assert "2 GPUs of 24 GiB" in result.exception.fix and "medgemma-4b-it" in result.exception.fix


def test_plan_accepts_a_profile_without_local_models_and_refuses_invalid_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_plan("hosted", "--gpus", "40").exit_code == 0
    monkeypatch.setenv("PATH", "")  # nvidia-smi is not found, so no GPU is detected
    for options in ((), ("--gpus", "many"), ("--gpus", "-4")):
        result = run_plan("hybrid", *options)
        assert isinstance(result.exception, NanofluxError) and result.exception.exit_code == 2


@pytest.mark.parametrize("profile", list_profiles())
def test_packaged_profiles_resolve_without_weights(profile: str, home: Home) -> None:
    assert resolve("starter", profile, {}, home).profile == profile


@pytest.mark.parametrize("profile", [*GPU_PROFILES, "hosted"])
@pytest.mark.parametrize(
    ("setting", "interface"),
    [("roles.attacker.endpoint=claude", "anthropic_messages"), ("roles.judge.endpoint=o-judge", "openai_responses")],
)
def test_one_setting_assigns_a_hosted_model_to_a_role(profile: str, setting: str, interface: str, home: Home) -> None:
    config = resolve("starter", profile, parse_setting(setting), home)
    role = setting.split(".")[1]
    assert config.endpoints[getattr(config.roles, role).endpoint].interface == interface
