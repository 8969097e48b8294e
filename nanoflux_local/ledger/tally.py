"""A tally: running sums over the turns and calls of one run. Each update reads only the rows added since the last one.

Turns and calls are never changed, so a process that watches a run reads each of them once. The turn for which a call
was made is inferred from the seed in its request (see `turn_steps`).
"""

import json
import time
from array import array
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from nanoflux_local.ledger.turn_steps import TurnInProgress, TurnStep, derive_milestones
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.transcript import TurnRecord, turn_from_json

TURNS_PER_UPDATE = 500
"""The maximum number of turns that one update reads, so that a screen stays responsive while a long run is read."""
MAX_EVENTS = 300
"""The maximum number of events that a tally holds; the oldest are dropped."""
SPEED_WINDOW_S = 60.0
"""The length of the window over which the speed in tokens per second is averaged."""
MAX_NEW_CALLS = 400
"""The maximum number of new calls that one update assigns to turns."""

MAX_MILESTONES_PER_ATTEMPT = 8 * MAX_NEW_CALLS
"""The milestones of committed turns are dropped once there are more milestones than this number times the attempts that
a turn may have.
"""

_SUMS_BY_ROLE = (
    "SELECT role, count(*) AS n, sum(prompt_tokens) AS prompt_tokens,"
    " sum(completion_tokens) AS completion_tokens, sum(usd) AS usd,"
    " sum(seconds) AS seconds FROM calls"
)
"""The beginning of a query for the sums over calls by role, without its WHERE and GROUP BY clauses."""


@dataclass(frozen=True, slots=True)
class Event:
    """A line of a run's log: a committed turn or a failed request. `kind` is the outcome of the turn, or "fault"."""

    time: str
    kind: str
    text: str


@dataclass(slots=True)
class Usage:
    """The calls of one role, with their tokens, dollars and seconds."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float = 0.0
    seconds: float = 0.0


@dataclass(slots=True)
class Tally:
    """The sums over a run's turns and calls. `seed` is the run's seed, `attempts` the maximum number of attempts per
    turn, and `steps` are the steps of an attempt. `similarities` has each question's cosine similarity to the nearest
    earlier question, `confidences` the confidence of each verdict, and `kept_by_turn` the number of kept turns up to
    each committed turn. `role_endpoints` has the last attacker and defender of even turns under 0, and of odd turns
    under 1.
    """

    run: str
    seed: int = 0
    attempts: int = 1
    steps: Sequence[TurnStep] = ()
    turns: int = 0
    kept: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    levels: Counter[int] = field(default_factory=Counter)
    similarities: "array[float]" = field(default_factory=lambda: array("f"))
    confidences: "array[float]" = field(default_factory=lambda: array("f"))
    kept_by_turn: "array[int]" = field(default_factory=lambda: array("l"))
    usage: dict[str, Usage] = field(default_factory=dict)
    events: deque[Event] = field(default_factory=lambda: deque(maxlen=MAX_EVENTS))
    faults: int = 0
    role_endpoints: dict[int, tuple[str, str]] = field(default_factory=dict)
    _last_call: int = 0
    _last_fault: int = 0
    _token_samples: deque[tuple[float, int]] = field(default_factory=deque)
    """The time and the number of tokens at each update in the window over which the speed is averaged."""
    _milestones: dict[int, TurnInProgress] = field(default_factory=dict)
    """For each turn below `_milestone_turns`: the progress that a reply to one of its milestones shows, by the seed of
    the request.
    """
    _milestone_turns: int = 0
    _progress_by_turn: dict[int, TurnInProgress] = field(default_factory=dict)

    def update(self, view: LedgerView) -> bool:
        """Read the rows added since the last update. Returns whether there may be more turns to read."""
        turns_read = self.read_turns(view, TURNS_PER_UPDATE)
        self._add_calls(view)
        self._add_faults(view)
        return turns_read == TURNS_PER_UPDATE

    def read_turns(self, view: LedgerView, limit: int) -> int:
        """Read at most `limit` turns. Returns how many were read."""
        rows = list(view.rows(
            "SELECT number, record, at FROM turns WHERE run = ? AND number >= ? ORDER BY number LIMIT ?",
            self.run, self.turns, limit,
        ))  # fmt: skip
        for row in rows:
            self._add_turn(turn_from_json(json.loads(row["record"])), row["at"])
        return len(rows)

    def _add_turn(self, record: TurnRecord, committed_at: str) -> None:
        """Add the next committed turn, and remove it from the turns in progress."""
        self.turns = record.number + 1
        self.kept += record.kept
        self.kept_by_turn.append(self.kept)
        self.role_endpoints[record.number % 2] = (record.attacker, record.defender)
        self._progress_by_turn.pop(record.number, None)
        for attempt in record.attempts:
            self.outcomes[attempt.outcome] += 1
            if attempt.outcome in ("unparsed", "failed"):
                self.reasons[attempt.reason[:60]] += 1
            if attempt.quality is not None:
                self.levels[attempt.quality.level] += 1
            if attempt.nearest is not None:
                self.similarities.append(attempt.nearest)
            for verdict in (attempt.validation, attempt.evaluation):
                if verdict is not None and verdict.asked:
                    self.confidences.append(verdict.confidence)
        self.events.append(Event(committed_at, record.last_attempt.outcome, _describe_turn(record)))

    def _add_calls(self, view: LedgerView) -> None:
        """Add the calls made since the last update, and sample the number of tokens for the speed."""
        newest_row = view.row(
            "SELECT coalesce(max(id), 0) AS id FROM calls WHERE run = ? AND id > ?", self.run, self._last_call
        )
        assert newest_row is not None
        last_call = newest_row["id"]
        if last_call > self._last_call:
            for row in view.rows(
                f"{_SUMS_BY_ROLE} WHERE run = ? AND id > ? AND id <= ? GROUP BY role",
                self.run,
                self._last_call,
                last_call,
            ):
                usage = self.usage.setdefault(row["role"], Usage())
                usage.calls += row["n"]
                usage.prompt_tokens += row["prompt_tokens"]
                usage.completion_tokens += row["completion_tokens"]
                usage.usd += row["usd"]
                usage.seconds += row["seconds"]
            self._update_progress(view, last_call)
            self._last_call = last_call
        moment_s = time.monotonic()
        self._token_samples.append((moment_s, self.tokens))
        window_start_s = moment_s - SPEED_WINDOW_S
        while len(self._token_samples) > 2 and self._token_samples[0][0] < window_start_s:
            self._token_samples.popleft()

    def _update_progress(self, view: LedgerView, last_call: int) -> None:
        """Infer from the latest calls how far each turn in progress has advanced."""
        if not self.steps:
            return
        max_new_turns = MAX_NEW_CALLS // len(self.steps)
        self._derive_milestones(self.turns + max_new_turns)
        for row in view.rows(
            "SELECT json_extract(iif(json_valid(request), request, '{}'), '$.seed') AS seed FROM calls"
            " WHERE run = ? AND id > ? AND id <= ? AND kind = 'chat' ORDER BY id DESC LIMIT ?",
            self.run, self._last_call, last_call, MAX_NEW_CALLS,
        ):  # fmt: skip
            progress = self._milestones.get(row["seed"])
            if progress is None or progress.turn < self.turns:
                continue
            latest = self._progress_by_turn.get(progress.turn)
            if latest is None or (progress.attempt, progress.answered) > (latest.attempt, latest.answered):
                self._progress_by_turn[progress.turn] = progress

    def _derive_milestones(self, end_turn: int) -> None:
        """Derive the milestones of the turns below `end_turn`. If many milestones have accumulated, drop those of
        committed turns.
        """
        for turn in range(max(self._milestone_turns, self.turns), end_turn):
            self._milestones.update(derive_milestones(self.steps, self.seed, turn, self.attempts))
        self._milestone_turns = max(self._milestone_turns, end_turn)
        if len(self._milestones) > MAX_MILESTONES_PER_ATTEMPT * self.attempts:
            self._milestones = {
                seed: progress for seed, progress in self._milestones.items() if progress.turn >= self.turns
            }

    def read_costs(self, view: LedgerView, moment: str) -> None:
        """Set the usage and the number of faults to those up to `moment`, for a tally as of an earlier turn."""
        rows = view.rows(f"{_SUMS_BY_ROLE} WHERE run = ? AND at <= ? GROUP BY role", self.run, moment)
        self.usage = {
            row["role"]: Usage(row["n"], row["prompt_tokens"], row["completion_tokens"], row["usd"], row["seconds"])
            for row in rows
        }
        faults = view.row("SELECT count(*) AS n FROM faults WHERE run = ? AND at <= ?", self.run, moment)
        self.faults = faults["n"] if faults else 0

    def _add_faults(self, view: LedgerView) -> None:
        """Add the requests that failed since the last update."""
        for row in view.rows(
            "SELECT id, at, kind, role, told FROM faults WHERE run = ? AND id > ? ORDER BY id", self.run,
            self._last_fault,
        ):  # fmt: skip
            self._last_fault = row["id"]
            self.faults += 1
            self.events.append(Event(row["at"], "fault", f"{row['role']}: {row['kind']}: {row['told'][:200]}"))

    @property
    def tokens(self) -> int:
        return sum(usage.prompt_tokens + usage.completion_tokens for usage in self.usage.values())

    @property
    def usd(self) -> float:
        return sum(usage.usd for usage in self.usage.values())

    @property
    def tokens_per_s(self) -> float:
        """The mean speed over the updates of the last `SPEED_WINDOW_S`; 0 before the second update."""
        if len(self._token_samples) < 2:
            return 0.0
        (start_s, first_tokens), (end_s, last_tokens) = self._token_samples[0], self._token_samples[-1]
        return (last_tokens - first_tokens) / (end_s - start_s) if end_s > start_s else 0.0

    def list_turns_in_progress(self, width: int) -> Iterator[TurnInProgress]:
        """The turns in progress, in order: those with a reply, and the next `width` turns, which probably run."""
        for turn in sorted({*range(self.turns, self.turns + width), *self._progress_by_turn}):
            yield self._progress_by_turn.get(turn, TurnInProgress(turn, 0, 0))


def _describe_turn(record: TurnRecord) -> str:
    """A committed turn as a line of the log."""
    last_attempt = record.last_attempt
    attempt_suffix = f", attempt {last_attempt.number}" if len(record.attempts) > 1 else ""
    reason_suffix = f": {last_attempt.reason}" if last_attempt.reason else ""
    line = f"turn {record.number}{attempt_suffix} · {record.attacker} against {record.defender}{reason_suffix}"
    return line[:300]
