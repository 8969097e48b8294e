"""Sends the requests of one endpoint to its servers, in any protocol.

For each request, a `Service` picks a replica, waits for a slot, sends the request with a timeout, reports every fault,
and retries while `RetryState` allows it. The caller's `send_request` writes the request and reads the response.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

from nanoflux_local.endpoints.faults import FAULT_LISTENER, MAX_RAW_CHARS, ClassifiedFault, classify_error
from nanoflux_local.endpoints.remote.gauge import Gauge
from nanoflux_local.endpoints.remote.keys import ApiKey
from nanoflux_local.endpoints.remote.network import check_network, find_proxy
from nanoflux_local.endpoints.remote.pace import AdaptiveTimeout
from nanoflux_local.endpoints.remote.refusals import find_refusal_cause
from nanoflux_local.endpoints.remote.replicas import Replica, has_untried_replica, pick_replica
from nanoflux_local.endpoints.remote.retries import MAX_WAIT_S, RetryState
from nanoflux_local.endpoints.remote.waits import Waits, local_time
from nanoflux_local.errors import BusyError, EndpointError, EndpointRefusedError, PromptRefusedError, RefusedError
from nanoflux_local.records import ChatReply, Fault
from nanoflux_models import guard

BILLABLE_FAULTS = ("timeout", "reset", "garbled")
"""Faults after which the server may still charge, since it may have completed the request."""
T = TypeVar("T")
SendRequest = Callable[[Any, float], Awaitable[T]]
"""Sends one request through a client within a timeout in seconds, and reads the reply."""


@dataclass(frozen=True, slots=True)
class AttemptBounds:
    """Upper bounds on one attempt: its completion tokens (`tokens`), and the tokens and dollars that the server may
    charge if the reply is lost.
    """

    tokens: int = 1
    lost_tokens: int = 0
    lost_usd: float = 0.0


class Service:
    """The servers at `urls`, each with at most `capacity` concurrent requests; `connect` makes a client for an address.

    With `reads_metrics`, the servers' load is read from vLLM's metrics.

    Raises:
        ConfigError: the environment names an unusable proxy or certificates.
    """

    def __init__(
        self,
        model: str,
        urls: Sequence[str],
        key: ApiKey,
        sdk: Callable[[], ModuleType],
        connect: Callable[[str, ApiKey], Any],
        capacity: int,
        timeout_s: float,
        reads_metrics: bool = False,
    ) -> None:
        for url in urls:
            check_network(url)
        self.model, self.urls, self.key = model, tuple(urls), key
        guard.allow(*self.urls)  # a configured address allows connections to its host, and to no other
        self.capacity = capacity * len(self.urls)
        self._capacity_of_replica, self._reads_metrics = capacity, reads_metrics
        self._sdk, self._connect = sdk, connect
        self._timeout = AdaptiveTimeout(timeout_s)
        self._replicas: list[Replica] = []
        self._gauges: list[Gauge] = []
        self._waits = Waits()

    async def ask(self, send_request: SendRequest[T], bounds: AttemptBounds) -> T:
        """Call `send_request` until it returns a reply, retrying after faults.

        Raises:
            PromptRefusedError: the server refuses this prompt permanently.
            BusyError: the servers ask for a longer pause than a call may wait.
            EndpointError: no usable reply was received, and no retry is left or would help.
        """
        retries = RetryState()
        while True:
            replica = pick_replica(self._connect_replicas(), retries.failed_replicas)
            if replica.limiter.pause_left_s:
                await self._wait(replica, retries)
                continue
            async with replica.limiter:
                if replica.limiter.pause_left_s:
                    continue  # the server asked for a pause while this call waited for its slot
                start, timeout_s = time.monotonic(), self._timeout.limit(bounds.tokens)
                outcome = await self._attempt(send_request, replica, bounds.tokens, timeout_s)
            seconds = time.monotonic() - start
            if not isinstance(outcome, ClassifiedFault):
                self._note_answer(replica, seconds, outcome)
                return outcome
            self._raise_if_refused(replica, outcome)
            self._report_fault(outcome, seconds, bounds)
            pause_s = self._note_fault(replica, outcome, start, retries)
            if pause_s is not None:
                self._waits.note(replica.url, self.key.mask(outcome.message), pause_s, retries.waited_s)
                await asyncio.sleep(pause_s)
            elif outcome.reply is not None:
                return cast(T, outcome.reply)  # no retry is left after empty replies, so the last one is accepted
            else:
                raise self._make_error(replica, outcome)

    async def _wait(self, replica: Replica, retries: RetryState) -> None:
        """Wait for the pause that a server asks for.

        Raises:
            BusyError: the server asks for a longer pause than a call may wait.
        """
        pause_s = replica.limiter.pause_left_s
        wait_s = retries.wait_for_busy_server(pause_s)
        if wait_s is None:
            raise BusyError(
                f"{replica.url} asks for a pause until {local_time(pause_s)}: it {replica.pause_message}",
                "resume after the pause with `nanoflux run resume`, or list more servers in the endpoint's `urls`",
            )
        self._waits.note(replica.url, replica.pause_message, wait_s, retries.waited_s)
        await asyncio.sleep(wait_s)

    async def _attempt(
        self, send_request: SendRequest[T], replica: Replica, tokens: int, timeout_s: float
    ) -> T | ClassifiedFault:
        """Return the reply, or the classified fault. The SDK's exception is not raised, since it may contain a key."""
        try:
            async with self._timeout.time_limit(tokens, timeout_s):
                return await send_request(replica.client, timeout_s)
        except Exception as error:
            refusal = guard.find_refusal(error)
            if refusal:  # the network guard refused the connection
                raise RefusedError(refusal.message, refusal.fix) from None
            fault = classify_error(error, self._sdk(), timeout_s)
            if fault is None:
                raise
            proxy = find_proxy(replica.url)
            if proxy is None or not fault.may_be_down:
                return fault
            return replace(fault, message=f"{fault.message} (using the proxy {proxy.address} of {proxy.variable})")

    def _note_answer(self, replica: Replica, seconds: float, reply: object) -> None:
        """Adapt the replica, its limiter and the timeout to an answer."""
        replica.note_answer()
        replica.limiter.widen()
        self._timeout.note_answer(seconds, reply.completion_tokens if isinstance(reply, ChatReply) else 1)

    def _note_fault(self, replica: Replica, fault: ClassifiedFault, start: float, retries: RetryState) -> float | None:
        """Adapt the limiter and the replica to a fault; return the seconds until the next attempt, or None if the call
        fails.
        """
        if fault.kind == "rate_limited":
            replica.limiter.halve(start)
        if fault.retry_after_s and fault.kind is not None:
            replica.limiter.pause(fault.retry_after_s)
            replica.pause_message = self.key.mask(fault.message)
        if fault.may_be_down:
            replica.note_failure()
        else:
            replica.has_responded = True
        retries.failed_replicas.append(replica)
        another_is_free = has_untried_replica(self._replicas, retries.failed_replicas)
        if not another_is_free:
            retries.failed_replicas.clear()
        return retries.pause_after_fault(fault, replica.has_responded, another_is_free)

    def _raise_if_refused(self, replica: Replica, fault: ClassifiedFault) -> None:
        """Raise PromptRefusedError if a healthy server permanently refuses this prompt, so that a retry would be
        useless.
        """
        cause = find_refusal_cause(fault)
        if cause:
            replica.note_answer()
            raise PromptRefusedError(cause, self.key.mask(fault.message), fault.fix)

    def _report_fault(self, fault: ClassifiedFault, seconds: float, bounds: AttemptBounds) -> None:
        """Report a fault to the listener, with the tokens and dollars that it may have cost."""
        if fault.kind is None:
            return
        tokens, usd = 0, 0.0
        if fault.reply is not None:
            tokens, usd = fault.reply.prompt_tokens + fault.reply.completion_tokens, fault.reply.usd
        elif fault.kind in BILLABLE_FAULTS:
            tokens, usd = bounds.lost_tokens, bounds.lost_usd
        message, raw = self.key.mask(fault.message), self.key.mask(fault.raw)[:MAX_RAW_CHARS]
        report = FAULT_LISTENER.get()
        report(Fault(self.model, fault.kind, message, raw, round(seconds, 3), tokens, usd))

    def _make_error(self, replica: Replica, fault: ClassifiedFault) -> EndpointError:
        """Make the error of a failed call. The key is masked, since servers repeat keys in their messages, and a run
        records its errors.
        """
        message = f"{replica.url} {self.key.mask(fault.message)}"
        if fault.kind == "rate_limited":
            hours = MAX_WAIT_S / 3600
            return BusyError(f"{message}, for {hours:g} h", "resume later with `nanoflux run resume`")
        proxy = find_proxy(replica.url)
        fix, setting = fault.fix or "see the server's log", fault.setting
        if fault.kind == "unreachable" and proxy is not None:
            host = urlsplit(replica.url).hostname
            fix = f"start the proxy, unset {proxy.variable}, or add {host} to NO_PROXY"
        elif fault.kind == "unreachable":
            fix, setting = "start the server, or correct the endpoint's url", "url"
        error_class = EndpointRefusedError if fault.kind is None else EndpointError
        error = error_class(message, f"{fix}; then `nanoflux run resume`")
        error.address, error.setting = replica.url, setting
        return error

    def concurrency_limits(self) -> list[float]:
        """The current concurrency limit of each replica, in the order of the addresses."""
        return [replica.limiter.limit for replica in self._connect_replicas()]

    def _connect_replicas(self) -> list[Replica]:
        """Return the replicas, and connect them on the first call. Each call also refreshes the gauges."""
        if not self._replicas:
            self._replicas = [
                Replica(url, self._connect(url, self.key), self._capacity_of_replica) for url in self.urls
            ]
            if self._reads_metrics:
                self._gauges = [Gauge(replica) for replica in self._replicas]
        for gauge in self._gauges:
            gauge.refresh()
        return self._replicas

    async def close(self) -> None:
        """Close all connections. Safe to call twice."""
        for gauge in self._gauges:
            await gauge.close()
        for replica in self._replicas:
            await replica.client.close()
        self._replicas, self._gauges = [], []
