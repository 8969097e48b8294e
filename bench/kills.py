"""Kill a scripted run at random moments and resume it until it is done: one dataset must come out, and no call twice.

    python bench/kills.py [--kills 50] [--turns 200] [--concurrency 16] [--seed 0]

The run is the command line's own, in a process that gets SIGKILL: mostly while it works, at times while it starts.
It is held against the same run undisturbed. Every call that goes out to an endpoint is written to a log first, so that
what was asked is known apart from what the ledger remembers.
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
def noted(answer):
    async def call(self, request):
        os.write(log, f"{request.key()}\\n".encode())
        return await answer(self, request)
    return call
ScriptedEndpoint.chat, HashingEmbedder.embed = noted(ScriptedEndpoint.chat), noted(HashingEmbedder.embed)
exec(sys.argv.pop(1))
from nanoflux_local.cli.main import main
main()
"""


@dataclass
class Trial:
    """One run in a home of its own, with what it asked for and what it remembers."""

    home: Path
    settings: tuple[str, ...]
    patch: str = ""
    """Python that the process runs first: what shall go wrong in it."""
    kills: int = 0
    repeated: list[str] = field(default_factory=list)
    """Calls that were made although the ledger remembered them."""

    def session(self) -> subprocess.Popen[str]:
        """Start the run, or go on with it, in a new process."""
        begun = ["resume", NAME] if self.rows("SELECT id FROM runs") else ["start", "--name", NAME, *self.settings]
        self.home.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-c", CHILD, str(self.home / "asked.log"), self.patch, "run", *begun]
        environment = {**os.environ, "NANOFLUX_HOME": str(self.home)}
        return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def undisturbed(self) -> float:
        """Play to the end; the seconds that it took from its first message on."""
        process = self.session()
        assert process.stderr is not None
        process.stderr.readline()
        began = time.monotonic()
        told = process.stderr.read()
        if process.wait() != 0:
            raise SystemExit(f"the run ended with {process.returncode}: {told}")
        return time.monotonic() - began

    def kill_at(self, moment: float, starting: bool) -> bool:
        """Let the run work and kill it; False if it was done before that.

        With `starting`, `moment` is seconds from the birth of the process; without, the calls that it makes first,
        so that a busy machine kills at the same places as an idle one.
        """
        remembered, asked = self.remembered(), len(self.asked())
        process = self.session()
        assert process.stderr is not None
        while process.poll() is None and not starting and len(self.asked()) < asked + moment:
            time.sleep(0.002)
        try:
            process.wait(moment if starting else 0)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        told = process.stderr.read()
        if process.wait() not in (0, -signal.SIGKILL):
            raise SystemExit(f"the run ended with {process.returncode}: {told}")
        self.kills += process.returncode != 0
        self.repeated += sorted(remembered & set(self.asked()[asked:]))
        return process.returncode != 0

    def rows(self, sql: str) -> list[Any]:
        """Read the ledger; empty where there is none yet."""
        if not (self.home / "ledger.db").exists():
            return []
        with LedgerView(self.home / "ledger.db") as view:
            return list(view.rows(sql))

    def remembered(self) -> set[str]:
        return {row["key"] for row in self.rows("SELECT key FROM calls")}

    def asked(self) -> list[str]:
        log = self.home / "asked.log"
        return log.read_text().split() if log.exists() else []

    def outcome(self) -> dict[str, Any]:
        """What must be the same however the run was disturbed, and what may cost more."""
        with LedgerView(self.home / "ledger.db") as view:
            found = view.summarize_run(NAME).to_json()
            return {
                "status": found["status"],
                "digest": found["digest"],
                "turns": [row["record_hash"] for row in view.rows("SELECT record_hash FROM turns ORDER BY number")],
                "examples": [tuple(row) for row in view.rows("SELECT turn, content_hash FROM examples ORDER BY rowid")],
                "used": found["calls"]["made"] - found["calls"]["wasted"],
                "made": found["calls"]["made"],
                "asked": len(self.asked()),
                "problems": list(verify_run(view, NAME)),
            }


def disturb(trial: Trial, kills: int, calls: int, rng: random.Random) -> None:
    """Kill the run `kills` times, each after about its share of `calls`, every fifth time while it starts."""
    while trial.kills < kills:
        starting = rng.random() < 0.2
        if not trial.kill_at(rng.uniform(0, 0.5 if starting else 1.6 * calls / kills), starting):
            return
    trial.undisturbed()


def wrongs(plain: dict[str, Any], killed: dict[str, Any], trial: Trial, concurrency: int) -> list[str]:
    """What differs that must not."""
    found = [f"{key} differs" for key in ("status", "digest", "turns", "examples", "used") if plain[key] != killed[key]]
    found += [f"verify: {problem}" for problem in killed["problems"]]
    doubled = [turn for turn, count in Counter(turn for turn, _ in killed["examples"]).items() if count > 1]
    found += [f"two examples of turn {turn}" for turn in doubled]
    found += [f"asked again although remembered: {key[:12]}" for key in trial.repeated]
    in_flight = killed["asked"] - killed["made"]
    if in_flight > trial.kills * concurrency:
        found.append(f"{in_flight} calls lost in flight by {trial.kills} kills at concurrency {concurrency}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--turns", type=int, default=200)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--delay", type=float, default=0.05, help="mean seconds that a scripted model takes to answer")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    settings = scripted(given.turns, given.concurrency, given.delay)
    with tempfile.TemporaryDirectory() as folder:
        plain, killed = (Trial(Path(folder) / name, settings) for name in ("plain", "killed"))
        seconds = plain.undisturbed()
        disturb(killed, given.kills, len(plain.asked()), random.Random(given.seed))
        one, other = plain.outcome(), killed.outcome()
    found = wrongs(one, other, killed, given.concurrency)
    if killed.kills < given.kills:
        found.append(f"it was done after {killed.kills} kills: take more --turns")
    print(table(one, other, killed, seconds))
    print(json.dumps({"kills": killed.kills, "digest_same": one["digest"] == other["digest"], "wrong": found}))
    sys.exit(1 if found else 0)


def scripted(turns: int, concurrency: int, delay: float, profile: str = "scripted") -> tuple[str, ...]:
    """The settings of a run that keeps many and repeats itself often."""
    models = ("duelist-a", "duelist-b", "arbiter")
    return (
        "--domain", "starter-genetics", "--profile", profile, "--examples", str(turns), "--max-turns", str(turns),
        "--concurrency", str(concurrency), "--set", "seeds.min=2",
        *(word for model in models for word in ("--set", f"endpoints.{model}.delay_s={delay}")),
    )  # fmt: skip


def table(one: dict[str, Any], other: dict[str, Any], trial: Trial, seconds: float) -> str:
    """Undisturbed beside killed."""
    rows = [
        ("", "undisturbed", "killed"),
        ("kills", 0, trial.kills),
        ("turns", len(one["turns"]), len(other["turns"])),
        ("examples kept", len(one["examples"]), len(other["examples"])),
        ("digest", one["digest"][:16], other["digest"][:16]),
        ("calls asked", one["asked"], other["asked"]),
        ("calls remembered", one["made"], other["made"]),
        ("of them used", one["used"], other["used"]),
        ("lost in flight", one["asked"] - one["made"], other["asked"] - other["made"]),
        ("problems found by verify", len(one["problems"]), len(other["problems"])),
    ]
    told = f"\nThe undisturbed run took {seconds:.1f} s."
    return "\n".join(f"{name:<26}{first!s:<20}{second}" for name, first, second in rows) + told


if __name__ == "__main__":
    main()
