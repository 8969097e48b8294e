"""Finds the run to which a measurement's calls belong, and writes its profile, in which one managed vLLM server serves
all roles.
"""

from pathlib import Path

from nanoflux_local.errors import NothingMatchedError
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home

VLLM_PYTHON = Path(__file__).resolve().parents[2] / ".venv-vllm" / "bin" / "python"
PROFILE = """
concurrency = {concurrency}
embedder = "hashing"

[endpoints.{endpoint}]
interface = "vllm"
model = "{model}"
python = "{python}"
context = {context}
capacity = {concurrency}
timeout_s = 900
args = ["--enforce-eager"]

[endpoints.hashing]
interface = "scripted"
model = "hashing-embedder"

[roles.attacker]
endpoint = "{endpoint}"
{attacker_settings}

[roles.defender]
endpoint = "{endpoint}"

[roles.judge]
endpoint = "{endpoint}"
"""
"""The text of a profile. `write_profile` fills in the names in braces."""


def write_profile(
    path: Path, endpoint: str, model: str, *, context: int, concurrency: int, attacker_settings: str = ""
) -> str:
    """Write the profile to `path`, and return the path. `attacker_settings` are further lines of [roles.attacker]."""
    text = PROFILE.format(
        endpoint=endpoint, model=model, python=VLLM_PYTHON, context=context, concurrency=concurrency,
        attacker_settings=attacker_settings,
    )  # fmt: skip
    path.write_text(text)
    return str(path)


def find_run(home: Home, name: str) -> str:
    """The id of the run with this name; "" if there is no such run yet."""
    try:
        with LedgerView(home.ledger) as view:
            return str(view.find_run(name)["id"])
    except NothingMatchedError:
        return ""
