"""Runs cells on a Ray cluster: each cell is a task, and Ray retries it on another worker if its node is lost.

NanoFlux Local never starts a cluster, because Ray's ports are open to the network. All nodes must see the home under
the same path, on a file system with working locks for SQLite. Nodes on one machine share such a file system; network
file systems often have no working locks.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from nanoflux_local import redaction
from nanoflux_local.errors import ConfigError, NanofluxError
from nanoflux_local.experiments.grid import Cell, GridPlan
from nanoflux_local.experiments.kinds.base import CellOutcome
from nanoflux_local.paths import Home
from nanoflux_models import guard, offline

MAX_RETRIES = 5
"""Retries of a cell whose worker was lost. They are limited because a cell may kill every worker that runs it."""


class RayWorkers:
    """Runs cells on the cluster at `address`, as many in parallel as its resources allow."""

    def __init__(self, home: Home, address: str, on_start: Callable[[Cell, str], None] = lambda *_: None) -> None:
        self._home, self._on_start = home, on_start
        self._ray = _import_ray()
        self._owns_connection = not self._ray.is_initialized()
        if self._owns_connection:
            self._connect(address)

    def _connect(self, address: str) -> None:
        """Connect to the cluster. Raises ConfigError if no cluster answers."""
        _, _, host_and_port = address.rpartition("://")
        guard.allow(urlsplit(f"//{host_and_port}").hostname or address)
        try:
            with contextlib.chdir(self._home.root):  # Ray puts the driver's folder on its workers' module path
                self._ray.init(address=address, log_to_driver=False, configure_logging=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            first_line = str(error).splitlines()[0]
            raise ConfigError(
                f"no Ray cluster answers at {address}: {first_line}", "check the cluster with `ray status`"
            ) from error

    def run_cells(self, plan: GridPlan, cells: Sequence[Cell]) -> Iterable[tuple[Cell, CellOutcome]]:
        """Submit all cells, and yield each with its outcome when it ends. If the caller stops iterating, the remaining
        tasks are cancelled.
        """
        gpus = 1 if self._ray.cluster_resources().get("GPU") else 0
        remote_function = self._ray.remote(_run_cell).options(num_cpus=1, num_gpus=gpus, max_retries=MAX_RETRIES)
        cell_by_task = {}
        for cell in cells:
            task = remote_function.remote(str(self._home.root), plan.model_dump_json(), cell.model_dump_json())
            cell_by_task[task] = cell
            self._on_start(cell, "submitted")
        try:
            while cell_by_task:
                (finished_task,), _ = self._ray.wait(list(cell_by_task), num_returns=1)
                yield cell_by_task.pop(finished_task), self._fetch_outcome(finished_task)
        finally:
            for task in cell_by_task:
                self._ray.cancel(task, force=True)

    def _fetch_outcome(self, task: Any) -> CellOutcome:
        """The outcome of a finished task: if Ray lost the worker, an error with the last line of Ray's message."""
        try:
            outcome: CellOutcome = self._ray.get(task)
        except self._ray.exceptions.RayError as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            return NanofluxError(f"the Ray worker failed: {lines[-1]}", "read Ray's logs on that node")
        return outcome

    def close(self) -> None:
        if self._owns_connection:
            self._ray.shutdown()


def _run_cell(root: str, plan: str, cell: str) -> CellOutcome:
    """Run one cell on a worker. An error is returned instead of raised, so that Ray retries a cell only if its worker
    was lost.
    """
    from nanoflux_local.experiments.cells import run_cell

    os.umask(0o077)
    offline.go_offline()
    guard.install()
    redaction.install()
    try:
        return run_cell(Home(Path(root)), GridPlan.model_validate_json(plan), Cell.model_validate_json(cell))
    except Exception as error:  # noqa: BLE001 - the process that runs the experiment decides what the error means
        return error


def _import_ray() -> Any:
    """Import Ray with its usage statistics disabled. Raises ConfigError if Ray is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no usage statistics leave this machine
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    try:
        import ray
    except ImportError as error:
        fix = "install it with `pip install 'nanoflux-local[ray]'`"
        raise ConfigError("--ray needs Ray, which is not installed", fix) from error
    return ray
