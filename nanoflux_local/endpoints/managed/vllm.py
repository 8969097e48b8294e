"""A model behind a managed vLLM server: `openai_chat` sends the requests, `fleet` manages the server.

The first request starts a server unless a suitable one is running, so a run whose calls are all in its ledger starts
none. A server that crashes is restarted, and its requests in flight are sent again. An adapter is loaded
under its content hash and probed before the first request. A reasoning model's stop strings are not sent, since vLLM
would apply them to the reasoning; instead, the client applies them to the answer. The other requests of a batch can
change a reply, so the endpoint is repeatable only if its server passes a test of batch invariance.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from nanoflux_local.adapters.hash import adapter_hash
from nanoflux_local.endpoints.context import Context
from nanoflux_local.endpoints.local.tokens import TokenCounter
from nanoflux_local.endpoints.managed.fleet import ManagedServer
from nanoflux_local.endpoints.remote.openai_chat import OpenAIChatEndpoint
from nanoflux_local.endpoints.remote.served import CAPACITY
from nanoflux_local.errors import EndpointError, RefusedError
from nanoflux_local.reasoning import find_answer_start
from nanoflux_local.records import ChatReply, ChatRequest, Identity, without_system
from nanoflux_models.batch_probe import find_batch_dependence
from nanoflux_models.errors import ModelsError, ServerRefusedError
from nanoflux_models.probe import probe
from nanoflux_models.sentinel import Sentinel, choose_sentinel, still_applies
from nanoflux_models.server_client import ServerClient

T = TypeVar("T")


class VllmEndpoint:
    """A chat endpoint on a managed vLLM server, with or without an adapter. `reasoning_tokens` limits the reasoning of
    a reply; None uses the limit in the model's manifest.
    """

    def __init__(
        self,
        server: ManagedServer,
        adapter: Path | None = None,
        capacity: int = CAPACITY,
        structured: bool = False,
        reasoning_tokens: int | None = None,
    ) -> None:
        launch = server.launch
        self.capacity = capacity
        self.repeatable = launch.batch_invariant  # `_test_batch_invariance` tests this once the server answers
        reasoning_limit = launch.manifest.reasoning_limit if reasoning_tokens is None else reasoning_tokens
        self.context = Context(launch.max_model_len, reasoning_limit)
        self._server, self._adapter = server, adapter
        # The model's name in requests to the server: an adapter is loaded under its hash.
        self._served_name = adapter_hash(adapter) if adapter else launch.model
        variant = f"{launch.variant} structured" if structured else launch.variant
        self.identity = Identity("vllm", launch.model, launch.revision, self._served_name if adapter else "", variant)
        self._counter = TokenCounter(launch.weights)
        self._client: OpenAIChatEndpoint | None = None
        self._url = ""  # the address of the server to which the client sends requests
        self._refusal: RefusedError | None = None  # why every further request fails
        self._sentinel: Sentinel | None = None  # shows after a wake whether the adapter still applies
        self._preparation_lock = asyncio.Lock()

    async def chat(self, request: ChatRequest) -> ChatReply:
        """Answer one request; the request is sent again if the server crashes.

        Raises:
            EndpointError: no usable reply was received, or the server crashed too often.
            RefusedError: the adapter has no effect, or disagrees with PEFT.
        """
        while True:
            client, exit_future = await self._prepare_client()
            task = asyncio.create_task(client.chat(self._adapt_request(request)))
            try:
                await asyncio.wait((task, exit_future), return_when=asyncio.FIRST_COMPLETED)
                # If the server has failed, the loop prepares a new server and sends the request again.
                if task.done() and (task.exception() is None or not await self._server.has_failed()):
                    return self._count_reasoning(task.result())
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    def count_tokens(self, text: str) -> int:
        """Count the tokens of `text` with the model's tokenizer; this needs no server."""
        return self._counter.count(text)

    async def wake(self) -> None:
        """Wake the server, or start it if it is not running. After a wake, check that a loaded adapter still applies.

        Raises:
            RefusedError: the adapter no longer applies.
        """
        record, _ = await self._server.ensure_running()
        was_asleep = await _run_in_thread(_wake, ServerClient(record.url))
        if was_asleep and self._sentinel is not None and self._adapter is not None and record.url == self._url:
            await self._check_adapter(ServerClient(record.url), self._adapter, self._sentinel)

    async def sleep(self) -> None:
        """Put the server to sleep; this frees its GPU."""
        record, _ = await self._server.ensure_running()
        await _run_in_thread(ServerClient(record.url).sleep)

    async def close(self) -> None:
        """Close the client, and stop the server if this process started it. Safe to call twice."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()
        await self._server.close()

    async def _prepare_client(self) -> tuple[OpenAIChatEndpoint, asyncio.Future[None]]:
        """Start the server if necessary, and load and probe the adapter; return a client, and a future that is done
        when the server exits.
        """
        async with self._preparation_lock:
            if self._refusal is not None:
                raise self._refusal
            record, exit_future = await self._server.ensure_running()
            if self._client is None or record.url != self._url:
                if self._client is not None:
                    await self._client.close()
                if self._adapter is not None:
                    await self._load_and_probe(self._adapter, record.url, record.proved)
                if self._server.launch.batch_invariant and not record.batch_proved:
                    await self._test_batch_invariance(ServerClient(record.url))
                self._client = OpenAIChatEndpoint(
                    self._served_name, record.url, capacity=self.capacity, context=self.context
                )
                self._url = record.url
            return self._client, exit_future

    async def _load_and_probe(self, adapter: Path, url: str, proved_adapters: tuple[str, ...]) -> None:
        """Load the adapter, and probe it unless it is among `proved_adapters`, which passed their probe on this server.

        Raises:
            RefusedError: vLLM refuses the adapter, or the probe fails.
        """
        client, launch = ServerClient(url), self._server.launch
        await self._load_or_refuse(client, adapter)
        if self._served_name not in proved_adapters:
            result = await _run_in_thread(probe, client, launch.model, launch.weights, adapter, self._served_name)
            if not result.passed:
                command = f"nanoflux models probe {self._served_name[:12]}"
                fix = f"train it again, or use another adapter; `{command}` repeats the test"
                self._refusal = RefusedError(f"adapter {self._served_name[:12]} is refused: {result.verdict}", fix)
                raise self._refusal
            self._server.record_passed_probe(self._served_name)
        if launch.sleeps:
            self._sentinel = await _run_in_thread(choose_sentinel, client, launch.model, self._served_name)

    async def _load_or_refuse(self, client: ServerClient, adapter: Path) -> None:
        """Load the adapter. If vLLM refuses it, later requests of this endpoint fail immediately, without a retry."""
        try:
            await _run_in_thread(client.load_adapter, self._served_name, adapter)
        except EndpointError as error:
            if not isinstance(error.__cause__, ServerRefusedError):
                raise
            self._refusal = RefusedError(error.message, error.fix)
            raise self._refusal from error

    async def _check_adapter(self, client: ServerClient, adapter: Path, sentinel: Sentinel) -> None:
        """Check that the adapter still applies after a wake. If it does not, reload it.

        Raises:
            RefusedError: the reloaded adapter does not apply either.
        """
        if await _run_in_thread(still_applies, client, sentinel):
            return
        await _run_in_thread(client.unload_adapter, self._served_name)
        await _run_in_thread(client.load_adapter, self._served_name, adapter)
        if not await _run_in_thread(still_applies, client, sentinel):
            problem = f"adapter {self._served_name[:12]} no longer applies after its server has slept (vllm#53888)"
            self._refusal = RefusedError(problem, "remove `shares` from its endpoint, or merge the adapter")
            raise self._refusal

    async def _test_batch_invariance(self, client: ServerClient) -> None:
        """Test that the server's replies do not depend on the batch, and record the result.

        Raises:
            RefusedError: the replies depend on the batch.
        """
        difference = await _run_in_thread(find_batch_dependence, client, self._served_name)
        if difference:
            problem = f"the server of {self._server.launch.model} is not batch invariant: {difference}"
            self._refusal = RefusedError(problem, "remove batch_invariant; the run is then not marked repeatable")
            raise self._refusal
        self._server.record_batch_proof()

    def _count_reasoning(self, reply: ChatReply) -> ChatReply:
        """The reply with its number of reasoning tokens, which is counted here if the server reports none."""
        reasoning = reply.text[: find_answer_start(reply.text)]
        if not reasoning or reply.reasoning_tokens:
            return reply
        return replace(reply, reasoning_tokens=self.count_tokens(reasoning))

    def _adapt_request(self, request: ChatRequest) -> ChatRequest:
        """The request with the model's name on the server, and without a system message if the chat template does not
        accept one.
        """
        chat = self._server.launch.manifest.chat
        messages = request.messages if chat.system_role else without_system(request.messages)
        return replace(request, messages=messages, endpoint=replace(request.endpoint, model=self._served_name))


def _wake(client: ServerClient) -> bool:
    """Wake the server; return whether it was asleep."""
    was_asleep = client.is_asleep()
    if was_asleep:
        client.wake()
    return was_asleep


async def _run_in_thread(function: Callable[..., T], *arguments: object) -> T:
    """Run `function` in a thread; errors of `nanoflux_models` become endpoint errors."""
    try:
        return await asyncio.to_thread(function, *arguments)
    except ModelsError as error:
        raise EndpointError(error.message, error.fix) from error
