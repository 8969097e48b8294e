"""Builds the command line and the environment of a vLLM server from a manifest and the resources assigned to the
server.

This module starts nothing. A launch's `variant` names what affects a reply besides the weights: servers with the same
weights and the same variant share recorded replies.
"""

import math
import os
from dataclasses import dataclass, field
from pathlib import Path

from nanoflux_models.child import SAFE_PATH
from nanoflux_models.interpreter import Interpreter
from nanoflux_models.manifest import Manifest
from nanoflux_models.offline import SETTINGS, guard_environment
from nanoflux_models.parallel import build_parallel_flags

MARK_VARIABLE = "NANOFLUX_SERVER"
"""The environment variable that marks every process of a server, including orphaned processes."""
DEFAULT_CONTEXT = 8192
"""The default context of a server in tokens; for a thinking model, its reasoning tokens are added."""
DEFAULT_RANK = 16
"""The default maximum rank of the adapters that a server accepts."""
CPU_ENVIRONMENT = {
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "GOMP_SPINCOUNT": "5000",
    "KMP_BLOCKTIME": "0",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
}
"""Settings for servers on CPUs, which keep threads from being pinned to cores and from busy-waiting: such threads make
a server more than ten times slower if other processes need the same cores. Engine and worker run in one process, since
the engine would busy-wait for a worker in another process."""
SECRET_SUFFIXES = ("_KEY", "_TOKEN", "_SECRET", "_PASSWORD")
"""The endings of the names of environment variables that a server does not inherit."""


@dataclass(frozen=True, slots=True)
class ServerResources:
    """The resources of a server.

    `gpus` are the indices of its GPUs, and `utilisation` is its share of each GPU's memory. `tensor` is the number of
    GPUs that share each layer. `kv_gib` is the size of the KV cache on a CPU. `sequences` is the maximum number of
    concurrent requests. vLLM chooses the GPUs, the share and the number of requests if they are not set.
    """

    gpus: tuple[int, ...] = ()
    utilisation: float = 0.0
    tensor: int = 1
    kv_gib: float = 0.0
    sequences: int = 0


@dataclass(frozen=True, slots=True)
class Launch:
    """How a server is started, except for its port and name. Equal launches can share a server.

    `rank` is the highest rank of the adapters that the server accepts (0: no buffers for adapters). If `is_wrapper` is
    true, the weights also contain encoders for images or sound, which are not loaded. If `batch_invariant` is true,
    replies do not depend on the rest of the batch. If `sleeps` is true, the server has vLLM's sleep mode. `context` is
    the length of a request with its reply in tokens (0: the default), and `args` are the user's additional arguments
    for vLLM.
    """

    manifest: Manifest
    revision: str
    weights: Path
    interpreter: Interpreter
    resources: ServerResources = field(default_factory=ServerResources)
    context: int = 0
    rank: int = 0
    sleeps: bool = False
    is_wrapper: bool = False
    batch_invariant: bool = False
    args: tuple[str, ...] = ()

    @property
    def model(self) -> str:
        """The name under which the server serves the base model."""
        return self.manifest.name

    @property
    def max_model_len(self) -> int:
        """The context in tokens, including the reply."""
        return min(self.context or DEFAULT_CONTEXT + self.manifest.reasoning_limit, self.manifest.context)

    @property
    def variant(self) -> str:
        """The versions and arguments that affect a reply; the weights are identified separately.

        The variant contains "lora" for every model that can take adapters, even if this server takes none. Adapters do
        not change the base's replies, so the keys of recorded requests remain valid.
        """
        components = [f"vllm {self.interpreter.vllm}", f"torch {self.interpreter.torch}"]
        components += [*self._build_parallel_flags(), *self.manifest.vllm.args, *self.args]
        if self.manifest.lora:
            components.append("lora")
        if self.batch_invariant:
            components.append("batch-invariant")
        return " ".join(components)

    def build_command(self, port: int) -> list[str]:
        """The command line of the server, which listens only on loopback."""
        return self._build_node_command(port, 0)

    def list_other_node_commands(self) -> list[list[str]]:
        """The command lines for all machines except the first, if vLLM itself spreads the model over several machines;
        empty for other models.
        """
        parallel = self.manifest.parallel
        if parallel.backend != "mp":
            return []
        return [self._build_node_command(0, node) for node in range(1, parallel.nodes)]

    def _build_node_command(self, port: int, node: int) -> list[str]:
        """The command line for machine number `node`. The options of the manifest and the user come last, so that they
        override the others.
        """
        project_options = [*self._build_options(port), *self._build_parallel_flags(node)]
        return [*self._build_python_command(), *project_options, *self.manifest.vllm.args, *self.args]

    @property
    def _uses_vllm_serve(self) -> bool:
        """Whether the command `vllm serve` is used. It takes the model as its first argument."""
        return self.interpreter.entry[-1] == "serve"

    def _build_python_command(self) -> list[str]:
        """The command line without options."""
        return [str(self.interpreter.path), "-m", *self.interpreter.entry]

    def _build_options(self, port: int) -> list[str]:
        """The options that this project sets for every server, except those that spread a model over GPUs."""
        options: list[str] = [] if self._uses_vllm_serve else ["--model"]
        options += [
            str(self.weights), "--served-model-name", self.model, "--host", "127.0.0.1", "--port", str(port),
            "--max-model-len", str(self.max_model_len),
        ]  # fmt: skip
        if self.resources.utilisation:
            options += ["--gpu-memory-utilization", f"{self.resources.utilisation:.2f}"]
        if self.resources.sequences:
            options += ["--max-num-seqs", str(self.resources.sequences)]
        if self.rank:
            options += ["--enable-lora", "--max-loras", "2", "--max-cpu-loras", "8", "--max-lora-rank", str(self.rank)]
        if self.sleeps:
            options += ["--enable-sleep-mode"]
        explicit_args = {*self.manifest.vllm.args, *self.args}
        if self.is_wrapper and not explicit_args & {"--limit-mm-per-prompt", "--language-model-only"}:
            options += self.interpreter.text_only_flags
        if self.manifest.parallel.data > 1 and self._uses_vllm_serve:
            options += ["--api-server-count", "1"]  # several API servers cannot load adapters at run time
        if self.interpreter.serves_on_cpu:  # with chunked prefill, a request with a seed crashes a server on a CPU
            options += ["--no-enable-chunked-prefill", "--max-num-batched-tokens", str(self.max_model_len)]
            if not self._build_parallel_flags():
                options += ["--distributed-executor-backend", "uni"]
        return options

    def build_environment(self, mark: str) -> dict[str, str]:
        """The environment of the server: this process's environment without secrets, with the offline switches, the
        network guard, and `mark` as the value of `MARK_VARIABLE`.

        A server that spans several machines has no guard, since its machines connect to each other.
        """
        inherited = {key: value for key, value in os.environ.items() if not key.upper().endswith(SECRET_SUFFIXES)}
        server_variables = {
            **SETTINGS,
            **SAFE_PATH,
            "VLLM_LOGGING_COLOR": "0",
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1" if self.rank else "0",
            "VLLM_BATCH_INVARIANT": "1" if self.batch_invariant else "0",
            "VLLM_SERVER_DEV_MODE": "1" if self.sleeps else "0",  # also enables endpoints beyond sleep mode
            "SPT_NOENV": "1",  # without this, a process that sets its title overwrites the mark in its environment
            MARK_VARIABLE: mark,
        }
        if self.manifest.parallel.nodes == 1:
            server_variables |= {"VLLM_HOST_IP": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"}
        if self.resources.gpus:
            server_variables["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, self.resources.gpus))
        if self.interpreter.serves_on_cpu:
            kv_gib = str(max(1, math.ceil(self.resources.kv_gib)))
            inherited = {**CPU_ENVIRONMENT, "VLLM_CPU_KVCACHE_SPACE": kv_gib, **inherited}
        environment = inherited | server_variables
        return guard_environment(environment) if self.manifest.parallel.nodes == 1 else environment

    def _build_parallel_flags(self, node: int = 0) -> tuple[str, ...]:
        """vLLM's flags that spread the model over GPUs, for machine number `node`."""
        parallel = self.manifest.parallel
        tensor = max(parallel.tensor, self.resources.tensor)
        return build_parallel_flags(parallel.model_copy(update={"tensor": tensor}), node)
