"""The attempts of a run, kept or not, and the calls that each of them used, as the ledger stores them.

A run may have a hundred thousand attempts. A table of attempts therefore reads the keys of all attempts, but the
records of only those turns that are on screen.
"""

import json
import sqlite3
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nanoflux_local.ledger.packing import CALLS
from nanoflux_local.ledger.turn_steps import CallOrigin, derive_origins
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.redaction import redact
from nanoflux_local.transcript import Attempt, TurnRecord, turn_from_json

AttemptKey = tuple[int, int]
"""The number of a turn, and the number of an attempt within that turn."""
TURNS_PER_QUERY = 500
"""The maximum number of turns that one query reads; SQLite limits the number of placeholders in a query."""


@dataclass(frozen=True, slots=True)
class StoredCall:
    """One call of a turn, with its request and reply as JSON texts from which secrets are removed. `attempt` and `step`
    say which attempt of the turn made the call, and at which step; `step` is "" for calls that do not ask a chat model,
    such as embeddings and programs.
    """

    id: int
    attempt: int
    step: str
    kind: str
    role: str
    model: str
    request: str
    reply: str
    prompt_tokens: int
    completion_tokens: int
    usd: float
    seconds: float
    answered_at: str

    def to_json(self) -> dict[str, Any]:
        """An entry of `run calls --json`."""
        return {**asdict(self), "request": read_json(self.request), "reply": read_json(self.reply)}


def read_json(text: str) -> Any:
    """The value of a stored JSON text; the text itself if it is not valid JSON."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def list_attempts(
    view: LedgerView, run: str, outcomes: Collection[str] = (), turn: int | None = None
) -> list[AttemptKey]:
    """The keys of a run's attempts, in order. If `outcomes` is not empty, only attempts with one of these outcomes are
    listed; if `turn` is not None, only those of this turn.
    """
    rows = view.rows(
        "SELECT number, attempts FROM turns WHERE run = ? AND (? IS NULL OR number = ?) ORDER BY number",
        run, turn, turn,
    )  # fmt: skip
    return [
        (row["number"], attempt_number)
        for row in rows
        for attempt_number, outcome in enumerate(row["attempts"].split())
        if not outcomes or outcome in outcomes
    ]


def load_turns(view: LedgerView, run: str, turns: Sequence[int]) -> dict[int, TurnRecord]:
    """The records of these turns, by turn number."""
    records = {}
    for start in range(0, len(turns), TURNS_PER_QUERY):
        numbers = turns[start : start + TURNS_PER_QUERY]
        placeholders = ",".join("?" * len(numbers))
        sql = f"SELECT number, record FROM turns WHERE run = ? AND number IN ({placeholders})"
        for row in view.rows(sql, run, *numbers):
            records[row["number"]] = turn_from_json(json.loads(row["record"]))
    return records


def load_turn(view: LedgerView, run: str, turn: int) -> TurnRecord:
    """The record of a turn.

    Raises:
        NothingMatchedError: the run has not committed that turn.
    """
    return turn_from_json(json.loads(view.find_turn(run, turn)["record"]))


def load_calls(home: Home, view: LedgerView, run: sqlite3.Row, turn: int) -> list[StoredCall]:
    """The calls that a turn used, in order. `run` is the row of the run in the ledger. If the run's steps are unknown
    (see `load_steps`), the attempt of each call is inferred from the text of its request alone.

    Raises:
        NothingMatchedError: the run has not committed that turn.
    """
    from nanoflux_local.run.steps import load_steps  # deferred: imports the roles, which a table does not need

    config = json.loads(run["config"])
    record = load_turn(view, run["id"], turn)
    rows = list(view.rows(
        f"SELECT calls.* FROM turns JOIN turn_calls ON turn_calls.turn = turns.id JOIN {CALLS} AS calls"
        " ON calls.id = turn_calls.call WHERE turns.run = ? AND turns.number = ? ORDER BY position",
        run["id"], turn,
    ))  # fmt: skip
    requests = [read_json(row["request"]) for row in rows]
    origin_by_seed = derive_origins(load_steps(home, config), int(config.get("seed", 0)), turn, len(record.attempts))
    # Only requests to chat models have a sampling seed.
    call_origins = [
        origin_by_seed.get(request["seed"]) if isinstance(request, dict) and "seed" in request else None
        for request in requests
    ]
    attempts = _assign_attempts(record.attempts, requests, call_origins, [row["role"] for row in rows])
    columns = ("id", "kind", "role", "model", "prompt_tokens", "completion_tokens", "usd", "seconds")
    return [
        StoredCall(
            attempt=attempt, step=origin.step.name if origin else "", request=redact(row["request"]),
            reply=redact(row["reply"]), answered_at=row["at"], **{column: row[column] for column in columns},
        )
        for row, origin, attempt in zip(rows, call_origins, attempts, strict=True)
    ]  # fmt: skip


def _assign_attempts(
    attempts: Sequence[Attempt], requests: Sequence[Any], origins: Sequence[CallOrigin | None], roles: Sequence[str]
) -> list[int]:
    """The number of the attempt that each call belongs to. A call without an origin is recognised by the question or
    the program in its request. If the request contains neither, the call belongs to the attempt of the preceding call;
    but a call of the attacker belongs to the attempt of the following call, since an attempt begins with the attacker.
    """
    recognised_attempts = [
        origin.attempt if origin else _find_attempt(attempts, request)
        for origin, request in zip(origins, requests, strict=True)
    ]
    last_attempt = len(attempts) - 1
    assigned_attempts: list[int] = []
    for index, recognised_attempt in enumerate(recognised_attempts):
        if recognised_attempt is not None:
            assigned_attempts.append(recognised_attempt)
        elif assigned_attempts and roles[index] != "attacker":
            assigned_attempts.append(assigned_attempts[-1])
        else:
            later_attempts = [number for number in recognised_attempts[index:] if number is not None]
            assigned_attempts.append(later_attempts[0] if later_attempts else last_attempt)
    return assigned_attempts


def _find_attempt(attempts: Sequence[Attempt], request: Any) -> int | None:
    """The number of the attempt whose question the request embeds, or whose program it runs; None if there is none."""
    if not isinstance(request, dict):
        return None
    text, code = request.get("text"), request.get("code")
    for attempt in attempts:
        if attempt.attack is None:
            continue
        embeds_question = bool(text) and text == attempt.attack.question
        runs_program = bool(code) and code == attempt.attack.program
        if embeds_question or runs_program:
            return attempt.number
    return None


def describe_call(kind: str, request: str, reply: str) -> tuple[str, str]:
    """A request and its reply as readable text. Messages, programs and outputs are unchanged; all other values are
    formatted as JSON.
    """
    return _describe_request(kind, read_json(request)), _describe_reply(read_json(reply))


def _describe_request(kind: str, request: Any) -> str:
    if not isinstance(request, dict):
        return str(request)
    body = dict(request)
    messages = body.pop("messages", ())
    lines = [f"[{message['role']}]\n{message['content']}\n" for message in messages]
    if kind == "python":
        lines.append(f"{body.pop('code', '')}\n")
    return "\n".join([*lines, json.dumps(body, ensure_ascii=False, indent=1)])


def _describe_reply(reply: Any) -> str:
    if not isinstance(reply, dict):
        return str(reply)
    body = dict(reply)
    texts = [str(body.pop(key)) for key in ("text", "stdout", "stderr") if body.get(key)]
    if isinstance(body.get("vector"), list):
        body["vector"] = f"{len(body['vector'])} numbers"
    return "\n\n".join([*texts, json.dumps(body, ensure_ascii=False, indent=1)])
