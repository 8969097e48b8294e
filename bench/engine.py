"""Measures the engine with 200 turns against a server of known speed: wall time relative to the ideal, and CPU time.

    python bench/engine.py                      # the server has 32 slots
    python bench/engine.py --scripted           # no server and no client: the CPU time of the engine alone
    python bench/engine.py --flawless           # every turn takes one attempt, as in a plain pipeline
    python bench/engine.py --peer PYTHON        # the same number of calls by distilabel, in a separate environment

The ideal is the total service time of the calls, divided by the number of slots. The share of discarded calls is
printed too, since an engine could keep a server busy with calls that no turn uses. The novelty threshold is set so that
one question in ten is rejected as a near-duplicate. The calls of one turn are sequential, so no engine can take less
than `longest_turn_s`. The peer's environment needs `pip install 'distilabel[openai]==1.5.3' requests`; distilabel uses
`requests` but does not declare it.
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
SETTINGS = {"seeds": {"min": 2}, "novelty": {"question": 0.88}, "pause_when_saturated": 0}
"""The run's settings, which reject one question in ten as a near-duplicate."""
SLOWEST_TURN_QUERY = """
    SELECT max(spent) FROM (
        SELECT sum(calls.seconds) AS spent FROM turns JOIN turn_calls ON turn_calls.turn = turns.id
        JOIN calls ON calls.id = turn_calls.call WHERE turns.run = ? GROUP BY turns.id)
"""
"""A query for the slowest turn's time: the sum of the seconds of its calls."""


def make_settings(options: argparse.Namespace, url: str) -> dict[str, Any]:
    """The run's settings; without `url`, its models need no server."""
    settings = {**SETTINGS, "max_turns": options.turns, "target": options.turns, "seed": options.seed}
    settings["concurrency"] = options.concurrency
    if options.flawless:  # reject no question as a near-duplicate
        settings["novelty"] = {"question": 1.0}
    if not url:
        return settings
    endpoint = {"interface": "openai_chat", "url": url}
    return {**settings, "endpoints": dict.fromkeys(("duelist-a", "duelist-b", "arbiter"), endpoint)}


def measure_cpu_seconds() -> float:
    """The CPU seconds of this process so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def execute_run(options: argparse.Namespace, url: str) -> dict[str, Any]:
    """Execute one run in a new home. Returns its wall and CPU seconds, those of its slowest turn, and its summary."""
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder)).prepare()
        config = configs.resolve("starter-genetics", "scripted", make_settings(options, url), home)
        run = asyncio.run(runs.start(home, config))
        if url:
            import openai  # noqa: F401 (so that the time of its import is not counted)
        wall_start = time.perf_counter()
        cpu_start = measure_cpu_seconds()
        asyncio.run(runs.execute(home, run))
        wall_s = time.perf_counter() - wall_start
        cpu_s = measure_cpu_seconds() - cpu_start
        with LedgerView(home.ledger) as view:
            ((longest_s,),) = view.rows(SLOWEST_TURN_QUERY, run)
            return {"wall_s": wall_s, "cpu_s": cpu_s, "longest": longest_s, **view.summarize_run(run).to_json()}


def fetch_stats(url: str) -> dict[str, Any]:
    """The token server's counters: requests and times."""
    with urllib.request.urlopen(url.removesuffix("/v1") + "/stats") as response:
        stats: dict[str, Any] = json.load(response)
    return stats


@contextmanager
def start_server(options: argparse.Namespace) -> Iterator[str]:
    """Start a token server; yields its address."""
    command = [sys.executable, str(SUPPORT / "token_server.py"), "--slots", str(options.slots)]
    command += ["--token-s", str(options.token_s)]
    if options.flawless:
        command.append("--flawless")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield server.stdout.readline().strip()
        finally:
            server.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=200)
    parser.add_argument(
        "--concurrency", type=int, default=40, help="maximum number of concurrent requests, a few more than the slots"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--slots", type=int, default=32, help="requests that the server answers at the same time")
    parser.add_argument("--token-s", type=float, default=0.02, help="seconds that the server takes for each token")
    parser.add_argument(
        "--flawless",
        action="store_true",
        help="scripted models whose replies are all readable and whose questions are all new",
    )
    parser.add_argument("--scripted", action="store_true", help="measure the CPU time without a server")
    parser.add_argument("--peer", metavar="PYTHON", help="also measure distilabel with this interpreter")
    options = parser.parse_args()
    if options.scripted:
        print(json.dumps(summarize(execute_run(options, "")), indent=2))
        return
    with start_server(options) as url:
        our_figures = {**summarize(execute_run(options, url)), **compare_with_ideal(fetch_stats(url), options)}
    print(json.dumps(our_figures, indent=2))
    if options.peer:
        with start_server(options) as url:
            peer_figures = {
                **run_peer(options, url, our_figures["chat_requests"]),
                **compare_with_ideal(fetch_stats(url), options),
            }
        print(json.dumps({"distilabel": peer_figures}, indent=2))


def run_peer(options: argparse.Namespace, url: str, requests: int) -> dict[str, Any]:
    """Send the same number of requests with distilabel, in batches with one request for each slot of the server."""
    rows = requests // 4  # a row takes four requests
    command = [options.peer, str(SUPPORT / "distilabel_duel.py"), url, str(rows), str(options.slots)]
    with tempfile.TemporaryDirectory() as home:
        environment = {**os.environ, "HOME": home}
        result = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True
        )
    figures: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return {
        "rows": figures["rows"],
        "wall_s": round(figures["wall_s"], 2),
        "cpu_ms_per_request": round(1000 * figures["cpu_s"] / requests, 2),
    }


def compare_with_ideal(server_stats: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """The time from the first request to the last reply, compared with the shortest possible time."""
    ideal_s = server_stats["busy_s"] / options.slots
    return {
        "chat_requests": server_stats["requests"],
        "ideal_s": round(ideal_s, 2),
        "span_s": round(server_stats["span_s"], 2),
        "span_over_ideal": round(server_stats["span_s"] / ideal_s, 3),
    }


def summarize(summary: dict[str, Any]) -> dict[str, Any]:
    """The figures of a run that are printed, computed from the result of `execute_run`."""
    return {
        "turns": summary["turns"],
        "kept": summary["kept"],
        "attempts": summary["funnel"]["attempts"],
        "calls": summary["calls"]["made"],
        "wasted_share": summary["wasted_share"],
        "longest_turn_s": round(summary["longest"], 2),
        "wall_s": round(summary["wall_s"], 2),
        "cpu_ms_per_turn": round(1000 * summary["cpu_s"] / summary["turns"], 2),
        "digest": summary["digest"][:16],
    }


if __name__ == "__main__":
    main()
