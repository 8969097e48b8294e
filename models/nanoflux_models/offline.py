"""Keep model libraries from reaching out: called before the first import of any of them.

Transformers, sentence-transformers and the hub client look for updates, report usage and fall back to downloads
unless told otherwise. What is loaded here and in the rooms above is loaded from a folder.
"""

import os

SETTINGS = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


def go_offline() -> None:
    """Set the libraries' own switches, for this process and its children."""
    os.environ.update(SETTINGS)
