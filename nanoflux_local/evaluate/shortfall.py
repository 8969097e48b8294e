"""Replies that an evaluation lacks, and why: each cause with its count, the first one first.

Owns the decision when asking on is useless: an endpoint that refuses every request, or asks to be left alone for longer
than a call waits. A prompt that is refused, or a reply that was lost, costs its own item alone.
"""

from dataclasses import asdict, dataclass
from typing import Any

from nanoflux_local.errors import EndpointError, EndpointRefusedError

NOT_ASKED = "not asked: the evaluation stopped at the first cause"
MOST_CAUSES = 20
"""Causes that are listed by their own words; messages that differ in a number each would fill the ledger."""
OTHER = "other causes"


@dataclass(slots=True)
class Cause:
    """Why replies are missing. `refused`: the endpoint refuses these prompts, and asking again mends nothing."""

    reason: str
    count: int = 0
    refused: bool = False


class Shortfall:
    """The causes of missing replies, counted while an evaluation runs."""

    def __init__(self) -> None:
        self._causes: dict[str, Cause] = {}
        self.first: EndpointError | None = None
        self.stops = False
        """Whether asking on is useless."""

    def add(self, error: EndpointError) -> None:
        """Count a reply that failed with `error`."""
        self.first = self.first or error
        self.stops = self.stops or isinstance(error, EndpointRefusedError) or getattr(error, "pauses", False)
        refusal = str(getattr(error, "cause", ""))
        reason = refusal or error.message
        self._count(reason if reason in self._causes or len(self._causes) < MOST_CAUSES else OTHER, bool(refusal))

    def skip(self) -> None:
        """Count a reply that was not asked for."""
        self._count(NOT_ASKED)

    def _count(self, reason: str, refused: bool = False) -> None:
        self._causes.setdefault(reason, Cause(reason, refused=refused)).count += 1

    @property
    def missing(self) -> int:
        return sum(cause.count for cause in self._causes.values())

    def as_json(self) -> list[dict[str, Any]]:
        """`unscored_reasons` of `eval --json`."""
        return [asdict(cause) for cause in self._causes.values()]


def list_causes(reasons: list[dict[str, Any]]) -> str:
    """The causes with their counts, in one line of text."""
    return "; ".join(f"{entry['reason']} ({entry['count']})" for entry in reasons)
