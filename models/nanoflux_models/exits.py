"""Finds the cause of a server's exit in the last lines of its log."""

import re
from dataclasses import dataclass

EXCEPTION_LINE_START = r"^(?:\(\w+ pid=\d+\) )?(?:ERROR [^\]]*\] )?"
"""A pattern for what precedes the exception in a traceback's last line: nothing, or vLLM's prefixes. It does not match
warnings about optional modules, which quote the same exceptions."""


@dataclass(frozen=True, slots=True)
class ExitCause:
    """A known cause of an exit: the pattern that reveals it in vLLM's log, its meaning and its fix.

    `{0}` in meaning or fix is replaced by the first group of the pattern.
    """

    pattern: str
    meaning: str
    fix: str


_CAUSES = (
    ExitCause(
        r"No module named '?vllm(?![\w.])",
        "its interpreter has no vllm",
        "set NANOFLUX_VLLM_PYTHON to an interpreter that has vLLM",
    ),
    ExitCause(
        r"operator torchvision::\w+ does not exist|Couldn't load custom C\+\+ ops",
        "torchvision was built for a different torch than the one in vLLM's environment",
        "install vLLM's environment again: make vllm",
    ),
    ExitCause(
        r"module 'triton\.language' has no attribute|name 'triton' is not defined",
        "this vLLM for CPUs has no kernels for adapters on a mixture of experts",
        "serve the model without adapters (omit --adapter and --lora), or on a GPU",
    ),
    ExitCause(r"address already in use|Errno 98", "its port is in use", "omit --port, or choose a free port"),
    ExitCause(
        r"Free memory on device .* is less than desired",
        "other processes hold the GPU's memory",
        "stop the other processes, or set a smaller share of the GPU: --gpu-memory",
    ),
    ExitCause(
        r"larger than the maximum number of tokens that can be stored in KV cache|to serve at least one request"
        r"|max seq len|No available memory for the cache blocks",
        "the KV cache does not hold one request of the requested context",
        "set a shorter context (--context), or a larger share of the GPU (--gpu-memory)",
    ),
    ExitCause(
        r"out of memory|OutOfMemoryError|Cannot allocate memory|MemoryError",
        "it ran out of memory",
        "set a smaller share (--gpu-memory) or a shorter context (--context), or choose a smaller model that "
        "`nanoflux models plan` places",
    ),
    ExitCause(
        r"is greater than the derived max_model_len|max_model_len.*(?:exceed|greater)",
        "the requested context is longer than the model's",
        "set a shorter context: --context",
    ),
    # The next two causes come before the one for an unknown architecture: after a failed import, vLLM also reports that
    # the architecture "failed to be inspected".
    ExitCause(
        EXCEPTION_LINE_START + r"ModuleNotFoundError: No module named '([\w.]+)'",
        "the Python module {0} is missing in vLLM's environment",
        "install {0} there, or install the whole environment again: make vllm",
    ),
    ExitCause(
        EXCEPTION_LINE_START + r"ImportError: (.{1,120})",
        "a Python module of vLLM's environment cannot be imported ({0})",
        "install vLLM's environment again: make vllm",
    ),
    ExitCause(
        r"architectures? .*(?:not supported|failed to be inspected)|does not recognize this architecture",
        "this vLLM does not know the model's architecture",
        "install a newer vLLM, or choose another model",
    ),
    ExitCause(
        r"Sleep mode is not supported on current platform",
        "this vLLM or device has no sleep mode, which models that share a GPU need",
        "remove `shares` from the profile",
    ),
    ExitCause(
        r"unrecognized arguments: (.*)",
        "this vLLM does not know the argument {0}",
        "correct the manifest's [vllm] args",
    ),
    ExitCause(r"error: argument", "this vLLM refuses an argument", "correct the manifest's [vllm] args"),
    ExitCause(
        r"Failed to infer device type|No CUDA GPUs are available",
        "its vLLM found no GPU",
        "install vLLM for CPUs: make vllm VLLM_BUILD=cpu",
    ),
)
"""Known causes, in order: the first whose pattern matches anywhere in the log's tail is reported."""
KILLED_EXIT_CODE = -9
"""The exit code of a process that SIGKILL ended."""


def find_exit_cause(log_tail: str, code: int | None) -> tuple[str, str]:
    """Find the cause of a server's exit in the last lines of its log. Returns the cause and its fix.

    If no known cause matches, `code` decides: the exit code of the server, None if it did not exit.
    """
    for cause in _CAUSES:
        match = re.search(cause.pattern, log_tail, re.IGNORECASE | re.MULTILINE)
        if match:
            return cause.meaning.format(*match.groups()), cause.fix.format(*match.groups())
    if code == KILLED_EXIT_CODE:
        return "it was killed, probably by the kernel because memory ran out", "free memory, or serve a smaller model"
    return "its log states no known cause", "read the last lines of the log"


def quote_last_lines(log_tail: str, count: int = 5) -> list[str]:
    """The last `count` lines of a log that are not blank, without vLLM's prefix and shortened to 300 characters."""
    lines = [re.sub(r"^\(\w+ pid=\d+\) ", "", line).strip()[:300] for line in log_tail.splitlines()]
    nonblank_lines = [line for line in lines if line]
    return nonblank_lines[-count:]
