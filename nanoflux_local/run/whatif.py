"""Replays a run from the ledger alone with changed settings, for instance with a different novelty threshold.

If a turn needs a call that was never made, its outcome is unknown. The replay then assumes that the turn is not kept,
adds the questions that the turn has asked so far to the history, and continues; the results of later turns depend on
this assumption. Nothing is written. A setting that changes the requests themselves is refused, since no stored reply
answers them; the error names the command that forks the run with that setting.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nanoflux_local.config import LIVE, RunConfig
from nanoflux_local.errors import NothingMatchedError, RefusedError, ReplayMissError
from nanoflux_local.ledger.calls import ROLE, Answer, CachedCalls, TracedCalls
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.records import (
    ChatRequest,
    CutRequest,
    EmbedRequest,
    Identity,
    PythonRequest,
    Reply,
    Request,
    SearchRequest,
    Vector,
)
from nanoflux_local.roles.checks.base import list_needed_tools
from nanoflux_local.run.binding import build_rules
from nanoflux_local.run.commands import fork_command
from nanoflux_local.run.configs import derive_config
from nanoflux_local.run.engine import index_questions, index_questions_of_other_runs
from nanoflux_local.run.missing import CallType, MissingCalls, RecordedCosts, count_missing
from nanoflux_local.run.novelty import History, NoveltyIndex
from nanoflux_local.run.runs import load_run
from nanoflux_local.run.turn import Rules, run_turn
from nanoflux_local.transcript import Example, TurnRecord, dataset_digest

REPLAYABLE = ("novelty", "judge", "retries", "rules", "samples", "keep", *LIVE)
"""Settings that determine how replies are used. If any other setting changed, the requests would change too, and no
stored reply would answer them.
"""
REQUEST_TYPES = (ChatRequest, EmbedRequest, CutRequest, PythonRequest, SearchRequest)
REQUEST_KINDS = [request_type.kind for request_type in REQUEST_TYPES]
MAX_QUESTION_CHARACTERS = 80
"""The maximum length of a question in a list; a longer one is shortened."""


@dataclass(frozen=True, slots=True)
class ReplayedTurn:
    """One turn as replayed with the changed settings: its record, or the type of its first missing call."""

    number: int
    record: TurnRecord | None
    missing: CallType | None = None


class MissRecorder:
    """Stands in for the endpoints and tools: instead of answering a request, it records the kind and role of the call
    and raises ReplayMissError.
    """

    def __init__(self) -> None:
        self.last_missing_call: CallType | None = None

    def answers(self) -> dict[str, Answer]:
        return dict.fromkeys(REQUEST_KINDS, self._miss)

    async def _miss(self, request: Request[Any]) -> Reply:
        self.last_missing_call = CallType(request.kind, ROLE.get())
        raise ReplayMissError(f"the ledger does not contain a {request.kind} call", "fork the run to make the call")


@dataclass(slots=True, eq=False)
class RecordingHistory:
    """A turn's history that also records the question of every attempt, so that the questions can be indexed even if
    the turn cannot be completed.
    """

    history: History
    questions: list[Vector]

    def nearest_similarity(self, vector: Vector) -> float | None:
        self.questions.append(vector)
        return self.history.nearest_similarity(vector)

    def plus(self, vector: Vector) -> "RecordingHistory":
        return RecordingHistory(self.history.plus(vector), self.questions)


@dataclass(frozen=True, slots=True)
class ExampleExcerpt:
    """A kept example as one line of a list, with its question shortened."""

    turn: int
    question: str
    reason: str

    @classmethod
    def of(cls, example: Example) -> "ExampleExcerpt":
        question = " ".join(example.question.split())
        if len(question) > MAX_QUESTION_CHARACTERS:
            question = question[: MAX_QUESTION_CHARACTERS - 1] + "…"
        return cls(example.turn, question, example.reason)


@dataclass(frozen=True, slots=True)
class UnknownTurn:
    """A turn whose outcome is unknown, with its first missing call. `kept_before` says whether the recorded run kept
    the turn.
    """

    turn: int
    kept_before: bool
    kind: str
    role: str


@dataclass(frozen=True, slots=True)
class WhatIf:
    """The result of a replay with other settings, compared with the recorded run. `come` are the examples that only the
    replay keeps, `go` those that only the recorded run keeps; `stay` is the number that both keep. `settings` are the
    changed settings, with which a fork makes the missing calls.

    The replay is `complete` if the outcome of every turn is known, and the replay has reached its target or turn limit;
    if the recorded run has reached neither, known outcomes are enough. `digest` and `same` (whether the digests are
    equal) are None if the replay is not complete. `unknown` lists the turns whose outcome is unknown, and `needed`
    estimates the calls that would decide them.
    """

    run: str
    settings: dict[str, Any]
    turns: int
    kept: int
    target: int
    complete: bool
    digest: str | None
    recorded_digest: str
    same: bool | None
    stay: int
    come: list[ExampleExcerpt]
    go: list[ExampleExcerpt]
    unknown: list[UnknownTurn]
    needed: MissingCalls


async def replay_with(home: Home, run: str, settings: Mapping[str, Any]) -> WhatIf:
    """Replay a run's turns with `settings` changed, as `run replay --set` does.

    Raises:
        RefusedError: a setting is part of the requests, so no stored reply could answer them.
        NothingMatchedError: the run has no turns yet.
    """
    config, identities, committed_turns = load_run(home, run)
    if not committed_turns:
        raise NothingMatchedError(f"run {run} has no turns to replay", f"resume it first: `nanoflux run resume {run}`")
    changed_config = derive_config(config, settings, home)
    if "swap_roles" not in settings:
        # A new rule set may change who attacks. The replay judges the recorded questions again: their attackers stay.
        if changed_config.roles_swap != config.roles_swap:
            settings = {**settings, "swap_roles": config.swap_roles}
        changed_config = changed_config.model_copy(update={"swap_roles": config.swap_roles})
    _refuse_changed_requests(run, config, changed_config, settings)
    identities = add_placeholder_identities(identities, changed_config)
    misses = MissRecorder()
    with Ledger(home.ledger) as ledger:
        calls = CachedCalls(ledger, run, misses.answers())
        replayed_turns = await _replay_turns(
            build_rules(changed_config, identities, home), calls, misses, len(committed_turns)
        )
    with LedgerView(home.ledger) as view:
        recorded_costs, priced = RecordedCosts.load(view, run), view.is_priced(run)
    missing_calls = [turn.missing for turn in replayed_turns if turn.missing is not None]
    missing = count_missing(missing_calls, recorded_costs, config, changed_config, priced)
    return _compare(run, settings, changed_config, config, committed_turns, replayed_turns, missing)


def add_placeholder_identities(identities: Mapping[str, Identity], changed_config: RunConfig) -> dict[str, Identity]:
    """The recorded identities, with a placeholder for each tool and endpoint that the run did not use. No stored call
    is addressed to a placeholder, so the outcome of a turn that needs such a tool or endpoint is unknown.
    """
    needed_names = {*changed_config.role_endpoints, *list_needed_tools(changed_config.judge)}
    placeholders = {name: Identity("not recorded", name) for name in needed_names}
    return {**placeholders, **identities}


def _refuse_changed_requests(run: str, old: RunConfig, new: RunConfig, settings: Mapping[str, Any]) -> None:
    """Refuse a new configuration that differs from the old one in a setting that is not in `REPLAYABLE`."""
    for key in RunConfig.model_fields:
        if key not in REPLAYABLE and getattr(new, key) != getattr(old, key):
            raise RefusedError(
                f"{key} is part of the run's requests, so with another value no stored reply applies",
                f"fork the run with this setting: {fork_command(run, settings)}",
            )


async def _replay_turns(
    rules: Rules, calls: CachedCalls, misses: MissRecorder, recorded_count: int
) -> list[ReplayedTurn]:
    """Replay turns until the target or the turn limit is reached, or until a turn after the `recorded_count` recorded
    turns misses a call.
    """
    index, traced_calls = NoveltyIndex(), TracedCalls(calls)
    replayed_turns: list[ReplayedTurn] = []
    await index_questions_of_other_runs(rules, index, traced_calls)
    kept = number = 0
    while kept < rules.config.target and number < rules.config.max_turns:
        history = RecordingHistory(index.history(), [])
        try:
            record = await run_turn(rules, number, history, traced_calls)
        except ReplayMissError:
            if number >= recorded_count:
                break
            replayed_turns.append(ReplayedTurn(number, None, misses.last_missing_call))
            for vector in history.questions:
                index.append(vector)
        else:
            replayed_turns.append(ReplayedTurn(number, record))
            kept += record.kept
            await index_questions(rules, index, record, traced_calls)
        number += 1
    return replayed_turns


def _compare(
    run: str,
    settings: Mapping[str, Any],
    changed_config: RunConfig,
    config: RunConfig,
    committed_turns: Sequence[TurnRecord],
    replayed_turns: Sequence[ReplayedTurn],
    missing: MissingCalls,
) -> WhatIf:
    """Compare the replayed turns with the committed turns of the run."""
    kept_records = [turn.record for turn in replayed_turns if turn.record is not None and turn.record.kept]
    recorded_examples = {record.number: Example.of(record) for record in committed_turns if record.kept}
    replayed_examples = {record.number: Example.of(record) for record in kept_records}
    unknown_turns = [
        UnknownTurn(turn.number, turn.number in recorded_examples, turn.missing.kind, turn.missing.role)
        for turn in replayed_turns
        if turn.missing is not None
    ]
    unknown_numbers = {turn.turn for turn in unknown_turns}
    unchanged_numbers = {
        number
        for number, example in replayed_examples.items()
        if _has_same_text(recorded_examples.get(number), example)
    }
    added_examples = [example for number, example in replayed_examples.items() if number not in unchanged_numbers]
    removed_examples = [
        example
        for number, example in recorded_examples.items()
        if number not in unchanged_numbers and number not in unknown_numbers
    ]
    run_ended = _has_ended(config, len(recorded_examples), len(committed_turns))
    replay_ended = _has_ended(changed_config, len(kept_records), len(replayed_turns))
    complete = not unknown_turns and (replay_ended or not run_ended)
    recorded_digest = dataset_digest(recorded_examples.values())
    digest = dataset_digest(replayed_examples.values()) if complete else None
    return WhatIf(
        run=run,
        settings=dict(settings),
        turns=len(replayed_turns),
        kept=len(kept_records),
        target=changed_config.target,
        complete=complete,
        digest=digest,
        recorded_digest=recorded_digest,
        same=digest == recorded_digest if complete else None,
        stay=len(unchanged_numbers),
        come=[ExampleExcerpt.of(example) for example in added_examples],
        go=[ExampleExcerpt.of(example) for example in removed_examples],
        unknown=unknown_turns,
        needed=missing,
    )


def _has_ended(config: RunConfig, kept: int, turns: int) -> bool:
    """Whether a run with these numbers of kept examples and turns has reached its target or its turn limit."""
    return kept >= config.target or turns >= config.max_turns


def _has_same_text(example: Example | None, other_example: Example) -> bool:
    """Whether two examples of a turn are equal except for the reasons why they were kept."""
    return example is not None and dataclasses.replace(example, reason=other_example.reason) == other_example
