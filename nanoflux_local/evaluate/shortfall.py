"""Counts the missing replies of an evaluation by cause.

`Shortfall` also decides when to stop sending requests: if the endpoint refuses every request, or asks for a longer
pause than a call may wait. A refused prompt or a lost reply affects only its own item.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from nanoflux_local.errors import EndpointError, EndpointRefusedError

NOT_ASKED = "not requested: further requests would have failed for the same reason"
"""The reason of replies that were not requested."""
MAX_CAUSES = 20
"""The maximum number of causes that are listed separately. Without a limit, messages that differ only in a number would
fill the ledger.
"""
OTHER = "other causes"
"""The reason that stands for all further causes together."""


@dataclass(slots=True)
class ShortfallCause:
    """Why `count` replies are missing. If `refused` is true, the endpoint refuses these prompts, so requesting the
    replies again does not help.
    """

    reason: str
    count: int = 0
    refused: bool = False


class Shortfall:
    """The causes of missing replies, counted while an evaluation runs. `should_stop` is true once further requests
    would fail as well.
    """

    def __init__(self) -> None:
        self._causes: dict[str, ShortfallCause] = {}
        self.first_error: EndpointError | None = None
        self.should_stop = False

    def add(self, error: EndpointError) -> None:
        """Count a reply that failed with `error`."""
        if self.first_error is None:
            self.first_error = error
        if isinstance(error, EndpointRefusedError) or getattr(error, "pauses", False):
            self.should_stop = True
        refusal_cause = str(getattr(error, "cause", ""))  # only a PromptRefusedError has a cause
        reason = refusal_cause or error.message
        if reason not in self._causes and len(self._causes) >= MAX_CAUSES:
            reason = OTHER
        self._count(reason, refused=bool(refusal_cause))

    def skip(self) -> None:
        """Count a reply that was not requested."""
        self._count(NOT_ASKED)

    def _count(self, reason: str, refused: bool = False) -> None:
        """Count one missing reply under `reason`."""
        cause = self._causes.setdefault(reason, ShortfallCause(reason, refused=refused))
        cause.count += 1

    @property
    def missing(self) -> int:
        """The number of missing replies."""
        return sum(cause.count for cause in self._causes.values())

    @property
    def causes(self) -> tuple[ShortfallCause, ...]:
        """Copies of the causes, in the order of their first occurrence."""
        return tuple(replace(cause) for cause in self._causes.values())


def describe_causes(causes: Sequence[ShortfallCause]) -> str:
    """The causes with their counts, in one line of text."""
    return "; ".join(f"{cause.reason} ({cause.count})" for cause in causes)
