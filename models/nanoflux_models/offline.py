"""Keeps model libraries offline. The functions must be called before any such library is imported.

By default, transformers, sentence-transformers, vLLM and the hub client check for updates, report usage, and download
files that they do not find. This project loads models only from folders.
"""

import logging
import os
from collections.abc import Mapping
from pathlib import Path

from nanoflux_models.child import make_safe_environment, protect_children

SETTINGS = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "OTEL_SDK_DISABLED": "true",
    "RAY_USAGE_STATS_ENABLED": "0",
    "VLLM_DO_NOT_TRACK": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "WANDB_MODE": "disabled",
    "TQDM_DISABLE": "1",  # this project shows progress itself
    "TOKENIZERS_PARALLELISM": "false",  # otherwise the library prints a warning after each fork
}
"""Environment variables that keep the libraries from downloading, reporting usage and drawing progress bars."""
GUARD_SITE_DIR = Path(__file__).parent / "guarded"
"""A folder whose `sitecustomize` installs the network guard (`guard`) in each Python process that has it on its module
path."""


def go_offline() -> None:
    """Set the libraries' offline switches for this process and its children, and keep the children's Python from
    searching the working folder for modules (`protect_children`)."""
    os.environ.update(SETTINGS)
    protect_children()
    # bitsandbytes advises installing a package that downloads kernels; this project does not need them.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def guard_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """A copy of a Python process's environment with the offline switches and the guard."""
    path = os.pathsep.join(filter(None, (str(GUARD_SITE_DIR), environment.get("PYTHONPATH", ""))))
    return make_safe_environment({**environment, **SETTINGS, "PYTHONPATH": path})
