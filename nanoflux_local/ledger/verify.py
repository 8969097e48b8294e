"""Verification: recomputes every hash of a run from the stored rows, and reports those that do not match."""

import json
from collections.abc import Iterator, Mapping
from sqlite3 import Row
from typing import Any

from nanoflux_local.ledger.earlier_questions import read_questions
from nanoflux_local.ledger.packing import CALLS
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.quantities import format_quantity
from nanoflux_local.records import digest, read_costs
from nanoflux_local.transcript import KEPT, Example, attempt_from_json


def verify_run(view: LedgerView, run: str) -> Iterator[str]:
    """Verify a run, given by its id, its name or the beginning of its id. Yields one line for each mismatch; rows are
    read one at a time.
    """
    run_row = view.find_run(run)
    run_id = run_row["id"]
    config = _read_json(run_row["config"])
    if digest(config) != run_row["config_hash"]:
        yield f"run {run_id}: the configuration does not match its hash"
    elif run_row["status"] == "done":
        yield from _verify_end(view, run_id, config)
    environment_hash = run_row["environment_hash"]  # "" if the run comes from an older version, which stored no hash
    if environment_hash and environment_hash != digest(_read_json(run_row["environment"])):
        yield f"run {run_id}: the environment does not match its hash"
    for other_run, frozen in config.get("novel_against", {}).items():
        if digest(list(read_questions(view, other_run, frozen["turns"]))) != frozen["questions"]:
            yield f"run {run_id}: the questions of run {other_run} are not those recorded when this run started"
    yield from _verify_calls(view, run_id)
    yield from _verify_turns(view, run_id)
    yield from _verify_seeds(view, run_id)
    yield from _verify_examples(view, run_id)
    for row in view.rows("SELECT number, record, record_hash FROM trials WHERE run = ?", run_id):
        if digest(_read_json(row["record"])) != row["record_hash"]:
            yield f"solution {row['number']} of the judge's trial: the record does not match its hash"


def _verify_calls(view: LedgerView, run: str) -> Iterator[str]:
    """Verify the calls made for the run, and those of other runs that its turns use."""
    for row in view.rows(f"SELECT * FROM {CALLS} WHERE run = ?", run):
        yield from _verify_call(row)
    calls_of_other_runs = (
        "SELECT DISTINCT turn_calls.call FROM turns JOIN turn_calls ON turn_calls.turn = turns.id"
        " JOIN calls ON calls.id = turn_calls.call WHERE turns.run = ? AND calls.run <> ?"
    )
    for row in view.rows(f"SELECT * FROM {CALLS} WHERE id IN ({calls_of_other_runs})", run, run):
        yield from _verify_call(row)
    for row in view.rows(
        "SELECT turns.number, turn_calls.call FROM turns JOIN turn_calls ON turn_calls.turn = turns.id"
        " WHERE turns.run = ? AND turn_calls.call NOT IN (SELECT id FROM calls)",
        run,
    ):
        yield f"turn {row['number']}: uses call {row['call']}, which is missing"


def _verify_call(row: Row) -> Iterator[str]:
    """Verify the hashes of a call, and that its columns agree with its request and reply."""
    request, reply = _read_json(row["request"]), _read_json(row["reply"])
    if digest({"kind": row["kind"], **request}) != row["key"]:
        yield f"call {row['id']}: the request does not match its key"
    elif request["endpoint"]["model"] != row["model"]:
        yield f"call {row['id']}: the column model differs from the request"
    if digest(reply) != row["reply_hash"]:
        yield f"call {row['id']}: the reply does not match its hash"
        return
    for column, cost in read_costs(reply).items():
        if row[column] != cost:
            yield f"call {row['id']}: the column {column} differs from the reply"


def _verify_turns(view: LedgerView, run: str) -> Iterator[str]:
    """Verify that no turn is missing, and that each turn's record matches its hash and its columns."""
    expected_number = 0
    rows = view.rows(
        "SELECT *, (SELECT count(*) FROM turn_calls WHERE turn = turns.id) AS used_calls FROM turns WHERE run = ?"
        " ORDER BY number",
        run,
    )
    for row in rows:
        if row["number"] != expected_number:
            yield f"turn {expected_number}: missing"
        expected_number = row["number"] + 1
        record = _read_json(row["record"])
        if digest(record) != row["record_hash"]:
            yield f"turn {row['number']}: the record does not match its hash"
            continue
        outcome = _read_outcome(record)
        if bool(row["kept"]) != (outcome in KEPT):
            yield f"turn {row['number']}: the column kept is {bool(row['kept'])}, but its outcome is {outcome}"
        if row["attempts"].split() != [attempt["outcome"] for attempt in record["attempts"]]:
            yield f"turn {row['number']}: the column attempts differs from the record"
        if row["uses"] != row["used_calls"]:
            used_calls = format_quantity(row["used_calls"], "call")
            yield f"turn {row['number']}: the column uses is {row['uses']}, but the turn uses {used_calls}"
    yield from _verify_fresh_counts(view, run)


def _verify_fresh_counts(view: LedgerView, run: str) -> Iterator[str]:
    """Verify the sum of the column `fresh` over a run's turns. Each call that the run made and used is counted by the
    first turn that used it, so the sum is the number of these calls. CROSS JOIN makes SQLite start at a call and its
    few turns.
    """
    counted_row = view.row("SELECT coalesce(sum(fresh), 0) AS n FROM turns WHERE run = ?", run)
    used_row = view.row(
        "SELECT count(*) AS n FROM calls WHERE run = ? AND EXISTS (SELECT 1 FROM turn_calls CROSS JOIN turns"
        " ON turns.id = turn_calls.turn WHERE turn_calls.call = calls.id AND turns.run = calls.run)",
        run,
    )
    if counted_row and used_row and counted_row["n"] != used_row["n"]:
        yield f"run {run}: its turns count {counted_row['n']} of the run's calls, but use {used_row['n']}"


def _verify_seeds(view: LedgerView, run: str) -> Iterator[str]:
    """Verify the imported items that served as seeds of the run; built-in seeds are part of the installed version."""
    rows = view.rows(
        "SELECT dataset, id, record, record_hash FROM items WHERE id IN (SELECT seed.value FROM turns,"
        " json_each(iif(json_valid(turns.record), turns.record, '{}'), '$.attempts') AS attempt,"
        " json_each(attempt.value, '$.seeds') AS seed WHERE turns.run = ?)",
        run,
    )
    for row in rows:
        if digest(_read_json(row["record"])) != row["record_hash"]:
            yield f"item {row['id']} of {row['dataset']}: the record does not match its hash"


def _read_pass_rate(record: Mapping[str, Any]) -> tuple[int, int] | None:
    """The pass rate of a turn's last attempt; None if the record is damaged or the attempt has no pass rate."""
    try:
        return attempt_from_json(record["attempts"][-1]).pass_rate
    except (ValueError, TypeError, LookupError):
        return None


def _verify_examples(view: LedgerView, run: str) -> Iterator[str]:
    """Verify that every kept turn has an example, and that every example agrees with its turn's record."""
    rows = view.rows(
        "SELECT examples.*, turns.record AS record FROM examples LEFT JOIN turns"
        " ON turns.run = examples.run AND turns.number = examples.turn WHERE examples.run = ?",
        run,
    )
    for row in rows:
        example = Example(row["turn"], row["question"], row["solution"], row["answer"], row["reason"])
        if example.hash() != row["content_hash"]:
            yield f"example {row['id']}: the content does not match its hash"
        record = _read_json(row["record"]) if row["record"] else {}
        last_attempt = _find_last_attempt(record)
        attack = last_attempt.get("attack") or {}
        recorded_values = (attack.get("question"), attack.get("solution"), attack.get("answer"), _read_outcome(record))
        quality = last_attempt.get("quality")
        if quality and row["level"] != quality["level"]:
            yield f"example {row['id']}: the column level is {row['level']}, but its turn was rated {quality['level']}"
        pass_rate = _read_pass_rate(record)
        if pass_rate is not None and (row["passes"], row["tries"]) != pass_rate:
            columns = f"the columns passes and tries are {row['passes']} and {row['tries']}"
            yield f"example {row['id']}: {columns}, but its turn has {pass_rate[0]} of {pass_rate[1]}"
        if recorded_values != (example.question, example.solution, example.answer, example.reason):
            yield f"example {row['id']}: differs from turn {row['turn']}"
    for row in view.rows(
        "SELECT number FROM turns WHERE run = ? AND kept = 1 AND number NOT IN"
        " (SELECT turn FROM examples WHERE run = ?)",
        run,
        run,
    ):
        yield f"turn {row['number']}: kept, but its example is missing"


def _verify_end(view: LedgerView, run: str, config: dict[str, Any]) -> Iterator[str]:
    """Verify that a finished run has reached its target or turn limit. If it has not, its last turns were deleted."""
    row = view.row("SELECT count(*) AS turns, coalesce(sum(kept), 0) AS kept FROM turns WHERE run = ?", run)
    if row and row["kept"] < config["target"] and row["turns"] < config["max_turns"]:
        kept_note = f"{row['kept']} kept" if row["turns"] == 1 else f"{row['kept']} of them kept"
        yield f"run {run}: is done, but has only {format_quantity(row['turns'], 'turn')}, {kept_note}"


def _read_outcome(record: dict[str, Any]) -> str:
    """The outcome of a turn's last attempt; "None" if the record is damaged."""
    return str(_find_last_attempt(record).get("outcome"))


def _find_last_attempt(record: dict[str, Any]) -> dict[str, Any]:
    """The last attempt in a turn's record; {} if the record is damaged."""
    attempts: list[dict[str, Any]] = record.get("attempts", [])
    return attempts[-1] if attempts else {}


def _read_json(text: str) -> dict[str, Any]:
    """A stored JSON object; {}, which matches no hash, if the text is damaged."""
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
