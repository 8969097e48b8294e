"""The summary of one run: its state and the sums over its turns, calls and faults, as `LedgerView` reads them."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class CallCounts:
    """The number of calls made for a run, of calls that its turns reused from the ledger (`remembered`), and of calls
    made for the run that no turn used (`wasted`).
    """

    made: int
    remembered: int
    wasted: int


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """The tokens and dollars of a run's calls. `completion_tokens` include `reasoning_tokens`."""

    prompt_tokens: int
    completion_tokens: int
    usd: float
    reasoning_tokens: int


@dataclass(frozen=True, slots=True)
class LostCost:
    """An upper bound on the cost of requests that failed without a reply."""

    tokens: int
    usd: float


@dataclass(frozen=True, slots=True)
class AttemptEnd:
    """The reason why an attempt ended, with the numbers of its turn and of the attempt."""

    turn: int
    attempt: int
    reason: str


@dataclass(frozen=True, slots=True)
class RunSummary:
    """A run's state and sums. `rules` names its rule set. `message` says why the run has its `status`, for example the
    error that ended it; it may be "". `seconds` is the wall-clock time that processes spent on the run. `repeatable`
    says whether every endpoint always gives the same reply to a repeated request; it is None for runs of older
    versions, which did not record this. `contaminated` and `cut_in_reasoning` list the attempts that ended for that
    reason. The mappings are counts: in `funnel`, all attempts ("attempts") and those with each outcome; in `faults`,
    failed requests by kind; in `levels`, kept examples by the level of their reasoning; in `pass_rates`, kept examples
    by how often the defender answered correctly ("1 of 4").
    """

    run: str
    name: str
    domain: str
    rules: str
    forked_from: str
    status: str
    message: str
    turns: int
    max_turns: int
    kept: int
    target: int
    digest: str
    levels: dict[str, int]
    pass_rates: dict[str, int]
    funnel: dict[str, int]
    contaminated: list[AttemptEnd]
    cut_in_reasoning: list[AttemptEnd]
    calls: CallCounts
    wasted_share: float
    usage: TokenUsage
    faults: dict[str, int]
    lost: LostCost
    seconds: float
    repeatable: bool | None
    created_at: str
    note: str

    def to_json(self) -> dict[str, Any]:
        """The JSON object that `run list --json` prints for a run; `run show --json` prints the same keys first."""
        return asdict(self)
