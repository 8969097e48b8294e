"""Finds out which models an installed vLLM can serve: vLLM must know the model's architecture, and its environment must
have the packages that the architecture needs.

The module reads vLLM's list of architectures as text, and starts vLLM's interpreter once. It loads no model.
"""

import json
import subprocess
from collections.abc import Iterable, Mapping
from typing import Any

from nanoflux_models.interpreter import Interpreter
from nanoflux_models.manifest import Manifest

WRAPPER_SUFFIX = "ForConditionalGeneration"
"""The end of the class names of models that also take images; vLLM imports torchvision for all these models."""
_VLLM_QUERY = """
import importlib.util, json, pathlib, re
root = pathlib.Path(importlib.util.find_spec("vllm").origin).parent
architectures = re.findall(r'"(\\w+)": *\\(', (root / "model_executor/models/registry.py").read_text("utf-8"))
try:
    import torchvision
    torchvision_error = ""
except Exception as error:
    torchvision_error = f"{type(error).__name__}: {error}"
print(json.dumps({"architectures": architectures, "torchvision_error": torchvision_error}))
"""
"""A program for vLLM's interpreter. It prints a JSON object: the architectures in vLLM's registry, and the error that
importing torchvision raises ("" if the import succeeds).
"""


def explain_unservable(interpreter: Interpreter, manifests: Iterable[Manifest]) -> dict[str, str]:
    """Find the models that the vLLM of `interpreter` cannot serve. Returns the reason for each, by the model's name.

    A model whose manifest names no architecture is assumed to work.
    """
    vllm_facts = _query_vllm(interpreter)
    reasons: dict[str, str] = {}
    for manifest in manifests:
        reason = _explain_refusal(manifest.architecture, vllm_facts) if manifest.architecture else ""
        if reason:
            reasons[manifest.name] = reason
    return reasons


def _explain_refusal(architecture: str, vllm_facts: Mapping[str, Any]) -> str:
    """The reason why vLLM cannot serve an architecture; "" if it can."""
    if vllm_facts["architectures"] and architecture not in vllm_facts["architectures"]:
        return f"this vLLM does not know {architecture}"
    if vllm_facts["torchvision_error"] and architecture.endswith(WRAPPER_SUFFIX):
        return f"torchvision does not load ({vllm_facts['torchvision_error']})"
    return ""


def _query_vllm(interpreter: Interpreter) -> Mapping[str, Any]:
    """The architectures that vLLM knows, and the error of an import of torchvision. If vLLM cannot be queried, both are
    empty, and every model is assumed to work.
    """
    try:
        result = subprocess.run(
            [interpreter.path, "-c", _VLLM_QUERY], capture_output=True, text=True, check=False, cwd="/", timeout=120
        )
        vllm_facts: Mapping[str, Any] = json.loads(result.stdout.strip().splitlines()[-1])
    except (OSError, ValueError, IndexError, subprocess.TimeoutExpired):
        return {"architectures": [], "torchvision_error": ""}
    return vllm_facts
