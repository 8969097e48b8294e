"""Which models an installed vLLM can serve: whether it knows their architecture, and what its environment lacks for it.

Reads vLLM's own list of architectures as text and starts its interpreter once; loads no model.
"""

import json
import subprocess
from collections.abc import Iterable, Mapping
from typing import Any

from nanoflux_models.interpreter import Interpreter
from nanoflux_models.manifest import Manifest

WRAPPER = "ForConditionalGeneration"
"""How the architectures end that also take images; vLLM imports torchvision with each."""
_ASK = """
import importlib.util, json, pathlib, re
root = pathlib.Path(importlib.util.find_spec("vllm").origin).parent
known = re.findall(r'"(\\w+)": *\\(', (root / "model_executor/models/registry.py").read_text("utf-8"))
try:
    import torchvision
    vision = ""
except Exception as error:
    vision = f"{type(error).__name__}: {error}"
print(json.dumps({"known": known, "vision": vision}))
"""


def unservable(interpreter: Interpreter, manifests: Iterable[Manifest]) -> dict[str, str]:
    """By model, why this vLLM cannot serve it; models whose manifest names no architecture are taken to be served."""
    facts = _facts(interpreter)
    reasons = {each.name: _reason(each.architecture, facts) for each in manifests if each.architecture}
    return {name: reason for name, reason in reasons.items() if reason}


def _reason(architecture: str, facts: Mapping[str, Any]) -> str:
    if facts["known"] and architecture not in facts["known"]:
        return f"it does not know {architecture}"
    if facts["vision"] and architecture.endswith(WRAPPER):
        return f"torchvision does not load ({facts['vision']})"
    return ""


def _facts(interpreter: Interpreter) -> Mapping[str, Any]:
    try:
        done = subprocess.run(
            [interpreter.path, "-c", _ASK], capture_output=True, text=True, check=False, cwd="/", timeout=120
        )
        facts: Mapping[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    except (OSError, ValueError, IndexError, subprocess.TimeoutExpired):
        return {"known": [], "vision": ""}
    return facts
