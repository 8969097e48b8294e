"""The GPUs of this machine, as nvidia-smi lists them. Loads no driver and no torch.

nvidia-smi rather than NVML: a driver that hangs would hang this process inside the library, while a child process can
be abandoned after a timeout. A GPU whose memory the driver does not state is still listed, with the driver's own word:
unified memory ([N/A] on a GB10), missing permissions and lost GPUs never hide the others.
"""

import shutil
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache

LIMIT_S = 10.0
"""Timeout of nvidia-smi, which takes a second, or several on a machine with many idle GPUs."""
HANGS = f"nvidia-smi did not answer within {LIMIT_S:g} s"
_FAILED = "Unable to determine"


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU. `memory_mib` is None if the driver does not state it; `stated` is then the driver's own word."""

    index: int
    name: str
    memory_mib: float | None
    driver: str = ""
    stated: str = ""

    def __str__(self) -> str:
        memory = f"{self.memory_mib:g} MiB" if self.memory_mib is not None else f"memory not stated ({self.stated})"
        return ", ".join([self.name, memory, *([f"driver {self.driver}"] if self.driver else [])])


@dataclass(frozen=True, slots=True)
class Survey:
    """The GPUs that nvidia-smi lists, and why it lists none or not all ("" if it lists all)."""

    gpus: tuple[Gpu, ...]
    problem: str = ""

    @property
    def hangs(self) -> bool:
        """Whether nvidia-smi timed out."""
        return self.problem == HANGS

    @property
    def unstated(self) -> tuple[Gpu, ...]:
        """The GPUs whose memory is unknown."""
        return tuple(gpu for gpu in self.gpus if gpu.memory_mib is None)


def survey_gpus() -> Survey:
    """Query nvidia-smi, once per process for each one on PATH; takes at most LIMIT_S."""
    smi = shutil.which("nvidia-smi")
    return _survey(smi) if smi else Survey((), "there is no nvidia-smi")


def list_gpus() -> list[float]:
    """GiB of each GPU, in nvidia-smi's order, 0 if the memory is unknown; empty on a machine without GPUs."""
    gpus = survey_gpus().gpus
    if all(gpu.memory_mib is None for gpu in gpus):
        return []
    return [(gpu.memory_mib or 0.0) / 1024 for gpu in gpus]


def describe_gpus() -> list[str]:
    """The name, memory and driver version of each GPU."""
    return [str(gpu) for gpu in survey_gpus().gpus]


def compute_capabilities() -> list[float]:
    """The CUDA compute capability of each GPU that states one, 8.0 for an A100."""
    smi = shutil.which("nvidia-smi")
    lines, _ = query_gpus(smi, "compute_cap") if smi else ([], "")
    capabilities = []
    for line in lines:
        with suppress(ValueError):
            capabilities.append(float(line))
    return capabilities


def query_gpus(smi: str, fields: str) -> tuple[list[str], str]:
    """nvidia-smi's line for each GPU, and why lines are missing ("" if none is)."""
    query = [smi, f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    try:
        child = subprocess.Popen(
            query, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace"
        )
    except OSError as error:
        return [], f"nvidia-smi cannot be started: {error.strerror}"
    try:
        out, err = child.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        _abandon(child)
        return [], HANGS
    lines = [line.strip() for line in out.splitlines() if line.strip()]
    if not child.returncode:
        return lines, ""
    last = next(iter([*err.strip().splitlines()[-1:], *lines[-1:]]), "")
    return lines, f"nvidia-smi failed ({child.returncode}){': ' if last else ''}{last}"


def _abandon(child: "subprocess.Popen[str]") -> None:
    """Kill a child process without waiting for it: one that hangs in the driver cannot exit."""
    child.kill()
    for pipe in (child.stdout, child.stderr):
        if pipe:
            pipe.close()
    with suppress(subprocess.TimeoutExpired):
        child.wait(1.0)


@lru_cache
def _survey(smi: str) -> Survey:
    lines, problem = query_gpus(smi, "name,memory.total,driver_version")
    rows = [gpu for gpu in (_read_gpu(line) for line in lines) if gpu is not None]
    return Survey(tuple(Gpu(index, *parts) for index, parts in enumerate(rows)), problem)


def _read_gpu(line: str) -> tuple[str, float | None, str, str] | None:
    """Name, MiB, driver version, and the driver's word if it states no MiB; None if the line describes no GPU."""
    if line.startswith(_FAILED):
        return "a GPU that does not answer", None, "", line
    parts = [part.strip() for part in line.rsplit(",", 2)]
    if len(parts) != 3:
        return None
    name, memory, driver = parts
    try:
        size = float(memory.removesuffix(" MiB"))
    except ValueError:
        size = 0.0
    return (name, size, driver, "") if size > 0 else (name, None, driver, memory)
