"""Adapts the timeout of requests and the number of concurrent requests to a server's behaviour.

With a fixed timeout, a slow local server would look broken. A fixed number of concurrent requests would be too low for
a large server, or too high for a small server.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from nanoflux_local.limiter import Limiter

FIRST_MULTIPLE = 10.0
"""Before the first measurement, the timeout is this multiple of the minimum, since weights may still be loading."""
MULTIPLE = 4.0
"""The timeout allows a reply this multiple of the slowest recent time per token."""
MIN_TOKENS = 64
"""Shorter replies count as this many tokens, since most of their time is the wait for the first token."""
MAX_SLACK = 16.0
"""The largest factor by which timeouts lengthen after requests that timed out."""


class AdaptiveTimeout:
    """The timeout of a server's requests: at least `min_s` seconds, and longer if the server's replies take longer."""

    def __init__(self, min_s: float) -> None:
        self._min_s = min_s
        self._token_s: float | None = None  # seconds per token, once a reply was measured
        self._slack = 1.0  # the factor by which requests that timed out have lengthened the timeout
        self._tokens_by_timeout: dict[asyncio.Timeout, int] = {}  # the token limit of each running `time_limit` block

    def limit(self, tokens: int) -> float:
        """The timeout in seconds for a reply of at most `tokens` tokens."""
        if self._token_s is None:
            return self._min_s * FIRST_MULTIPLE * self._slack
        return max(self._min_s, MULTIPLE * self._token_s * max(tokens, MIN_TOKENS)) * self._slack

    @asynccontextmanager
    async def time_limit(self, tokens: int, timeout_s: float) -> AsyncIterator[None]:
        """Run the block, which waits for a reply of at most `tokens` tokens, with a timeout. The first measured speed
        also adapts the timeouts of blocks that are running at that time.

        Raises:
            TimeoutError: the block took longer.
        """
        try:
            async with asyncio.timeout(timeout_s) as timeout:
                self._tokens_by_timeout[timeout] = tokens
                try:
                    yield
                finally:
                    del self._tokens_by_timeout[timeout]
        except TimeoutError:
            # The timeout may have been too short, so the next request gets a longer one. Requests that ran at the same
            # time with the same timeout lengthen it only once.
            timeout_without_slack = self.limit(tokens) / self._slack
            doubled_slack = 2 * timeout_s / timeout_without_slack
            self._slack = min(MAX_SLACK, max(self._slack, doubled_slack))
            raise

    def note_answer(self, seconds: float, tokens: int) -> None:
        """Adapt the timeout to an answer. An answer that took longer per token than earlier answers lengthens the
        timeout immediately; a faster answer shortens it gradually.
        """
        is_first = self._token_s is None
        token_s = seconds / max(tokens, MIN_TOKENS)
        moving_average = 0.9 * (self._token_s or 0.0) + 0.1 * token_s
        self._token_s = max(token_s, moving_average)
        self._slack = max(1.0, self._slack / 2)
        if is_first:
            now = asyncio.get_running_loop().time()
            for timeout, max_tokens in self._tokens_by_timeout.items():
                deadline = timeout.when() or now
                timeout.reschedule(min(deadline, now + self.limit(max_tokens)))


class AdaptiveLimiter(Limiter):
    """Limits one server to `limit` concurrent requests, and adapts `limit` between 1 and `capacity`.

    Every answer raises the limit a little, and a busy response (429 or 529) halves it: additive increase,
    multiplicative decrease. Requests that were in flight together halve the limit only once.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__(float(capacity))
        self.capacity = capacity
        self._halved_at = self._paused_until = 0.0

    @property
    def pause_left_s(self) -> float:
        """The remaining seconds of the pause that the server asked for."""
        return max(0.0, self._paused_until - time.monotonic())

    def pause(self, seconds: float) -> None:
        """Send no request for the `seconds` that the server asked for."""
        self._paused_until = max(self._paused_until, time.monotonic() + seconds)

    def widen(self) -> None:
        """Raise the limit after an answer, so that it rises by about 1 with every `limit` answers."""
        self.resize(min(float(self.capacity), self.limit + 1.0 / self.limit))

    def halve(self, start: float) -> None:
        """Halve the limit after a busy response to a request that was sent at `start`."""
        if start > self._halved_at:
            self._halved_at = time.monotonic()
            self.limit = max(1.0, self.limit / 2)
