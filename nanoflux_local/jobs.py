"""Jobs: the processes that work on runs, held by a lock, watched by a heartbeat, and asked to pause or stop.

Whoever asks writes one word into the row of the worker's job; the worker looks a few times a second. The lock is the
kernel's and dies with its process, so that a crash or a reboot leaves nothing to clean up. Loads no model library: a
run is watched and stopped in a fraction of a second.
"""

import asyncio
import fcntl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Literal

from nanoflux_local.errors import NanofluxError, RefusedError
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home

Wish = Literal["", "pause", "stop", "end"]
LOOKS, PAUSE_S = 10, 0.02
"""Whoever only asks whether a run is worked on holds its lock for a moment: worth a few looks before refusing."""
POLL_S, BEAT_S, STALLED_S = 0.2, 5.0, 30.0
"""How often a worker looks for wishes, how often it says that it lives, and after what silence it counts as stalled."""
LAUNCH_S = 60.0
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@contextmanager
def working_on(home: Home, run: str) -> Iterator[None]:
    """Hold a run for this process. The lock is the kernel's, so that it dies with the process, however it ends.

    Raises:
        RefusedError: another process works on the run.
    """
    path = home.lock(f"run-{run}")
    path.parent.mkdir(mode=0o700, exist_ok=True)  # a ledger that was carried to another home brings no locks
    with path.open("w") as file:
        if not _locked(file, fcntl.LOCK_EX, LOOKS):
            raise RefusedError(f"another process is working on run {run}", f"watch it with `nanoflux run show {run}`")
        yield


def is_worked_on(home: Home, run: str) -> bool:
    """Whether a process holds the run just now."""
    path = home.lock(f"run-{run}")
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


class Watch:
    """The worker's side: a heartbeat, and the wishes and settings of others, while a run is played."""

    def __init__(self, ledger: Ledger, job: int, run: str) -> None:
        self._ledger = ledger
        self._job = job
        self._run = run

    async def keep(self, on_wish: Callable[[Wish], None], on_settings: Callable[[str], None]) -> None:
        """Look until cancelled. Each wish is told once, and a configuration (its JSON) where it has changed."""
        beaten, wish, settings = time.monotonic(), "", self._look()[1]
        while True:
            await asyncio.sleep(POLL_S)
            found, config = self._look()
            if found != wish:
                wish = found
                on_wish(found)
            if config != settings:
                settings = config
                on_settings(config)
            if time.monotonic() - beaten >= BEAT_S:
                beaten = time.monotonic()
                self._ledger.beat(self._job)

    def _look(self) -> tuple[Wish, str]:
        rows = self._ledger.rows(
            "SELECT jobs.wish, runs.config FROM jobs, runs WHERE jobs.id = ? AND runs.id = ?", self._job, self._run
        )
        wish, config = rows[0]
        return wish, str(config)


def current_job(view: LedgerView, run: str) -> dict[str, Any] | None:
    """The newest job of a run."""
    row = view.row("SELECT * FROM jobs WHERE kind = 'run' AND subject = ? ORDER BY id DESC", run)
    return dict(row) if row else None


def with_worker(home: Home, view: LedgerView, found: dict[str, Any]) -> dict[str, Any]:
    """A run's summary with what is known of its worker: one that says it is running while no process works on it was
    killed, and one that has been silent for long is stalled.
    """
    job = current_job(view, found["run"])
    worked = is_worked_on(home, found["run"])
    silent = _age(job["heartbeat_at"]) if job else 0.0
    if found["status"] == "running" and not worked:
        found = {**found, "status": "interrupted", "message": "its process ended; resume it"}
    elif found["status"] == "running" and silent > STALLED_S:
        found = {**found, "status": "stalled", "message": f"its process has said nothing for {silent:.0f} s"}
    worker = {"pid": job["pid"], "heartbeat_at": job["heartbeat_at"], "wish": job["wish"]} if job and worked else None
    return {**found, "worker": worker}


def _age(at: str) -> float:
    """Seconds since; a clock that was set back gives 0."""
    return max(0.0, (datetime.now(UTC) - datetime.fromisoformat(at)).total_seconds())


def ask(home: Home, run: str, wish: Literal["pause", "stop"]) -> str:
    """Ask the worker of a run to drain: the turns under way are committed and no new one is begun. Where it drains
    already, a second `stop` ends it at once, and a pause becomes a stop. Returns what was done, for people.
    """
    if not is_worked_on(home, run):
        return _settle(home, run, wish)
    job = _held_job(home, run)
    given: Wish = wish
    if wish == "stop" and job["wish"] in ("stop", "end"):
        given = "end"
    if wish == "pause" and job["wish"]:
        return f"run {run} is draining already"
    with Ledger(home.ledger) as ledger:
        ledger.wish(job["id"], given)
    return f"run {run} " + ("ends now" if given == "end" else f"drains, then it is {_WISHED[given]}")


_WISHED = {"pause": "paused", "stop": "stopped", "end": "stopped"}


def status_of(wish: Wish) -> str:
    """The status of a run that ended because someone wished it."""
    return _WISHED[wish]


def _held_job(home: Home, run: str) -> dict[str, Any]:
    """The job of the process that holds the run; it takes the lock a moment before it writes the row."""
    until = time.monotonic() + LOOKS * PAUSE_S * 10
    while True:
        with LedgerView(home.ledger) as view:
            job = current_job(view, run)
        if job and job["state"] == "running" and job["boot"] == boot_id() and Path(f"/proc/{job['pid']}").exists():
            return job
        if time.monotonic() > until:
            raise RefusedError(f"the process that works on run {run} is only starting", "ask again in a moment")
        time.sleep(PAUSE_S)


def _settle(home: Home, run: str, wish: Literal["pause", "stop"]) -> str:
    """No process works on the run: what is left to do is to say so in its row, unless it has ended by itself."""
    with LedgerView(home.ledger) as view:
        status = str(view.find_run(run)["status"])
    if status in ("done", _WISHED[wish]):
        return f"run {run} is {status} already"
    with working_on(home, run), Ledger(home.ledger) as ledger:
        ledger.set_run_status(run, _WISHED[wish])
    return f"run {run} is {_WISHED[wish]}; no process was working on it"


def log_path(home: Home, run: str) -> Path:
    """Where a detached worker's messages go."""
    return home.root / "logs" / f"run-{run}.log"


def launch(home: Home, run: str) -> int:
    """Play a run in a process of its own session, which outlives this terminal. Returns its pid once it holds the run.

    Raises:
        RefusedError: another process works on the run.
        NanofluxError: the worker ended before it held the run; the message is the end of its log.
    """
    if is_worked_on(home, run):
        raise RefusedError(f"another process is working on run {run}", f"watch it with `nanoflux run show {run}`")
    log = log_path(home, run)
    log.parent.mkdir(mode=0o700, exist_ok=True)
    command = [sys.executable, "-m", "nanoflux_local.cli", "--home", str(home.root), "run", "resume", run]
    with log.open("a") as file:
        log.chmod(0o600)
        told = file.tell()
        worker = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True, close_fds=True
        )
    until = time.monotonic() + LAUNCH_S
    while not _has_begun(home, run, worker.pid):
        code = worker.poll()
        if code is not None and not _has_begun(home, run, worker.pid):
            tail = log.read_text(errors="replace")[told:].strip()[-500:]
            raise NanofluxError(f"the worker of run {run} ended at once ({code}): {tail}", f"see {log}")
        if time.monotonic() > until:
            raise NanofluxError(f"the worker of run {run} (pid {worker.pid}) has not begun yet", f"see {log}")
        time.sleep(PAUSE_S)
    return worker.pid


def _has_begun(home: Home, run: str, pid: int) -> bool:
    with LedgerView(home.ledger) as view:
        job = current_job(view, run)
    return job is not None and job["pid"] == pid and job["boot"] == boot_id()
