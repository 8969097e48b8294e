"""The software: Python, torch, vLLM, and every package's version against those that were tested together."""

import os
import sys
from importlib.metadata import PackageNotFoundError, version

from nanoflux_local import packages
from nanoflux_local.doctor.check import Check
from nanoflux_local.paths import Home
from nanoflux_models.abilities import unservable
from nanoflux_models.errors import ModelsError
from nanoflux_models.gpus import described_gpus
from nanoflux_models.interpreter import VARIABLE, find_interpreter
from nanoflux_models.manifest import list_manifests

NEWEST_TESTED = (3, 12)
TOLD = 6
"""Packages that a line names before it only counts them."""


def python() -> Check:
    """The one that runs this."""
    here = sys.version_info[:2]
    found = f"{sys.version.split()[0]} at {sys.executable}"
    newest = ".".join(map(str, NEWEST_TESTED))
    return Check("python", True, found, "" if here <= NEWEST_TESTED else f"tested up to Python {newest}")


def torch() -> Check:
    """Its version, and whether it is one for this machine's GPUs. Read from its metadata: loading it takes seconds."""
    try:
        found = version("torch")
    except PackageNotFoundError:
        return Check("torch", False, "not installed", f"pip install -c {packages.constraints_file()} torch")
    if found.endswith("+cpu") and described_gpus():
        return Check("torch", False, f"{found}, which sees no GPU", "install a CUDA build of torch")
    return Check("torch", True, found)


def vllm(home: Home) -> Check:
    """Optional, unless somebody named an interpreter that should have it. Which build, and what it cannot serve."""
    try:
        interpreter = find_interpreter()
    except ModelsError as error:
        return Check("vllm", not os.environ.get(VARIABLE), error.message, error.fix)
    build = "for CPUs" if interpreter.for_cpu else "for GPUs"
    found = f"{interpreter.vllm} {build} with torch {interpreter.torch} at {interpreter.path}"
    if interpreter.for_cpu and described_gpus():
        return Check("vllm", False, f"{found}, which sees no GPU", f"make vllm, or name one for CUDA in {VARIABLE}")
    try:
        models = [each for each in list_manifests(home.root) if each.kind == "chat"]
    except ModelsError as error:
        return Check("vllm", True, found, error.fix)
    reasons = unservable(interpreter, models)
    if not reasons:
        return Check("vllm", True, f"{found}, serves all {len(models)} chat models of the catalog")
    told = "; ".join(f"not {name}: {reason}" for name, reason in reasons.items())
    return Check("vllm", True, f"{found}, serves the catalog's chat models, but {told}", "make vllm, or a newer vLLM")


def versions() -> Check:
    """What is missing or out of bounds is to be mended; what only differs from what was tested is advice."""
    fix = f"pip install -c {packages.constraints_file()} {packages.PROJECT}"
    broken, here, pins = packages.unmet(), packages.needed_packages(), packages.tested_versions()
    broken += [f"{each.name} is missing" for each in here if not each.version and each.name in pins]
    if broken:
        return Check("versions", False, _listed(list(dict.fromkeys(broken))), fix)
    other = [
        f"{each.name} {each.version} (tested: {pins[each.name]})"
        for each in here
        if each.name in pins and each.version.partition("+")[0] != pins[each.name].partition("+")[0]
    ]
    if other:
        return Check("versions", True, f"of {len(here)} packages, {_listed(other)}", fix)
    return Check("versions", True, f"{len(here)} packages, each as it was tested")


def _listed(parts: list[str]) -> str:
    more = f" and {len(parts) - TOLD} more" if len(parts) > TOLD else ""
    return ", ".join(parts[:TOLD]) + more
