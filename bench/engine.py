"""What the engine costs: 200 turns against a server of known speed, wall time over the ideal, and processor time.

    python bench/engine.py                      # C = 32
    python bench/engine.py --scripted           # no server and no client: the engine's own processor time
    python bench/engine.py --flawless           # every turn in one attempt, as in a plain pipeline
    python bench/engine.py --peer PYTHON        # then as many calls by distilabel, from an environment of its own

The ideal is the service time of every call that was made, divided by C. The share of calls that no turn used is
printed beside it: an engine could keep a server busy with waste. One question in ten is a near-duplicate: the scripted
embedder finds all of these questions alike, so that the threshold stands where that many are rejected. The replies of
`longest_turn_s` came one after the other whatever the engine did; it asks those first that have the longest way to go.
The peer's environment: `pip install 'distilabel[openai]==1.5.3' requests` (which it imports and does not ask for).
"""

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.run import configs, runs

SUPPORT = Path(__file__).with_name("support")
SETTINGS = {"seeds": {"min": 2}, "novelty": {"question": 0.88}}
LONGEST = """
    SELECT max(spent) FROM (
        SELECT sum(calls.seconds) AS spent FROM turns JOIN turn_calls ON turn_calls.turn = turns.id
        JOIN calls ON calls.id = turn_calls.call WHERE turns.run = ? GROUP BY turns.id)
"""


def settings(given: argparse.Namespace, url: str) -> dict[str, Any]:
    shared = {**SETTINGS, "max_turns": given.turns, "target": given.turns, "seed": given.seed}
    shared["concurrency"] = given.concurrency
    if given.flawless:
        shared["novelty"] = {"question": 1.0}
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
        config = configs.resolve("starter-genetics", "scripted", settings(given, url), home)
        run = asyncio.run(runs.start(home, config))
        if url:
            import openai  # its import is no turn's cost

            del openai
        wall, processor = time.perf_counter(), spent()
        asyncio.run(runs.carry_on(home, run))
        wall, processor = time.perf_counter() - wall, spent() - processor
        with LedgerView(home.ledger) as view:
            ((longest,),) = view.rows(LONGEST, run)
            return {"wall_s": wall, "cpu_s": processor, "longest": longest, **view.summarize_run(run).to_json()}


def stats(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url.removesuffix("/v1") + "/stats") as reply:
        found: dict[str, Any] = json.load(reply)
    return found


@contextmanager
def serving(given: argparse.Namespace) -> Iterator[str]:
    """The address of a server of its own."""
    words = [sys.executable, str(SUPPORT / "token_server.py"), "--slots", str(given.slots)]
    words += ["--token-s", str(given.token_s), *(["--flawless"] if given.flawless else [])]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield server.stdout.readline().strip()
        finally:
            server.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=200)
    parser.add_argument("--concurrency", type=int, default=40, help="a few more than slots wait at the server")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--slots", type=int, default=32)
    parser.add_argument("--token-s", type=float, default=0.02)
    parser.add_argument("--flawless", action="store_true", help="models that are read at once, on new questions")
    parser.add_argument("--scripted", action="store_true")
    parser.add_argument("--peer", metavar="PYTHON")
    given = parser.parse_args()
    if given.scripted:
        print(json.dumps(told(play(given, "")), indent=2))
        return
    with serving(given) as url:
        ours = {**told(play(given, url)), **beside(stats(url), given)}
    print(json.dumps(ours, indent=2))
    if given.peer:
        with serving(given) as url:
            theirs = {**peer(given, url, ours["chat_requests"]), **beside(stats(url), given)}
        print(json.dumps({"distilabel": theirs}, indent=2))


def peer(given: argparse.Namespace, url: str, requests: int) -> dict[str, Any]:
    """The same number of requests by distilabel, in steps of batches as large as the server takes."""
    words = [given.peer, str(SUPPORT / "distilabel_duel.py"), url, str(requests // 4), str(given.slots)]
    with tempfile.TemporaryDirectory() as home:
        lines = subprocess.run(
            words,
            env={**os.environ, "HOME": home},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            check=True,
        ).stdout.splitlines()
    found: dict[str, Any] = json.loads(lines[-1])
    return {
        "rows": found["rows"],
        "wall_s": round(found["wall_s"], 2),
        "cpu_ms_per_request": round(1000 * found["cpu_s"] / requests, 2),
    }


def beside(served: dict[str, Any], given: argparse.Namespace) -> dict[str, Any]:
    """The time from the first request to the last reply beside the shortest that it could have been."""
    ideal = served["busy_s"] / given.slots
    return {
        "chat_requests": served["requests"],
        "ideal_s": round(ideal, 2),
        "span_s": round(served["span_s"], 2),
        "span_over_ideal": round(served["span_s"] / ideal, 3),
    }


def told(found: dict[str, Any]) -> dict[str, Any]:
    return {
        "turns": found["turns"],
        "kept": found["kept"],
        "attempts": found["funnel"]["attempts"],
        "calls": found["calls"]["made"],
        "wasted_share": found["wasted_share"],
        "longest_turn_s": round(found["longest"], 2),
        "wall_s": round(found["wall_s"], 2),
        "cpu_ms_per_turn": round(1000 * found["cpu_s"] / found["turns"], 2),
        "digest": found["digest"][:16],
    }


if __name__ == "__main__":
    main()
