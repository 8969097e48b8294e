"""Creates, runs, resumes and finds experiments. The complete plan is stored first; then its cells run.

One process runs an experiment at a time. If this home lacks the data of a cell (for example enough examples of a
quality level), the cell is left out, the reason is recorded, and the other cells run. A failed cell is retried on the
next start.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from nanoflux_local.errors import NanofluxError, NothingMatchedError, RefusedError
from nanoflux_local.experiments.cells import run_cell
from nanoflux_local.experiments.grid import ANSWERS, GENERATE, Cell, GridPlan
from nanoflux_local.experiments.kinds.base import CellOutcome, OnStep, StoredCell
from nanoflux_local.jobs import (
    EXPERIMENT,
    Job,
    JobState,
    StopRequest,
    heartbeat_thread,
    hold_lock,
    load_job_state,
    record_execution,
    status_after,
)
from nanoflux_local.ledger import board
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.ledger.views import LedgerView, decode_row
from nanoflux_local.paths import Home
from nanoflux_local.quantities import format_quantity

PREPARATION = (GENERATE, ANSWERS)
"""The conditions of the cells whose results other cells need. These cells run first."""
OnCell = Callable[[Cell, str], None]
"""A function that is called with a cell and its status whenever the cell starts or ends."""


class Workers(Protocol):
    """Runs cells, possibly remotely and in parallel, and yields each with its result or error."""

    def run_cells(self, plan: GridPlan, cells: Sequence[Cell]) -> Iterable[tuple[Cell, CellOutcome]]:
        """Yield each cell with its outcome when it ends."""
        ...

    def close(self) -> None:
        """Release the workers' resources."""
        ...


class LocalWorkers:
    """Runs cells one after another in this process."""

    def __init__(self, home: Home, on_step: OnStep = lambda *_: None, on_start: OnCell = lambda *_: None) -> None:
        self._home, self._on_step, self._on_start = home, on_step, on_start

    def run_cells(self, plan: GridPlan, cells: Sequence[Cell]) -> Iterable[tuple[Cell, CellOutcome]]:
        for cell in cells:
            self._on_start(cell, "running")
            try:
                yield cell, run_cell(self._home, plan, cell, self._on_step)
            except Exception as error:  # noqa: BLE001 - the caller decides what the error means
                yield cell, error

    def close(self) -> None:
        return


def create_experiment(home: Home, plan: GridPlan) -> str:
    """Store an experiment and return its id. An experiment that exists already is not changed."""
    with Ledger(home.ledger) as ledger:
        ledger.create_experiment(plan.id, plan.name, plan.scale_name, plan.model_dump(mode="json"))
    return plan.id


def run_remaining_cells(home: Home, experiment: str, workers: Workers, on_cell: OnCell = lambda *_: None) -> None:
    """Run every cell that is not done, starting with the cells that other cells need.

    Raises:
        RefusedError: another process runs the experiment.
        NanofluxError: cells failed; the next call retries them.
    """
    job = Job(EXPERIMENT, experiment)
    with hold_lock(home, job), Ledger(home.ledger) as ledger:
        ledger.close_dead_executions(EXPERIMENT.name, EXPERIMENT.table, experiment)
        _ExperimentWorker(home, ledger, experiment, workers, on_cell).run(job)


class _ExperimentWorker:
    """Executes one experiment in this process, and records the outcome of each cell in the ledger."""

    def __init__(self, home: Home, ledger: Ledger, experiment: str, workers: Workers, on_cell: OnCell) -> None:
        self.home, self.ledger, self.id = home, ledger, experiment
        self.workers, self.on_cell = workers, on_cell
        self.plan = load_plan(home, experiment)
        self.requests: list[StopRequest] = []
        self.failures: list[str] = []

    def run(self, job: Job) -> None:
        """Run the remaining cells, until the end or until a pause or stop is requested. Raises NanofluxError if cells
        failed.
        """
        with record_execution(self.ledger, job) as execution:
            with heartbeat_thread(self.home.ledger, execution.id, job, self._handle_request):
                remaining_cells = self._list_remaining_cells()
                self._run_cells([cell for cell in remaining_cells if cell.condition in PREPARATION])
                if not self.failures:  # the other cells need the results of the preparation
                    self._run_cells([cell for cell in remaining_cells if cell.condition not in PREPARATION])
            status = status_after(self.requests[-1]) if self.requests else "done"
            execution.status = "failed" if self.failures and not self.requests else status
            execution.message = "; ".join(self.failures)
        if self.failures:
            fix = "fix the causes, then run the same command again to resume"
            cells = format_quantity(len(self.failures), "cell")
            raise NanofluxError(f"{cells} failed: {execution.message}", fix)

    def _list_remaining_cells(self) -> list[Cell]:
        """The cells that are not done, in the plan's order."""
        rows = self.ledger.rows("SELECT id FROM cells WHERE experiment = ? AND status = 'done'", self.id)
        done_ids = {cell_id for (cell_id,) in rows}
        return [cell for cell in self.plan.cells if cell.id not in done_ids]

    def _run_cells(self, cells: Sequence[Cell]) -> None:
        """Run the cells and record their outcomes, until a pause or stop is requested."""
        for cell in cells:
            self.ledger.set_cell(self.id, cell.id, "waiting")
        if not cells or self.requests:
            return
        for cell, outcome in self.workers.run_cells(self.plan, cells):
            self._record_outcome(cell, outcome)
            if self.requests:
                return

    def _record_outcome(self, cell: Cell, outcome: CellOutcome) -> None:
        """Store a cell's status, message and result in the ledger, and report the status to the caller."""
        result = outcome if isinstance(outcome, dict) else {}
        status, message = _classify_outcome(cell, outcome)
        if status == "failed":
            self.failures.append(f"{cell.id}: {message.splitlines()[0]}")
        self.ledger.set_cell(self.id, cell.id, status, message, result)
        self.on_cell(cell, status)

    def _handle_request(self, request: StopRequest) -> None:
        """Record another process's request to pause or stop; the heartbeat's thread calls this method."""
        if request:
            self.requests.append(request)


def _classify_outcome(cell: Cell, outcome: CellOutcome) -> tuple[str, str]:
    """The (status, message) of a cell. An error without a message for users is a defect and is raised."""
    if isinstance(outcome, dict):
        return "done", ""
    if isinstance(outcome, NothingMatchedError | RefusedError) and cell.condition not in PREPARATION:
        return "left out", outcome.message
    message = getattr(outcome, "message", None)
    if isinstance(message, str):
        return "failed", message
    if isinstance(outcome, OSError):
        return "failed", str(outcome)
    raise outcome


def load_plan(home: Home, experiment: str) -> GridPlan:
    """The stored plan of an experiment.

    Raises:
        NothingMatchedError: the experiment is unknown.
    """
    with LedgerView(home.ledger) as view:
        return find_experiment(view, experiment).plan


@dataclass(frozen=True, slots=True)
class StoredExperiment:
    """An experiment's row in the ledger. `message` lists the failed cells with their errors, or is ""; `plan_json` is
    the plan.
    """

    id: str
    name: str
    scale: str
    status: str
    message: str
    seconds: float
    created_at: str
    plan_json: str

    @property
    def plan(self) -> GridPlan:
        """The decoded plan. Raises pydantic's ValidationError if another version wrote it in another format."""
        return GridPlan.model_validate_json(self.plan_json)


@dataclass(frozen=True, slots=True)
class ExperimentSummary:
    """The state of an experiment, and the number of its cells by status."""

    experiment: str
    name: str
    scale: str
    created_at: str
    state: JobState
    cells: Mapping[str, int]

    def to_json(self) -> dict[str, Any]:
        """The entry in `experiment list --json`."""
        state = self.state.to_json()
        return {
            "experiment": self.experiment,
            "name": self.name,
            "scale": self.scale,
            "status": state.pop("status"),
            "message": state.pop("message"),
            "created_at": self.created_at,
            "seconds": state.pop("seconds"),
            "cells": dict(self.cells),
            **state,
        }


_SELECT_EXPERIMENTS = "SELECT *, plan AS plan_json FROM experiments"
"""Selects the columns of `StoredExperiment`; a WHERE or ORDER BY clause follows."""


def find_experiment(view: LedgerView, name: str) -> StoredExperiment:
    """The experiment whose id is `name`; else the newest whose id starts with `name` or whose grid has that name.

    Raises:
        NothingMatchedError: no experiment matches.
    """
    row = view.row(
        f"{_SELECT_EXPERIMENTS} WHERE id = ? OR name = ? OR substr(id, 1, ?) = ? ORDER BY id = ? DESC, rowid DESC",
        name, name, len(name), name, name,
    )  # fmt: skip
    if row is None or not name:  # every id begins with ""
        raise NothingMatchedError(
            f"no experiment {name!r} in this home", "list experiments with `nanoflux experiment list`"
        )
    return decode_row(StoredExperiment, row)


def load_cells(view: LedgerView, experiment: str) -> dict[str, StoredCell]:
    """The cells of an experiment in order, by id."""
    rows = view.rows("SELECT * FROM cells WHERE experiment = ? ORDER BY position", experiment)
    return {
        row["id"]: StoredCell(row["condition"], row["seed"], row["status"], row["message"], json.loads(row["result"]))
        for row in rows
    }


def list_experiments(home: Home) -> list[ExperimentSummary]:
    """All experiments, newest first."""
    with LedgerView(home.ledger) as view:
        rows = view.rows(f"{_SELECT_EXPERIMENTS} ORDER BY rowid DESC")
        return [summarize_experiment(home, view, decode_row(StoredExperiment, row)) for row in rows]


def summarize_experiment(home: Home, view: LedgerView, experiment: StoredExperiment) -> ExperimentSummary:
    """The summary of an experiment's row, with its current state."""
    stored_state = {
        "status": experiment.status,
        "message": experiment.message,
        "seconds": round(experiment.seconds, 3),
    }
    state = load_job_state(home, view, Job(EXPERIMENT, experiment.id), stored_state)
    cells = board.count_cells_by_status(view, experiment.id)
    return ExperimentSummary(
        experiment=experiment.id,
        name=experiment.name,
        scale=experiment.scale,
        created_at=experiment.created_at,
        state=state,
        cells=cells,
    )


def load_summary(home: Home, name: str) -> ExperimentSummary:
    """The summary of one experiment.

    Raises:
        NothingMatchedError: no experiment matches.
    """
    with LedgerView(home.ledger) as view:
        return summarize_experiment(home, view, find_experiment(view, name))
