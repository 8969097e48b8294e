"""Kills a scripted run at random moments and resumes it until it is done: the dataset must equal that of an
undisturbed run, and no call whose reply is stored may be sent again.

    python bench/kills.py [--kills 50] [--turns 200] [--concurrency 16] [--seed 0]

The run's process gets SIGKILL, mostly during work and sometimes during a start. Every call to an endpoint is first
written to a log, so that the sent calls can be compared with those in the ledger.
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
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nanoflux_local.ledger.verify import verify_run
from nanoflux_local.ledger.views import LedgerView

NAME = "kills"
CHILD = """
import os, sys
from nanoflux_local.endpoints.scripted import HashingEmbedder, ScriptedEndpoint
log = os.open(sys.argv.pop(1), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
def log_calls(answer):
    async def call(self, request):
        os.write(log, f"{request.key()}\\n".encode())
        return await answer(self, request)
    return call
ScriptedEndpoint.chat, HashingEmbedder.embed = log_calls(ScriptedEndpoint.chat), log_calls(HashingEmbedder.embed)
exec(sys.argv.pop(1))
from nanoflux_local.cli.main import main
main()
"""


@dataclass
class Trial:
    """A run in a separate home, with the calls that it sent and the calls that its ledger stores."""

    home: Path
    settings: tuple[str, ...]
    patch: str = ""
    """Python code that the process runs first, to cause a failure."""
    kills: int = 0
    repeated: list[str] = field(default_factory=list)
    """Calls that were sent although the ledger had their replies."""

    def start_process(self) -> subprocess.Popen[str]:
        """Start or resume the run in a new process."""
        action = ["resume", NAME] if self.rows("SELECT id FROM runs") else ["start", "--name", NAME, *self.settings]
        self.home.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-c", CHILD, str(self.home / "sent.log"), self.patch, "run", *action]
        environment = {**os.environ, "NANOFLUX_HOME": str(self.home)}
        return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def finish(self) -> float:
        """Let the run finish. Returns the seconds since its first message."""
        process = self.start_process()
        assert process.stderr is not None
        process.stderr.readline()
        start = time.monotonic()
        errors = process.stderr.read()
        if process.wait() != 0:
            raise SystemExit(f"the run ended with {process.returncode}: {errors}")
        return time.monotonic() - start

    def kill_at(self, moment: float, starting: bool) -> bool:
        """Start the run and kill it at `moment`. Returns False if it finished before that.

        With `starting`, `moment` is in seconds from the start of the process; otherwise it is a number of calls, so
        that a busy machine kills at the same points as an idle one.
        """
        stored_keys, sent_count = self.stored_keys(), len(self.sent_keys())
        process = self.start_process()
        assert process.stderr is not None
        while process.poll() is None and not starting and len(self.sent_keys()) < sent_count + moment:
            time.sleep(0.002)
        try:
            process.wait(moment if starting else 0)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        errors = process.stderr.read()
        if process.wait() not in (0, -signal.SIGKILL):
            raise SystemExit(f"the run ended with {process.returncode}: {errors}")
        was_killed = process.returncode != 0
        self.kills += int(was_killed)
        self.repeated += sorted(stored_keys & set(self.sent_keys()[sent_count:]))
        return was_killed

    def rows(self, sql: str) -> list[Any]:
        """Query the ledger; [] if there is none yet."""
        if not (self.home / "ledger.db").exists():
            return []
        with LedgerView(self.home / "ledger.db") as view:
            return list(view.rows(sql))

    def stored_keys(self) -> set[str]:
        return {row["key"] for row in self.rows("SELECT key FROM calls")}

    def sent_keys(self) -> list[str]:
        log = self.home / "sent.log"
        return log.read_text().split() if log.exists() else []

    def outcome(self) -> dict[str, Any]:
        """The results, which must not depend on the kills, and the counts of calls, which may."""
        with LedgerView(self.home / "ledger.db") as view:
            summary = view.summarize_run(NAME).to_json()
            return {
                "status": summary["status"],
                "digest": summary["digest"],
                "turns": [row["record_hash"] for row in view.rows("SELECT record_hash FROM turns ORDER BY number")],
                "examples": [tuple(row) for row in view.rows("SELECT turn, content_hash FROM examples ORDER BY rowid")],
                "used": summary["calls"]["made"] - summary["calls"]["wasted"],
                "made": summary["calls"]["made"],
                "sent": len(self.sent_keys()),
                "problems": list(verify_run(view, NAME)),
            }


def disturb(trial: Trial, kills: int, calls: int, rng: random.Random) -> None:
    """Kill the run `kills` times at random moments of its `calls`; one kill in five hits the start of the process."""
    while trial.kills < kills:
        starting = rng.random() < 0.2
        latest_moment = 0.5 if starting else 1.6 * calls / kills
        if not trial.kill_at(rng.uniform(0, latest_moment), starting):
            return
    trial.finish()


def find_differences(expected: dict[str, Any], actual: dict[str, Any], trial: Trial, concurrency: int) -> list[str]:
    """The forbidden differences between the undisturbed run and the killed one."""
    differences = [
        f"{key} differs" for key in ("status", "digest", "turns", "examples", "used") if expected[key] != actual[key]
    ]
    differences += [f"verify: {problem}" for problem in actual["problems"]]
    counts = Counter(turn for turn, _ in actual["examples"])
    differences += [f"two examples of turn {turn}" for turn, count in counts.items() if count > 1]
    differences += [f"sent again although stored: {key[:12]}" for key in trial.repeated]
    in_flight = actual["sent"] - actual["made"]
    if in_flight > trial.kills * concurrency:
        differences.append(f"{in_flight} calls lost in flight by {trial.kills} kills at concurrency {concurrency}")
    return differences


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--turns", type=int, default=200)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--delay", type=float, default=0.05, help="mean response time of a scripted model in seconds")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    settings = make_scripted_settings(options.turns, options.concurrency, options.delay)
    with tempfile.TemporaryDirectory() as folder:
        undisturbed, killed = (Trial(Path(folder) / name, settings) for name in ("plain", "killed"))
        seconds = undisturbed.finish()
        disturb(killed, options.kills, len(undisturbed.sent_keys()), random.Random(options.seed))
        expected, actual = undisturbed.outcome(), killed.outcome()
    wrong = find_differences(expected, actual, killed, options.concurrency)
    if killed.kills < options.kills:
        wrong.append(f"the run finished after {killed.kills} kills: pass more --turns")
    print(format_table(expected, actual, killed, seconds))
    has_same_digest = expected["digest"] == actual["digest"]
    print(json.dumps({"kills": killed.kills, "digest_same": has_same_digest, "wrong": wrong}))
    sys.exit(1 if wrong else 0)


def make_scripted_settings(turns: int, concurrency: int, delay: float, profile: str = "scripted") -> tuple[str, ...]:
    """The arguments of a scripted run that keeps many examples and repeats many questions."""
    models = ("duelist-a", "duelist-b", "arbiter")
    return (
        "--domain", "starter-genetics", "--profile", profile, "--examples", str(turns), "--max-turns", str(turns),
        "--concurrency", str(concurrency), "--set", "seeds.min=2", "--set", "pause_when_saturated=0",
        *(word for model in models for word in ("--set", f"endpoints.{model}.delay_s={delay}")),
    )  # fmt: skip


def format_table(expected: dict[str, Any], actual: dict[str, Any], trial: Trial, seconds: float) -> str:
    """The undisturbed and the killed run in two columns."""
    rows = [
        ("", "undisturbed", "killed"),
        ("kills", 0, trial.kills),
        ("turns", len(expected["turns"]), len(actual["turns"])),
        ("examples kept", len(expected["examples"]), len(actual["examples"])),
        ("digest", expected["digest"][:16], actual["digest"][:16]),
        ("calls sent", expected["sent"], actual["sent"]),
        ("calls stored", expected["made"], actual["made"]),
        ("stored calls used", expected["used"], actual["used"]),
        ("lost in flight", expected["sent"] - expected["made"], actual["sent"] - actual["made"]),
        ("problems found by verify", len(expected["problems"]), len(actual["problems"])),
    ]
    note = f"\nThe undisturbed run took {seconds:.1f} s."
    return "\n".join(f"{name:<26}{undisturbed!s:<20}{killed}" for name, undisturbed, killed in rows) + note


if __name__ == "__main__":
    main()
