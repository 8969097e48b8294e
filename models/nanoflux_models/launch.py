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
"""The environment variable by which every process of a server is known, whoever its parent is by then."""
CONTEXT = 8192
"""Tokens of context that a server is started with if none are stated, besides the room for a thinking model's thoughts:
less than most models could fill.
"""
RANK = 16
"""The highest rank of an adapter that every server takes; a higher one is stated when it starts."""
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
    """A place on the GPUs: which ones, and the share of each; none of both where the plan is vLLM's own or a CPU."""

    gpus: tuple[int, ...] = ()
    utilisation: float = 0.0
    tensor: int = 1
    kv_gib: float = 0.0


@dataclass(frozen=True, slots=True)
class Launch:
    """One server, but for its port and its name. Equal launches are the same server."""

    manifest: Manifest
    revision: str
    weights: Path
    interpreter: Interpreter
    seat: Seat = field(default_factory=Seat)
    context: int = 0
    rank: int = RANK
    sleeps: bool = False
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
        """What decides the bits beside the weights: versions, and the manifest's and the user's own arguments."""
        parts = [f"vllm {self.interpreter.vllm}", f"torch {self.interpreter.torch}"]
        parts += [*self._spread(), *self.manifest.vllm.args, *self.args]
        return " ".join([*parts, "lora" if self.manifest.lora else ""]).strip()

    def command(self, port: int) -> list[str]:
        """The command line, on loopback alone."""
        known = [
            "--model", str(self.weights), "--served-model-name", self.model, "--host", "127.0.0.1",
            "--port", str(port), "--max-model-len", str(self.length),
        ]  # fmt: skip
        if self.seat.utilisation:
            known += ["--gpu-memory-utilization", f"{self.seat.utilisation:.2f}"]
        if self.manifest.lora:
            known += ["--enable-lora", "--max-loras", "2", "--max-cpu-loras", "8", "--max-lora-rank", str(self.rank)]
        if self.sleeps:
            known += ["--enable-sleep-mode"]
        if self.interpreter.for_cpu:  # a seeded request whose prompt is read in parts ends a server on a CPU
            known += ["--no-enable-chunked-prefill", "--max-num-batched-tokens", str(self.length)]
            known += [] if self._spread() else ["--distributed-executor-backend", "uni"]
        python = [str(self.interpreter.path), "-m", "vllm.entrypoints.openai.api_server"]
        return [*python, *known, *self._spread(), *self.manifest.vllm.args, *self.args]

    def environment(self, mark: str) -> dict[str, str]:
        """This process's environment without its secrets, with every way out of the machine closed.

        Of servers over several machines only the libraries' switches: they have each other to talk to.
        """
        kept = {key: value for key, value in os.environ.items() if not key.upper().endswith(SECRETS)}
        own = {
            **SETTINGS,
            **SAFE_PATH,
            "VLLM_LOGGING_COLOR": "0",
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1" if self.manifest.lora else "0",
            "VLLM_SERVER_DEV_MODE": "1" if self.sleeps else "0",  # more than sleep mode opens: only where it is needed
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

    def _spread(self) -> tuple[str, ...]:
        stated = self.manifest.parallel
        return parallel_flags(stated.model_copy(update={"tensor": max(stated.tensor, self.seat.tensor)}))
