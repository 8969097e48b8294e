"""The GPUs of this machine, as nvidia-smi tells of them. Loads no driver and no torch."""

import shutil
import subprocess


def found_gpus() -> list[float]:
    """GiB of each GPU, in nvidia-smi's order; empty where there is none to be found."""
    smi = shutil.which("nvidia-smi")
    if smi is None:
        return []
    query = [smi, "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    done = subprocess.run(query, capture_output=True, text=True, check=False)
    try:
        return [] if done.returncode else [float(line) / 1024 for line in done.stdout.split()]
    except ValueError:
        return []
