"""Several servers of one model (replicas) that share its requests as one endpoint.

A request goes to the least loaded free replica. A failed replica is skipped for a while and then tried again; a replica
that asks for a pause is skipped until the pause ends.
"""

import time
from collections.abc import Collection, Sequence
from typing import Any

from nanoflux_local.endpoints.remote.pace import AdaptiveLimiter

BACKOFF_S = 2.0
"""How long a replica is skipped after its first failure."""
MAX_BACKOFF_S = 60.0
"""The longest time for which a replica is skipped after a failure."""


class Replica:
    """One server: its address, its client and its concurrency limiter. `has_responded` is true if the server ever
    responded. After a failure, the replica is skipped until `retry_at`, a time of the monotonic clock. `pause_message`
    is the last message in which the server asked for a pause.
    """

    def __init__(self, url: str, client: Any, capacity: int) -> None:
        self.url, self.client = url, client
        self.limiter = AdaptiveLimiter(capacity)
        self.has_responded = False
        self.retry_at = 0.0
        self.pause_message = ""
        self._failures = 0

    @property
    def is_available(self) -> bool:
        """False while the replica is skipped after a failure."""
        return self.retry_at <= time.monotonic()

    @property
    def is_free(self) -> bool:
        """False while the replica is skipped after a failure, or during a pause that it asked for."""
        return self.is_available and not self.limiter.pause_left_s

    def note_answer(self) -> None:
        """Record a response: the replica works."""
        self.has_responded, self.retry_at, self._failures = True, 0.0, 0

    def note_failure(self) -> None:
        """Skip this replica for a time that doubles with each consecutive failure."""
        self.retry_at = time.monotonic() + min(MAX_BACKOFF_S, BACKOFF_S * 2 ** min(self._failures, 16))
        self._failures += 1


def pick_replica(replicas: Sequence[Replica], tried: Collection[Replica] = ()) -> Replica:
    """Choose the least loaded free replica, and one that is in `tried` only if all free replicas are in it. If no
    replica is free, choose the failed replica whose retry is due first; if all replicas ask for pauses, choose the one
    whose pause ends first.
    """
    free_replicas = [replica for replica in replicas if replica.is_free]
    if free_replicas:
        # Replicas that were not tried come first, since False is smaller than True.
        return min(free_replicas, key=lambda replica: (replica in tried, replica.limiter.load))
    failed_replicas = [replica for replica in replicas if not replica.limiter.pause_left_s]
    if failed_replicas:
        return min(failed_replicas, key=lambda replica: replica.retry_at)
    return min(replicas, key=lambda replica: replica.limiter.pause_left_s)


def has_untried_replica(replicas: Sequence[Replica], tried: Collection[Replica]) -> bool:
    """Whether a replica that is not in `tried` is free."""
    return any(replica.is_free for replica in replicas if replica not in tried)
