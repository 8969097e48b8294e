"""The fault matrix: compares a scripted run under each kind of machine failure with an undisturbed run.

    python bench/chaos.py [--kills 200] [--turns 400] [--times 20] [--only NAME] [--seed 0]

After each failure, `run verify` must report no problem, the dataset must equal the undisturbed one, and no call whose
reply is stored may be sent again; a call that was in flight when a process died may be sent again. Failures are caused
by signals, or by a patch that the run's process executes first (`kills.RUN_PROGRAM`), so the product contains no code
for them.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import kills
from kills import Trial, disturb, find_differences, make_scripted_settings

from nanoflux_local.jobs import RUN, Job, load_job_state
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home

CONCURRENCY = 16
"""The maximum number of concurrent requests of each run."""
NEVER = 10**9
"""A number of calls that no run reaches."""
FAULT_SHARE = 0.4
"""The share of requests that the faulty server fails."""
KILL_IN_TRANSACTION_PATCH = """
import contextlib, random, signal
from nanoflux_local.ledger.store import Ledger
original_transaction = Ledger.transaction
remaining_transactions = random.Random({seed}).randrange(4, {maximum})
@contextlib.contextmanager
def kill_before_commit(self):
    global remaining_transactions
    with original_transaction(self) as connection:
        yield connection
        remaining_transactions -= 1
        if not remaining_transactions:  # everything is written, nothing is committed
            os.kill(os.getpid(), signal.SIGKILL)
Ledger.transaction = kill_before_commit
"""
"""A patch with which the run's process kills itself at the end of a random transaction."""
CLOCK_JUMP_PATCH = """
import datetime, random
from nanoflux_local.ledger import store
rng = random.Random({seed})
def read_jumping_clock():
    days = datetime.timedelta(days=rng.uniform(-4000, 4000))
    return (datetime.datetime.now(datetime.UTC) + days).isoformat(timespec="milliseconds")
store.now = read_jumping_clock
"""
"""A patch with which each reading of the wall clock is off by up to 4,000 days."""
DISK_KIB, GROWTH_KIB = 900, 200
"""The initial size of the disk, which holds a small ledger, and its growth each time it is full, in KiB."""
FILE_SIZE_LIMIT_PATCH = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, resource.RLIM_INFINITY))
"""
"""A patch that limits the size of every file that the process writes to `size` bytes."""


@dataclass
class FailureResult:
    """The result of a kind of failure, which was caused `times` times.

    `lost` counts the calls whose replies were lost in flight, `repeated` those that were sent again although their
    replies were stored, and `problems` the problems that `run verify` reports. `has_same_digest` is whether the digest
    equals that of the undisturbed run. `seconds` is the time until the disturbed run was done. `wrong` describes
    forbidden differences from the undisturbed run.
    """

    name: str
    times: int
    lost: int
    repeated: int
    problems: int
    has_same_digest: bool
    seconds: float
    wrong: list[str] = field(default_factory=list)


@dataclass
class Matrix:
    """Compares disturbed runs with an undisturbed run of the same settings.

    `turns` is the number of turns of each run. One run is killed `kills` times; every other kind of failure is caused
    `times` times, at moments that `seed` determines. Each run has a home in `folder`. `delay` is the mean response time
    of a scripted model in seconds.
    """

    folder: Path
    turns: int
    times: int
    kills: int
    seed: int
    delay: float = 0.03

    def __post_init__(self) -> None:
        self.settings = make_scripted_settings(self.turns, CONCURRENCY, self.delay)
        self.undisturbed = self.make_trial("plain")
        self.undisturbed.finish()

    def make_trial(self, name: str, patch: str = "") -> Trial:
        """A run in a new home; its process first executes the code `patch`."""
        return Trial(self.folder / name.replace(" ", "-"), self.settings, patch)

    def measure_failure(self, name: str, failure: Callable[[Trial, random.Random], int]) -> FailureResult:
        """Disturb a run with `failure`, let it finish, and compare it with the undisturbed run. `failure` returns how
        often it occurred.
        """
        trial = self.make_trial(name)
        start = time.monotonic()
        times = failure(trial, random.Random(self.seed))
        trial.patch = ""
        trial.finish()
        expected, actual = self.undisturbed.outcome(), trial.outcome()
        wrong = find_differences(expected, actual, trial, CONCURRENCY)
        if not times:
            wrong.append("no failure was caused")
        return FailureResult(
            name=name,
            times=times,
            lost=actual["sent"] - actual["made"],
            repeated=len(trial.repeated),
            problems=len(actual["problems"]),
            has_same_digest=expected["digest"] == actual["digest"],
            seconds=time.monotonic() - start,
            wrong=wrong,
        )

    # Each method below causes one kind of failure, and returns how often the failure occurred.

    def kill(self, trial: Trial, rng: random.Random) -> int:
        """Send SIGKILL at random moments, during work and during starts."""
        disturb(trial, self.kills, len(self.undisturbed.sent_keys()), rng)
        return trial.kills

    def kill_in_transaction(self, trial: Trial, rng: random.Random) -> int:
        """Kill the writer between its last write and its commit."""
        commits_per_kill = 2 * self.turns // self.times
        for _ in range(self.times):
            trial.patch = KILL_IN_TRANSACTION_PATCH.format(seed=rng.randrange(10**9), maximum=max(8, commits_per_kill))
            if not trial.kill_at(NEVER, starting=False):  # the patch kills the process
                break
        return trial.kills

    def cut_power(self, trial: Trial, rng: random.Random) -> int:
        """Suspend the process between two writes, and continue from the files on disk with a torn frame at the end of
        the log.
        """
        for _ in range(self.times):
            if not self._cut_power_once(trial, rng):
                break
        return trial.kills

    def _cut_power_once(self, trial: Trial, rng: random.Random) -> bool:
        """Cut the power once. Return False if the run ended before that."""
        with _record_repeats(trial):
            process = trial.start_process()
            calls_at_failure = self._choose_call_count(trial, rng)
            while process.poll() is None and len(trial.sent_keys()) < calls_at_failure:
                time.sleep(0.002)
            if process.poll() is None:
                process.send_signal(signal.SIGSTOP)
                os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
                files = [trial.home / name for name in ("ledger.db", "ledger.db-wal")]
                saved_files = {file: file.read_bytes() for file in files if file.exists()}
                process.kill()
                process.wait()
                (trial.home / "ledger.db-shm").unlink(missing_ok=True)
                for file, content in saved_files.items():
                    torn_frame = rng.randbytes(rng.randrange(4096)) if file.name.endswith("wal") else b""
                    file.write_bytes(content + torn_frame)
            process.communicate()
            was_cut = process.returncode != 0
            trial.kills += int(was_cut)
        return was_cut

    def _choose_call_count(self, trial: Trial, rng: random.Random) -> float:
        """The number of sent calls at which the next failure occurs, drawn so that about `times` failures fit into the
        run.
        """
        return len(trial.sent_keys()) + rng.uniform(0, 1.6 * len(self.undisturbed.sent_keys()) / self.times)

    def fill_disk(self, trial: Trial, _: random.Random) -> int:
        """Fill the disk, and enlarge it a little each time the run fails. The disk is a small tmpfs; if no tmpfs can be
        mounted, a limit on the size of files replaces it.
        """
        is_mounted = _mount(trial.home, DISK_KIB)
        size_kib = DISK_KIB
        while True:
            trial.patch = "" if is_mounted else FILE_SIZE_LIMIT_PATCH.format(size=size_kib * 1024)
            with _record_repeats(trial):
                code, errors = _run_to_end(trial)
                size_kib += GROWTH_KIB if trial.kills < self.times else 500_000  # enough to finish
                if is_mounted:
                    _mount(trial.home, size_kib, "remount,")
            if code == 0:
                return trial.kills
            names_cause = any(word in errors for word in ("full", "disk", "space"))
            if code != 1 or "Traceback" in errors or not names_cause:
                raise SystemExit(f"the run ended with {code}: {errors}")
            trial.kills += 1

    def jump_clock(self, trial: Trial, rng: random.Random) -> int:
        """Set the wall clock to another year each time it is read; the run must still be listed as running."""
        statuses: set[str] = set()
        while trial.kills < self.times:
            trial.patch = CLOCK_JUMP_PATCH.format(seed=rng.randrange(10**9))
            with _record_repeats(trial):
                process = trial.start_process()
                calls_at_failure = self._choose_call_count(trial, rng)
                is_due = False
                while process.poll() is None and not is_due:
                    time.sleep(0.01)
                    is_due = len(trial.sent_keys()) >= calls_at_failure and _read_status(trial) == "running"
                if process.poll() is None:
                    statuses.add(_read_status(trial))
                process.kill()
                process.communicate()
            if process.returncode == 0:
                break
            trial.kills += 1
        if "running" not in statuses or statuses - {"running", "done"}:  # "done": the run may have just ended
            raise SystemExit(f"a healthy run was listed as {sorted(statuses)}")
        return trial.kills

    def start_workers(self, trial: Trial, rng: random.Random) -> int:
        """Start three workers at once, of which two must be refused; then kill the third."""
        refused = 0
        trial.kill_at(1, starting=False)  # so that the run exists
        while trial.kills < self.times:
            with _record_repeats(trial):
                processes = [trial.start_process() for _ in range(3)]
                calls_at_failure = self._choose_call_count(trial, rng)
                while _count_alive(processes) > 1:
                    time.sleep(0.005)
                while _count_alive(processes) and len(trial.sent_keys()) < calls_at_failure:
                    time.sleep(0.005)
                for process in processes:
                    process.kill()
                    process.communicate()
            codes = [process.returncode for process in processes]
            refused += codes.count(3)
            if 0 in codes:
                break
            if sorted(codes) != [-signal.SIGKILL, 3, 3]:
                raise SystemExit(f"three workers at once ended with {codes}")
            trial.kills += 1
        return refused


@contextmanager
def _record_repeats(trial: Trial) -> Iterator[None]:
    """Record the calls that are sent in this context although the ledger already had their replies."""
    stored_keys = trial.stored_keys()
    sent_count = len(trial.sent_keys())
    yield
    trial.repeated += sorted(stored_keys & set(trial.sent_keys()[sent_count:]))


def _count_alive(processes: list[subprocess.Popen[str]]) -> int:
    return sum(process.poll() is None for process in processes)


def _run_to_end(trial: Trial) -> tuple[int, str]:
    """Start or resume the run and wait until it ends. Returns its exit code and its error output."""
    process = trial.start_process()
    _, errors = process.communicate()
    return process.returncode, errors


def _read_status(trial: Trial) -> str:
    """The status with which the run is listed."""
    with LedgerView(trial.home / "ledger.db") as view:
        summary = view.summarize_run(kills.NAME).to_json()
        return load_job_state(Home(trial.home), view, Job(RUN, summary["run"]), summary).status


def _mount(folder: Path, kib: int, options: str = "") -> bool:
    """Mount a tmpfs of `kib` KiB at `folder`. Return whether it was mounted."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"{options}size={kib}k", "tmpfs", str(folder)]
    return subprocess.run(command, capture_output=True).returncode == 0


def compare_with_faulty_server(matrix: Matrix) -> FailureResult:
    """Compare two runs: one uses a server that fails `FAULT_SHARE` of the requests, in every known way, and one uses a
    server that never fails.
    """
    start = time.monotonic()
    outcomes = []
    fault_counts = []
    for name, fault_share in (("served", 0.0), ("faulty", FAULT_SHARE)):
        command = [sys.executable, "-m", "nanoflux_local.endpoints.fake_server", "--faults", str(fault_share)]
        server = subprocess.Popen([*command, "--stall-s", "0.3"], stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            url = server.stdout.readline().strip()
            trial = Trial(matrix.folder / name, _make_server_settings(matrix, url))
            code, errors = _run_to_end(trial)
            if code:
                raise SystemExit(f"the run against a failing server ended with {code}: {errors}")
            outcomes.append(trial.outcome())
            fault_counts.append(_count_faults(url))
        finally:
            server.kill()
            server.wait()
    expected, actual = outcomes
    keys = ("status", "digest", "turns", "examples", "used")
    wrong = [f"{key} differs" for key in keys if expected[key] != actual[key]]
    wrong += [f"verify: {problem}" for problem in actual["problems"]]
    return FailureResult(
        name="endpoint faults",
        times=fault_counts[1],
        lost=0,
        repeated=0,
        problems=len(actual["problems"]),
        has_same_digest=expected["digest"] == actual["digest"],
        seconds=time.monotonic() - start,
        wrong=wrong,
    )


def _make_server_settings(matrix: Matrix, url: str) -> tuple[str, ...]:
    """The arguments of a run, shorter than the others, whose endpoints use the server at `url`."""
    settings = list(make_scripted_settings(max(20, matrix.turns // 4), CONCURRENCY, 0.0))
    for name in ("duelist-a", "duelist-b", "arbiter"):
        settings += ["--set", f"endpoints.{name}={{interface = 'openai_chat', url = '{url}', delay_s = 0.0}}"]
    return tuple(settings)


def _count_faults(url: str) -> int:
    """The number of requests that the server failed."""
    import urllib.request

    with urllib.request.urlopen(url.removesuffix("/v1") + "/stats") as reply:
        counts = json.load(reply)
    return sum(count for name, count in counts.items() if name not in ("requests", "disconnects"))


FAILURES: dict[str, str] = {
    "SIGKILL": "kill",
    "SIGKILL in a transaction": "kill_in_transaction",
    "power cut": "cut_power",
    "disk full": "fill_disk",
    "clock jumps": "jump_clock",
    "two workers": "start_workers",
}
"""The kinds of failure: the title of each, and the method of `Matrix` that causes it."""


def format_table(results: list[FailureResult]) -> str:
    """A table with one line for each kind of failure."""
    titles = ("times", "same digest", "verify finds", "sent twice", "lost in flight", "seconds")
    lines = [_format_line("failure", *titles)]
    for result in results:
        digest_cell = "yes" if result.has_same_digest else "NO"
        seconds_cell = f"{result.seconds:.0f}"
        cells = (result.times, digest_cell, result.problems, result.repeated, result.lost, seconds_cell)
        lines.append(_format_line(result.name, *cells))
    return "\n".join(lines)


def _format_line(name: str, *cells: object) -> str:
    return f"{name:<26}" + "".join(f"{cell!s:<17}" for cell in cells)


def enter_mount_namespace() -> None:
    """If this machine allows it, restart as root of a new mount namespace, in which a tmpfs can be mounted."""
    unshare = ["unshare", "-rm"]
    if "NANOFLUX_CHAOS" in os.environ:  # this process is in the new namespace
        return
    can_unshare = subprocess.run([*unshare, "true"], capture_output=True).returncode == 0
    if can_unshare:
        os.environ["NANOFLUX_CHAOS"] = "unshared"
        os.execvp(unshare[0], [*unshare, sys.executable, *sys.argv])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--turns", type=int, default=400)
    parser.add_argument("--times", type=int, default=20, help="number of failures of each other kind")
    parser.add_argument("--only", choices=[*FAILURES, "endpoint faults"], action="append")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    enter_mount_namespace()
    selected_names = options.only or [*FAILURES, "endpoint faults"]
    with tempfile.TemporaryDirectory() as folder:
        matrix = Matrix(Path(folder), options.turns, options.times, options.kills, options.seed)
        results = []
        for name, method in FAILURES.items():
            if name in selected_names:
                results.append(matrix.measure_failure(name, getattr(matrix, method)))
        if "endpoint faults" in selected_names:
            results.append(compare_with_faulty_server(matrix))
        print(format_table(results))
        for mount_point in Path(folder).iterdir():
            subprocess.run(["umount", str(mount_point)], capture_output=True)
    wrong: list[str] = []
    for result in results:
        wrong += [f"{result.name}: {difference}" for difference in result.wrong]
    print(json.dumps({"turns": options.turns, "kills": options.kills, "wrong": wrong}))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
