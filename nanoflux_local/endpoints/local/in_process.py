"""The in-process endpoint: a model from a weights folder that runs in this process, on CPU or GPU.

On one machine, with one version of torch, a repeated request gets the same reply whatever else is in the batch (see
`decoder`). Weights are loaded when the first request arrives, so a run whose calls are all in its ledger loads none.
`batcher` manages the queue, and `decoder` computes the logits. Nothing is downloaded.
"""

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from nanoflux_local.adapters.hash import adapter_hash
from nanoflux_local.endpoints.context import Context
from nanoflux_local.endpoints.local.batcher import Batcher
from nanoflux_local.endpoints.local.cores import share_cores
from nanoflux_local.endpoints.local.tokens import TokenCounter
from nanoflux_local.errors import EndpointError
from nanoflux_local.reasoning import find_answer_start
from nanoflux_local.records import ChatReply, ChatRequest, Identity
from nanoflux_models.offline import go_offline

if TYPE_CHECKING:
    from nanoflux_local.endpoints.local.codec import ChatCodec
    from nanoflux_local.endpoints.local.decoder import Decoder

# Measured on two cores with bfloat16: 32 rows gave a quarter more tokens per second than 16 when all were in use (368
# against 289), but a step with few rows in use took 1.6 times as long. Runs seldom need more than 16 replies at once.
ROWS = 16
"""The default number of requests that are decoded together."""
BF16_FLAGS = {"amx_bf16", "avx512_bf16", "bf16"}
"""The flags with which /proc/cpuinfo shows that a CPU computes in bfloat16."""


class InProcessEndpoint:
    """A chat endpoint that runs a local model. Up to `rows` requests are decoded together; further requests wait.

    `system_role` is false if the model accepts no system message; the message's text is then put into the first user
    message.
    """

    def __init__(
        self,
        weights: Path,
        *,
        adapter: Path | None = None,
        rows: int = ROWS,
        device: str = "auto",
        dtype: str = "auto",
        system_role: bool = True,
        context: Context | None = None,
    ) -> None:
        self._weights, self._adapter, self._rows = weights, adapter, rows
        self._device = choose_device() if device == "auto" else device
        self._dtype = choose_dtype(self._device) if dtype == "auto" else dtype
        self._system_role = system_role
        self.context = context or Context()
        self._counter = TokenCounter(weights)
        self.identity = self._identify()
        self.capacity = 2 * rows  # so that a request is waiting when a row becomes free
        self.repeatable = self._device == "cpu"
        self._batcher = Batcher(rows, self._load)
        if not self.repeatable:
            # On a GPU, `_load` tests whether replies are repeatable, and a run records the result when it starts.
            decoder_and_codec = self._load()
            self._batcher = Batcher(rows, lambda: decoder_and_codec)

    async def chat(self, request: ChatRequest) -> ChatReply:
        """Answer one request. If the calling task is cancelled, the request's row is freed.

        Raises:
            EndpointError: the prompt does not fit, the chat template refuses it, or the model cannot run.
        """
        reply = await asyncio.wrap_future(self._batcher.submit(request))
        reasoning = reply.text[: find_answer_start(reply.text)]
        return replace(reply, reasoning_tokens=self.count_tokens(reasoning)) if reasoning else reply

    def count_tokens(self, text: str) -> int:
        """Count the tokens of `text` without loading the model."""
        return self._counter.count(text)

    async def close(self) -> None:
        """Stop the worker. Safe to call twice."""
        await asyncio.to_thread(self._batcher.close)

    def _identify(self) -> Identity:
        name, revision = read_name_and_revision(self._weights)
        return Identity(
            interface="in_process",
            model=name,
            revision=revision,
            adapter=adapter_hash(self._adapter) if self._adapter else "",
            variant=f"{self._device} {self._dtype} rows={self._rows}",
        )

    def _load(self) -> "tuple[Decoder, ChatCodec]":
        """Load the model, check its logits against transformers' logits, and test whether replies are repeatable."""
        go_offline()
        share_cores()
        from nanoflux_local.endpoints.local.codec import ChatCodec
        from nanoflux_local.endpoints.local.decoder import Decoder

        try:
            codec = ChatCodec(self._weights, self._system_role)
            decoder = Decoder(self._weights, self._adapter, self._rows, self._device, self._dtype)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            fix = f"check the weights with `nanoflux models verify {self.identity.model}`"
            raise EndpointError(f"{self._weights}: the model cannot be loaded: {error}", fix) from error
        if not decoder.agrees_with_transformers():
            problem = f"the logits of {self.identity.model} differ between this process and transformers"
            raise EndpointError(problem, "serve this architecture with vLLM")
        self.repeatable = decoder.is_batch_invariant()
        return decoder, codec


def read_name_and_revision(weights: Path) -> tuple[str, str]:
    """The name and revision in the record of installed weights.

    Raises:
        EndpointError: the folder has no valid record.
    """
    try:
        record = json.loads((weights / "weights.json").read_text("utf-8"))
        return str(record["name"]), str(record["revision"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        fix = "install them: nanoflux models pull NAME, or nanoflux models import PATH --name NAME"
        raise EndpointError(f"{weights} contains no installed weights ({error})", fix) from error


def choose_device() -> str:
    """Choose the GPU if there is one, else the CPU. Importing torch is slow, so torch is imported only if this machine
    has a GPU driver.
    """
    if not Path("/dev/nvidiactl").exists():
        return "cpu"
    share_cores()
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def choose_dtype(device: str) -> str:
    """Choose bfloat16 if the hardware supports it, else float32."""
    if device != "cpu":
        return "bfloat16"
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return "float32"
    flag_lines = [line for line in lines if line.startswith(("flags", "Features"))]
    flags = set(" ".join(flag_lines).split())
    return "bfloat16" if flags & BF16_FLAGS else "float32"
