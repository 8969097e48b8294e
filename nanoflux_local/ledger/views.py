"""Read-only views of the ledger: SQLite itself refuses to write through them."""

import json
import re
import sqlite3
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

from sqlite_utils import Database

from nanoflux_local.errors import LedgerError, NothingMatchedError
from nanoflux_local.ledger.packing import add_unpack_function
from nanoflux_local.ledger.schema import migrations
from nanoflux_local.ledger.store import BUSY_TIMEOUT_S, Ledger, refuse_newer, translate_sqlite_errors
from nanoflux_local.ledger.summary import AttemptEnd, CallCounts, LostCost, RunSummary, TokenUsage
from nanoflux_local.reasoning import CUT_IN_REASONING
from nanoflux_local.suggestions import make_ambiguity_error
from nanoflux_local.transcript import OUTCOMES, Example, Seed, TurnRecord, dataset_digest, turn_from_json

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Stored = TypeVar("Stored", bound="DataclassInstance")
MAX_REASON_CHARACTERS = 200
"""In a summary, a longer reason of an attempt is shortened to this number of characters."""
_NUMBER = re.compile(r"(?<![\w.-])\d+")
"""A number that is not part of a name such as `duelist-2`."""


@dataclass(frozen=True, slots=True)
class StoredDataset:
    """An imported benchmark: its name, the files it was imported from, and the number of items in each split."""

    name: str
    source: str
    splits: dict[str, int]


@dataclass(frozen=True, slots=True)
class CurveEvent:
    """A step or an epoch of a training run, with everything that was recorded about it."""

    kind: str
    event: Mapping[str, Any]

    @property
    def step(self) -> int:
        """The number of the step, or of the last step of the epoch; the first step is 1."""
        return int(self.event["step"])

    @property
    def epoch(self) -> int:
        return int(self.event.get("epoch", 0))

    @property
    def loss(self) -> float:
        """The mean loss of a step."""
        return float(self.event["loss"])

    @property
    def val_loss(self) -> float | None:
        """The dev loss after an epoch; None without dev rows."""
        loss: float | None = self.event.get("val_loss")
        return loss


@dataclass(frozen=True, slots=True)
class TrainingCurve:
    """The steps and epochs of a training run in order."""

    events: tuple[CurveEvent, ...]

    @property
    def steps(self) -> list[CurveEvent]:
        return [event for event in self.events if event.kind == "step"]

    @property
    def epochs(self) -> list[CurveEvent]:
        return [event for event in self.events if event.kind == "epoch"]

    @property
    def dev_losses(self) -> list[tuple[int, float]]:
        """The dev losses, each with the number of the step after which it was measured."""
        return [(epoch.step, epoch.val_loss) for epoch in self.epochs if epoch.val_loss is not None]


class LedgerView:
    """A ledger opened for reading. A query waits up to `wait_s` seconds if the file is locked.

    Raises:
        LedgerError: the file is not a ledger, or comes from a newer version.
        NothingMatchedError: there is no ledger yet.
    """

    def __init__(self, path: Path, wait_s: float = BUSY_TIMEOUT_S) -> None:
        self.path = path
        if not path.exists():
            raise NothingMatchedError(
                f"there is no ledger at {path} yet", "start a run, or choose another home directory with --home"
            )
        with translate_sqlite_errors(path):
            self._connection = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=wait_s, isolation_level=None
            )
            self._connection.row_factory = sqlite3.Row
            self._connection.text_factory = _decode_text
            add_unpack_function(self._connection)
            database = Database(self._connection)
            refuse_newer(database, path)
            needs_migration = bool(migrations.pending(database))
        if needs_migration:  # an older version wrote the file, or another process is creating it; `Ledger` handles both
            Ledger(path).close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def rows(self, sql: str, *values: object) -> Iterator[sqlite3.Row]:
        """The rows of a query, read one at a time."""
        with translate_sqlite_errors(self.path):
            yield from self._connection.execute(sql, values)

    def row(self, sql: str, *values: object) -> sqlite3.Row | None:
        """The first row of a query, or None."""
        return next(self.rows(sql, *values), None)

    def find_run(self, name: str) -> sqlite3.Row:
        """Find a run by its id, its name (the newest run of that name), or an unambiguous beginning of its id.

        Raises:
            NothingMatchedError: there is no such run, or several ids begin with `name`; the message then names some.
        """
        run = self.row("SELECT * FROM runs WHERE id = ?", name)
        if run is None:
            run = self.row("SELECT * FROM runs WHERE name = ? ORDER BY rowid DESC", name)
        if run is None:
            run = self._find_run_by_prefix(name)
        if run is None:
            raise NothingMatchedError(f"there is no run {name!r}", "see `nanoflux run list`")
        return run

    def _find_run_by_prefix(self, prefix: str) -> sqlite3.Row | None:
        """The only run whose id begins with `prefix`, or None. Raises NothingMatchedError if there are several."""
        matches = self.list_by_id_prefix("runs", prefix)
        if len(matches) > 1:
            raise make_ambiguity_error(prefix, "run", [match["id"] for match in matches])
        return matches[0] if matches else None

    def list_by_id_prefix(self, table: Literal["runs", "trainings", "evaluations"], prefix: str) -> list[sqlite3.Row]:
        """The rows of a table whose ids begin with `prefix`, by id; none for "", with which every id begins."""
        if not prefix:
            return []
        return list(self.rows(f"SELECT * FROM {table} WHERE substr(id, 1, ?) = ? ORDER BY id", len(prefix), prefix))

    def find_turn(self, run: str, number: int) -> sqlite3.Row:
        """A committed turn of a run.

        Raises:
            NothingMatchedError: the run has not committed that turn.
        """
        turn = self.row("SELECT * FROM turns WHERE run = ? AND number = ?", run, number)
        if turn is None:
            raise NothingMatchedError(f"run {run} has no turn {number}", f"see `nanoflux run attempts {run}`")
        return turn

    def examples(self, run: str) -> list[Example]:
        """The kept examples of a run, in turn order."""
        rows = self.rows("SELECT * FROM examples WHERE run = ? ORDER BY turn", run)
        return [Example(row["turn"], row["question"], row["solution"], row["answer"], row["reason"]) for row in rows]

    def turn_records(self, run: str) -> list[TurnRecord]:
        """The committed turns of a run, in order.

        Raises:
            LedgerError: the record of a turn cannot be read.
        """
        records = []
        for row in self.rows("SELECT number, record FROM turns WHERE run = ? ORDER BY number", run):
            try:
                records.append(turn_from_json(json.loads(row["record"])))
            except (ValueError, TypeError, LookupError) as error:
                raise LedgerError(
                    f"{self.path}: turn {row['number']} of run {run} cannot be read", f"see `nanoflux run verify {run}`"
                ) from error
        return records

    def funnel(self, run: str) -> dict[str, int]:
        """The number of attempts of the committed turns by outcome, and their sum under "attempts"."""
        outcomes: Counter[str] = Counter()
        for row in self.rows("SELECT attempts, count(*) AS n FROM turns WHERE run = ? GROUP BY attempts", run):
            for outcome in row["attempts"].split():
                outcomes[outcome] += row["n"]
        return {"attempts": outcomes.total(), **{outcome: outcomes[outcome] for outcome in OUTCOMES}}

    def count_rejections(self, run: str, checks: Collection[str]) -> int:
        """The number of attempts whose question one of these checks rejected."""
        if not checks:
            return 0  # the usual case, which needs no look at the records

        def is_rejected(attempt: dict[str, Any]) -> bool:
            findings = (attempt["validation"] or {}).get("findings", ())
            return attempt["outcome"] == "invalid" and any(
                finding["check"] in checks and finding["conclusion"] == "contradicts" for finding in findings
            )

        rows = self.rows("SELECT record FROM turns WHERE run = ? AND instr(attempts, 'invalid')", run)
        return len(_select_attempts(rows, is_rejected))

    def contaminated_attempts(self, run: str) -> list[AttemptEnd]:
        """The attempts whose question repeated an evaluation item, in order; the reason names the item."""
        turns_query = "SELECT number FROM turns WHERE run = ? AND instr(attempts, 'contaminated')"
        rows = self.rows(
            f"SELECT record FROM turns WHERE run = ? AND number IN ({turns_query}) ORDER BY number", run, run
        )
        return _select_attempts(rows, lambda attempt: attempt["outcome"] == "contaminated")

    def cut_attempts(self, run: str) -> list[AttemptEnd]:
        """The attempts with a reply that was cut inside its reasoning, in order; the reason names the setting to
        raise.
        """
        rows = self.rows(
            "SELECT record FROM turns WHERE run = ? AND instr(record, ?) ORDER BY number", run, CUT_IN_REASONING
        )
        return _select_attempts(rows, lambda attempt: CUT_IN_REASONING in attempt["reason"])

    def failure_reasons(self, run: str) -> dict[str, dict[str, int]]:
        """The number of attempts that ended without a readable reply, by reason, the most frequent first. The key
        "unread" has the attempts with a reply that could not be parsed, "refused" those whose prompt an endpoint
        refused. Reasons under "unread" that differ only in numbers are counted together, under the first of them.
        """
        counts_by_kind: dict[str, Counter[str]] = {"unread": Counter(), "refused": Counter()}
        first_reasons: dict[tuple[str, str], str] = {}
        for row in self.rows(
            "SELECT json_extract(attempt.value, '$.reason') AS reason,"
            " coalesce(json_extract(attempt.value, '$.refused'), '') AS refused"
            " FROM turns, json_each(iif(json_valid(record), record, '{}'), '$.attempts') AS attempt"
            " WHERE run = ?"
            " AND (' ' || attempts || ' ' LIKE '% unparsed %' OR ' ' || attempts || ' ' LIKE '% failed %')"
            " AND json_extract(attempt.value, '$.outcome') IN ('unparsed', 'failed') ORDER BY number",
            run,
        ):
            kind = "refused" if row["refused"] else "unread"
            reason = _shorten_reason(row["reason"], kind)
            reason_pattern = _NUMBER.sub("N", reason) if kind == "unread" else reason
            first_reasons.setdefault((kind, reason_pattern), reason)
            counts_by_kind[kind][reason_pattern] += 1
        count_by_reason: dict[str, dict[str, int]] = {}
        for kind, counts in counts_by_kind.items():
            count_by_reason[kind] = {
                first_reasons[kind, reason_pattern]: count for reason_pattern, count in counts.most_common()
            }
        return count_by_reason

    def is_priced(self, run: str) -> bool:
        """Whether any endpoint of a run has a price."""
        endpoints = json.loads(self.find_run(run)["config"]).get("endpoints", {})
        return any(endpoint.get("price") for endpoint in endpoints.values())

    def levels(self, run: str) -> dict[str, int]:
        """The number of kept examples by level of reasoning; examples without a level are counted as "unrated"."""
        count_by_level = {}
        for row in self.rows("SELECT level, count(*) AS n FROM examples WHERE run = ? GROUP BY level", run):
            level = "unrated" if row["level"] is None else f"L{row['level']}"
            count_by_level[level] = row["n"]
        order = ("L1", "L2", "L3", "L4", "L5", "unrated")
        return {level: count_by_level[level] for level in order if level in count_by_level}

    def pass_rates(self, run: str) -> dict[str, int]:
        """The number of kept examples by pass rate, the hardest first: {"0 of 4": 3, "1 of 4": 5}."""
        rows = self.rows(
            "SELECT passes, tries, count(*) AS n FROM examples WHERE run = ? AND tries IS NOT NULL"
            " GROUP BY passes, tries ORDER BY pass_rate, tries",
            run,
        )
        return {f"{row['passes']} of {row['tries']}": row["n"] for row in rows}

    def faults(self, run: str) -> dict[str, int]:
        """The number of failed requests by kind."""
        rows = self.rows("SELECT kind, count(*) AS n FROM faults WHERE run = ? GROUP BY kind ORDER BY kind", run)
        return {row["kind"]: row["n"] for row in rows}

    def summarize_run(self, name: str) -> RunSummary:
        """The summary of a run; `name` is its id, its name or a beginning of its id (see `find_run`).

        Raises:
            NothingMatchedError: there is no such run.
        """
        run = self.find_run(name)
        examples = self.examples(run["id"])
        sums = self.row(
            "SELECT (SELECT count(*) FROM turns WHERE run = ?1) AS turns,"
            " (SELECT coalesce(sum(uses), 0) FROM turns WHERE run = ?1) AS uses,"
            " (SELECT coalesce(sum(fresh), 0) FROM turns WHERE run = ?1) AS fresh,"
            " count(*) AS made, coalesce(sum(prompt_tokens), 0) AS prompt_tokens,"
            " coalesce(sum(completion_tokens), 0) AS completion_tokens, coalesce(sum(usd), 0.0) AS usd,"
            " coalesce(sum(reasoning_tokens) FILTER (WHERE reasoning_tokens > 0), 0) AS reasoning_tokens"
            " FROM calls WHERE run = ?1",
            run["id"],
        )
        calls_outside_turns = self.row(
            "SELECT count(*) AS n FROM calls WHERE run = ? AND role IN ('earlier', 'trial')"
            " AND NOT EXISTS (SELECT 1 FROM turn_calls WHERE turn_calls.call = calls.id)",
            run["id"],
        )
        lost = self.row(
            "SELECT coalesce(sum(tokens), 0) AS tokens, coalesce(sum(usd), 0.0) AS usd FROM faults WHERE run = ?",
            run["id"],
        )
        assert sums is not None
        assert calls_outside_turns is not None
        assert lost is not None
        wasted = sums["made"] - sums["fresh"] - calls_outside_turns["n"]
        environment = json.loads(run["environment"])
        funnel = self.funnel(run["id"])
        return RunSummary(
            run=run["id"],
            name=run["name"],
            domain=run["domain"],
            rules=_read_rules(run["config"]),
            forked_from=environment.get("forked_from", ""),
            status=run["status"],
            message=run["message"],
            turns=sums["turns"],
            max_turns=run["max_turns"],
            kept=len(examples),
            target=run["target"],
            digest=dataset_digest(examples),
            levels=self.levels(run["id"]),
            pass_rates=self.pass_rates(run["id"]),
            funnel=funnel,
            contaminated=self.contaminated_attempts(run["id"]) if funnel["contaminated"] else [],
            cut_in_reasoning=self.cut_attempts(run["id"]),
            calls=CallCounts(sums["made"], sums["uses"] - sums["fresh"], wasted),
            wasted_share=round(wasted / max(1, sums["made"]), 4),
            usage=TokenUsage(sums["prompt_tokens"], sums["completion_tokens"], sums["usd"], sums["reasoning_tokens"]),
            faults=self.faults(run["id"]),
            lost=LostCost(lost["tokens"], lost["usd"]),
            seconds=round(run["seconds"], 3),
            repeatable=environment.get("repeatable"),
            created_at=run["created_at"],
            note=self.note("run", run["id"]),
        )

    def note(self, kind: Literal["run", "training"], subject: str) -> str:
        """The newest note on a run or training; "" if there is none."""
        row = self.row(
            "SELECT note FROM notes WHERE kind = ? AND subject = ? ORDER BY at DESC, id DESC LIMIT 1", kind, subject
        )
        return "" if row is None else str(row["note"])

    def contents(self) -> dict[str, int]:
        """The number of rows in each main table."""
        tables = ("calls", "packs", "runs", "turns", "examples", "trainings", "evaluations", "items")
        columns = ", ".join(f"(SELECT count(*) FROM {table}) AS {table}" for table in tables)
        row = self.row(f"SELECT {columns}")
        assert row is not None
        return dict(row)

    def free_bytes(self) -> int:
        """The number of unused bytes in the file. New rows reuse them; a compaction returns them to the file system."""
        page_size = self.row("PRAGMA page_size")
        free_pages = self.row("PRAGMA freelist_count")
        assert page_size is not None
        assert free_pages is not None
        return int(page_size[0] * free_pages[0])

    def training_curve(self, training: str) -> TrainingCurve:
        """The steps and epochs of a training run. If a step was repeated after a resume, only its last event is
        returned: SQLite takes the columns of each group from the row with `max(id)`. An epoch's event follows the event
        of its last step.
        """
        rows = self.rows(
            "SELECT kind, event, max(id) FROM training_events WHERE training = ? AND kind IN ('step', 'epoch')"
            " GROUP BY kind, step ORDER BY step, kind DESC",
            training,
        )
        return TrainingCurve(tuple(CurveEvent(row["kind"], json.loads(row["event"])) for row in rows))

    def items(self, dataset: str, split: str | None = None) -> list[Seed]:
        """The items of an imported benchmark in file order; those of all splits if `split` is None."""
        rows = self.rows(
            "SELECT record FROM items WHERE dataset = ? AND (? IS NULL OR split = ?) ORDER BY position",
            dataset,
            split,
            split,
        )
        return [Seed(**json.loads(row["record"])) for row in rows]

    def pinned_versions(self, run: str) -> dict[str, str]:
        """For each dataset that was replaced after the run started, the version that the run still uses."""
        return {row["dataset"]: row["version"] for row in self.rows("SELECT * FROM pinned WHERE run = ?", run)}

    def datasets(self) -> list[StoredDataset]:
        """The imported benchmarks, sorted by name."""
        splits_by_dataset: dict[str, dict[str, int]] = {}
        for row in self.rows("SELECT dataset, split, count(*) AS n FROM items GROUP BY dataset, split"):
            splits_by_dataset.setdefault(row["dataset"], {})[row["split"]] = row["n"]
        rows = self.rows("SELECT name, source FROM datasets ORDER BY name")
        return [StoredDataset(row["name"], row["source"], splits_by_dataset.get(row["name"], {})) for row in rows]


def decode_row(stored_type: type[Stored], row: sqlite3.Row, json_columns: Iterable[str] = ()) -> Stored:
    """A row as an instance of a dataclass whose fields have the names of columns. `json_columns` are parsed as JSON."""
    value_by_column = {field.name: row[field.name] for field in fields(stored_type)}
    for name in json_columns:
        value_by_column[name] = json.loads(value_by_column[name])
    return stored_type(**value_by_column)


def _select_attempts(turns: Iterable[sqlite3.Row], accepts: Callable[[dict[str, Any]], bool]) -> list[AttemptEnd]:
    """The attempts for which `accepts` is true, with the reasons why they ended, in turn order."""
    records = [json.loads(turn["record"]) for turn in turns]
    return [
        AttemptEnd(record["number"], attempt["number"], attempt["reason"])
        for record in records
        for attempt in record["attempts"]
        if accepts(attempt)
    ]


def _shorten_reason(reason: str, kind: str) -> str:
    """A reason without the parts that differ between attempts: for "refused", the provider's text, which follows the
    second colon; for "unread", everything from the first quotation on.
    """
    if kind == "refused":
        return ": ".join(reason.split(": ")[:2])
    text_before_quotation = re.split(r":? ['\"]", reason, maxsplit=1)[0]
    return text_before_quotation[:MAX_REASON_CHARACTERS]


def _decode_text(stored: bytes) -> str:
    """The text of a column. Damaged bytes become replacement characters; `run verify` reports such damage."""
    return stored.decode("utf-8", "replace")


def _read_rules(config: str) -> str:
    """The rule set in a stored configuration. Runs of versions without rule sets followed the rule set "paper"."""
    try:
        return str(json.loads(config).get("rules", "paper"))
    except ValueError:  # the configuration is damaged; `run verify` reports this
        return "unknown"
