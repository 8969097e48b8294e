"""Locks, heartbeats and stop requests of jobs. A job is one run, training run, evaluation, series or experiment. A
worker is a process that executes a job; the ledger's table `jobs` has one row for each such execution.

A process that wants a worker to pause or stop writes the request into the row of the worker's execution, which the
worker polls. The kernel releases a worker's lock when the process ends, so a crash or a reboot leaves nothing to clean
up. This module imports no model library, so that the commands that list or stop jobs take a fraction of a second.
"""

import asyncio
import fcntl
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Literal

from nanoflux_local.errors import NanofluxError, NothingMatchedError, RefusedError
from nanoflux_local.ledger.store import JobTable, Ledger
from nanoflux_local.ledger.views import LedgerView, decode_row
from nanoflux_local.paths import Home
from nanoflux_local.redaction import redact
from nanoflux_models.child import build_module_command

StopRequest = Literal["", "pause", "stop", "end"]
"""What a worker is asked to do: nothing, pause, stop after the work in progress, or end immediately."""
LOCK_TRIES, RETRY_S = 10, 0.02
"""Number of tries to take a lock, and seconds between two tries. One failed try does not prove that the job has a
worker, because `has_worker` also holds the lock for a moment.
"""
POLL_S, HEARTBEAT_S, STALLED_S = 0.2, 5.0, 30.0
"""Seconds between polls for stop requests, seconds between heartbeats, and seconds without a heartbeat after which a
worker counts as stalled.
"""
EXECUTION_WAIT_S = 2.0
"""Seconds to wait until a worker that holds its lock has recorded its execution."""
LAUNCH_S = 60.0
"""Seconds that a detached worker may take to start."""
MAX_LOG_BYTES = 200_000
"""Number of bytes that are read from the end of a log."""
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
"""The file in which the Linux kernel states the id of the current boot."""


@dataclass(frozen=True, slots=True)
class JobKind:
    """A kind of job.

    `name` identifies the kind in the ledger, in the names of lock files and in messages. `table` is the ledger table
    with a row (id, status, message) for each job, and `settings_column` is that table's column with the job's settings.
    `command` is the command group with `show` and `resume`; it is "" for evaluations, because `eval` with the same
    arguments resumes an evaluation.
    """

    name: str
    table: JobTable
    settings_column: str
    command: str


RUN = JobKind("run", "runs", "config", "run")
TRAINING = JobKind("training", "trainings", "settings", "trainings")
EVALUATION = JobKind("evaluation", "evaluations", "settings", "")
SERIES = JobKind("series", "series", "settings", "rounds")
EXPERIMENT = JobKind("experiment", "experiments", "plan", "experiment")


@dataclass(frozen=True, slots=True)
class Job:
    """One run, training run, evaluation, series or experiment."""

    kind: JobKind
    id: str

    def __str__(self) -> str:
        return f"{self.kind.name} {self.id}"

    def lock(self, home: Home) -> Path:
        """The file that the job's worker locks."""
        return home.lock(f"{self.kind.name}-{self.id}")

    def log(self, home: Home) -> Path:
        """The log file of a detached worker."""
        return home.root / "logs" / f"{self.kind.name}-{self.id}.log"

    def busy_error(self) -> RefusedError:
        """The error to raise if another process already works on this job."""
        message = f"another process is working on {self}"
        if not self.kind.command:
            return RefusedError(message, "wait until it ends")
        return RefusedError(message, f"watch it with `nanoflux {self.kind.command} show {self.id}`")


@contextmanager
def hold_lock(home: Home, job: Job) -> Iterator[None]:
    """Hold the lock of `job` while the block runs.

    Raises:
        RefusedError: another process holds the lock.
    """
    path = job.lock(home)
    path.parent.mkdir(mode=0o700, exist_ok=True)  # a ledger copied into another home directory has no locks
    with path.open("w") as file:
        if not _try_lock(file, fcntl.LOCK_EX, LOCK_TRIES):
            raise job.busy_error()
        yield


def has_worker(home: Home, job: Job) -> bool:
    """Whether a process holds the lock of `job`."""
    path = job.lock(home)
    if not path.exists():
        return False
    with path.open() as file:
        return not _try_lock(file, fcntl.LOCK_SH)


def _try_lock(file: IO[str], mode: int, tries: int = 1) -> bool:
    """Whether one of the `tries` to lock the file succeeded. `mode` is LOCK_EX (exclusive) or LOCK_SH (shared)."""
    for try_number in range(tries):
        if try_number > 0:
            time.sleep(RETRY_S)
        try:
            fcntl.flock(file, mode | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        return True
    return False


def boot_id() -> str:
    """The id of the machine's current boot, or "" if the kernel has none."""
    return BOOT_ID.read_text().strip() if BOOT_ID.exists() else ""


@dataclass(slots=True)
class ActiveExecution:
    """The execution of a job by this process: its row id, and the status and message to record when it ends."""

    id: int
    status: str = "interrupted"
    message: str = ""


@contextmanager
def record_execution(ledger: Ledger, job: Job) -> Iterator[ActiveExecution]:
    """Record that this process executes `job`, and at the end of the block the job's status.

    The block sets the status in the yielded `ActiveExecution`. If it sets none, the status is "paused" after a
    NanofluxError whose `pauses` is true, "failed" after any other NanofluxError, and otherwise "interrupted".
    """
    execution = ActiveExecution(ledger.start_execution(job.kind.name, job.id, os.getpid(), boot_id(), job.kind.table))
    start_s = time.monotonic()
    try:
        yield execution
    except NanofluxError as error:
        if execution.status == "interrupted":
            execution.status = "paused" if error.pauses else "failed"
            execution.message = f"{error.message} → {error.fix}" if error.fix else error.message
        raise
    finally:
        ledger.set_status(job.kind.table, job.id, execution.status, execution.message, time.monotonic() - start_s)
        ledger.finish_execution(execution.id, execution.status, execution.message)


class Heartbeat:
    """Records a worker's heartbeat, and polls the ledger for stop requests and changed settings from other processes.

    `on_request` is called with each new stop request, and `on_settings` with the JSON of the settings when they change.
    """

    def __init__(
        self,
        ledger: Ledger,
        execution_id: int,
        job: Job,
        on_request: Callable[[StopRequest], None],
        on_settings: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._ledger = ledger
        self._execution_id = execution_id
        table, column = job.kind.table, job.kind.settings_column
        self._sql = f"SELECT jobs.wish, {table}.{column} FROM jobs, {table} WHERE jobs.id = ? AND {table}.id = ?"
        self._job_id = job.id
        self._on_request = on_request
        self._on_settings = on_settings
        self._last_beat_s = time.monotonic()
        self._request: StopRequest = ""
        _, self._settings = self._read()

    async def run(self) -> None:
        """Poll until the task is cancelled."""
        while True:
            await asyncio.sleep(POLL_S)
            self._poll()

    def run_until(self, end_event: threading.Event) -> None:
        """Poll, from a thread, until `end_event` is set."""
        while not end_event.wait(POLL_S):
            self._poll()

    def _poll(self) -> None:
        """Call back if there is a new stop request or if the settings have changed, and record a heartbeat if one is
        due.
        """
        request, settings = self._read()
        if request != self._request:
            self._request = request
            self._on_request(request)
        if settings != self._settings:
            self._settings = settings
            self._on_settings(settings)
        if time.monotonic() - self._last_beat_s >= HEARTBEAT_S:
            self._last_beat_s = time.monotonic()
            self._ledger.beat(self._execution_id)

    def _read(self) -> tuple[StopRequest, str]:
        """The pending stop request, and the JSON of the current settings."""
        request, settings = self._ledger.rows(self._sql, self._execution_id, self._job_id)[0]
        return request, str(settings)


@contextmanager
def heartbeat_thread(
    ledger_path: Path, execution_id: int, job: Job, on_request: Callable[[StopRequest], None]
) -> Iterator[None]:
    """Run a `Heartbeat` in a separate thread with its own connection to the ledger, for a job whose work blocks the
    main thread. If the heartbeat fails, `on_request` is called with "stop", and the error is raised at the end of the
    block.
    """
    end_event, failures = threading.Event(), list[NanofluxError]()

    def run_heartbeat() -> None:
        try:
            with Ledger(ledger_path) as ledger:
                Heartbeat(ledger, execution_id, job, on_request).run_until(end_event)
        except NanofluxError as error:
            failures.append(error)
            on_request("stop")

    thread = threading.Thread(target=run_heartbeat, name=f"heartbeat of {job}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        end_event.set()
        thread.join()
    if failures:
        raise failures[0]


def list_running_jobs(home: Home, view: LedgerView) -> list[Job]:
    """All jobs that have a worker."""
    kinds = {kind.name: kind for kind in (RUN, TRAINING, EVALUATION, SERIES, EXPERIMENT)}
    rows = view.rows("SELECT DISTINCT kind, subject FROM jobs WHERE state = 'running'")
    recorded_jobs = [Job(kinds[row["kind"]], row["subject"]) for row in rows if row["kind"] in kinds]
    return [job for job in recorded_jobs if has_worker(home, job)]


@dataclass(frozen=True, slots=True)
class StoredExecution:
    """An execution of a job as recorded in the ledger.

    `began_s` and `beat_s` are the times of its start and of its last heartbeat, on the monotonic clock of the boot with
    the id `boot`. `wish` is the pending request to stop it.
    """

    id: int
    pid: int
    boot: str
    state: str
    heartbeat_at: str
    wish: StopRequest
    began_s: float
    beat_s: float

    @property
    def is_running(self) -> bool:
        """Whether the execution belongs to the machine's current boot, and the ledger has recorded no end of it."""
        return self.state == "running" and self.boot == boot_id()

    def seconds_since(self, moment_s: float) -> float:
        """Seconds since `moment_s`, which is `began_s` or `beat_s`; 0 if the execution has ended or belongs to an
        earlier boot, whose clock cannot be compared.
        """
        return max(0.0, time.monotonic() - moment_s) if self.is_running else 0.0


def current_execution(view: LedgerView, job: Job) -> StoredExecution | None:
    """The newest execution of `job`, or None if no process has executed it."""
    sql = "SELECT * FROM jobs WHERE kind = ? AND subject = ? ORDER BY id DESC"
    row = view.row(sql, job.kind.name, job.id)
    return decode_row(StoredExecution, row) if row else None


@dataclass(frozen=True, slots=True)
class Worker:
    """The process that executes a job; `wish` is the pending request to stop it ("" if there is none)."""

    pid: int
    heartbeat_at: str
    wish: StopRequest


@dataclass(frozen=True, slots=True)
class JobState:
    """The current state of a job: the status in its row, corrected if its process is dead or sends no heartbeat.
    `seconds` is the wall-clock time so far, including that of a killed process up to its last heartbeat.
    """

    status: str
    message: str = ""
    seconds: float = 0.0
    worker: Worker | None = None

    def to_json(self) -> dict[str, Any]:
        """The keys `status`, `message`, `seconds` and `worker` of every listing with `--json`."""
        return asdict(self)


def load_job_state(home: Home, view: LedgerView, job: Job, row: Mapping[str, Any]) -> JobState:
    """The state of `job`, whose row in the ledger has the `status`, `message` and `seconds` in `row`.

    If the row's status is "running" but no process works on the job, the job was killed: its state is "interrupted". If
    its process has sent no heartbeat for `STALLED_S` seconds, its state is "stalled".
    """
    status, message, seconds = row["status"], row["message"], row["seconds"]
    execution = current_execution(view, job)
    has_process = has_worker(home, job)
    silence_s = execution.seconds_since(execution.beat_s) if execution else 0.0
    if status == "running" and not has_process:
        fix = "resume it" if job.kind.command else "run the same command again to resume"
        status, message = "interrupted", f"its process ended; {fix}"
    elif status == "running" and silence_s > STALLED_S:
        status, message = "stalled", f"its process has sent no heartbeat for {silence_s:.0f} s"
    if execution is None or not has_process:
        was_killed = execution is not None and execution.state == "running"
        unrecorded_s = execution.beat_s - execution.began_s if execution and was_killed else 0.0
        return JobState(status, message, round(seconds + unrecorded_s, 3))
    worker = Worker(execution.pid, execution.heartbeat_at, execution.wish)
    current_execution_s = execution.seconds_since(execution.began_s)
    return JobState(status, message, round(seconds + current_execution_s, 3), worker)


def request_stop(home: Home, job: Job, request: Literal["pause", "stop"]) -> str:
    """Ask a job's worker to drain, that is, to commit the work in progress and start nothing new.

    While the worker drains, a second "stop" ends it immediately, and "stop" replaces an earlier "pause". If the job has
    no worker, its status is set to "paused" or "stopped" at once. Returns a sentence for the user.
    """
    if not has_worker(home, job):
        return _set_idle_status(home, job, request)
    execution = _wait_for_execution(home, job)
    effective_request: StopRequest = request
    if request == "stop" and execution.wish in ("stop", "end"):
        effective_request = "end"
    if request == "pause" and execution.wish:
        return f"{job} is already draining"
    with Ledger(home.ledger) as ledger:
        ledger.request_stop(execution.id, effective_request)
    if effective_request == "end":
        return f"{job} ends now"
    return f"{job} drains and will then be {status_after(effective_request)}"


def status_after(request: StopRequest) -> str:
    """The status of a job that ended because of `request`."""
    return {"pause": "paused", "stop": "stopped", "end": "stopped"}[request]


def _wait_for_execution(home: Home, job: Job) -> StoredExecution:
    """The execution of the process that holds the job's lock. Since a worker takes the lock before it records its
    execution, wait up to `EXECUTION_WAIT_S` for the record.

    Raises:
        RefusedError: the worker has recorded no execution in that time.
    """
    deadline = time.monotonic() + EXECUTION_WAIT_S
    while True:
        with LedgerView(home.ledger) as view:
            execution = current_execution(view, job)
        if execution and execution.is_running and Path(f"/proc/{execution.pid}").exists():
            return execution
        if time.monotonic() > deadline:
            raise RefusedError(f"the worker of {job} is still starting", "try again in a moment")
        time.sleep(RETRY_S)


def _set_idle_status(home: Home, job: Job, request: Literal["pause", "stop"]) -> str:
    """Set the status of a job that has no worker to "paused" or "stopped", unless the job is done. Returns a sentence
    for the user.
    """
    status = status_after(request)
    with LedgerView(home.ledger) as view:
        row = view.row(f"SELECT status FROM {job.kind.table} WHERE id = ?", job.id)
    if row is None:
        raise NothingMatchedError(f"there is no {job}", f"see `nanoflux {job.kind.command} list`")
    if row["status"] in ("done", status):
        return f"{job} is already {row['status']}"
    with hold_lock(home, job), Ledger(home.ledger) as ledger:
        ledger.set_status(job.kind.table, job.id, status)
    return f"{job} is {status}; no process was working on it"


def launch(home: Home, job: Job) -> int:
    """Start a detached worker, which outlives this terminal. Returns its pid once it holds the lock.

    Raises:
        RefusedError: the job already has a worker.
        NanofluxError: the worker ended at once (the message then contains the end of its log), or did not report its
            start within `LAUNCH_S`.
    """
    if has_worker(home, job):
        raise job.busy_error()
    log = job.log(home)
    log.parent.mkdir(mode=0o700, exist_ok=True)
    command = build_module_command("nanoflux_local.cli", "--home", str(home.root), job.kind.command, "resume", job.id)
    with log.open("a") as file:
        log.chmod(0o600)
        log_start = file.tell()
        worker = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True)
    deadline = time.monotonic() + LAUNCH_S
    while not _has_started(home, job, worker.pid):
        exit_code = worker.poll()
        if exit_code is not None and not _has_started(home, job, worker.pid):
            log_tail = log.read_text(errors="replace")[log_start:].strip()[-500:]
            raise NanofluxError(
                f"the worker of {job} ended at once with exit code {exit_code}: {log_tail}", f"read {log}"
            )
        if time.monotonic() > deadline:
            message = f"the worker of {job} (pid {worker.pid}) did not report its start within {LAUNCH_S:.0f} s"
            raise NanofluxError(message, f"read {log}")
        time.sleep(RETRY_S)
    return worker.pid


def _has_started(home: Home, job: Job, pid: int) -> bool:
    """Whether the process `pid` has recorded its execution of the job."""
    with LedgerView(home.ledger) as view:
        execution = current_execution(view, job)
    return execution is not None and execution.pid == pid and execution.boot == boot_id()


def read_log(home: Home, job: Job, lines: int) -> list[str]:
    """The last lines of a detached worker's log, without secrets; [] if there is no log."""
    path = job.log(home)
    if not path.is_file():
        return []
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - MAX_LOG_BYTES))
        text = file.read().decode("utf-8", "replace")
    return redact(text).replace("\r", "\n").splitlines()[-lines:]
