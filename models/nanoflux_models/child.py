"""Starting further Python processes without importing modules from the working directory.

`python -m` and `python -c` put the working directory first on the module path, so a file named `types.py` there would
be executed in place of the standard library's, outside the sandbox. Every child process is started with
`python_command`; processes that a child starts inherit `SAFE_PATH`.
"""

import os
import sys
from collections.abc import Mapping

SAFE_PATH = {"PYTHONSAFEPATH": "1"}
"""The environment variable for `-P`, which reaches the processes that accelerate, Ray, vLLM or a pool start."""


def python_command(*words: str) -> list[str]:
    """The command line `PYTHON -P WORDS…` with this process's interpreter."""
    return [sys.executable, "-P", *words]


def module_command(module: str, *words: str) -> list[str]:
    """The command line that runs a module of this installation: `PYTHON -P -m MODULE WORDS…`."""
    return python_command("-m", module, *words)


def protect_children() -> None:
    """Make every Python process that this one or its libraries start ignore the working directory."""
    os.environ.update(SAFE_PATH)


def safe_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment, extended so that Python ignores the working directory."""
    return {**environment, **SAFE_PATH}
