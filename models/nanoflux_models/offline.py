"""Keep model libraries offline; called before the first import of any of them.

By default transformers, sentence-transformers, vLLM and the hub client check for updates, report usage and fall back to
downloads. This package and its users load from folders only.
"""

import logging
import os
from collections.abc import Mapping
from pathlib import Path

from nanoflux_models.child import protect_children, safe_environment

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
    "TQDM_DISABLE": "1",  # progress is shown by this project itself
    "TOKENIZERS_PARALLELISM": "false",
}
GUARDED = Path(__file__).parent / "guarded"
"""A folder whose presence on the module path makes a Python process guard itself (`guard`)."""


def go_offline() -> None:
    """Set the libraries' own switches, for this process and its children."""
    os.environ.update(SETTINGS)
    protect_children()
    # bitsandbytes advises to install a package that downloads kernels; nothing here needs them.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def guard_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Extend the environment of a Python process by the offline switches and the guard."""
    path = os.pathsep.join(filter(None, (str(GUARDED), environment.get("PYTHONPATH", ""))))
    return safe_environment({**environment, **SETTINGS, "PYTHONPATH": path})
