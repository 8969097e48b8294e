"""What if the threshold had been 0.8? A run played again with other settings, from the ledger alone.

Where a call was never made, its turn is unknown from there on: it counts as not kept, the questions that it is known
to have asked stay in the history, and play goes on. So what is said of later turns holds under that reading. Owns no
run and writes nothing; a change that no remembered call could answer is refused, with the fork that would play it.
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nanoflux_local.config import LIVE, RunConfig
from nanoflux_local.errors import NothingMatchedError, RefusedError, ReplayMissError
from nanoflux_local.ledger.calls import ROLE, Answer, RememberedCalls, TracedCalls
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.records import (
    ChatRequest,
    CutRequest,
    EmbedRequest,
    PythonRequest,
    Reply,
    Request,
    SearchRequest,
    Vector,
)
from nanoflux_local.run.binding import derived, rules_for
from nanoflux_local.run.engine import index_questions, index_questions_of_other_runs
from nanoflux_local.run.novelty import History, NoveltyIndex
from nanoflux_local.run.runs import fork_command, recorded
from nanoflux_local.run.turn import Rules, run_turn
from nanoflux_local.transcript import Example, TurnRecord, dataset_digest

ANSWERABLE = ("novelty", "judge", "retries", *LIVE)
"""Settings that decide what is made of replies. All others stand in the requests themselves, so that with another value
not one remembered call would apply."""
KINDS = [request.kind for request in (ChatRequest, EmbedRequest, CutRequest, PythonRequest, SearchRequest)]
SHORT = 80


@dataclass(frozen=True, slots=True)
class Needed:
    """The first call of a turn that the ledger does not remember: what it is, and the role it would be made for."""

    kind: str
    role: str


@dataclass(frozen=True, slots=True)
class Played:
    """One turn with the changed settings: its record, or what it needs."""

    number: int
    record: TurnRecord | None
    needs: Needed | None = None


class Misses:
    """Stands where endpoints would: notes what it is asked, and gives no answer."""

    def __init__(self) -> None:
        self.last: Needed | None = None

    def answers(self) -> dict[str, Answer]:
        return dict.fromkeys(KINDS, self._miss)

    async def _miss(self, request: Request[Any]) -> Reply:
        self.last = Needed(request.kind, ROLE.get())
        raise ReplayMissError(f"the ledger does not remember a {request.kind} call", "play a fork")


@dataclass(slots=True, eq=False)
class NotedHistory:
    """A turn's history that notes every attempt's question, so that they count even if the turn cannot be played."""

    history: History
    questions: list[Vector]

    def nearest(self, vector: Vector) -> float | None:
        self.questions.append(vector)
        return self.history.nearest(vector)

    def plus(self, vector: Vector) -> "NotedHistory":
        return NotedHistory(self.history.plus(vector), self.questions)


async def replay_with(home: Home, run: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Play a run's turns with `settings` changed, and return what `run replay --set --json` prints.

    Raises:
        RefusedError: a setting stands in the requests, so that no remembered call could answer.
        NothingMatchedError: the run has no turns yet.
    """
    config, identities, committed = recorded(home, run)
    if not committed:
        raise NothingMatchedError(f"run {run} has no turns to replay", "start or resume it first")
    changed = derived(config, settings, home)
    _refuse_unanswerable(run, config, changed, settings)
    misses = Misses()
    with Ledger(home.ledger) as ledger:
        calls = RememberedCalls(ledger, run, misses.answers())
        played = await _play(rules_for(changed, identities, home), calls, misses, len(committed))
    with LedgerView(home.ledger) as view:
        following = calls_after(view, run)
    return {"run": run, "settings": dict(settings), **_summarize(changed, config, committed, played, following)}


def _refuse_unanswerable(run: str, old: RunConfig, new: RunConfig, settings: Mapping[str, Any]) -> None:
    for key in RunConfig.model_fields:
        if key not in ANSWERABLE and getattr(new, key) != getattr(old, key):
            raise RefusedError(
                f"{key} stands in what the run asks, so with another value no remembered call applies",
                f"play it as another run: {fork_command(run, settings)}",
            )


async def _play(rules: Rules, calls: RememberedCalls, misses: Misses, recorded_turns: int) -> list[Played]:
    """Turns until the target, the limit, or the first after the recorded ones that the ledger does not answer."""
    index, trace, played = NoveltyIndex(), TracedCalls(calls), list[Played]()
    await index_questions_of_other_runs(rules, index, trace)
    kept = number = 0
    while kept < rules.config.target and number < rules.config.max_turns:
        noted = NotedHistory(index.history(), [])
        try:
            record = await run_turn(rules, number, noted, trace)
        except ReplayMissError:
            if number >= recorded_turns:
                break
            played.append(Played(number, None, misses.last))
            for vector in noted.questions:
                index.append(vector)
        else:
            played.append(Played(number, record))
            kept += record.kept
            await index_questions(rules, index, record, trace)
        number += 1
    return played


def calls_after(view: LedgerView, run: str) -> dict[Needed, float]:
    """For each kind of call and role, how many calls a recorded turn made from such a call on, itself included: the
    mean over all such calls of the run's turns.
    """
    rests_by_call: dict[Needed, list[int]] = {}
    rows = view.rows(
        "SELECT calls.kind, calls.role, count(*) OVER (PARTITION BY turn_calls.turn) - turn_calls.position AS rest"
        " FROM turns JOIN turn_calls ON turn_calls.turn = turns.id JOIN calls ON calls.id = turn_calls.call"
        " WHERE turns.run = ?",
        run,
    )
    for row in rows:
        rests_by_call.setdefault(Needed(row["kind"], row["role"]), []).append(row["rest"])
    return {key: sum(rests) / len(rests) for key, rests in rests_by_call.items()}


def _summarize(
    changed: RunConfig,
    config: RunConfig,
    committed: Sequence[TurnRecord],
    played: Sequence[Played],
    following: Mapping[Needed, float],
) -> dict[str, Any]:
    kept = [turn.record for turn in played if turn.record is not None and turn.record.kept]
    unknown = [turn for turn in played if turn.record is None]
    ended = _has_ended(config, sum(record.kept for record in committed), len(committed))
    complete = not unknown and (not ended or _has_ended(changed, len(kept), len(played)))
    before = {record.number: Example.of(record) for record in committed if record.kept}
    after = {record.number: Example.of(record) for record in kept}
    open_turns = {turn.number for turn in unknown}
    expected = dataset_digest(before.values())
    replayed = dataset_digest(after.values()) if complete else None
    return {
        "turns": len(played),
        "kept": len(kept),
        "target": changed.target,
        "complete": complete,
        "digest": replayed,
        "recorded_digest": expected,
        "same": replayed == expected if complete else None,
        "stay": sum(_same(before.get(turn), example) for turn, example in after.items()),
        "come": [_short(example) for turn, example in after.items() if not _same(before.get(turn), example)],
        "go": [
            _short(example)
            for turn, example in before.items()
            if turn not in open_turns and not _same(after.get(turn), example)
        ],
        "unknown": [
            {"turn": turn.number, "kept_before": turn.number in before, **dataclasses.asdict(turn.needs)}
            for turn in unknown
            if turn.needs is not None
        ],
        "needed": _summarize_needs([turn.needs for turn in unknown if turn.needs is not None], following),
    }


def _has_ended(config: RunConfig, kept: int, turns: int) -> bool:
    return kept >= config.target or turns >= config.max_turns


def _same(one: Example | None, other: Example) -> bool:
    """The same text at the same turn; why it was kept may differ."""
    return one is not None and dataclasses.replace(one, reason=other.reason) == other


def _short(example: Example) -> dict[str, Any]:
    question = " ".join(example.question.split())
    short = question if len(question) <= SHORT else question[: SHORT - 1] + "…"
    return {"turn": example.turn, "question": short, "reason": example.reason}


def _summarize_needs(needs: Sequence[Needed], following: Mapping[Needed, float]) -> dict[str, Any]:
    """How many turns need calls; the first of each, by kind and role, which is the least that is needed; and how many
    are to be expected with what follows them, as it followed in the recorded turns.
    """
    counted = Counter(needs)
    return {
        "turns": len(needs),
        "at_least": len(needs),
        "expected": round(sum(following.get(need, 1.0) for need in needs)),
        "by": [
            {**dataclasses.asdict(need), "calls": counted[need]}
            for need in sorted(counted, key=lambda need: (need.kind, need.role))
        ],
    }
