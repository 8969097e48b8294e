"""Lowers the concurrency limit of a server when its vLLM metrics report many waiting requests or a full KV cache.

A server without these metrics is queried only once.
"""

import asyncio
import re
import time
from typing import Any

from nanoflux_local.endpoints.remote.replicas import Replica

INTERVAL_S = 1.0
"""The minimum number of seconds between two readings of the metrics."""
TIMEOUT_S = 5.0
"""The timeout of one reading."""
FULL_CACHE = 0.95
"""The share of the KV cache in use above which requests evict each other."""
LONG_QUEUE = 0.25
"""The share of the requests in flight that may wait at the server. A few should wait, so that the server is never idle.
"""
SETTLE_S = 0.5
"""A queue lowers the limit only if it lasts this long. Short queues are normal: replies of equal length end together,
and then many new requests arrive together.
"""
_METRIC = re.compile(r"^vllm:(num_requests_waiting|kv_cache_usage_perc)(?:\{[^}]*\})? (\S+)$", re.MULTILINE)


class Gauge:
    """Reads a server's metrics at most once in `INTERVAL_S` seconds, without delaying requests."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._read_at = float("-inf")
        self._has_no_metrics = False
        self._task: asyncio.Task[None] | None = None

    def refresh(self) -> None:
        """Read the metrics in the background unless they were read recently. Call this with every request."""
        now = time.monotonic()
        if self._has_no_metrics or self._task is not None or now - self._read_at < INTERVAL_S:
            return
        self._read_at = now
        self._task = asyncio.create_task(self._adapt_limit(now))

    async def _adapt_limit(self, start: float) -> None:
        """Halve the concurrency limit if the server is crowded now and again after `SETTLE_S` seconds. `start` is the
        time of the call.
        """
        import httpx2

        try:
            async with httpx2.AsyncClient(trust_env=False, timeout=TIMEOUT_S) as client:
                if await self._is_crowded(client):
                    await asyncio.sleep(SETTLE_S)
                    if await self._is_crowded(client):
                        self._replica.limiter.halve(start)
        except httpx2.HTTPError:
            return  # the requests report a failing server
        finally:
            self._task = None

    async def _is_crowded(self, client: Any) -> bool:
        """Whether the server reports more requests than it can run concurrently."""
        metrics_url = self._replica.url.rstrip("/").removesuffix("/v1") + "/metrics"
        response = await client.get(metrics_url)
        metrics = read_metrics(response.text) if response.status_code == 200 else {}
        self._has_no_metrics = not metrics
        is_cache_full = metrics.get("kv_cache_usage_perc", 0.0) >= FULL_CACHE
        max_waiting = LONG_QUEUE * self._replica.limiter.limit + 1
        return is_cache_full or metrics.get("num_requests_waiting", 0.0) > max_waiting

    async def close(self) -> None:
        """Cancel a reading in progress. Safe to call twice."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def read_metrics(text: str) -> dict[str, float]:
    """The number of waiting requests and the share of the KV cache in use, by the names of vLLM's metrics. If several
    engines report a value, the largest value is used.
    """
    value_by_name: dict[str, float] = {}
    for name, value_text in _METRIC.findall(text):
        value_by_name[name] = max(value_by_name.get(name, 0.0), float(value_text))
    return value_by_name
