"""Lineage of a kept example: its seeds, the calls that produced it, the trainings that used it, and the held-out items
nearest to it. Reads the ledger and the rows of trainings; calls no model.
"""

import json
from contextlib import suppress
from typing import Any

from nanoflux_local.errors import NanofluxError, NothingMatchedError
from nanoflux_local.ledger.packing import CALLS, WITH_KEY
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.records import EmbedReply, EmbedRequest, Identity
from nanoflux_local.run.novelty import similarity
from nanoflux_local.seeds.datasets import items_here
from nanoflux_local.train.rows import read_rows
from nanoflux_local.train.trainings import TRAIN

NEAR = 3
"""Number of nearest held-out items to list."""


def lineage(home: Home, view: LedgerView, example: str) -> dict[str, Any]:
    """The lineage of an example, as in `examples show --json`.

    Raises:
        NothingMatchedError: the example is unknown.
    """
    row = view.row(
        "SELECT examples.id, examples.run, examples.turn, turns.id AS turn_id, turns.record FROM examples JOIN turns"
        " ON turns.run = examples.run AND turns.number = examples.turn WHERE examples.id = ?",
        example,
    )
    if row is None:
        raise NothingMatchedError(
            f"no example {example!r} in this home", "list a run's examples with `nanoflux examples list RUN`"
        )
    last = json.loads(row["record"])["attempts"][-1]
    return {
        "seeds": [_describe_seed(view, row["run"], name) for name in last["seeds"]],
        "calls": calls_of(view, row["turn_id"]),
        "trainings": _trainings(home, view, row["run"], f"turn-{row['turn']}"),
        "near": near(home, view, row["run"], last["attack"]["question"]),
    }


def _describe_seed(view: LedgerView, run: str, name: str) -> dict[str, Any]:
    """A seed with its question if its benchmark is imported, else its name (built-in templates have only a name)."""
    row = view.row(
        "SELECT dataset, split, record FROM items WHERE id = ?"
        " ORDER BY dataset IN (SELECT version FROM pinned WHERE run = ?) DESC, instr(dataset, '@') LIMIT 1",
        name,
        run,
    )
    if row is None:
        return {"id": name}
    return {
        "id": name,
        "dataset": row["dataset"],
        "split": row["split"],
        "question": json.loads(row["record"])["question"],
    }


def calls_of(view: LedgerView, turn: int) -> list[dict[str, Any]]:
    """The calls of a turn in order, each with its request and reply."""
    rows = view.rows(
        f"SELECT whole.id, kind, role, model, request, reply FROM turn_calls JOIN {CALLS} AS whole"
        " ON whole.id = turn_calls.call WHERE turn = ? ORDER BY position",
        turn,
    )
    return [
        {"call": row["id"], "kind": row["kind"], "role": row["role"], "model": row["model"], **_describe_call(row)}
        for row in rows
    ]


def _describe_call(row: Any) -> dict[str, Any]:
    """Request and reply of a call by its kind; for an embedding, only the text."""
    try:
        asked, came = json.loads(row["request"]), json.loads(row["reply"])
    except ValueError:  # damaged on disk: `run verify` finds it
        return {"damaged": True}
    if "refused" in came:
        asked_for = {"prompt": asked["messages"]} if row["kind"] == "chat" else {"text": asked.get("text", "")}
        return {**asked_for, "reply": "", "finish": "refused", "reason": f"{came['refused']}: {came['detail']}"}
    if row["kind"] == "chat":
        return {"prompt": asked["messages"], "reply": came["text"], "finish": came["finish"]}
    if row["kind"] == "python":
        return {"code": asked["code"], **{key: came[key] for key in ("status", "stdout", "stderr")}}
    return {"text": asked.get("text", "")}


def _trainings(home: Home, view: LedgerView, run: str, name: str) -> list[dict[str, Any]]:
    """The trainings that used the row of this name; trainings without stored rows are skipped."""
    trainings = []
    for row in view.rows("SELECT id, base, status, adapter FROM trainings WHERE run = ? ORDER BY rowid", run):
        with suppress(NanofluxError, OSError):
            if any(example.id == name for example in read_rows(home.root / "trainings" / row["id"] / TRAIN)):
                trainings.append({key: row[key] for key in ("id", "base", "status", "adapter")})
    return trainings


def near(home: Home, view: LedgerView, run: str, question: str) -> list[dict[str, Any]]:
    """The held-out items nearest to a question, by the run's embeddings; [] if the run held none out."""
    row = view.find_run(run)
    recorded = json.loads(row["environment"])["identities"].get("embedder")
    identity = Identity(**recorded) if recorded else None
    own = _vector(view, identity, question) if identity else None
    if identity is None or own is None:
        return []
    pinned = view.pinned(row["id"])
    held_out = [pinned.get(dataset, dataset) for dataset in json.loads(row["config"]).get("held_out", ())]
    measured = [
        (similarity(own, vector), item)
        for dataset in held_out
        for item in items_here(home.ledger, dataset, "test")  # a run may be carried here without its benchmarks
        if (vector := _vector(view, identity, item.question)) is not None
    ]
    nearest = sorted(measured, key=lambda pair: (-pair[0], pair[1].id))[:NEAR]
    return [{"item": item.id, "dataset": item.dataset, "similarity": alike} for alike, item in nearest]


def _vector(view: LedgerView, embedder: Identity, text: str) -> Any:
    row = view.row(f"SELECT reply FROM {CALLS} WHERE {WITH_KEY}", EmbedRequest(embedder, text).key())
    with suppress(ValueError, TypeError):
        return EmbedReply.from_json(json.loads(row["reply"])).vector if row else None
    return None
