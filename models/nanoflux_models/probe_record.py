"""The result of a probe: its measurements, whether it passed, and the file next to the adapter that stores it.

This file, `probe.json`, is not part of the adapter: the adapter's hash does not cover it, and it is not copied with the
adapter, since a result is valid only for the server and the machine that were probed.
"""

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nanoflux_models.errors import ServerError
from nanoflux_models.files import write_atomically

PROBE = "probe.json"
"""The name of the file in the adapter's folder."""
MIN_DIFFERENCE = 1e-3
"""Adapter and base must differ by at least this much in the log-probability of some token. An adapter of zeros differs
by 0.
"""
MAX_GAP = 0.5
"""The largest allowed gap, in nats, between PEFT's preferred token and the server's: bfloat16 decides near-ties at
random."""
MAX_ERROR = 0.1
"""The largest allowed mean difference between the log-probabilities of server and PEFT, in nats."""


@dataclass(frozen=True, slots=True)
class Probe:
    """The measurements of a probe over all tokens of all prompts, in nats.

    `difference` is the largest difference between adapter and base on the server. `agreement` is the share of the
    server's tokens that PEFT also prefers, and `worst_gap` is the largest gap to PEFT's preferred token. `error` is the
    mean difference between the log-probabilities of server and PEFT.
    """

    adapter: str
    tokens: int
    difference: float
    agreement: float
    worst_gap: float
    error: float

    @property
    def passed(self) -> bool:
        """Whether the adapter has an effect, and the server agrees with PEFT."""
        return self.difference >= MIN_DIFFERENCE and self.worst_gap <= MAX_GAP and self.error <= MAX_ERROR

    @property
    def verdict(self) -> str:
        """The result as one sentence."""
        if self.difference < MIN_DIFFERENCE:
            return f"it has no effect: no log-probability differs from the base's by more than {self.difference:.1g}"
        if not self.passed:
            return (
                f"the server disagrees with PEFT: {self.agreement:.0%} of the tokens are PEFT's, the worst one is "
                f"{self.worst_gap:.2f} nats less likely ({MAX_GAP} allowed), the mean error is {self.error:.3f} "
                f"({MAX_ERROR} allowed)"
            )
        return (
            f"it works: up to {self.difference:.2f} nats from the base, {self.agreement:.0%} of {self.tokens} greedy "
            f"tokens are PEFT's, the others within {self.worst_gap:.2f} nats, mean error {self.error:.3f}"
        )


def write_probe(folder: Path, probe: Probe, base: str) -> None:
    """Store the result of a probe atomically; it replaces the previous result.

    Raises:
        ServerError: the file cannot be written.
    """
    timestamp = datetime.now(UTC).isoformat(timespec="seconds")
    record = {**asdict(probe), "base": base, "passed": probe.passed, "verdict": probe.verdict, "at": timestamp}
    try:
        write_atomically(folder / PROBE, json.dumps(record, indent=2, sort_keys=True) + "\n")
    except OSError as error:
        message = f"the result of the probe cannot be written to {folder}: {error.strerror or error}"
        raise ServerError(message, "free space, or make the folder writable, and probe again") from error


def read_probe(folder: Path) -> dict[str, Any] | None:
    """The stored result of the last probe; None if there is none, or if the file is not a probe's record."""
    try:
        record = json.loads((folder / PROBE).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and {"passed", "verdict", "at"} <= record.keys() else None
