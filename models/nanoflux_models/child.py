"""Starts Python child processes that do not import modules from the working directory.

`python -m` and `python -c` put the working directory first on the module path, so a file named `types.py` there would
be executed instead of the standard library's module, outside the sandbox. Every Python child process is started with
`build_python_command`; processes that a child starts inherit `SAFE_PATH`.
"""

import os
import sys
from collections.abc import Mapping

SAFE_PATH = {"PYTHONSAFEPATH": "1"}
"""The environment variable with the effect of Python's option `-P`. It is inherited by the processes that Accelerate,
Ray, vLLM or a process pool starts."""


def build_python_command(*arguments: str) -> list[str]:
    """The command line `PYTHON -P ARGUMENTS…` with this process's interpreter."""
    return [sys.executable, "-P", *arguments]


def build_module_command(module: str, *arguments: str) -> list[str]:
    """The command line that runs a module of this installation: `PYTHON -P -m MODULE ARGUMENTS…`."""
    return build_python_command("-m", module, *arguments)


def protect_children() -> None:
    """Set `SAFE_PATH` in this process, so that no Python process that it starts imports from the working directory."""
    os.environ.update(SAFE_PATH)


def make_safe_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """A copy of the environment in which Python ignores the working directory."""
    return {**environment, **SAFE_PATH}
