"""The board: the lists of runs, training runs, evaluations, experiments and examples, read one window at a time.

A ledger may hold thousands of runs and a hundred thousand examples, so a list reads the keys of all rows, but only
those rows that are on screen. The ledger does not store whether a worker is alive; the module `jobs` determines that.
"""

import json
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, Self

from nanoflux_local.ledger.packing import CALLS
from nanoflux_local.ledger.views import LedgerView, decode_row
from nanoflux_local.transcript import TurnRecord, turn_from_json

LineKind = Literal["run", "training", "evaluation", "experiment"]
FAILURE_AGE_LIMIT = timedelta(days=1)
"""How long a failed or interrupted job stays at the top of the board; after that it is sorted by status and time."""
MAX_PLACEHOLDERS = 500
"""The maximum number of values that are passed to one query, below SQLite's own limit."""
_RANKS = {"running": 1, "paused": 2, "created": 3, "interrupted": 2, "failed": 2}
"""The rank of each status; lower ranks come first on the board. Recent failures have rank 0, and all other statuses
`_ENDED_RANK`.
"""
_ENDED_RANK = 4
_NEWEST_REVIEW_SQL = (
    "(SELECT {column} FROM reviews WHERE reviews.run = examples.run AND reviews.turn = examples.turn"
    " ORDER BY id DESC LIMIT 1)"
)
"""Selects `column` of the newest review of an example."""
_REVIEW_VERDICT = _NEWEST_REVIEW_SQL.format(column="nullif(verdict, 'open')")  # "open" withdraws a review
_REVIEW_NOTE = _NEWEST_REVIEW_SQL.format(column="note")
_REVIEW_COLUMNS = f"{_REVIEW_VERDICT} AS review, {_REVIEW_NOTE} AS note"
"""The verdict and the note of an example's newest review, as columns of a SELECT clause."""
_ALL_JOBS = """
    SELECT 'run' AS kind, rowid AS row, status, updated_at FROM runs
    UNION ALL SELECT 'training', rowid, status, updated_at FROM trainings
    UNION ALL SELECT 'evaluation', rowid, status, updated_at FROM evaluations
    UNION ALL SELECT 'experiment', rowid, status, updated_at FROM experiments
"""


@dataclass(frozen=True, slots=True)
class LineKey:
    """The key of one line: its kind and row id, and the status that determines its position on the board."""

    kind: LineKind
    row: int
    status: str


@dataclass(frozen=True, slots=True)
class BoardLine:
    """What one line of the board shows. `done` of `total` counts examples, steps, replies or cells, depending on
    `kind`. `about` names a run's domain and profile, a training run's base model and data, an evaluation's data, or an
    experiment's title.
    """

    kind: LineKind
    id: str
    name: str
    about: str
    status: str
    message: str
    done: int
    total: int
    seconds: float
    updated_at: str


def list_line_keys(view: LedgerView, moment: datetime | None = None) -> list[LineKey]:
    """The keys of all lines by urgency as of `moment` (by default now): recent failures, running jobs, waiting jobs,
    then the rest; within each group, the most recently updated first.
    """
    cutoff = _freshness_cutoff(moment)
    rows = sorted(view.rows(_ALL_JOBS), key=lambda row: str(row["updated_at"]), reverse=True)
    rows.sort(key=lambda row: _rank_status(row["status"], str(row["updated_at"]) >= cutoff))
    return [LineKey(row["kind"], row["row"], row["status"]) for row in rows]


def _freshness_cutoff(moment: datetime | None = None) -> str:
    """The time, in the ledger's format, before which a failure is no longer recent; `moment` is now by default."""
    return ((moment or datetime.now(UTC)) - FAILURE_AGE_LIMIT).isoformat(timespec="milliseconds")


def is_recent(updated_at: str) -> bool:
    """Whether a failed job that was last updated at this time is still listed at the top of the board."""
    return updated_at >= _freshness_cutoff()


def _rank_status(status: str, is_recent: bool) -> int:
    """The rank of a job; `is_recent` says whether its status was updated within `FAILURE_AGE_LIMIT`."""
    if status in ("failed", "interrupted") and is_recent:
        return 0
    return _RANKS.get(status, _ENDED_RANK)


def load_lines(view: LedgerView, board_keys: Iterable[LineKey]) -> list[BoardLine]:
    """The lines with these keys, in order. Rows deleted since the keys were read are skipped."""
    format_line_by_kind = {
        "run": _format_run_line,
        "training": _format_training_line,
        "evaluation": _format_evaluation_line,
        "experiment": _format_experiment_line,
    }
    board_lines = [format_line_by_kind[key.kind](view, key.row) for key in board_keys]
    return [line for line in board_lines if line is not None]


def _format_run_line(view: LedgerView, row_id: int) -> BoardLine | None:
    run = view.row(
        "SELECT id, name, domain, status, message, target, seconds, updated_at,"
        " (SELECT coalesce(sum(kept), 0) FROM turns WHERE run = runs.id) AS kept,"
        " iif(json_valid(config), json_extract(config, '$.profile'), '') AS profile FROM runs WHERE rowid = ?",
        row_id,
    )
    if run is None:
        return None
    about = f"{run['domain']} · {run['profile'] or 'embedded'}"
    return BoardLine(
        "run", run["id"], run["name"], about, run["status"], run["message"], run["kept"], run["target"],
        run["seconds"], run["updated_at"],
    )  # fmt: skip


def _format_training_line(view: LedgerView, row_id: int) -> BoardLine | None:
    training = view.row("SELECT * FROM trainings WHERE rowid = ?", row_id)
    if training is None:
        return None
    step = load_last_step(view, training["id"])
    about = f"{training['base']} on {training['run'] or 'a file'}"
    return BoardLine(
        "training", training["id"], training["id"], about, training["status"], training["message"], step.step,
        step.steps, training["seconds"], training["updated_at"],
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class LastStep:
    """The newest step of a training run, `step` of `steps`. Before the first step, both counts are 0 and all other
    fields are None.
    """

    step: int = 0
    steps: int = 0
    epoch: int | None = None
    loss: float | None = None
    learning_rate: float | None = None
    grad_norm: float | None = None
    tokens_per_s: float | None = None

    @classmethod
    def from_event(cls, event: Mapping[str, Any]) -> Self:
        """The step that an event of the ledger records."""
        return cls(**{field.name: event[field.name] for field in fields(cls) if field.name in event})


def load_last_step(view: LedgerView, training: str) -> LastStep:
    """The newest recorded step of a training run."""
    event_row = view.row(
        "SELECT event FROM training_events WHERE training = ? AND kind = 'step' ORDER BY id DESC LIMIT 1", training
    )
    return LastStep.from_event(json.loads(event_row["event"])) if event_row else LastStep()


def _format_evaluation_line(view: LedgerView, row_id: int) -> BoardLine | None:
    evaluation = view.row(
        "SELECT *, (SELECT count(*) FROM evaluation_items WHERE evaluation = evaluations.id) AS done"
        " FROM evaluations WHERE rowid = ?",
        row_id,
    )
    if evaluation is None:
        return None
    settings = json.loads(evaluation["settings"])
    about = f"{evaluation['data']} {evaluation['split']}"
    adapter_suffix = f" + {evaluation['adapter'][:8]}" if evaluation["adapter"] else ""
    name = evaluation["model"] + adapter_suffix
    total = int(settings.get("n", 0)) * int(settings.get("runs", 1))  # each of n items is answered in each of the runs
    return BoardLine(
        "evaluation", evaluation["id"], name, about, evaluation["status"], evaluation["message"], evaluation["done"],
        total, evaluation["seconds"], evaluation["updated_at"],
    )  # fmt: skip


def _format_experiment_line(view: LedgerView, row_id: int) -> BoardLine | None:
    id_row = view.row("SELECT id FROM experiments WHERE rowid = ?", row_id)
    overview = load_experiment(view, id_row["id"]) if id_row else None
    if overview is None:
        return None
    return BoardLine(
        "experiment", overview.id, f"{overview.name} {overview.scale}", overview.title, overview.status,
        overview.message, overview.settled, overview.total, overview.seconds, overview.updated_at,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class ExperimentOverview:
    """An experiment's row in the ledger, the title and question of its grid, and the number of its cells by status."""

    id: str
    name: str
    scale: str
    status: str
    message: str
    seconds: float
    updated_at: str
    title: str
    question: str
    cells: Mapping[str, int]

    @property
    def settled(self) -> int:
        """The number of cells that are done or left out."""
        return self.cells.get("done", 0) + self.cells.get("left out", 0)

    @property
    def total(self) -> int:
        """The number of all cells."""
        return sum(self.cells.values())


def load_experiment(view: LedgerView, experiment_id: str) -> ExperimentOverview | None:
    """The overview of an experiment by its id."""
    row = view.row(
        "SELECT id, name, scale, status, message, seconds, updated_at,"
        " iif(json_valid(plan), json_extract(plan, '$.grid.title'), '') AS title,"
        " iif(json_valid(plan), json_extract(plan, '$.grid.question'), '') AS question FROM experiments WHERE id = ?",
        experiment_id,
    )
    return ExperimentOverview(**dict(row), cells=count_cells_by_status(view, experiment_id)) if row else None


def count_cells_by_status(view: LedgerView, experiment_id: str) -> dict[str, int]:
    """The number of an experiment's cells by status, ordered by the first cell of each status."""
    sql = "SELECT status, count(*) AS n FROM cells WHERE experiment = ? GROUP BY status ORDER BY min(position)"
    return {row["status"]: row["n"] for row in view.rows(sql, experiment_id)}


@dataclass(frozen=True, slots=True)
class CellLine:
    """A cell of an experiment. `result` is {} until a result is recorded."""

    id: str
    status: str
    message: str
    changed_at: str
    result: Mapping[str, Any]


def list_cells(view: LedgerView, experiment_id: str) -> list[CellLine]:
    """The cells of an experiment in the order of its plan."""
    rows = view.rows("SELECT *, at AS changed_at FROM cells WHERE experiment = ? ORDER BY position", experiment_id)
    return [decode_row(CellLine, row, ("result",)) for row in rows]


EXAMPLE_ORDERS: dict[str, tuple[str, ...]] = {
    "turn": ("turn",),
    "reason": ("reason",),
    "pass": ("pass_rate",),
    "level": ("level",),
    "review": (_REVIEW_VERDICT,),
    "answer": ("CAST(answer AS REAL)", "answer COLLATE NOCASE"),
    "question": ("question COLLATE NOCASE",),
    "run": ("(SELECT name FROM runs WHERE runs.id = examples.run) COLLATE NOCASE",),
}
"""The SQL terms that sort examples, by the name of the order. Answers are sorted as numbers, then as text."""


@dataclass(frozen=True, slots=True)
class ExampleSelection:
    """Which examples a list shows, and in which order.

    Each word of `words` must occur in the question, the solution or the answer. `review` is a verdict, or "none" for
    examples without one. `order` is a key of `EXAMPLE_ORDERS`; without it, the examples of one run are in turn order,
    and those of all runs start with the newest. An empty field does not restrict the selection.
    """

    run: str = ""
    words: str = ""
    reason: str = ""
    review: str = ""
    order: str = ""
    descending: bool = False


def list_example_keys(view: LedgerView, selection: ExampleSelection) -> "array[int]":
    """The row ids of the selected examples, in order."""
    clauses = ["1"]  # so that the WHERE clause is never empty
    values: list[object] = []
    for column, value in (("run", selection.run), ("reason", selection.reason)):
        if value:
            clauses.append(f"{column} = ?")
            values.append(value)
    if selection.review:
        clauses.append(f"{_REVIEW_VERDICT} IS ?")
        values.append(None if selection.review == "none" else selection.review)
    for word in selection.words.split():
        clauses.append("(question LIKE ? ESCAPE '!' OR solution LIKE ? ESCAPE '!' OR answer LIKE ? ESCAPE '!')")
        values += [f"%{_escape_wildcards(word)}%"] * 3
    sql = f"SELECT rowid FROM examples WHERE {' AND '.join(clauses)} ORDER BY {_build_order_terms(selection)}"
    return array("q", (row[0] for row in view.rows(sql, *values)))


def _build_order_terms(selection: ExampleSelection) -> str:
    """The ORDER BY terms of a selection. Examples without a value come last."""
    default_order = "turn" if selection.run else "rowid DESC"
    if not selection.order:
        return default_order
    direction = "DESC" if selection.descending else "ASC"
    terms = EXAMPLE_ORDERS[selection.order]
    directed_terms = [f"{term} {direction}" for term in terms]
    return ", ".join([f"{terms[0]} IS NULL", *directed_terms, default_order])


def find_unreviewed(view: LedgerView, row_ids: Sequence[int]) -> int | None:
    """The row id of the first of these examples that has no review; None if all have one."""
    for start in range(0, len(row_ids), MAX_PLACEHOLDERS):
        chunk = row_ids[start : start + MAX_PLACEHOLDERS]
        placeholders = ",".join("?" * len(chunk))
        sql = f"SELECT rowid FROM examples WHERE rowid IN ({placeholders}) AND {_REVIEW_VERDICT} IS NULL"
        unreviewed_ids = {row[0] for row in view.rows(sql, *chunk)}
        for row_id in chunk:
            if row_id in unreviewed_ids:
                return row_id
    return None


def _escape_wildcards(word: str) -> str:
    """A word with the wildcards of SQL's LIKE escaped by exclamation marks."""
    return word.replace("!", "!!").replace("%", "!%").replace("_", "!_")


@dataclass(frozen=True, slots=True)
class ExampleLine:
    """The text of one line of a list of examples, with the question and the answer shortened. The defender was right
    in `passes` of `tries` answers. `review` is the verdict of the newest review.
    """

    id: str
    run: str
    run_name: str | None
    turn: int
    reason: str
    level: int | None
    passes: int | None
    tries: int | None
    review: str | None
    question: str
    answer: str


def load_example_lines(view: LedgerView, row_ids: Sequence[int]) -> dict[int, ExampleLine]:
    """The lines of the examples with these row ids, by row id."""
    placeholders = ",".join("?" * len(row_ids))
    rows = view.rows(
        "SELECT rowid AS row, id, run, turn, reason, level, passes, tries, substr(question, 1, 400) AS question,"
        " substr(answer, 1, 80) AS answer, (SELECT name FROM runs WHERE runs.id = examples.run) AS run_name,"
        f" {_REVIEW_VERDICT} AS review FROM examples WHERE rowid IN ({placeholders})",
        *row_ids,
    )
    return {row["row"]: decode_row(ExampleLine, row) for row in rows}


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a tool, such as a program that ran in the sandbox or a search."""

    kind: str
    request: Mapping[str, Any]
    reply: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class FullExample:
    """One example with its newest review, the record of its turn (None if the turn is missing), and the turn's tool
    calls in order. The defender was right in `passes` of `tries` answers.
    """

    id: str
    run: str
    turn: int
    reason: str
    passes: int | None
    tries: int | None
    question: str
    solution: str
    answer: str
    review: str | None
    note: str | None
    record: TurnRecord | None
    tool_calls: tuple[ToolCall, ...]


def load_example(view: LedgerView, row_id: int) -> FullExample | None:
    """The example with this row id; None if there is no such example."""
    example = view.row(
        f"SELECT examples.*, {_REVIEW_COLUMNS}, turns.record, turns.id AS turn_row FROM examples LEFT JOIN turns"
        " ON turns.run = examples.run AND turns.number = examples.turn WHERE examples.rowid = ?",
        row_id,
    )
    if example is None:
        return None
    rows = view.rows(
        f"SELECT kind, request, reply FROM turn_calls JOIN {CALLS} AS calls ON calls.id = turn_calls.call"
        " WHERE turn = ? AND kind NOT IN ('chat', 'embed', 'cut') ORDER BY position",
        example["turn_row"],
    )
    tool_calls = tuple(decode_row(ToolCall, row, ("request", "reply")) for row in rows)
    record = turn_from_json(json.loads(example["record"])) if example["record"] else None
    values = {**dict(example), "record": record, "tool_calls": tool_calls}
    return FullExample(**{field.name: values[field.name] for field in fields(FullExample)})


@dataclass(frozen=True, slots=True)
class StoredEvaluation:
    """An evaluation's row in the ledger, decoded. `message` says why the evaluation has its status, or is ""; `result`
    is {} until the evaluation has ended.
    """

    id: str
    model: str
    adapter: str
    data: str
    split: str
    status: str
    message: str
    seconds: float
    started_at: str
    settings: Mapping[str, Any]
    result: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class EvaluationLine(StoredEvaluation):
    """An evaluation with the number of its replies so far (`done`)."""

    done: int

    @property
    def total(self) -> int:
        """The number of replies of the whole evaluation; 0 if it has not started."""
        return int(self.settings.get("n", 0)) * int(self.settings.get("runs", 1))


def list_evaluations(view: LedgerView) -> list[EvaluationLine]:
    """All evaluations, newest first."""
    rows = view.rows(
        "SELECT *, (SELECT count(*) FROM evaluation_items WHERE evaluation = evaluations.id) AS done"
        " FROM evaluations ORDER BY rowid DESC"
    )
    return [decode_row(EvaluationLine, row, ("result", "settings")) for row in rows]
