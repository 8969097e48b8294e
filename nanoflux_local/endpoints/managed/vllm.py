"""A model behind a vLLM server that is managed here: chat by `openai_chat`, everything else around it by `fleet`.

The server is found or started when the first request comes, so a run that its ledger answers starts none. A server
that dies is started again and the requests that it held are asked again. An adapter is loaded under its content hash
and proved before anything is asked of it. A thinking model's stop strings are not sent: vLLM would look for them in the
thoughts, and they are applied to the answer here. What else is in a batch may change a reply, so it is repeatable only
as a batch-invariant server, which has to show that it is one.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from nanoflux_local.adapters.hash import adapter_hash
from nanoflux_local.endpoints.context import Context
from nanoflux_local.endpoints.local.tokens import TokenCounter
from nanoflux_local.endpoints.managed.fleet import Managed
from nanoflux_local.endpoints.remote.openai_chat import OpenAIChatEndpoint
from nanoflux_local.endpoints.remote.served import CAPACITY
from nanoflux_local.errors import EndpointError, RefusedError
from nanoflux_local.reasoning import answer_start
from nanoflux_local.records import ChatReply, ChatRequest, Identity, without_system
from nanoflux_models.batch_probe import batch_dependence
from nanoflux_models.control import Control
from nanoflux_models.errors import ModelsError, ServerRefusedError
from nanoflux_models.probe import probe
from nanoflux_models.sentinel import Sentinel, choose_sentinel, still_applies

T = TypeVar("T")


class VllmEndpoint:
    """Chat with a served model, or with an adapter on it. `reasoning_tokens` are the room for its thoughts; None takes
    its manifest's.
    """

    def __init__(
        self,
        server: Managed,
        adapter: Path | None = None,
        capacity: int = CAPACITY,
        structured: bool = False,
        reasoning_tokens: int | None = None,
    ) -> None:
        launch = server.launch
        self.capacity = capacity
        self.repeatable = launch.batch_invariant  # held to it when the server answers: `_prove_batch_invariance`
        room = launch.manifest.reasoning_room if reasoning_tokens is None else reasoning_tokens
        self.context = Context(launch.length, room)
        self._server, self._adapter = server, adapter
        self._name = adapter_hash(adapter) if adapter else launch.model
        variant = f"{launch.variant} structured" if structured else launch.variant
        self.identity = Identity("vllm", launch.model, launch.revision, self._name if adapter else "", variant)
        self._counter = TokenCounter(launch.weights)
        self._client: OpenAIChatEndpoint | None = None
        self._url = ""
        self._refused: RefusedError | None = None
        self._sentinel: Sentinel | None = None
        self._preparing = asyncio.Lock()

    async def chat(self, request: ChatRequest) -> ChatReply:
        """Answer one request, on another server if this one dies.

        Raises:
            EndpointError: no usable reply came, or the server died too often.
            RefusedError: the adapter does nothing, or not what it does in PEFT.
        """
        while True:
            client, ended = await self._ready()
            asked = asyncio.create_task(client.chat(self._adapt_request(request)))
            try:
                await asyncio.wait((asked, ended), return_when=asyncio.FIRST_COMPLETED)
                if asked.done() and (asked.exception() is None or not await self._server.is_sick()):
                    return self._count_reasoning(asked.result())
            finally:
                asked.cancel()
                await asyncio.gather(asked, return_exceptions=True)

    def count_tokens(self, text: str) -> int:
        """Tokens of `text` in the model's own tokenizer; needs no server."""
        return self._counter.count(text)

    async def wake(self) -> None:
        """Wake the server, or start it if it does not run; check a loaded adapter after each wake.

        Raises:
            RefusedError: the adapter no longer applies.
        """
        record, _ = await self._server.up()
        woken = await _in_thread(_wake, Control(record.url))
        if woken and self._sentinel is not None and self._adapter is not None and record.url == self._url:
            await self._check_adapter(Control(record.url), self._adapter, self._sentinel)

    async def sleep(self) -> None:
        """Put the server to sleep, which frees its GPU."""
        await self._control(Control.sleep)

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()
        await self._server.close()

    async def _control(self, act: Callable[[Control], object]) -> None:
        record, _ = await self._server.up()
        await _in_thread(act, Control(record.url))

    async def _ready(self) -> tuple[OpenAIChatEndpoint, asyncio.Future[None]]:
        """A client of the running server, after its adapter was loaded and probed."""
        async with self._preparing:
            if self._refused is not None:
                raise self._refused
            record, ended = await self._server.up()
            if self._client is None or record.url != self._url:
                if self._client is not None:
                    await self._client.close()
                if self._adapter is not None:
                    await self._load(self._adapter, record.url, record.proved)
                if self._server.launch.batch_invariant and not record.batch_proved:
                    await self._prove_batch_invariance(Control(record.url))
                self._client = OpenAIChatEndpoint(self._name, record.url, capacity=self.capacity, context=self.context)
                self._url = record.url
            return self._client, ended

    async def _load(self, adapter: Path, url: str, proved: tuple[str, ...]) -> None:
        control, launch = Control(url), self._server.launch
        await self._load_or_refuse(control, adapter)
        if self._name not in proved:
            result = await _in_thread(probe, control, launch.model, launch.weights, adapter, self._name)
            if not result.passed:
                fix = f"see `nanoflux models probe {self._name[:12]}`; train it again, or use another"
                self._refused = RefusedError(f"adapter {self._name[:12]} is refused: {result.verdict}", fix)
                raise self._refused
            self._server.note_proved(self._name)
        if launch.sleeps:
            self._sentinel = await _in_thread(choose_sentinel, control, launch.model, self._name)

    async def _load_or_refuse(self, control: Control, adapter: Path) -> None:
        """Load the adapter; vLLM's refusal is final, so that no other request of this endpoint tries again."""
        try:
            await _in_thread(control.load_adapter, self._name, adapter)
        except EndpointError as error:
            if not isinstance(error.__cause__, ServerRefusedError):
                raise
            self._refused = RefusedError(error.message, error.fix)
            raise self._refused from error

    async def _check_adapter(self, control: Control, adapter: Path, sentinel: Sentinel) -> None:
        """After a wake: check that the adapter still applies; reload it if not, and refuse it if that fails too."""
        if await _in_thread(still_applies, control, sentinel):
            return
        await _in_thread(control.unload_adapter, self._name)
        await _in_thread(control.load_adapter, self._name, adapter)
        if not await _in_thread(still_applies, control, sentinel):
            problem = f"adapter {self._name[:12]} no longer applies after its server has slept (vllm#53888)"
            self._refused = RefusedError(
                problem, "give its endpoint a GPU that it shares with none, or merge the adapter"
            )
            raise self._refused

    async def _prove_batch_invariance(self, control: Control) -> None:
        difference = await _in_thread(batch_dependence, control, self._name)
        if difference:
            problem = f"the server of {self._server.launch.model} is not batch invariant: {difference}"
            self._refused = RefusedError(problem, "leave out batch_invariant; the run is then not marked repeatable")
            raise self._refused
        self._server.note_batch_proved()

    def _count_reasoning(self, reply: ChatReply) -> ChatReply:
        """The reply with its `reasoning_tokens`, counted here if the server did not."""
        thoughts = reply.text[: answer_start(reply.text)]
        if not thoughts or reply.reasoning_tokens:
            return reply
        return replace(reply, reasoning_tokens=self.count_tokens(thoughts))

    def _adapt_request(self, request: ChatRequest) -> ChatRequest:
        """The request with the server's name for the model, and without a system role if the template has none."""
        chat = self._server.launch.manifest.chat
        messages = request.messages if chat.system_role else without_system(request.messages)
        return replace(request, messages=messages, endpoint=replace(request.endpoint, model=self._name))


def _wake(control: Control) -> bool:
    """Wake the server; return whether it was asleep."""
    asleep = control.asleep()
    if asleep:
        control.wake()
    return asleep


async def _in_thread(work: Callable[..., T], *arguments: object) -> T:
    """Run `work` in a thread; errors of `nanoflux_models` become endpoint errors."""
    try:
        return await asyncio.to_thread(work, *arguments)
    except ModelsError as error:
        raise EndpointError(error.message, error.fix) from error
