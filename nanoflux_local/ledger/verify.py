"""Verification: derives every hash of a run again from what is stored, and says what does not match."""

import json
from collections.abc import Iterator
from typing import Any

from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.records import digest
from nanoflux_local.transcript import KEPT, Example


def verify_run(view: LedgerView, run: str) -> Iterator[str]:
    """One line for each thing of a run that does not match; streams, and holds one row at a time."""
    found = view.find_run(run)
    config = _json(found["config"])
    if digest(config) != found["config_hash"]:
        yield f"run {found['id']}: the configuration does not match its hash"
    elif found["status"] == "done":
        yield from _end(view, found["id"], config)
    yield from _calls(view, found["id"])
    yield from _turns(view, found["id"])
    yield from _examples(view, found["id"])


def _calls(view: LedgerView, run: str) -> Iterator[str]:
    """The calls made for the run, and those of other runs that its turns rest on."""
    rows = view.rows(
        "SELECT * FROM calls WHERE run = ? OR id IN (SELECT call FROM turn_calls JOIN turns"
        " ON turns.id = turn_calls.turn WHERE turns.run = ?)",
        run,
        run,
    )
    for row in rows:
        if digest({"kind": row["kind"], **_json(row["request"])}) != row["key"]:
            yield f"call {row['id']}: the request does not match its key"
        if digest(_json(row["reply"])) != row["reply_hash"]:
            yield f"call {row['id']}: the reply does not match its hash"
    for row in view.rows(
        "SELECT turns.number, turn_calls.call FROM turns JOIN turn_calls ON turn_calls.turn = turns.id"
        " WHERE turns.run = ? AND turn_calls.call NOT IN (SELECT id FROM calls)",
        run,
    ):
        yield f"turn {row['number']}: rests on call {row['call']}, which is missing"


def _turns(view: LedgerView, run: str) -> Iterator[str]:
    expected = 0
    for row in view.rows("SELECT * FROM turns WHERE run = ? ORDER BY number", run):
        if row["number"] != expected:
            yield f"turn {expected}: missing"
        expected = row["number"] + 1
        record = _json(row["record"])
        if digest(record) != row["record_hash"]:
            yield f"turn {row['number']}: the record does not match its hash"
        if bool(row["kept"]) != (_outcome(record) in KEPT):
            yield f"turn {row['number']}: kept says {bool(row['kept'])}, its last attempt ended as {_outcome(record)}"


def _examples(view: LedgerView, run: str) -> Iterator[str]:
    """Every kept turn has exactly its example, and every example its kept turn."""
    rows = view.rows(
        "SELECT examples.*, turns.record AS record FROM examples LEFT JOIN turns"
        " ON turns.run = examples.run AND turns.number = examples.turn WHERE examples.run = ?",
        run,
    )
    for row in rows:
        example = Example(row["turn"], row["question"], row["solution"], row["answer"], row["reason"])
        if example.hash() != row["content_hash"]:
            yield f"example {row['id']}: the content does not match its hash"
        record = _json(row["record"]) if row["record"] else {}
        attack = (record["attempts"][-1].get("attack") or {}) if record.get("attempts") else {}
        told = (attack.get("question"), attack.get("solution"), attack.get("answer"), _outcome(record))
        if told != (example.question, example.solution, example.answer, example.reason):
            yield f"example {row['id']}: differs from turn {row['turn']}"
    for row in view.rows(
        "SELECT number FROM turns WHERE run = ? AND kept = 1 AND number NOT IN"
        " (SELECT turn FROM examples WHERE run = ?)",
        run,
        run,
    ):
        yield f"turn {row['number']}: kept, but its example is missing"


def _end(view: LedgerView, run: str, config: dict[str, Any]) -> Iterator[str]:
    """A run is done at its target or its turn limit: whoever cut off its last turns shows here."""
    row = view.row("SELECT count(*) AS turns, coalesce(sum(kept), 0) AS kept FROM turns WHERE run = ?", run)
    if row and row["kept"] < config["target"] and row["turns"] < config["max_turns"]:
        yield f"run {run}: is done, but holds {row['turns']} turns with {row['kept']} kept"


def _outcome(record: dict[str, Any]) -> str:
    attempts = record.get("attempts") or [{}]
    return str(attempts[-1].get("outcome"))


def _json(text: str) -> dict[str, Any]:
    """A stored document; one that is not JSON any more matches no hash."""
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
