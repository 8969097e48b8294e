"""The outcome of a probe: what was measured, whether it passes, and the file beside the adapter that keeps it.

Owns `probe.json`. The file is no part of the adapter: the adapter's hash does not cover it, and a copied adapter comes
without it, since an outcome holds only for the server and the machine that were probed.
"""

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nanoflux_models.errors import ServerError
from nanoflux_models.files import write_whole

PROBE = "probe.json"
DIFFERS = 1e-3
"""The least by which some token's log-probability must differ from the base's. An adapter of zeros differs by 0."""
GAP = 0.5
"""How much less likely than PEFT's own choice a token of the server may be in PEFT, in nats: near-ties fall either way
in bfloat16."""
ERROR = 0.1
"""How far the log-probabilities of server and PEFT may lie apart on average, in nats."""


@dataclass(frozen=True, slots=True)
class Probe:
    """What a probe measured over all tokens of all prompts, in nats.

    `difference` is the largest between adapter and base on the server; `agreement` the share of tokens that are
    PEFT's own greedy choice, `worst_gap` by how much the worst of the others is less likely there; `error` the mean
    distance of the server's log-probabilities from PEFT's.
    """

    adapter: str
    tokens: int
    difference: float
    agreement: float
    worst_gap: float
    error: float

    @property
    def passed(self) -> bool:
        return self.difference >= DIFFERS and self.worst_gap <= GAP and self.error <= ERROR

    @property
    def verdict(self) -> str:
        """One sentence for people."""
        if self.difference < DIFFERS:
            return f"it does nothing: no log-probability differs from the base's by more than {self.difference:.1g}"
        if not self.passed:
            return (
                f"the server does not say what PEFT says: {self.agreement:.0%} of the tokens are PEFT's choice, the "
                f"worst is {self.worst_gap:.2f} nats less likely ({GAP} allowed), the mean error is {self.error:.3f} "
                f"({ERROR} allowed)"
            )
        return (
            f"it works: up to {self.difference:.2f} nats from the base, {self.agreement:.0%} of {self.tokens} greedy "
            f"tokens are PEFT's, the others within {self.worst_gap:.2f} nats, mean error {self.error:.3f}"
        )


def write_probe(folder: Path, outcome: Probe, base: str) -> None:
    """Store the outcome of a probe in place of the previous one, whole or not at all.

    Raises:
        ServerError: the file cannot be written.
    """
    now = datetime.now(UTC).isoformat(timespec="seconds")
    record = {**asdict(outcome), "base": base, "passed": outcome.passed, "verdict": outcome.verdict, "at": now}
    try:
        write_whole(folder / PROBE, json.dumps(record, indent=2, sort_keys=True) + "\n")
    except OSError as error:
        message = f"the outcome of the probe cannot be written to {folder}: {error.strerror or error}"
        raise ServerError(message, "free space, or make the folder writable, and probe again") from error


def read_probe(folder: Path) -> dict[str, Any] | None:
    """The stored outcome of the last probe; None if there is none, or if the file is not a probe's record."""
    try:
        record = json.loads((folder / PROBE).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and {"passed", "verdict", "at"} <= record.keys() else None
