"""How one vLLM server is started: its command line and its environment, from a manifest and a place on the GPUs.

Pure: starts nothing. What changes a reply's bits is in `variant`, so that two servers of equal variants answer alike.
"""

import math
import os
from dataclasses import dataclass, field
from pathlib import Path

from nanoflux_models.child import SAFE_PATH
from nanoflux_models.interpreter import Interpreter
from nanoflux_models.manifest import Manifest
from nanoflux_models.offline import SETTINGS, guarded
from nanoflux_models.parallel import parallel_flags

MARK = "NANOFLUX_SERVER"
"""The environment variable that marks every process of a server, whatever its parent is."""
CONTEXT = 8192
"""Tokens of context that a server is started with if none are stated, besides the room for a thinking model's thoughts:
less than most models could fill.
"""
RANK = 16
"""The highest rank of an adapter that a server for adapters takes; a higher one is stated when it starts."""
ON_CPU = {
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "GOMP_SPINCOUNT": "5000",
    "KMP_BLOCKTIME": "0",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
}
"""Beside other work on the same cores, threads that are bound or that spin slow a server down more than ten times. An
engine that has its worker in another process spins while it waits for it.
"""
SECRETS = ("_KEY", "_TOKEN", "_SECRET", "_PASSWORD")


@dataclass(frozen=True, slots=True)
class Seat:
    """A place on the GPUs: which ones, the share of each, and how many requests are sent to it at once.

    No GPUs and no share leave the place to vLLM, or are a CPU's; 0 requests leave their number to vLLM.
    """

    gpus: tuple[int, ...] = ()
    utilisation: float = 0.0
    tensor: int = 1
    kv_gib: float = 0.0
    sequences: int = 0


@dataclass(frozen=True, slots=True)
class Launch:
    """One server, but for its port and its name. Equal launches are the same server.

    `rank` is the highest rank of an adapter that it takes; 0 leaves out the buffers for adapters. `wraps`: the weights
    have towers besides the language model, which are not loaded. `batch_invariant`: replies do not depend on what else
    is in a batch.
    """

    manifest: Manifest
    revision: str
    weights: Path
    interpreter: Interpreter
    seat: Seat = field(default_factory=Seat)
    context: int = 0
    rank: int = 0
    sleeps: bool = False
    wraps: bool = False
    batch_invariant: bool = False
    args: tuple[str, ...] = ()

    @property
    def model(self) -> str:
        return self.manifest.name

    @property
    def length(self) -> int:
        """Tokens of context, replies included."""
        return min(self.context or CONTEXT + self.manifest.reasoning_room, self.manifest.context)

    @property
    def variant(self) -> str:
        """What decides the bits besides the weights: versions, and the manifest's and the user's own arguments.

        "lora" stands for a model that can take adapters, whether or not this server does: a base answers alike on both,
        and the keys of recorded requests hold.
        """
        parts = [f"vllm {self.interpreter.vllm}", f"torch {self.interpreter.torch}"]
        parts += [*self._spread(), *self.manifest.vllm.args, *self.args]
        parts += [
            word for word, holds in (("lora", self.manifest.lora), ("batch-invariant", self.batch_invariant)) if holds
        ]
        return " ".join(parts)

    def command(self, port: int) -> list[str]:
        """The command line, on loopback alone."""
        return [*self._python(), *self._options(port), *self._spread(), *self.manifest.vllm.args, *self.args]

    def other_nodes(self) -> list[list[str]]:
        """The command lines for the other machines of a model that vLLM itself spreads over several; else none."""
        parallel = self.manifest.parallel
        if parallel.backend != "mp":
            return []
        return [
            [*self._python(), *self._options(0), *self._spread(node), *self.manifest.vllm.args, *self.args]
            for node in range(1, parallel.nodes)
        ]

    @property
    def _by_command(self) -> bool:
        """Whether vLLM's command serves, which takes the model as its first argument."""
        return self.interpreter.entry[-1] == "serve"

    def _python(self) -> list[str]:
        return [str(self.interpreter.path), "-m", *self.interpreter.entry]

    def _options(self, port: int) -> list[str]:
        """What this project decides; the manifest's and the user's own arguments come after it and win."""
        options = [
            *([] if self._by_command else ["--model"]), str(self.weights), "--served-model-name", self.model,
            "--host", "127.0.0.1", "--port", str(port), "--max-model-len", str(self.length),
        ]  # fmt: skip
        if self.seat.utilisation:
            options += ["--gpu-memory-utilization", f"{self.seat.utilisation:.2f}"]
        if self.seat.sequences:
            options += ["--max-num-seqs", str(self.seat.sequences)]
        if self.rank:
            options += ["--enable-lora", "--max-loras", "2", "--max-cpu-loras", "8", "--max-lora-rank", str(self.rank)]
        if self.sleeps:
            options += ["--enable-sleep-mode"]
        if self.wraps and not {"--limit-mm-per-prompt", "--language-model-only"} & {
            *self.manifest.vllm.args,
            *self.args,
        }:
            options += self.interpreter.text_only
        if self.manifest.parallel.data > 1 and self._by_command:
            options += ["--api-server-count", "1"]  # several cannot load adapters while they run
        if self.interpreter.for_cpu:  # a seeded request whose prompt is read in parts ends a server on a CPU
            options += ["--no-enable-chunked-prefill", "--max-num-batched-tokens", str(self.length)]
            options += [] if self._spread() else ["--distributed-executor-backend", "uni"]
        return options

    def environment(self, mark: str) -> dict[str, str]:
        """This process's environment without its secrets, with every way out of the machine closed.

        Of servers over several machines only the libraries' switches: they have each other to talk to.
        """
        kept = {key: value for key, value in os.environ.items() if not key.upper().endswith(SECRETS)}
        own = {
            **SETTINGS,
            **SAFE_PATH,
            "VLLM_LOGGING_COLOR": "0",
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1" if self.rank else "0",
            "VLLM_BATCH_INVARIANT": "1" if self.batch_invariant else "0",
            "VLLM_SERVER_DEV_MODE": "1" if self.sleeps else "0",  # opens more than sleep mode, so only set when needed
            "SPT_NOENV": "1",  # else a process that titles itself overwrites its environment, and the mark in it
            MARK: mark,
        }
        if self.manifest.parallel.nodes == 1:
            own |= {"VLLM_HOST_IP": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"}
        if self.seat.gpus:
            own["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, self.seat.gpus))
        if self.interpreter.for_cpu:
            kept = {**ON_CPU, "VLLM_CPU_KVCACHE_SPACE": str(max(1, math.ceil(self.seat.kv_gib))), **kept}
        return guarded(kept | own) if self.manifest.parallel.nodes == 1 else kept | own

    def _spread(self, node: int = 0) -> tuple[str, ...]:
        stated = self.manifest.parallel
        return parallel_flags(stated.model_copy(update={"tensor": max(stated.tensor, self.seat.tensor)}), node)
