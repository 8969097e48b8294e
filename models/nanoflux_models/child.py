"""How this project starts another Python: never with modules of the folder that the user happens to stand in.

`python -m` and `python -c` put the working directory first on the module path, so a file there that is called
`types.py` would be executed in place of the library's module, outside the sandbox. Every child is started by
`python_command`, and what a child starts in turn inherits `SAFE_PATH`.
"""

import os
import sys
from collections.abc import Mapping

SAFE_PATH = {"PYTHONSAFEPATH": "1"}
"""The environment's form of `-P`, for children of children: accelerate's, Ray's, vLLM's, a worker pool's."""


def python_command(*words: str) -> list[str]:
    """The command line `PYTHON -P WORDS…` with the interpreter that runs this."""
    return [sys.executable, "-P", *words]


def module_command(module: str, *words: str) -> list[str]:
    """The command line that runs a module of this installation: `PYTHON -P -m MODULE WORDS…`."""
    return python_command("-m", module, *words)


def protect_children() -> None:
    """Let every Python that this process starts from now on, by whatever library, ignore the working directory."""
    os.environ.update(SAFE_PATH)


def safe_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment whose Pythons ignore the working directory."""
    return {**environment, **SAFE_PATH}
