"""Lists the GPUs of this machine by running nvidia-smi, without loading the driver or torch.

nvidia-smi is used instead of the NVML library because a driver that hangs would hang this process inside the library,
whereas a child process can be abandoned after a timeout. The driver may not state a GPU's memory: because it is unified
([N/A] on a GB10), because permissions are missing, or because the GPU is lost. Such a GPU is listed with the driver's
text in place of its memory.
"""

import shutil
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache

TIMEOUT_S = 10.0
"""The timeout of nvidia-smi. It usually takes one second, and several seconds on a machine with many idle GPUs."""
TIMEOUT_PROBLEM = f"nvidia-smi did not answer within {TIMEOUT_S:g} s"
"""The value of `Survey.problem` after a timeout."""
_FAILED_GPU_PREFIX = "Unable to determine"
"""The beginning of the message that nvidia-smi prints in place of the fields of a GPU that it cannot reach."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU. `memory_mib` is None if the driver does not state it; `memory_text` is what the driver prints instead.
    `driver` is the version of the driver.

    The string form is the line that is shown to the user.
    """

    index: int
    name: str
    memory_mib: float | None
    driver: str = ""
    memory_text: str = ""

    def __str__(self) -> str:
        memory = (
            f"{self.memory_mib:g} MiB" if self.memory_mib is not None else f"memory not stated ({self.memory_text})"
        )
        parts = [self.name, memory]
        if self.driver:
            parts.append(f"driver {self.driver}")
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class Survey:
    """The GPUs that nvidia-smi lists. `problem` says why it does not list all GPUs of the machine ("" if it does)."""

    gpus: tuple[Gpu, ...]
    problem: str = ""

    @property
    def timed_out(self) -> bool:
        """Whether nvidia-smi timed out."""
        return self.problem == TIMEOUT_PROBLEM

    @property
    def gpus_without_memory(self) -> tuple[Gpu, ...]:
        """The GPUs whose memory is unknown."""
        return tuple(gpu for gpu in self.gpus if gpu.memory_mib is None)


def survey_gpus() -> Survey:
    """Run the nvidia-smi on PATH, for at most TIMEOUT_S. The result is cached, so a process runs it only once."""
    nvidia_smi = shutil.which("nvidia-smi")
    return _survey(nvidia_smi) if nvidia_smi else Survey((), "there is no nvidia-smi")


def list_gpu_gib() -> list[float]:
    """The memory of each GPU in GiB, in nvidia-smi's order (0: unknown). Empty if no GPU's memory is known."""
    gpus = survey_gpus().gpus
    if all(gpu.memory_mib is None for gpu in gpus):
        return []
    return [(gpu.memory_mib or 0.0) / 1024 for gpu in gpus]


def describe_gpus() -> list[str]:
    """The name, memory and driver version of each GPU."""
    return [str(gpu) for gpu in survey_gpus().gpus]


def list_compute_capabilities() -> list[float]:
    """The CUDA compute capability of each GPU that states one, such as 8.0 for an A100."""
    nvidia_smi = shutil.which("nvidia-smi")
    lines, _ = query_gpus(nvidia_smi, "compute_cap") if nvidia_smi else ([], "")
    capabilities = []
    for line in lines:
        with suppress(ValueError):
            capabilities.append(float(line))
    return capabilities


def query_gpus(nvidia_smi: str, fields: str) -> tuple[list[str], str]:
    """Query the comma-separated `fields` of every GPU with the program `nvidia_smi`.

    Returns the line of values that the program prints for each GPU, and the reason why lines are missing ("" if none is
    missing).
    """
    query = [nvidia_smi, f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    try:
        child = subprocess.Popen(
            query, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace"
        )
    except OSError as error:
        return [], f"nvidia-smi cannot be started: {error.strerror}"
    try:
        output, error_output = child.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        _abandon(child)
        return [], TIMEOUT_PROBLEM
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    if not child.returncode:
        return lines, ""
    error_lines = error_output.strip().splitlines() or lines  # some errors are printed to stdout
    reason = f": {error_lines[-1]}" if error_lines else ""
    return lines, f"nvidia-smi failed ({child.returncode}){reason}"


def _abandon(child: "subprocess.Popen[str]") -> None:
    """Kill a child process, but do not wait for its exit: a process that hangs in the driver cannot exit."""
    child.kill()
    for pipe in (child.stdout, child.stderr):
        if pipe:
            pipe.close()
    with suppress(subprocess.TimeoutExpired):
        child.wait(1.0)


@lru_cache
def _survey(nvidia_smi: str) -> Survey:
    """The GPUs that the program `nvidia_smi` lists."""
    lines, problem = query_gpus(nvidia_smi, "name,memory.total,driver_version")
    gpus: list[Gpu] = []
    for line in lines:
        gpu = _parse_gpu(line, len(gpus))
        if gpu is not None:
            gpus.append(gpu)
    return Survey(tuple(gpus), problem)


def _parse_gpu(line: str, index: int) -> Gpu | None:
    """The GPU that a line of nvidia-smi describes; None if the line describes no GPU."""
    if line.startswith(_FAILED_GPU_PREFIX):
        return Gpu(index, "a GPU that does not answer", None, memory_text=line)
    fields = [field.strip() for field in line.rsplit(",", 2)]
    if len(fields) != 3:
        return None
    name, memory, driver = fields
    try:
        memory_mib = float(memory.removesuffix(" MiB"))
    except ValueError:
        memory_mib = 0.0
    if memory_mib > 0:
        return Gpu(index, name, memory_mib, driver)
    return Gpu(index, name, None, driver, memory_text=memory)
