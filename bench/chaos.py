"""The fault matrix: one scripted run, hurt in every way that machines hurt runs, beside the same run left alone.

    python bench/chaos.py [--kills 200] [--turns 400] [--times 20] [--only NAME] [--seed 0]

After each: `run verify` must be clean, the dataset the undisturbed one, and no call made that the ledger remembered;
only calls in flight when a process died may be made again. What goes wrong is done to the command line's own process:
signals from outside, or a patch that it runs first (`kills.CHILD`), so that nothing of this is in the product.
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
from kills import Trial, disturb, scripted, wrongs

from nanoflux_local.jobs import RUN, Work, check_work
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home

CONCURRENCY = 16
FAULTS = 0.4
IN_TRANSACTION = """
import contextlib, random, signal
from nanoflux_local.ledger.store import Ledger
plain, left = Ledger.transaction, [random.Random({seed}).randrange(4, {most})]
@contextlib.contextmanager
def deadly(self):
    with plain(self) as connection:
        yield connection
        left[0] -= 1
        if not left[0]:  # everything is written, nothing is committed
            os.kill(os.getpid(), signal.SIGKILL)
Ledger.transaction = deadly
"""
JUMPS = """
import datetime, random
from nanoflux_local.ledger import store
rng = random.Random({seed})
def jumping():
    days = datetime.timedelta(days=rng.uniform(-4000, 4000))
    return (datetime.datetime.now(datetime.UTC) + days).isoformat(timespec="milliseconds")
store.now = jumping
"""
ROOM_KIB, MORE_KIB = 900, 200
"""A disk on which a ledger fits, and what it grows by each time that it is full."""
SMALL_FILES = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, resource.RLIM_INFINITY))
"""


@dataclass
class Row:
    """What one kind of harm did. `wrong` names all that differs from the run left alone and must not."""

    name: str
    times: int
    lost: int
    repeated: int
    problems: int
    same: bool
    seconds: float
    wrong: list[str] = field(default_factory=list)


@dataclass
class Matrix:
    """One run left alone, and what every kind of harm is held against."""

    folder: Path
    turns: int
    times: int
    kills: int
    seed: int
    delay: float = 0.03

    def __post_init__(self) -> None:
        self.settings = scripted(self.turns, CONCURRENCY, self.delay)
        self.plain = self.trial("plain")
        self.plain.undisturbed()

    def trial(self, name: str, patch: str = "") -> Trial:
        return Trial(self.folder / name.replace(" ", "-"), self.settings, patch)

    def row(self, name: str, harm: Callable[[Trial, random.Random], int]) -> Row:
        """Do harm to a run, let it come to its end, and hold it against the one left alone."""
        trial, began = self.trial(name), time.monotonic()
        times = harm(trial, random.Random(self.seed))
        trial.patch = ""
        trial.undisturbed()
        one, other = self.plain.outcome(), trial.outcome()
        wrong = wrongs(one, other, trial, CONCURRENCY)
        if not times:
            wrong.append("no harm was done")
        same = one["digest"] == other["digest"]
        lost = other["asked"] - other["made"]
        seconds = time.monotonic() - began
        return Row(name, times, lost, len(trial.repeated), len(other["problems"]), same, seconds, wrong)

    # The harms; each gives how often it was done

    def killed(self, trial: Trial, rng: random.Random) -> int:
        """SIGKILL at random moments, while it works and while it starts."""
        disturb(trial, self.kills, len(self.plain.asked()), rng)
        return trial.kills

    def killed_in_transaction(self, trial: Trial, rng: random.Random) -> int:
        """SIGKILL of the writer after it wrote and before it committed."""
        commits = 2 * self.turns // self.times
        for _ in range(self.times):
            trial.patch = IN_TRANSACTION.format(seed=rng.randrange(10**9), most=max(8, commits))
            if not trial.kill_at(10**9, starting=False):
                break
        return trial.kills

    def power_cut(self, trial: Trial, rng: random.Random) -> int:
        """The process stands still between two writes; what is on disk then, and the torn frame that was being written,
        is what there is when the power is back."""
        for _ in range(self.times):
            if not self._cut(trial, rng):
                break
        return trial.kills

    def _cut(self, trial: Trial, rng: random.Random) -> bool:
        with _noted(trial):
            process, moment = trial.session(), self._moment(trial, rng)
            while process.poll() is None and len(trial.asked()) < moment:
                time.sleep(0.002)
            if process.poll() is None:
                process.send_signal(signal.SIGSTOP)
                os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
                found = [trial.home / name for name in ("ledger.db", "ledger.db-wal")]
                saved = {file: file.read_bytes() for file in found if file.exists()}
                process.kill()
                process.wait()
                (trial.home / "ledger.db-shm").unlink(missing_ok=True)
                for file, content in saved.items():
                    torn = rng.randbytes(rng.randrange(4096)) if file.name.endswith("wal") else b""
                    file.write_bytes(content + torn)
            process.communicate()
            trial.kills += process.returncode != 0
        return process.returncode != 0

    def _moment(self, trial: Trial, rng: random.Random) -> float:
        """After how many calls the next harm comes, so that about `times` of them fit into the run."""
        return len(trial.asked()) + rng.uniform(0, 1.6 * len(self.plain.asked()) / self.times)

    def disk_full(self, trial: Trial, _: random.Random) -> int:
        """No room left, then a little more: on a small tmpfs where one can be mounted, else by a limit on files."""
        mounted = _mount(trial.home, ROOM_KIB)
        room = ROOM_KIB
        while True:
            trial.patch = "" if mounted else SMALL_FILES.format(size=room * 1024)
            with _noted(trial):
                code, told = _played(trial)
                room += MORE_KIB if trial.kills < self.times else 500_000
                if mounted:
                    _mount(trial.home, room, "remount,")
            if code == 0:
                return trial.kills
            if code != 1 or "Traceback" in told or not any(word in told for word in ("full", "disk", "space")):
                raise SystemExit(f"the run ended with {code}: {told}")
            trial.kills += 1

    def clock_jumps(self, trial: Trial, rng: random.Random) -> int:
        """Every look at the clock gives another year; meanwhile the run must be shown as what it is."""
        shown: list[str] = []
        while trial.kills < self.times:
            trial.patch = JUMPS.format(seed=rng.randrange(10**9))
            with _noted(trial):
                process, moment = trial.session(), self._moment(trial, rng)
                while process.poll() is None and (len(trial.asked()) < moment or "running" not in _status(trial)):
                    time.sleep(0.01)
                shown += _status(trial) if process.poll() is None else []
                process.kill()
                process.communicate()
            if process.returncode == 0:
                break
            trial.kills += 1
        if "running" not in shown or set(shown) - {"running", "done"}:  # the last may end as it is looked at
            raise SystemExit(f"a healthy run was shown as {sorted(set(shown))}")
        return trial.kills

    def two_workers(self, trial: Trial, rng: random.Random) -> int:
        """Three processes at once, all but one of which are refused; then the one is killed."""
        refused = 0
        trial.kill_at(1, starting=False)  # the run exists
        while trial.kills < self.times:
            with _noted(trial):
                processes, moment = [trial.session() for _ in range(3)], self._moment(trial, rng)
                while (alive := _alive(processes)) > 1 or (alive and len(trial.asked()) < moment):
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
def _noted(trial: Trial) -> Iterator[None]:
    """Note the calls that are made inside although the ledger remembered them before."""
    remembered, asked = trial.remembered(), len(trial.asked())
    yield
    trial.repeated += sorted(remembered & set(trial.asked()[asked:]))


def _alive(processes: list[subprocess.Popen[str]]) -> int:
    return sum(process.poll() is None for process in processes)


def _played(trial: Trial) -> tuple[int, str]:
    """Play until it ends by itself; the exit code and what it said."""
    process = trial.session()
    _, told = process.communicate()
    return process.returncode, told


def _status(trial: Trial) -> list[str]:
    with LedgerView(trial.home / "ledger.db") as view:
        summary = view.summarize_run(kills.NAME).to_json()
        return [check_work(Home(trial.home), view, Work(RUN, summary["run"]), summary).status]


def _mount(folder: Path, kib: int, how: str = "") -> bool:
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"{how}size={kib}k", "tmpfs", str(folder)]
    return subprocess.run(command, capture_output=True).returncode == 0


def faults(matrix: Matrix) -> Row:
    """A server that fails two answers in five, in every way that servers fail, beside one that does not."""
    began, digests, counted = time.monotonic(), [], []
    for name, share in (("served", 0.0), ("faulty", FAULTS)):
        command = [sys.executable, "-m", "nanoflux_local.endpoints.fake_server", "--faults", str(share)]
        server = subprocess.Popen([*command, "--stall-s", "0.3"], stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            url = server.stdout.readline().strip()
            trial = Trial(matrix.folder / name, _served(matrix, url))
            code, told = _played(trial)
            if code:
                raise SystemExit(f"the run against a failing server ended with {code}: {told}")
            outcome = trial.outcome()
            digests.append(outcome)
            counted.append(_failed(url))
        finally:
            server.kill()
            server.wait()
    one, other = digests
    wrong = [f"{key} differs" for key in ("status", "digest", "turns", "examples", "used") if one[key] != other[key]]
    wrong += [f"verify: {problem}" for problem in other["problems"]]
    same, seconds = one["digest"] == other["digest"], time.monotonic() - began
    return Row("endpoint faults", counted[1], 0, 0, len(other["problems"]), same, seconds, wrong)


def _served(matrix: Matrix, url: str) -> tuple[str, ...]:
    served = ("duelist-a", "duelist-b", "arbiter")
    words = [f"endpoints.{name}={{interface = 'openai_chat', url = '{url}', delay_s = 0.0}}" for name in served]
    short = scripted(max(20, matrix.turns // 4), CONCURRENCY, 0.0)
    return (*short, *(part for word in words for part in ("--set", word)))


def _failed(url: str) -> int:
    """How many answers the server spoiled."""
    import urllib.request

    with urllib.request.urlopen(url.removesuffix("/v1") + "/stats") as reply:
        told = json.load(reply)
    return sum(count for name, count in told.items() if name not in ("requests", "hung_up"))


HARMS: dict[str, str] = {
    "SIGKILL": "killed",
    "SIGKILL in a transaction": "killed_in_transaction",
    "power cut": "power_cut",
    "disk full": "disk_full",
    "clock jumps": "clock_jumps",
    "two workers": "two_workers",
}


def table(rows: list[Row]) -> str:
    """Every harm on a line of its own."""
    head = ("harm", "times", "same digest", "verify finds", "asked twice", "lost in flight", "seconds")
    lines = [
        (row.name, row.times, "yes" if row.same else "NO", row.problems, row.repeated, row.lost, f"{row.seconds:.0f}")
        for row in rows
    ]
    return "\n".join(f"{name:<26}" + "".join(f"{cell!s:<17}" for cell in cells) for name, *cells in (head, *lines))


def with_mounts() -> None:
    """Begin again where a tmpfs can be mounted: as root of a namespace of its own, if that is allowed here."""
    own = ["unshare", "-rm"]
    if "NANOFLUX_CHAOS" not in os.environ and subprocess.run([*own, "true"], capture_output=True).returncode == 0:
        os.environ["NANOFLUX_CHAOS"] = "unshared"
        os.execvp(own[0], [*own, sys.executable, *sys.argv])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--turns", type=int, default=400)
    parser.add_argument("--times", type=int, default=20, help="how often each other harm is done")
    parser.add_argument("--only", choices=[*HARMS, "endpoint faults"], action="append")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with_mounts()
    with tempfile.TemporaryDirectory() as folder:
        matrix = Matrix(Path(folder), given.turns, given.times, given.kills, given.seed)
        rows = [
            matrix.row(name, getattr(matrix, harm)) for name, harm in HARMS.items() if name in (given.only or HARMS)
        ]
        if "endpoint faults" in (given.only or ["endpoint faults"]):
            rows.append(faults(matrix))
        print(table(rows))
        for mounted in Path(folder).iterdir():
            subprocess.run(["umount", str(mounted)], capture_output=True)
    wrong = [f"{row.name}: {told}" for row in rows for told in row.wrong]
    print(json.dumps({"turns": given.turns, "kills": given.kills, "wrong": wrong}))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
