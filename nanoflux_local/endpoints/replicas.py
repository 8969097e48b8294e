"""Replicas: several servers of one model that share its requests. To the outside they are one endpoint.

A request goes to the least loaded one that lives; one that fails is left alone for a while and then tried again.
"""

import time
from typing import Any

from nanoflux_local.endpoints.pace import Lane

BACK_S = 2.0
LONGEST_BACK_S = 60.0


class Replica:
    """One server: its address, its client, the way to it, and whether it is to be left alone."""

    def __init__(self, url: str, client: Any, most: int) -> None:
        self.url, self.client = url, client
        self.lane = Lane(most)
        self.known = False
        self.back_at = 0.0
        self._failed = 0

    @property
    def lives(self) -> bool:
        return self.back_at <= time.monotonic()

    def answered(self) -> None:
        self.known, self.back_at, self._failed = True, 0.0, 0

    def failed(self) -> None:
        """Leave it alone, the longer the more often it failed in a row."""
        self.back_at = time.monotonic() + min(LONGEST_BACK_S, BACK_S * 2 ** min(self._failed, 16))
        self._failed += 1


def pick(replicas: list[Replica]) -> Replica:
    """The least loaded of those that live; where none does, the one that has been left alone longest."""
    living = [replica for replica in replicas if replica.lives]
    if living:
        return min(living, key=lambda replica: replica.lane.load)
    return min(replicas, key=lambda replica: replica.back_at)


def another(replicas: list[Replica], than: Replica) -> bool:
    """Whether some other replica lives."""
    return any(replica.lives for replica in replicas if replica is not than)
