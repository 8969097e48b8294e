"""Fixtures for the serving tests: vLLM's interpreter, a real server for SmolLM2, and adapters for it."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nanoflux_models.interpreter import VLLM_PYTHON_VARIABLE

PROJECT = Path(__file__).parents[2]
SERVER_OPTIONS = ("--arg=--enforce-eager", "--arg=--max-num-seqs=8")
"""Options that let a server start quickly and save memory: no compilation, and few concurrent requests."""


@pytest.fixture(scope="session")
def vllm_python() -> str:
    """The interpreter of the vLLM environment that `make test` installs."""
    path = Path(os.environ.get(VLLM_PYTHON_VARIABLE) or PROJECT / ".venv-vllm/bin/python")
    if not path.is_file():
        pytest.skip(f"no vLLM at {path}: `make vllm` installs it")
    return str(path)


@pytest.fixture
def install_fake_vllm(tmp_path: Path) -> Callable[..., str]:
    """A function that installs a vLLM without a server. It takes the modules below `vllm/entrypoints` and the name of
    the distribution, and returns the path of an interpreter that finds this vLLM.
    """

    def install(*modules: str, distribution: str = "vllm") -> str:
        site = tmp_path / "fake_site"
        entrypoints = site / "vllm/entrypoints"
        entrypoints.mkdir(parents=True)
        (site / "vllm/__init__.py").touch()
        (site / "vllm/_version.py").write_text('__version__ = "9.0"\n')
        for module in modules:
            (entrypoints / module).parent.mkdir(exist_ok=True)
            (entrypoints / module).touch()
        for name, version in ((distribution, "9.0"), ("torch", "2.13.0")):
            metadata = site / f"{name.replace('-', '_')}-{version}.dist-info/METADATA"
            metadata.parent.mkdir()
            metadata.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        python = tmp_path / "fake_python"
        python.write_text(f"#!/bin/sh\nPYTHONPATH='{site}' exec python3 \"$@\"\n")
        python.chmod(0o700)
        return str(python)

    return install


def make_home(folder: Path, weights: Path) -> Path:
    """Create a home in `folder` that uses the weights in the folder `weights`."""
    folder.mkdir(mode=0o700)
    (folder / "weights").symlink_to(weights)
    return folder


def run_command(home: Path, python: str, *arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run a NanoFlux command in a separate process. `python` is the interpreter with vLLM."""
    environment = {**os.environ, "NANOFLUX_HOME": str(home), VLLM_PYTHON_VARIABLE: python}
    command_line = [sys.executable, "-m", "nanoflux_local.cli", *arguments]
    return subprocess.run(
        command_line, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout
    )


@pytest.fixture(scope="session")
def command() -> Callable[..., subprocess.CompletedProcess[str]]:
    """A function that runs a NanoFlux command, for example `command(home, python, "models", "ps")`."""
    return run_command


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory, smollm2_dir: Path, minilm_dir: Path, vllm_python: str
) -> Iterator[dict[str, Any]]:
    """SmolLM2 behind a real vLLM: the JSON of `models serve`, with `home` and `python`."""
    assert smollm2_dir.parent == minilm_dir.parent
    home = make_home(tmp_path_factory.mktemp("served") / "home", smollm2_dir.parent)
    process = run_command(
        home, vllm_python, "models", "serve", "smollm2-135m", "--context", "2048", *SERVER_OPTIONS, "--json"
    )
    assert process.returncode == 0, process.stderr
    try:
        yield {**json.loads(process.stdout), "home": home, "python": vllm_python}
    finally:
        run_command(home, vllm_python, "models", "stop", "--all")


@pytest.fixture(scope="module")
def adapter(served: dict[str, Any]) -> str:
    """The hash of a LoRA adapter with a strong effect, trained in the server's home."""
    from nanoflux_local.paths import Home
    from nanoflux_local.records import Message
    from nanoflux_local.train.data import TrainingExample
    from nanoflux_local.train.settings import TrainSettings
    from nanoflux_local.train.trainings import train_adapter

    examples = []
    for number in range(8):
        prompt = (Message("user", f"What is {number} and {number}?"),)
        completion = f"ANSWER: {2 * number}, as the fox said."
        examples.append(TrainingExample(prompt, completion, f"row-{number}"))
    settings = TrainSettings(epochs=3, learning_rate=2e-3, batch=4, max_length=64)
    outcome = train_adapter(
        Home(served["home"]), "made-up", "smollm2-135m", settings, examples, examples[:1], lambda _: None
    )
    return outcome.adapter


@pytest.fixture(scope="module")
def zero_adapter(served: dict[str, Any], adapter: str) -> str:
    """The hash of a copy of `adapter` with all weights set to zero, which can be loaded but has no effect."""
    from safetensors.torch import load_file, save_file

    from nanoflux_local.adapters.hash import WEIGHTS, adapter_hash

    adapters = served["home"] / "adapters"
    folder = adapters / "zero"
    shutil.copytree(adapters / adapter, folder)
    weights = {name: tensor * 0 for name, tensor in load_file(folder / WEIGHTS).items()}
    save_file(weights, folder / WEIGHTS, {"format": "pt"})
    new_hash = adapter_hash(folder)
    manifest_path = folder / "nanoflux.json"
    manifest = json.loads(manifest_path.read_text())
    manifest_path.write_text(json.dumps({**manifest, "adapter": new_hash}))
    folder.rename(adapters / new_hash)
    return new_hash
