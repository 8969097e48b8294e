"""What the engine costs: 200 turns against a server of known speed, wall time over the ideal, and processor time.

    python bench/engine.py                      # C = 32
    python bench/engine.py --scripted           # no server and no client: the engine's own processor time

The ideal is the service time of every call that was made, divided by C. The share of calls that no turn used is
printed beside it: an engine could keep a server busy with waste.
"""

import argparse
import asyncio
import json
import resource
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from nanoflux_local import binding, runs
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home

SERVER = Path(__file__).with_name("support") / "token_server.py"


def settings(given: argparse.Namespace, url: str) -> dict[str, Any]:
    shared = {"max_turns": given.turns, "target": given.turns, "concurrency": given.concurrency, "seeds": {"min": 2}}
    if not url:
        return shared
    endpoint = {"interface": "openai_chat", "url": url}
    return {**shared, "endpoints": dict.fromkeys(("duelist-a", "duelist-b", "arbiter"), endpoint)}


def spent() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def play(given: argparse.Namespace, url: str) -> dict[str, Any]:
    """One run in a new home: wall and processor seconds of its playing, and its summary."""
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder)).prepare()
        config = binding.resolve("starter-genetics", "scripted", settings(given, url), home)
        run = asyncio.run(runs.start(home, config))
        if url:
            import openai  # its import is no turn's cost

            del openai
        wall, processor = time.perf_counter(), spent()
        asyncio.run(runs.carry_on(home, run))
        wall, processor = time.perf_counter() - wall, spent() - processor
        with LedgerView(home.ledger) as view:
            return {"wall_s": wall, "cpu_s": processor, **view.run_summary(run)}


def stats(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url.removesuffix("/v1") + "/stats") as reply:
        found: dict[str, Any] = json.load(reply)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=200)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--slots", type=int, default=32)
    parser.add_argument("--token-s", type=float, default=0.02)
    parser.add_argument("--scripted", action="store_true")
    given = parser.parse_args()
    if given.scripted:
        print(json.dumps(told(play(given, ""), given, None), indent=2))
        return
    command = [sys.executable, str(SERVER), "--slots", str(given.slots), "--token-s", str(given.token_s)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        try:
            print(json.dumps(told(play(given, url), given, stats(url)), indent=2))
        finally:
            server.terminate()


def told(found: dict[str, Any], given: argparse.Namespace, served: dict[str, Any] | None) -> dict[str, Any]:
    calls = found["calls"]["made"]
    result = {
        "turns": found["turns"],
        "kept": found["kept"],
        "calls": calls,
        "wasted_share": found["wasted_share"],
        "wall_s": round(found["wall_s"], 2),
        "cpu_ms_per_turn": round(1000 * found["cpu_s"] / found["turns"], 2),
        "digest": found["digest"][:16],
    }
    if served is None:
        return result
    ideal = served["busy_s"] / given.slots
    return {**result, "ideal_s": round(ideal, 2), "wall_over_ideal": round(found["wall_s"] / ideal, 3),
            "chat_requests": served["requests"]}  # fmt: skip


if __name__ == "__main__":
    main()
