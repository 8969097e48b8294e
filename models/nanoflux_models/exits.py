"""Why a server ended: what the end of its log tells, in words for people. Reads text, and looks at nothing else."""

import re

_CAUSES = (
    (r"No module named '?vllm", "its interpreter has no vllm", "name one that has in NANOFLUX_VLLM_PYTHON"),
    (r"address already in use|Errno 98", "its port is taken", "leave --port out, or name a free one"),
    (
        r"Free memory on device .* is less than desired",
        "other processes hold the GPU's memory",
        "stop what else uses the GPU, or give this server a smaller share: --gpu-memory",
    ),
    (
        r"larger than the maximum number of tokens that can be stored in KV cache|to serve at least one request"
        r"|max seq len|No available memory for the cache blocks",
        "too little memory is left for the context asked for",
        "a shorter context (--context), or a larger share of the GPU (--gpu-memory)",
    ),
    (
        r"out of memory|OutOfMemoryError|Cannot allocate memory|MemoryError",
        "it ran out of memory",
        "a smaller share (--gpu-memory), a shorter context (--context) or a smaller model; see `nanoflux models plan`",
    ),
    (
        r"is greater than the derived max_model_len|max_model_len.*(?:exceed|greater)",
        "the context asked for is longer than the model's",
        "a shorter one: --context",
    ),
    (
        r"architectures? .*(?:not supported|failed to be inspected)|does not recognize this architecture",
        "this vLLM does not know the model's architecture",
        "a newer vLLM, or another model",
    ),
    (r"unrecognized arguments|error: argument", "this vLLM does not know an argument", "see the manifest's [vllm]"),
    (r"Failed to infer device type|No CUDA GPUs are available", "its vLLM found no GPU", "vLLM for CPUs: `make vllm`"),
)  # fmt: skip
"""What a line says, what that means, and what to do; the first that is found anywhere in the tail counts."""
KILLED = -9


def explain(tail: str, code: int | None) -> tuple[str, str]:
    """What happened and what to do about it; both are general where the log says nothing that is known here."""
    for pattern, what, fix in _CAUSES:
        if re.search(pattern, tail, re.IGNORECASE):
            return what, fix
    if code == KILLED:
        return "it was killed, as the kernel does when memory runs out", "free some memory, or serve a smaller model"
    return "its log does not say why in words known here", "read the log's last lines"


def last_lines(tail: str, count: int = 5) -> list[str]:
    """The last lines that say something, shortened, without the prefix that vLLM puts before each."""
    lines = [re.sub(r"^\(\w+ pid=\d+\) ", "", line).strip()[:300] for line in tail.splitlines()]
    return [line for line in lines if line][-count:]
