"""Time-sharing: endpoints that share one GPU answer in waves; all but one of them sleep.

A wave is a period in which one endpoint is awake. A swap takes seconds, so endpoints are swapped only once per wave:
requests for a sleeping endpoint wait until the awake endpoint has no request in flight and has received none for a
short while. Then the endpoint with the most waiting requests is woken; among endpoints with equally many, the one with
the oldest request. The engine runs turns concurrently, so a wave answers the same step of many turns. Waves do not
change replies, so the order of the waves does not affect the dataset.

This module starts no server and does not retry: if a swap fails, the requests that wait for it fail.
"""

import asyncio
import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol, cast, runtime_checkable

from nanoflux_local.endpoints.base import Endpoint
from nanoflux_local.endpoints.context import Context
from nanoflux_local.errors import ConfigError, EndpointError, NanofluxError
from nanoflux_local.records import ChatReply, ChatRequest, Identity

LINGER_S = 0.1
"""How long the awake endpoint waits for another request before it yields the GPU: short compared with a swap."""


@runtime_checkable
class Sleeper(Endpoint, Protocol):
    """An endpoint that can release its GPU and occupy it again.

    `wake` starts the server if needed, and returns when requests can be sent; `sleep` returns when the GPU's memory is
    free (vLLM: `POST /wake_up` and `POST /sleep?level=1`). Both may be called repeatedly, but neither is called while a
    request is in flight.
    """

    async def sleep(self) -> None: ...

    async def wake(self) -> None: ...


class SharedGpu:
    """The endpoints of one GPU, of which at most one is awake. Use it only in one event loop."""

    def __init__(self, linger_s: float = LINGER_S) -> None:
        self.swaps = 0  # how often an endpoint was woken
        self._linger_s = linger_s
        self._resident: Sleeper | None = None  # the endpoint that occupies the GPU's memory
        self._answering: Sleeper | None = None  # the endpoint that may receive requests; None during a swap
        self._in_flight = 0
        # The futures of the waiting requests, by ticket; a future is done when its request is admitted.
        self._waiting: dict[Sleeper, dict[int, asyncio.Future[None]]] = {}
        self._tickets = itertools.count()
        self._swap_task: asyncio.Task[None] | None = None

    async def enter(self, member: Sleeper) -> None:
        """Wait until a wave of this member admits the request. The caller must call `leave` after its request."""
        if self._answering is member:
            self._in_flight += 1
            return
        ticket, future = next(self._tickets), asyncio.get_running_loop().create_future()
        self._waiting.setdefault(member, {})[ticket] = future
        self._start_swap_if_idle()
        try:
            await future
        except BaseException:
            self._waiting.get(member, {}).pop(ticket, None)
            if future.done() and not future.cancelled() and future.exception() is None:
                self.leave()  # the request was cancelled just after it was admitted
            raise

    def leave(self) -> None:
        """Record that a request was answered or cancelled."""
        self._in_flight -= 1
        self._start_swap_if_idle()

    async def close(self) -> None:
        """Cancel a swap in progress; waiting requests fail. Safe to call twice."""
        task, self._swap_task = self._swap_task, None
        if task:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        for member in list(self._waiting):
            self._fail(member, EndpointError("the endpoint was closed", "resume the run"))

    def _start_swap_if_idle(self) -> None:
        """Start the task that ends the wave, if requests wait, none is in flight, and no swap is in progress."""
        if self._swap_task is None and not self._in_flight and any(self._waiting.values()):
            self._swap_task = asyncio.create_task(self._end_wave())

    async def _end_wave(self) -> None:
        """Wait for the awake endpoint's last requests, then wake the endpoint with the highest priority."""
        try:
            if self._answering is not None:
                await asyncio.sleep(self._linger_s)
            waiting_members = [member for member, futures in self._waiting.items() if futures]
            if not self._in_flight and waiting_members:
                await self._swap(max(waiting_members, key=self._priority))
        finally:
            if self._swap_task is asyncio.current_task():
                self._swap_task = None
                self._start_swap_if_idle()

    def _priority(self, member: Sleeper) -> tuple[int, int]:
        """The priority of a member: by the number of its waiting requests, then by the age of the oldest request."""
        futures = self._waiting[member]
        oldest_ticket = min(futures)
        return len(futures), -oldest_ticket

    async def _swap(self, member: Sleeper) -> None:
        """Wake a member and admit its waiting requests. If the member cannot be woken, these requests fail."""
        self._answering = None
        try:
            if self._resident is not None and self._resident is not member:
                await self._resident.sleep()
            self._resident = member  # the member may now occupy memory, even if it fails to wake
            await member.wake()
        except Exception as error:  # noqa: BLE001 - every error of a swap must reach the requests that wait for it
            if not isinstance(error, NanofluxError):
                fix = "read the servers' logs, then resume the run"
                error = EndpointError(f"models could not be swapped: {error}", fix)
            self._fail(member, error)
            return
        self.swaps += 1
        self._answering = member
        for future in self._waiting.pop(member, {}).values():
            if not future.done():
                self._in_flight += 1
                future.set_result(None)

    def _fail(self, member: Sleeper, error: NanofluxError) -> None:
        """Fail the waiting requests of a member."""
        for future in self._waiting.pop(member, {}).values():
            if not future.done():
                future.set_exception(error)


class TimeShared:
    """An endpoint that sends its requests only in its waves; otherwise it behaves like `inner`."""

    def __init__(self, inner: Sleeper, gpu: SharedGpu) -> None:
        self.inner, self.gpu = inner, gpu

    @property
    def identity(self) -> Identity:
        return self.inner.identity

    @property
    def repeatable(self) -> bool:
        return self.inner.repeatable

    @property
    def capacity(self) -> int:
        return self.inner.capacity

    @property
    def context(self) -> Context:
        return self.inner.context

    async def chat(self, request: ChatRequest) -> ChatReply:
        """Answer the request in the endpoint's next wave.

        Raises:
            EndpointError: no usable reply was received, or the model could not be woken.
        """
        await self.gpu.enter(self.inner)
        with _leave_at_end(self.gpu):
            return await self.inner.chat(request)

    def count_tokens(self, text: str) -> int | None:
        return self.inner.count_tokens(text)

    async def close(self) -> None:
        await self.gpu.close()
        await self.inner.close()


@contextmanager
def _leave_at_end(gpu: SharedGpu) -> Iterator[None]:
    """Call `gpu.leave` when the block ends, even if the block fails."""
    try:
        yield
    finally:
        gpu.leave()


def take_turns(
    endpoints: Mapping[str, Endpoint], groups: Mapping[str, str], linger_s: float = LINGER_S
) -> dict[str, Endpoint]:
    """Return the endpoints, wrapped so that endpoints of the same group take turns. `groups` maps the endpoints' names
    to groups ("": none).

    Raises:
        ConfigError: an endpoint with a group cannot sleep.
    """
    gpu_by_group = {group: SharedGpu(linger_s) for group in groups.values() if group}
    wrapped_endpoints = dict(endpoints)
    for name, group in groups.items():
        if not group:
            continue
        endpoint = endpoints[name]
        if not isinstance(endpoint, Sleeper):
            fix = "remove the key: only servers that NanoFlux manages can sleep"
            raise ConfigError(f"endpoints.{name}.shares: this endpoint cannot sleep", fix)
        time_shared = TimeShared(endpoint, gpu_by_group[group])
        wrapped_endpoints[name] = cast(Endpoint, time_shared)  # a cast, since the wrapper's attributes are read-only
    return wrapped_endpoints
