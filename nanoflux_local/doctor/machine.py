"""The hardware: processors, memory, GPUs and their driver, as the kernel tells of them."""

import os
from pathlib import Path

from nanoflux_local.doctor.check import Check
from nanoflux_models.gpus import Survey, survey_gpus

GIB = 2**30
CORES, MEMORY_GIB = 2, 6
"""What the embedded default needs."""
NVIDIA, DISPLAY = "0x10de", ("0x0300", "0x0302")
"""Vendor and classes of a GPU on the PCI bus."""


def processors() -> Check:
    """Those that this process may use."""
    count = len(os.sched_getaffinity(0))
    fix = "" if count >= CORES else f"the embedded default is made for {CORES} cores; it will be slow"
    return Check("processors", True, f"{count} cores", fix)


def memory() -> Check:
    """The machine's, or what a container may use of it."""
    gib = min(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), _allowance()) / GIB
    fix = "" if gib >= MEMORY_GIB else f"training the embedded default takes up to {MEMORY_GIB} GiB"
    return Check("memory", not fix, f"{gib:.1f} GiB", fix)


def gpus() -> Check:
    """Those that the driver lists; a card without a driver is something to mend, no card is not."""
    survey, cards = survey_gpus(), _cards()
    if survey.gpus:
        found = "; ".join([*map(str, survey.gpus), *([survey.problem] if survey.problem else [])])
        return Check("gpus", not survey.problem, found, _gpus_fix(survey))
    if survey.hangs:
        return Check("gpus", False, survey.problem, "run nvidia-smi by itself; restart the driver or the machine")
    if cards:
        fix = "install NVIDIA's driver, and in a container its container toolkit, until nvidia-smi lists them"
        return Check("gpus", False, f"{cards} NVIDIA cards, and no driver that answers", fix)
    return Check("gpus", True, "none: small models play on the processors")


def _gpus_fix(survey: Survey) -> str:
    if survey.problem:
        return "run nvidia-smi by itself, and mend what it says"
    if survey.unstated:
        return "state the sizes when you plan, in nvidia-smi's order: nanoflux models plan PROFILE --gpus GIB,GIB"
    return ""


def _cards() -> int:
    devices = Path("/sys/bus/pci/devices")
    return sum(
        _read(device / "vendor") == NVIDIA and _read(device / "class").startswith(DISPLAY)
        for device in (devices.iterdir() if devices.is_dir() else ())
    )


def _allowance() -> float:
    """Bytes that this control group may use."""
    told = _read(Path("/sys/fs/cgroup/memory.max"))
    return float(told) if told.isdigit() else float("inf")


def _read(path: Path) -> str:
    try:
        return path.read_text("ascii", "replace").strip()
    except OSError:
        return ""
