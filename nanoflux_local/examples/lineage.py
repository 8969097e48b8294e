"""The lineage of a kept example: its seeds, the calls that produced it, the training runs that used it, and the
held-out items nearest to it. Everything is read from the ledger and from stored training rows; no model is called.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from nanoflux_local.errors import NanofluxError, NothingMatchedError
from nanoflux_local.ledger.packing import CALLS, WITH_KEY
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.records import EmbedReply, EmbedRequest, Identity, similarity
from nanoflux_local.seeds.datasets import load_available_items
from nanoflux_local.train.rows import read_rows
from nanoflux_local.train.trainings import TRAIN_FILE

NEAREST_COUNT = 3
"""The number of nearest held-out items that a lineage lists."""


@dataclass(frozen=True, slots=True)
class SeedOrigin:
    """A seed of an example. For a built-in template, and for an item that this home lacks, only `id` is set."""

    id: str
    dataset: str = ""
    split: str = ""
    question: str = ""

    def to_json(self) -> dict[str, str]:
        return asdict(self) if self.dataset else {"id": self.id}


@dataclass(frozen=True, slots=True)
class RecordedCall:
    """A call of a turn. `content` has the request and the reply, under keys that depend on `kind` (see
    `_describe_call`).
    """

    id: int
    kind: str
    role: str
    model: str
    content: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        return {"call": self.id, "kind": self.kind, "role": self.role, "model": self.model, **self.content}

    @property
    def outcome(self) -> str:
        """How the call ended: the status and output of a program, the reason for a refusal, or the reply. An embedding
        has no readable reply, so its text is returned instead.
        """
        if "status" in self.content:
            return f"{self.content['status']}: {self.content['stdout']}"
        if self.content.get("reason"):
            return str(self.content["reason"])
        return str(self.content.get("reply", self.content.get("text", "damaged on disk")))


@dataclass(frozen=True, slots=True)
class TrainingUse:
    """A training run that used an example; `adapter` is "" until the training run has finished."""

    id: str
    base: str
    status: str
    adapter: str


@dataclass(frozen=True, slots=True)
class NearItem:
    """A held-out item, and the cosine similarity between its question and that of an example, rounded to 6 digits."""

    item: str
    dataset: str
    similarity: float


@dataclass(frozen=True, slots=True)
class Lineage:
    """The lineage of an example, as `examples show --json` prints it. `near` lists the nearest held-out items."""

    seeds: tuple[SeedOrigin, ...]
    calls: tuple[RecordedCall, ...]
    trainings: tuple[TrainingUse, ...]
    near: tuple[NearItem, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "seeds": [seed.to_json() for seed in self.seeds],
            "calls": [call.to_json() for call in self.calls],
            "trainings": [asdict(training) for training in self.trainings],
            "near": [asdict(item) for item in self.near],
        }


def trace_lineage(home: Home, view: LedgerView, example_id: str) -> Lineage:
    """Trace an example back to its seeds and calls, and forward to the training runs that used it. Also find the
    held-out items nearest to it.

    Raises:
        NothingMatchedError: the example is unknown.
    """
    row = view.row(
        "SELECT examples.id, examples.run, examples.turn, turns.id AS turn_id, turns.record FROM examples JOIN turns"
        " ON turns.run = examples.run AND turns.number = examples.turn WHERE examples.id = ?",
        example_id,
    )
    if row is None:
        raise NothingMatchedError(
            f"no example {example_id!r} in this home", "list a run's examples with `nanoflux examples list RUN`"
        )
    last_attempt = json.loads(row["record"])["attempts"][-1]
    return Lineage(
        seeds=tuple(_find_seed(view, row["run"], seed_id) for seed_id in last_attempt["seeds"]),
        calls=tuple(_list_calls(view, row["turn_id"])),
        trainings=tuple(_list_trainings(home, view, row["run"], f"turn-{row['turn']}")),
        near=tuple(_find_near_items(home, view, row["run"], last_attempt["attack"]["question"])),
    )


def _find_seed(view: LedgerView, run: str, seed_id: str) -> SeedOrigin:
    """A seed with its question if its benchmark is imported, otherwise only its id. If several versions of the
    benchmark have the seed, the version that the run is pinned to comes first, then the current one.
    """
    row = view.row(
        "SELECT dataset, split, record FROM items WHERE id = ?"
        " ORDER BY dataset IN (SELECT version FROM pinned WHERE run = ?) DESC, instr(dataset, '@') LIMIT 1",
        seed_id,
        run,
    )
    if row is None:
        return SeedOrigin(seed_id)
    return SeedOrigin(seed_id, row["dataset"], row["split"], json.loads(row["record"])["question"])


def _list_calls(view: LedgerView, turn_id: int) -> list[RecordedCall]:
    """The calls of a turn in order, each with its request and reply."""
    rows = view.rows(
        f"SELECT calls.id, kind, role, model, request, reply FROM turn_calls JOIN {CALLS} AS calls"
        " ON calls.id = turn_calls.call WHERE turn = ? ORDER BY position",
        turn_id,
    )
    return [RecordedCall(row["id"], row["kind"], row["role"], row["model"], _describe_call(row)) for row in rows]


def _describe_call(row: Any) -> dict[str, Any]:
    """The request and reply of a call, under keys that depend on its kind; for an embedding, only the text."""
    try:
        request, reply = json.loads(row["request"]), json.loads(row["reply"])
    except ValueError:  # the texts are damaged on disk; `run verify` reports this
        return {"damaged": True}
    if "refused" in reply:
        request_text = {"prompt": request["messages"]} if row["kind"] == "chat" else {"text": request.get("text", "")}
        return {**request_text, "reply": "", "finish": "refused", "reason": f"{reply['refused']}: {reply['detail']}"}
    if row["kind"] == "chat":
        return {"prompt": request["messages"], "reply": reply["text"], "finish": reply["finish"]}
    if row["kind"] == "python":
        return {"code": request["code"], **{key: reply[key] for key in ("status", "stdout", "stderr")}}
    return {"text": request.get("text", "")}


def _list_trainings(home: Home, view: LedgerView, run: str, row_id: str) -> list[TrainingUse]:
    """The training runs on the examples of `run` that used the row `row_id`. Training runs without stored rows are
    skipped.
    """
    trainings = []
    for row in view.rows("SELECT id, base, status, adapter FROM trainings WHERE run = ? ORDER BY rowid", run):
        path = home.root / "trainings" / row["id"] / TRAIN_FILE
        with suppress(NanofluxError, OSError):
            if any(example.id == row_id for example in read_rows(path)):
                trainings.append(TrainingUse(row["id"], row["base"], row["status"], row["adapter"]))
    return trainings


def _find_near_items(home: Home, view: LedgerView, run: str, question: str) -> list[NearItem]:
    """The held-out items nearest to a question, by the run's stored embeddings; [] if the run has no held-out items."""
    row = view.find_run(run)
    embedder_fields = json.loads(row["environment"])["identities"].get("embedder")
    identity = Identity(**embedder_fields) if embedder_fields else None
    question_vector = _load_vector(view, identity, question) if identity else None
    if identity is None or question_vector is None:
        return []
    pinned = view.pinned_versions(row["id"])
    held_out = [pinned.get(dataset, dataset) for dataset in json.loads(row["config"]).get("held_out", ())]
    near_items = []
    for dataset in held_out:
        # There are no items if the run was merged into this home without its benchmarks.
        for item in load_available_items(home.ledger, dataset, "test"):
            vector = _load_vector(view, identity, item.question)
            if vector is not None:
                near_items.append(NearItem(item.id, item.dataset, similarity(question_vector, vector)))
    return sorted(near_items, key=lambda near_item: (-near_item.similarity, near_item.item))[:NEAREST_COUNT]


def _load_vector(view: LedgerView, embedder: Identity, text: str) -> Any:
    """The stored embedding of a text; None if there is none or it is damaged."""
    row = view.row(f"SELECT reply FROM {CALLS} WHERE {WITH_KEY}", EmbedRequest(embedder, text).key())
    if row is None:
        return None
    try:
        return EmbedReply.from_json(json.loads(row["reply"])).vector
    except (ValueError, TypeError):
        return None
