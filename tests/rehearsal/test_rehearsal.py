"""Rehearsals with a real vLLM: the packaged profiles pass, and a step that cannot pass fails with its cause."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nanoflux_local.paths import Home
from nanoflux_local.rehearsal.full_size import RequestLoad, rehearse_all_at_full_size
from nanoflux_local.rehearsal.steps import RehearsalReport
from nanoflux_local.run.configs import find_profile
from nanoflux_models.interpreter import VLLM_PYTHON_VARIABLE
from nanoflux_models.manifest import CATALOG

PROJECT = Path(__file__).parents[2]
PROFILES = ("a100-40g-x1", "a100-40g-x2", "a100-40g-x4", "hybrid")
"""Packaged profiles that serve models with vLLM."""
STEPS = {
    "profile", "plan", "stand-in", "run", "serve", "turns", "export", "train", "load", "evaluate", "sleep and wake",
}  # fmt: skip
"""The steps of each rehearsed profile; the step "stop" is reported only once, for all profiles."""
ONE_MODEL_PROFILE = """
concurrency = 4
embedder = "minilm"
[endpoints.gemma]
interface = "vllm"
model = "{model}"
context = {context}
[endpoints.claude]
interface = "anthropic_messages"
model = "claude-opus-4-5"
key_env = "ANTHROPIC_API_KEY"
[endpoints.o-judge]
interface = "openai_responses"
model = "o3"
key_env = "OPENAI_API_KEY"
[endpoints.minilm]
interface = "embedder"
model = "all-minilm-l6-v2"
[roles.attacker]
endpoint = "claude"
[roles.defender]
endpoint = "gemma"
sampling = {{ temperature = 0.7 }}
[roles.judge]
endpoint = "o-judge"
"""


@pytest.fixture(scope="session")
def vllm_python() -> str:
    """The interpreter of the vLLM environment that `make test` installs."""
    path = Path(os.environ.get(VLLM_PYTHON_VARIABLE) or PROJECT / ".venv-vllm/bin/python")
    if not path.is_file():
        pytest.skip(f"no vLLM at {path}: `make vllm` installs it")
    return str(path)


def write_profile(folder: Path, context: int = 4096, model: str = "gemma-3-4b-it") -> Path:
    """Write a profile in which `model` is the defender and the only model on vLLM; return the path of the profile."""
    path = folder / "one.toml"
    path.write_text(ONE_MODEL_PROFILE.format(model=model, context=context))
    return path


def run_rehearsal(home: Path, python: str, *arguments: str) -> tuple[int, Any, str]:
    """Run `nanoflux models rehearse … --json` in a separate process; return its exit code, its JSON report (None if it
    printed none) and its stderr.
    """
    environment = {**os.environ, "NANOFLUX_HOME": str(home), VLLM_PYTHON_VARIABLE: python}
    command = [sys.executable, "-m", "nanoflux_local.cli", "models", "rehearse", *arguments, "--json"]
    process = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    document = json.loads(process.stdout) if process.stdout else None
    return process.returncode, document, process.stderr


def list_failed_steps(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The failed steps of a rehearsal's JSON report."""
    return [step for step in document["steps"] if step["outcome"] == "failed"]


@pytest.mark.timeout(3600)
def test_packaged_profiles_pass_and_do_not_write_to_the_users_home(tmp_path: Path, vllm_python: str) -> None:
    home = tmp_path / "home"
    code, documents, stderr = run_rehearsal(home, vllm_python, *PROFILES)
    assert code == 0, stderr
    assert [document["profile"] for document in documents] == list(PROFILES)
    for document in documents:
        assert document["ok"] and {step["name"] for step in document["steps"]} >= STEPS
        for step in document["steps"]:
            assert step["outcome"] == "passed" or step["name"] == "sleep and wake", step
    assert documents[-1]["steps"][-1]["name"] == "stop"
    assert not home.exists() or not list(home.iterdir())


@pytest.mark.timeout(1800)
def test_wrong_lora_target_fails_the_training_step(tmp_path: Path, vllm_python: str) -> None:
    """The defender is Gemma 4, so that its server and its turns are rehearsed too."""
    home = tmp_path / "home"
    (home / "models").mkdir(parents=True)
    manifest = (CATALOG / "gemma-4-12b-it.toml").read_text()
    wrong_manifest = re.sub(r"^targets.*$", 'targets = ["qkv_proj"]', manifest, flags=re.MULTILINE)
    (home / "models" / "gemma-4-12b-it.toml").write_text(wrong_manifest)
    code, document, _ = run_rehearsal(home, vllm_python, str(write_profile(tmp_path, model="gemma-4-12b-it")))
    failed_steps = list_failed_steps(document)
    assert code == 1 and [step["name"] for step in failed_steps] == ["train"]
    assert "'qkv_proj' matches no linear layer" in failed_steps[0]["detail"] and "q_proj" in failed_steps[0]["detail"]
    assert {step["name"]: step["outcome"] for step in document["steps"]}["load"] == "skipped"


@pytest.mark.timeout(1800)
def test_missing_torchvision_fails_the_serve_step(tmp_path: Path, vllm_python: str) -> None:
    python = make_python_without_torchvision(tmp_path, vllm_python)
    code, document, _ = run_rehearsal(tmp_path / "home", python, str(write_profile(tmp_path)))
    failed_steps = list_failed_steps(document)
    assert code == 1 and [(step["name"], step["model"]) for step in failed_steps] == [("serve", "gemma-3-4b-it")]
    assert "torchvision" in failed_steps[0]["detail"]
    assert {step["name"]: step["outcome"] for step in document["steps"]}["turns"] == "skipped"


def make_python_without_torchvision(folder: Path, python: str) -> str:
    """Make an interpreter that has the packages of `python` but cannot import torchvision."""
    venv = folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    site_packages = next(venv.glob("lib/python*/site-packages"))
    print_packages = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    packages = subprocess.run(print_packages, capture_output=True, text=True, check=True).stdout.strip()
    (site_packages / "packages.pth").write_text(f"{packages}\nimport no_torchvision\n")
    (site_packages / "no_torchvision.py").write_text(
        "import sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] == 'torchvision':\n"
        "            raise ModuleNotFoundError(\"No module named 'torchvision'\", name=name)\n"
        "sys.meta_path.insert(0, Finder())\n"
    )
    return str(venv / "bin" / "python")


def test_run_step_fails_and_names_the_key_of_a_short_context(tmp_path: Path, vllm_python: str) -> None:
    code, document, _ = run_rehearsal(tmp_path / "home", vllm_python, str(write_profile(tmp_path, context=96)))
    failed_steps = list_failed_steps(document)
    assert code == 1 and [step["name"] for step in failed_steps] == ["run"]
    assert "endpoints.gemma.context" in failed_steps[0]["detail"]
    assert {step["name"]: step["outcome"] for step in document["steps"]}["serve"] == "skipped"


def test_full_size_refuses_a_machine_without_a_gpu(tmp_path: Path, vllm_python: str) -> None:
    code, document, stderr = run_rehearsal(tmp_path / "home", vllm_python, "hybrid", "--full-size")
    assert code == 3 and document is None and "needs a GPU" in stderr


@pytest.mark.timeout(1800)
def test_full_size_measures_dummy_weights_at_tiny_size(
    tmp_path: Path, vllm_python: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VLLM_PYTHON_VARIABLE, vllm_python)
    report = RehearsalReport(str(write_profile(tmp_path, context=1024)))
    rehearse_all_at_full_size(
        Home(tmp_path / "home"), [report], RequestLoad(prompt_tokens=16, completion_tokens=4, tiny=True)
    )
    outcomes = {step.name: step.outcome for step in report.steps}
    assert report.ok, report.steps
    assert outcomes == {
        "profile": "passed", "plan": "passed", "serve": "passed", "memory": "skipped", "throughput": "passed",
        "sleep and wake": "skipped", "stop": "passed",
    }  # fmt: skip
    assert any("completion tokens/s over 4 concurrent requests" in step.detail for step in report.steps)


def test_profile_with_checks_is_rehearsed_without_them(tmp_path: Path, vllm_python: str) -> None:
    """All models of the profile are hosted, so no server is started."""
    profile = tmp_path / "hosted.toml"
    keys = 'rules = "proven"\nsamples = 2\nkeep = "provable"\njudge = { checks = ["blind"], solvers = ["claude"] }\n'
    profile.write_text(keys + find_profile("hosted").read_text())
    code, document, stderr = run_rehearsal(tmp_path / "home", vllm_python, str(profile))
    assert code == 0, stderr
    outcomes = {step["name"]: step["outcome"] for step in document["steps"]}
    assert outcomes["turns"] == outcomes["export"] == "passed", document


def test_rehearsal_of_an_in_process_profile_fails_with_the_reason(tmp_path: Path, vllm_python: str) -> None:
    code, document, _ = run_rehearsal(tmp_path / "home", vllm_python, "embedded")
    assert code == 1 and "in process" in list_failed_steps(document)[0]["detail"]
