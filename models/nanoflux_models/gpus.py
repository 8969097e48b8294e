"""The GPUs of this machine, as nvidia-smi tells of them. Loads no driver and no torch."""

import shutil
import subprocess


def found_gpus() -> list[float]:
    """GiB of each GPU, in nvidia-smi's order; empty where there is none to be found."""
    try:
        return [float(line) / 1024 for line in _asked("memory.total")]
    except ValueError:
        return []


def described_gpus() -> list[str]:
    """Each GPU in words: its name, its memory and the driver's version."""
    rows = [[part.strip() for part in line.split(",")] for line in _asked("name,memory.total,driver_version")]
    return [f"{name}, {memory} MiB, driver {driver}" for name, memory, driver in (row for row in rows if len(row) == 3)]


def _asked(fields: str) -> list[str]:
    """What nvidia-smi says of each GPU, a line for each; nothing where it fails."""
    smi = shutil.which("nvidia-smi")
    if smi is None:
        return []
    query = [smi, f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    done = subprocess.run(query, capture_output=True, text=True, check=False)
    return [] if done.returncode else done.stdout.strip().splitlines()
