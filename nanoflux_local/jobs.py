"""Jobs: the processes that work on runs, trainings and the like, held by a lock, watched by a heartbeat, and asked to
pause or stop.

Whoever asks writes one word into the row of the worker's job; the worker looks a few times a second. The lock is the
kernel's and dies with its process, so that a crash or a reboot leaves nothing to clean up. Loads no model library:
work is watched and stopped in a fraction of a second.
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
from nanoflux_local.ledger.store import Ledger, Table
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_models.child import module_command

Wish = Literal["", "pause", "stop", "end"]
LOOKS, PAUSE_S = 10, 0.02
"""Whoever only asks whether something is worked on holds its lock for a moment: worth a few looks before refusing."""
POLL_S, BEAT_S, STALLED_S = 0.2, 5.0, 30.0
"""How often a worker looks for wishes, how often it says that it lives, and after what silence it counts as stalled."""
LAUNCH_S = 60.0
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of long work: its name in jobs, locks and messages, the table of its rows (id, status, message), the
    column of that table that says how to work, and the command with `show` and `resume`. An evaluation has none: the
    command that began it goes on with it.
    """

    name: str
    table: Table
    settings: str
    command: str


RUN = Kind("run", "runs", "config", "run")
TRAINING = Kind("training", "trainings", "settings", "trainings")
EVALUATION = Kind("evaluation", "evaluations", "settings", "")
SERIES = Kind("series", "series", "settings", "rounds")
EXPERIMENT = Kind("experiment", "experiments", "plan", "experiment")


@dataclass(frozen=True, slots=True)
class Work:
    """One run, or one training: what a process can hold."""

    kind: Kind
    id: str

    def __str__(self) -> str:
        return f"{self.kind.name} {self.id}"

    def lock(self, home: Home) -> Path:
        return home.lock(f"{self.kind.name}-{self.id}")

    def log(self, home: Home) -> Path:
        """Where a detached worker's messages go."""
        return home.root / "logs" / f"{self.kind.name}-{self.id}.log"

    def busy_error(self) -> RefusedError:
        message = f"another process is working on {self}"
        if not self.kind.command:
            return RefusedError(message, "wait until it has ended")
        return RefusedError(message, f"watch it with `nanoflux {self.kind.command} show {self.id}`")


@contextmanager
def working_on(home: Home, work: Work) -> Iterator[None]:
    """Hold some work for this process. The lock is the kernel's, so that it dies with the process, however it ends.

    Raises:
        RefusedError: another process works on it.
    """
    path = work.lock(home)
    path.parent.mkdir(mode=0o700, exist_ok=True)  # a ledger that was carried to another home brings no locks
    with path.open("w") as file:
        if not _locked(file, fcntl.LOCK_EX, LOOKS):
            raise work.busy_error()
        yield


def is_worked_on(home: Home, work: Work) -> bool:
    """Whether a process holds it just now."""
    path = work.lock(home)
    if not path.exists():
        return False
    with path.open() as file:
        return not _locked(file, fcntl.LOCK_SH)


def _locked(file: IO[str], how: int, looks: int = 1) -> bool:
    for look in range(looks):
        if look:
            time.sleep(PAUSE_S)
        try:
            fcntl.flock(file, how | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        return True
    return False


def boot_id() -> str:
    """What tells this start of the machine from others, or "" where the kernel does not say."""
    return BOOT_ID.read_text().strip() if BOOT_ID.exists() else ""


@dataclass(slots=True)
class Stint:
    """A process's work on something: its job, and the status and message with which it ends."""

    job: int
    status: str = "interrupted"
    message: str = ""


@contextmanager
def stint(ledger: Ledger, work: Work) -> Iterator[Stint]:
    """Write down that this process works on it and, whatever happens, how that ended. Whoever works says how; an error
    that nobody spoke for makes it "failed", or "paused" if the error `pauses`.
    """
    active = Stint(ledger.start_job(work.kind.name, work.id, os.getpid(), boot_id(), work.kind.table))
    began = time.monotonic()
    try:
        yield active
    except NanofluxError as error:
        if active.status == "interrupted":
            active.status, active.message = "paused" if error.pauses else "failed", error.message
        raise
    finally:
        ledger.set_status(work.kind.table, work.id, active.status, active.message, time.monotonic() - began)
        ledger.finish_job(active.job, active.status, active.message)


class Watch:
    """The worker's side: a heartbeat, and the wishes and settings of others, while it works."""

    def __init__(
        self,
        ledger: Ledger,
        job: int,
        work: Work,
        on_wish: Callable[[Wish], None],
        on_settings: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._ledger = ledger
        self._job = job
        table, column = work.kind.table, work.kind.settings
        self._sql = f"SELECT jobs.wish, {table}.{column} FROM jobs, {table} WHERE jobs.id = ? AND {table}.id = ?"
        self._subject = work.id
        self._on_wish, self._on_settings = on_wish, on_settings
        self._beaten, self._wish, self._settings = time.monotonic(), "", self._look()[1]

    async def keep(self) -> None:
        """Look until cancelled. Each wish is told once, and the settings (their JSON) where they have changed."""
        while True:
            await asyncio.sleep(POLL_S)
            self._tell()

    def keep_until(self, ended: threading.Event) -> None:
        """The same from a thread."""
        while not ended.wait(POLL_S):
            self._tell()

    def _tell(self) -> None:
        wish, settings = self._look()
        if wish != self._wish:
            self._wish = wish
            self._on_wish(wish)
        if settings != self._settings:
            self._settings = settings
            self._on_settings(settings)
        if time.monotonic() - self._beaten >= BEAT_S:
            self._beaten = time.monotonic()
            self._ledger.beat(self._job)

    def _look(self) -> tuple[Wish, str]:
        wish, settings = self._ledger.rows(self._sql, self._job, self._subject)[0]
        return wish, str(settings)


@contextmanager
def watched(ledger: Path, job: int, work: Work, on_wish: Callable[[Wish], None]) -> Iterator[None]:
    """`Watch` from a thread with a connection of its own, for work that leaves no time in its thread. Where looking
    fails, `on_wish` is told to stop, and the failure is raised when the block is left.
    """
    ended, failures = threading.Event(), list[NanofluxError]()

    def keep() -> None:
        try:
            with Ledger(ledger) as own:
                Watch(own, job, work, on_wish).keep_until(ended)
        except NanofluxError as error:
            failures.append(error)
            on_wish("stop")

    thread = threading.Thread(target=keep, name=f"watch {work}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    if failures:
        raise failures[0]


def at_work(home: Home, view: LedgerView) -> list[Work]:
    """Everything that a process is working on just now."""
    kinds = {kind.name: kind for kind in (RUN, TRAINING, EVALUATION, SERIES, EXPERIMENT)}
    rows = view.rows("SELECT DISTINCT kind, subject FROM jobs WHERE state = 'running'")
    running = [Work(kinds[row["kind"]], row["subject"]) for row in rows if row["kind"] in kinds]
    return [work for work in running if is_worked_on(home, work)]


def current_job(view: LedgerView, work: Work) -> dict[str, Any] | None:
    """The newest job of a piece of work."""
    sql = "SELECT * FROM jobs WHERE kind = ? AND subject = ? ORDER BY id DESC"
    row = view.row(sql, work.kind.name, work.id)
    return dict(row) if row else None


@dataclass(frozen=True, slots=True)
class Worker:
    """The process that works on something, and the pending request to it ("" if there is none)."""

    pid: int
    heartbeat_at: str
    wish: str


@dataclass(frozen=True, slots=True)
class WorkState:
    """The status of work as its process shows it. `message` is "" if the recorded message applies; `seconds` is how
    long the current worker has been at it.
    """

    status: str
    message: str = ""
    seconds: float = 0.0
    worker: Worker | None = None


def check_worker(home: Home, view: LedgerView, work: Work, status: str) -> WorkState:
    """The state of work whose row says `status`. Work that is "running" without a process was killed and is
    "interrupted"; a process that has been silent for `STALLED_S` seconds is "stalled".
    """
    job = current_job(view, work)
    has_process = is_worked_on(home, work)
    silent = _since(job, "beat_s")
    message = ""
    if status == "running" and not has_process:
        how = "resume it" if work.kind.command else "the same command goes on with it"
        status, message = "interrupted", f"its process ended; {how}"
    elif status == "running" and silent > STALLED_S:
        status, message = "stalled", f"its process has said nothing for {silent:.0f} s"
    if job is None or not has_process:
        return WorkState(status, message)
    return WorkState(status, message, _since(job, "began_s"), Worker(job["pid"], job["heartbeat_at"], job["wish"]))


def with_worker(home: Home, view: LedgerView, work: Work, row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the ledger as `--json` shows it: with the status that `check_worker` gives, and the worker."""
    state = check_worker(home, view, work, row["status"])
    shown = {**row, "status": state.status, "worker": None}
    if state.message:
        shown["message"] = state.message
    if state.worker is not None:
        shown["worker"] = asdict(state.worker)
        shown["seconds"] = round(row.get("seconds", 0.0) + state.seconds, 3)
    return shown


def _since(job: dict[str, Any] | None, column: str) -> float:
    """Seconds since, on the machine's steady clock, which nobody sets; 0 where they were of an earlier start of it."""
    if job is None or job["state"] != "running" or job["boot"] != boot_id():
        return 0.0
    return max(0.0, time.monotonic() - float(job[column]))


def ask(home: Home, work: Work, wish: Literal["pause", "stop"]) -> str:
    """Ask a worker to drain: what is under way is committed and nothing new is begun. Where it drains already, a
    second `stop` ends it at once, and a pause becomes a stop. Returns what was done, for people.
    """
    if not is_worked_on(home, work):
        return _settle(home, work, wish)
    job = _held_job(home, work)
    effective_wish: Wish = wish
    if wish == "stop" and job["wish"] in ("stop", "end"):
        effective_wish = "end"
    if wish == "pause" and job["wish"]:
        return f"{work} is draining already"
    with Ledger(home.ledger) as ledger:
        ledger.wish(job["id"], effective_wish)
    return f"{work} " + ("ends now" if effective_wish == "end" else f"drains, then it is {_WISHED[effective_wish]}")


_WISHED = {"pause": "paused", "stop": "stopped", "end": "stopped"}


def status_of(wish: Wish) -> str:
    """The status of work that ended because someone wished it."""
    return _WISHED[wish]


def _held_job(home: Home, work: Work) -> dict[str, Any]:
    """The job of the process that holds it; it takes the lock a moment before it writes the row."""
    until = time.monotonic() + LOOKS * PAUSE_S * 10
    while True:
        with LedgerView(home.ledger) as view:
            job = current_job(view, work)
        if job and job["state"] == "running" and job["boot"] == boot_id() and Path(f"/proc/{job['pid']}").exists():
            return job
        if time.monotonic() > until:
            raise RefusedError(f"the process that works on {work} is only starting", "ask again in a moment")
        time.sleep(PAUSE_S)


def _settle(home: Home, work: Work, wish: Literal["pause", "stop"]) -> str:
    """No process works on it: what is left to do is to say so in its row, unless it has ended by itself."""
    with LedgerView(home.ledger) as view:
        row = view.row(f"SELECT status FROM {work.kind.table} WHERE id = ?", work.id)
    if row is None:
        raise NothingMatchedError(f"there is no {work}", f"see `nanoflux {work.kind.command} list`")
    if row["status"] in ("done", _WISHED[wish]):
        return f"{work} is {row['status']} already"
    with working_on(home, work), Ledger(home.ledger) as ledger:
        ledger.set_status(work.kind.table, work.id, _WISHED[wish])
    return f"{work} is {_WISHED[wish]}; no process was working on it"


def launch(home: Home, work: Work) -> int:
    """Work in a process of its own session, which outlives this terminal. Returns its pid once it holds the work.

    Raises:
        RefusedError: another process works on it.
        NanofluxError: the worker ended before it held it; the message is the end of its log.
    """
    if is_worked_on(home, work):
        raise work.busy_error()
    log = work.log(home)
    log.parent.mkdir(mode=0o700, exist_ok=True)
    command = module_command("nanoflux_local.cli", "--home", str(home.root), work.kind.command, "resume", work.id)
    with log.open("a") as file:
        log.chmod(0o600)
        log_start = file.tell()
        worker = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True)
    until = time.monotonic() + LAUNCH_S
    while not _has_begun(home, work, worker.pid):
        code = worker.poll()
        if code is not None and not _has_begun(home, work, worker.pid):
            tail = log.read_text(errors="replace")[log_start:].strip()[-500:]
            raise NanofluxError(f"the worker of {work} ended at once ({code}): {tail}", f"see {log}")
        if time.monotonic() > until:
            raise NanofluxError(f"the worker of {work} (pid {worker.pid}) has not begun yet", f"see {log}")
        time.sleep(PAUSE_S)
    return worker.pid


def _has_begun(home: Home, work: Work, pid: int) -> bool:
    with LedgerView(home.ledger) as view:
        job = current_job(view, work)
    return job is not None and job["pid"] == pid and job["boot"] == boot_id()
