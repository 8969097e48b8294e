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
"""The name of the run."""
RUN_PROGRAM = """
import os, sys
from nanoflux_local.endpoints.scripted import HashingEmbedder, ScriptedEndpoint
log = os.open(sys.argv.pop(1), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
def log_calls(answer):
    async def log_and_answer(self, request):
        os.write(log, f"{request.key()}\\n".encode())
        return await answer(self, request)
    return log_and_answer
ScriptedEndpoint.chat = log_calls(ScriptedEndpoint.chat)
HashingEmbedder.embed = log_calls(HashingEmbedder.embed)
exec(sys.argv.pop(1))
from nanoflux_local.cli.main import main
main()
"""
"""The program of the run's process. Its arguments are the file to which the keys of all calls are written, a patch that
is executed first, and a command line.
"""


@dataclass
class Trial:
    """A run in a separate home, with the calls that it sent and the calls that its ledger stores.

    `settings` are the arguments with which the run is started. `kills` counts how often it was killed.
    """

    home: Path
    settings: tuple[str, ...]
    patch: str = ""
    """Python code that the process runs first, to cause a failure."""
    kills: int = 0
    repeated: list[str] = field(default_factory=list)
    """Calls that were sent although the ledger had their replies."""

    def start_process(self) -> subprocess.Popen[str]:
        """Start or resume the run in a new process."""
        has_run = bool(self.rows("SELECT id FROM runs"))
        action = ["resume", NAME] if has_run else ["start", "--name", NAME, *self.settings]
        self.home.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-c", RUN_PROGRAM, str(self.home / "sent.log"), self.patch, "run", *action]
        environment = {**os.environ, "NANOFLUX_HOME": str(self.home)}
        return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def finish(self) -> float:
        """Let the run finish. Returns the seconds from its first message to its end."""
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

        If `starting` is true, `moment` is in seconds from the start of the process. Otherwise it is a number of calls,
        so that the kills happen at the same points of the run on a busy machine as on an idle one.
        """
        stored_keys = self.stored_keys()
        sent_count = len(self.sent_keys())
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
        """The rows of a query of the ledger; [] before the ledger exists."""
        if not (self.home / "ledger.db").exists():
            return []
        with LedgerView(self.home / "ledger.db") as view:
            return list(view.rows(sql))

    def stored_keys(self) -> set[str]:
        """The keys of all calls in the ledger."""
        return {row["key"] for row in self.rows("SELECT key FROM calls")}

    def sent_keys(self) -> list[str]:
        """The keys of all calls that were sent, in order."""
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
    """Kill the run `kills` times at random moments, and resume it each time until it is done. `calls` is the number of
    calls of an undisturbed run, over which most kills are spread; one kill in five hits the start of the process.
    """
    while trial.kills < kills:
        starting = rng.random() < 0.2
        latest_moment = 0.5 if starting else 1.6 * calls / kills
        if not trial.kill_at(rng.uniform(0, latest_moment), starting):
            return
    trial.finish()


def find_differences(expected: dict[str, Any], actual: dict[str, Any], trial: Trial, concurrency: int) -> list[str]:
    """The forbidden differences between the undisturbed run and the killed one."""
    compared_keys = ("status", "digest", "turns", "examples", "used")
    differences = [f"{key} differs" for key in compared_keys if expected[key] != actual[key]]
    differences += [f"verify: {problem}" for problem in actual["problems"]]
    examples_by_turn = Counter(turn for turn, _ in actual["examples"])
    differences += [f"two examples of turn {turn}" for turn, count in examples_by_turn.items() if count > 1]
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
        undisturbed = Trial(Path(folder) / "plain", settings)
        killed = Trial(Path(folder) / "killed", settings)
        undisturbed_s = undisturbed.finish()
        disturb(killed, options.kills, len(undisturbed.sent_keys()), random.Random(options.seed))
        expected = undisturbed.outcome()
        actual = killed.outcome()
    wrong = find_differences(expected, actual, killed, options.concurrency)
    if killed.kills < options.kills:
        wrong.append(f"the run finished after {killed.kills} kills: pass more --turns")
    print(format_table(expected, actual, killed, undisturbed_s))
    has_same_digest = expected["digest"] == actual["digest"]
    print(json.dumps({"kills": killed.kills, "digest_same": has_same_digest, "wrong": wrong}))
    sys.exit(1 if wrong else 0)


def make_scripted_settings(turns: int, concurrency: int, delay: float, profile: str = "scripted") -> tuple[str, ...]:
    """The arguments of a scripted run that keeps many examples and repeats many questions."""
    arguments = [
        "--domain", "starter-genetics", "--profile", profile, "--examples", str(turns), "--max-turns", str(turns),
        "--concurrency", str(concurrency), "--set", "seeds.min=2", "--set", "pause_when_saturated=0",
    ]  # fmt: skip
    for model in ("duelist-a", "duelist-b", "arbiter"):
        arguments += ["--set", f"endpoints.{model}.delay_s={delay}"]
    return tuple(arguments)


def format_table(expected: dict[str, Any], actual: dict[str, Any], trial: Trial, undisturbed_s: float) -> str:
    """A table that compares the undisturbed run with the killed run, and the seconds of the undisturbed run."""
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
    lines = [f"{name:<26}{undisturbed!s:<20}{killed}" for name, undisturbed, killed in rows]
    return "\n".join([*lines, f"The undisturbed run took {undisturbed_s:.1f} s."])


if __name__ == "__main__":
    main()
