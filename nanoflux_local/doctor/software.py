"""Checks the software: Python, torch, vLLM, and whether packages have the tested versions."""

import os
import sys
from importlib.metadata import PackageNotFoundError, version

from nanoflux_local import packages
from nanoflux_local.doctor.check import MachineCheck
from nanoflux_local.paths import Home
from nanoflux_models.abilities import explain_unservable
from nanoflux_models.errors import ModelsError
from nanoflux_models.gpus import describe_gpus
from nanoflux_models.interpreter import VLLM_PYTHON_VARIABLE, find_interpreter
from nanoflux_models.manifest import list_manifests

NEWEST_TESTED = (3, 12)
"""The newest version of Python with which the tests are run."""
MAX_LISTED = 6
"""The maximum number of packages that are listed; the others are only counted."""


def check_python() -> MachineCheck:
    """Check the version of the running interpreter."""
    interpreter = f"{sys.version.split()[0]} at {sys.executable}"
    fix = ""
    if sys.version_info[:2] > NEWEST_TESTED:
        newest = ".".join(map(str, NEWEST_TESTED))
        fix = f"use Python {newest} or older: newer versions are not tested"
    return MachineCheck("python", True, interpreter, fix)


def check_torch() -> MachineCheck:
    """Check the version of torch, and whether it supports this machine's GPUs. The version is read from the package
    metadata, since importing torch is slow.
    """
    try:
        torch_version = version("torch")
    except PackageNotFoundError:
        return MachineCheck(
            "torch", False, "not installed", f"run `pip install -c {packages.find_constraints_file()} torch`"
        )
    if torch_version.endswith("+cpu") and describe_gpus():
        return MachineCheck("torch", False, f"{torch_version}, which sees no GPU", "install a CUDA build of torch")
    return MachineCheck("torch", True, torch_version)


def check_vllm(home: Home) -> MachineCheck:
    """Check the build of vLLM, and which models it cannot serve. A missing vLLM is a problem only if the user has
    configured an interpreter for it.
    """
    try:
        interpreter = find_interpreter()
    except ModelsError as error:
        return MachineCheck("vllm", not os.environ.get(VLLM_PYTHON_VARIABLE), error.message, error.fix)
    build = "for CPUs" if interpreter.serves_on_cpu else "for GPUs"
    summary = f"{interpreter.vllm} {build} with torch {interpreter.torch} at {interpreter.path}"
    if interpreter.serves_on_cpu and describe_gpus():
        return MachineCheck(
            "vllm",
            False,
            f"{summary}, which sees no GPU",
            f"run `make vllm`, or set {VLLM_PYTHON_VARIABLE} to a Python with vLLM for CUDA",
        )
    try:
        chat_models = [manifest for manifest in list_manifests(home.root) if manifest.kind == "chat"]
    except ModelsError as error:
        return MachineCheck("vllm", True, summary, error.fix)
    reasons = explain_unservable(interpreter, chat_models)  # why a model cannot be served, by the model's name
    if not reasons:
        return MachineCheck("vllm", True, f"{summary}, serves all {len(chat_models)} chat models of the catalog")
    unservable_models = "; ".join(f"not {name}: {reason}" for name, reason in reasons.items())
    return MachineCheck(
        "vllm",
        True,
        f"{summary}, serves the catalog's chat models, but {unservable_models}",
        "run `make vllm`, or install a newer vLLM",
    )


def check_versions() -> MachineCheck:
    """Check the versions of the required packages. Missing packages and unsupported versions are problems; a supported
    version that differs from the tested version is only reported as advice.
    """
    fix = f"run `pip install -c {packages.find_constraints_file()} {packages.PROJECT}`"
    problems = packages.list_unmet_requirements()
    required_packages = packages.list_required_packages()
    tested_versions = packages.load_tested_versions()  # by the package's name
    problems += [
        f"{package.name} is missing"
        for package in required_packages
        if not package.version and package.name in tested_versions
    ]
    if problems:
        distinct_problems = list(dict.fromkeys(problems))
        return MachineCheck("versions", False, _list_some(distinct_problems), fix)
    untested_versions = [
        f"{package.name} {package.version} (tested: {tested_versions[package.name]})"
        for package in required_packages
        if package.name in tested_versions
        and _drop_build_tag(package.version) != _drop_build_tag(tested_versions[package.name])
    ]
    if untested_versions:
        return MachineCheck(
            "versions",
            True,
            f"{len(required_packages)} packages, in untested versions: {_list_some(untested_versions)}",
            fix,
        )
    return MachineCheck("versions", True, f"{len(required_packages)} packages, all in tested versions")


def _drop_build_tag(package_version: str) -> str:
    """A version without its local part: 2.9.0 for 2.9.0+cpu."""
    return package_version.partition("+")[0]


def _list_some(entries: list[str]) -> str:
    """The first `MAX_LISTED` entries, joined by commas, and the number of the others."""
    unlisted_count = len(entries) - MAX_LISTED
    ending = f" and {unlisted_count} more" if unlisted_count > 0 else ""
    return ", ".join(entries[:MAX_LISTED]) + ending
