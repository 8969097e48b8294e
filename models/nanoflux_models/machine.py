"""Gauges of this machine: how busy its CPUs are, and how much of its memory and of a disk is used.

Reads /proc and the file system, and needs no package. GPUs are not covered: see `gpus`.
"""

import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Gauges:
    """One reading of the gauges.

    `busy` is the busy share of the CPU time of all cores since the previous reading, from 0 to 1 (None in the first
    reading). Sizes are in bytes; a size is 0 if this system does not state it.
    """

    busy: float | None
    cores: int
    memory_used: int
    memory_total: int
    disk_used: int
    disk_total: int


class MachineMeter:
    """Reads the gauges of this machine and of the disk that holds `folder`. `proc` replaces /proc in tests."""

    def __init__(self, folder: Path, proc: Path = PROC) -> None:
        self._folder, self._proc = folder, proc
        self._previous_ticks: tuple[int, int] | None = None

    def read(self) -> Gauges:
        """Read all gauges now."""
        memory_used, memory_total = _read_memory(self._proc / "meminfo")
        disk_used = disk_total = 0
        with suppress(OSError):
            disk = shutil.disk_usage(self._folder)
            disk_used, disk_total = disk.used, disk.total
        return Gauges(self._measure_busy(), os.cpu_count() or 1, memory_used, memory_total, disk_used, disk_total)

    def _measure_busy(self) -> float | None:
        """The share of CPU time that was busy since the previous reading; None in the first reading."""
        previous, current = self._previous_ticks, _read_ticks(self._proc / "stat")
        self._previous_ticks = current
        if previous is None or current is None:
            return None
        busy_ticks = current[0] - previous[0]
        all_ticks = current[1] - previous[1]
        return min(1.0, max(0.0, busy_ticks / all_ticks)) if all_ticks > 0 else None


def _read_ticks(path: Path) -> tuple[int, int] | None:
    """The busy ticks and all ticks of all CPUs since the system started; None if the system does not state them."""
    with suppress(OSError, ValueError):
        first_line = path.read_text("ascii").partition("\n")[0]
        user, nice, system, idle, iowait, *interrupts_and_steal = map(int, first_line.split()[1:9])  # see proc(5)
        busy = user + nice + system + sum(interrupts_and_steal)
        return busy, busy + idle + iowait
    return None


def _read_memory(path: Path) -> tuple[int, int]:
    """The used and the total memory in bytes. Memory that the kernel can free immediately counts as unused."""
    with suppress(OSError, ValueError, KeyError):
        kib: dict[str, int] = {}
        for line in path.read_text("ascii").splitlines():
            key, _, value = line.partition(":")
            kib[key] = int(value.split()[0])
        return (kib["MemTotal"] - kib["MemAvailable"]) * 1024, kib["MemTotal"] * 1024
    return 0, 0
