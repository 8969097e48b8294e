"""Why a server ended: what the end of its log says, in words for people. Reads text, and looks at nothing else."""

import re
from dataclasses import dataclass

RAISED = r"^(?:\(\w+ pid=\d+\) )?(?:ERROR [^\]]*\] )?"
"""How the last line of a traceback begins; warnings about optional modules begin otherwise."""


@dataclass(frozen=True, slots=True)
class Cause:
    """A line of vLLM's log, what it means, and what to do; `{0}` in either is the pattern's first group."""

    pattern: str
    meaning: str
    fix: str


_CAUSES = (
    Cause(
        r"No module named '?vllm(?![\w.])",
        "its interpreter has no vllm",
        "name one that has in NANOFLUX_VLLM_PYTHON",
    ),
    Cause(
        r"operator torchvision::\w+ does not exist|Couldn't load custom C\+\+ ops",
        "torchvision was built for another torch than the one in vLLM's environment",
        "install vLLM's environment again: make vllm",
    ),
    Cause(
        r"module 'triton\.language' has no attribute|name 'triton' is not defined",
        "this vLLM for CPUs has no kernels for adapters on a mixture of experts",
        "serve the model without adapters: leave out --adapter and --lora, or serve it on a GPU",
    ),
    Cause(r"address already in use|Errno 98", "its port is taken", "leave --port out, or name a free one"),
    Cause(
        r"Free memory on device .* is less than desired",
        "other processes hold the GPU's memory",
        "stop what else uses the GPU, or give this server a smaller share: --gpu-memory",
    ),
    Cause(
        r"larger than the maximum number of tokens that can be stored in KV cache|to serve at least one request"
        r"|max seq len|No available memory for the cache blocks",
        "too little memory is left for the context asked for",
        "a shorter context (--context), or a larger share of the GPU (--gpu-memory)",
    ),
    Cause(
        r"out of memory|OutOfMemoryError|Cannot allocate memory|MemoryError",
        "it ran out of memory",
        "a smaller share (--gpu-memory), a shorter context (--context) or a smaller model; see `nanoflux models plan`",
    ),
    Cause(
        r"is greater than the derived max_model_len|max_model_len.*(?:exceed|greater)",
        "the context asked for is longer than the model's",
        "a shorter one: --context",
    ),
    # Before the architecture: vLLM says that one "failed to be inspected" for whatever its module failed to import.
    Cause(
        RAISED + r"ModuleNotFoundError: No module named '([\w.]+)'",
        "the Python module {0} is missing in vLLM's environment",
        "install {0} there, or the whole environment again: make vllm",
    ),
    Cause(
        RAISED + r"ImportError: (.{1,120})",
        "a Python module of vLLM's environment does not load ({0})",
        "install vLLM's environment again: make vllm",
    ),
    Cause(
        r"architectures? .*(?:not supported|failed to be inspected)|does not recognize this architecture",
        "this vLLM does not know the model's architecture",
        "a newer vLLM, or another model",
    ),
    Cause(
        r"Sleep mode is not supported on current platform",
        "this vLLM or device has no sleep mode, which taking turns on one GPU needs",
        "leave out `shares` in the profile",
    ),
    Cause(r"unrecognized arguments: (.*)", "this vLLM does not know the argument {0}", "see the manifest's [vllm]"),
    Cause(r"error: argument", "this vLLM refuses an argument", "see the manifest's [vllm]"),
    Cause(
        r"Failed to infer device type|No CUDA GPUs are available",
        "its vLLM found no GPU",
        "install vLLM for CPUs: make vllm VLLM_BUILD=cpu",
    ),
)
"""The first whose pattern matches anywhere in the log's tail counts."""
KILLED = -9


def explain(tail: str, code: int | None) -> tuple[str, str]:
    """What happened and what to do about it; both are general if no line of the log is in the table."""
    for cause in _CAUSES:
        if match := re.search(cause.pattern, tail, re.IGNORECASE | re.MULTILINE):
            return cause.meaning.format(*match.groups()), cause.fix.format(*match.groups())
    if code == KILLED:
        return "it was killed, as the kernel does when memory runs out", "free some memory, or serve a smaller model"
    return "its log does not say why in words known here", "read the log's last lines"


def last_lines(tail: str, count: int = 5) -> list[str]:
    """The last lines that say something, shortened, without the prefix that vLLM puts before each."""
    lines = [re.sub(r"^\(\w+ pid=\d+\) ", "", line).strip()[:300] for line in tail.splitlines()]
    return [line for line in lines if line][-count:]
