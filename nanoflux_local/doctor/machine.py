"""Checks the hardware: processors, memory, GPUs and their driver."""

import os
from pathlib import Path

from nanoflux_local.doctor.check import MachineCheck
from nanoflux_local.quantities import format_quantity
from nanoflux_models.gpus import Survey, survey_gpus

GIB = 2**30
MIN_CORES = 2
"""The number of processor cores for which the embedded default model is tuned."""
MIN_MEMORY_GIB = 6
"""The memory that training the embedded default model needs."""
NVIDIA_VENDOR = "0x10de"
"""NVIDIA's vendor code on the PCI bus."""
DISPLAY_CLASSES = ("0x0300", "0x0302")
"""How the PCI class codes of GPUs begin: VGA controllers and 3D controllers."""


def check_processors() -> MachineCheck:
    """Check the number of processor cores that this process may use."""
    core_count = len(os.sched_getaffinity(0))
    fix = ""
    if core_count < MIN_CORES:
        fix = f"expect slow runs, or use a machine with {MIN_CORES} cores, which the embedded default is tuned for"
    return MachineCheck("processors", True, format_quantity(core_count, "core"), fix)


def check_memory() -> MachineCheck:
    """Check the machine's memory, or the limit of its container."""
    physical_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    memory_gib = min(physical_bytes, _memory_limit()) / GIB
    fix = ""
    if memory_gib < MIN_MEMORY_GIB:
        fix = f"use a machine with {MIN_MEMORY_GIB} GiB, which training the embedded default needs"
    return MachineCheck("memory", not fix, f"{memory_gib:.1f} GiB", fix)


def check_gpus() -> MachineCheck:
    """Check the GPUs that the driver lists. A card without a driver is a problem; a machine without a card is fine."""
    survey, card_count = survey_gpus(), _count_cards()
    if survey.gpus:
        statements = [str(gpu) for gpu in survey.gpus]
        if survey.problem:
            statements.append(survey.problem)
        return MachineCheck("gpus", not survey.problem, "; ".join(statements), _suggest_gpu_fix(survey))
    if survey.timed_out:
        return MachineCheck(
            "gpus",
            False,
            survey.problem,
            "run nvidia-smi to see whether it hangs, then restart the driver or the machine",
        )
    if card_count:
        fix = "install NVIDIA's driver (in a container also its container toolkit) and check with nvidia-smi"
        return MachineCheck("gpus", False, f"{format_quantity(card_count, 'NVIDIA card')}, but no working driver", fix)
    return MachineCheck("gpus", True, "none; small models run on the processors")


def _suggest_gpu_fix(survey: Survey) -> str:
    """The fix for a problem with the GPUs, or for GPUs that do not report their memory; "" if neither applies."""
    if survey.problem:
        return "run nvidia-smi and fix the problem that it reports"
    if survey.gpus_without_memory:
        return "state each GPU's memory, in the order of nvidia-smi: `nanoflux models plan PROFILE --gpus GIB,GIB`"
    return ""


def _count_cards() -> int:
    """Count the NVIDIA GPUs on the PCI bus, with or without a driver."""
    return sum(_is_nvidia_gpu(device) for device in Path("/sys/bus/pci/devices").glob("*"))


def _is_nvidia_gpu(device: Path) -> bool:
    has_display_class = _read_text(device / "class").startswith(DISPLAY_CLASSES)
    return has_display_class and _read_text(device / "vendor") == NVIDIA_VENDOR


def _memory_limit() -> float:
    """The memory limit of this process's control group in bytes; infinite if there is none."""
    limit = _read_text(Path("/sys/fs/cgroup/memory.max"))
    return float(limit) if limit.isdigit() else float("inf")


def _read_text(path: Path) -> str:
    """The text of a file in /sys, without surrounding white space; "" if the file cannot be read."""
    try:
        return path.read_text("ascii", "replace").strip()
    except OSError:
        return ""
