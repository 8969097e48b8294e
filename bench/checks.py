"""Measures the judge and its checks on known solutions of GSM8K: right ones, real mistakes, broken questions.

    python bench/checks.py [--pairs 50] [--minutes 8] [--checks code,blind,answerable] [--home DIR] [--data FILE]

One model, served by a managed vLLM server, writes the mistakes and judges (`models import` it first). The trial of a
run is held without playing a turn. Every reply is stored, so a killed measurement continues with the same command and
repeats no call. It ends when `--minutes` are over, and prints what was measured so far.
"""

import argparse
import asyncio
import time
from pathlib import Path
from typing import Any

from nanoflux_local.config import RunConfig
from nanoflux_local.domains.own import load_domain
from nanoflux_local.errors import NothingMatchedError
from nanoflux_local.ledger.calls import RememberedCalls
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.run import configs, runs
from nanoflux_local.run.binding import bind, rules_for
from nanoflux_local.run.trials.result import CheckRates, Rates, Share, summarize_trial
from nanoflux_local.run.trials.session import hold_trial
from nanoflux_local.seeds.importing import ImportRequest, import_benchmark

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data" / "gsm8k" / "train.jsonl"
PROFILE = """
concurrency = {concurrency}
embedder = "hashing"

[endpoints.coder]
interface = "vllm"
model = "{model}"
python = "{python}"
context = 4096
capacity = {concurrency}
timeout_s = 600

[endpoints.hashing]
interface = "scripted"
model = "hashing-embedder"

[roles.attacker]
endpoint = "coder"

[roles.defender]
endpoint = "coder"

[roles.judge]
endpoint = "coder"
"""


def resolve(options: argparse.Namespace, home: Home) -> RunConfig:
    """The configuration of the measurement: greedy replies, GSM8K's train items, all kinds of known solutions."""
    profile = home.root / "checks-bench.toml"
    python = ROOT / ".venv-vllm" / "bin" / "python"
    profile.write_text(PROFILE.format(concurrency=options.concurrency, model=options.model, python=python))
    judge = {
        "trial": options.pairs,
        "trial_kinds": ["mistake", "removed", "mistake", "changed", "slip", "own"],
        "code_check": False,
        "checks": options.checks.split(","),
        "quality": False,
        "confidence": 0.0,
    }
    values: dict[str, Any] = {"datasets": ["gsm8k"], "held_out": [], "seed": options.seed, "judge": judge}
    values |= {"reply_tokens": options.reply_tokens, "retries": {"parse": options.retries}}
    return configs.resolve("gsmhard-short", str(profile), values, home)


async def measure(home: Home, config: RunConfig, name: str, minutes: float) -> str:
    """Hold the trial until it is complete or the minutes are over. Returns the run."""
    deadline = time.monotonic() + 60 * minutes
    try:
        with LedgerView(home.ledger) as view:
            run = view.find_run(name)["id"]
        config, identities, _ = runs.load_run(home, run)
    except NothingMatchedError:
        run = await runs.start(home, config, name)
        config, identities, _ = runs.load_run(home, run)
    bound = bind(config, home)
    with Ledger(home.ledger) as ledger:
        calls = RememberedCalls(ledger, run, bound.answers())
        rules, domain = rules_for(config, identities, home), load_domain(config.domain, home.root)
        try:
            await hold_trial(ledger, run, rules, domain, calls, lambda: time.monotonic() > deadline)
        finally:
            await bound.close()
    return run


def show(home: Home, run: str) -> None:
    """Print the rates of each rule and the findings of each check, by kind of solution."""
    with LedgerView(home.ledger) as view:
        result = summarize_trial(view, run)
        usage = view.row(
            "SELECT count(*) AS calls, sum(prompt_tokens) AS read, sum(completion_tokens) AS written,"
            " sum(seconds) AS seconds FROM calls WHERE run = ? AND kind = 'chat'",
            run,
        )
    if result is None:
        print("no solution is judged yet")
        return
    print(
        f"{result.solutions} solutions judged: {result.kinds}; {result.unjudged} without a verdict; {dict(usage or {})}"
    )
    rules: list[tuple[str, Rates | None]] = [
        ("judge's word", result.without_check),
        ("word and checks", result.with_check),
    ]
    for name, check in result.checks.items():
        rules += [(f"{name}: not contradicted", check.unless_contradicted), (f"{name}: supported", check.if_supported)]
    for title, rates in rules:
        if rates is not None:
            kinds = {**rates.passed, **rates.caught}
            by_kind = ", ".join(f"{kind} {describe(share)}" for kind, share in kinds.items() if share.n)
            print(f"{title:30} accepts right {describe(rates.specificity, True)}, rejects wrong"
                  f" {describe(rates.sensitivity, True)} | accepted or rejected by kind: {by_kind}")  # fmt: skip
    for name, check in result.checks.items():
        print_findings(name, check)


def print_findings(name: str, check: CheckRates) -> None:
    """Print how often a check supports, contradicts or does not check each kind."""
    for kind, counts in check.findings.items():
        print(f"  {name:12} {kind:10} " + "  ".join(f"{conclusion} {count}" for conclusion, count in counts.items()))


def describe(share: Share, interval: bool = False) -> str:
    """A share as its counts, perhaps with its interval in percent."""
    if share.share is None or share.ci95 is None:
        return "0/0"
    counts = f"{round(share.share * share.n)}/{share.n}"
    return f"{counts} = {share.share:.0%} ({share.ci95[0]:.0%} to {share.ci95[1]:.0%})" if interval else counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, default=ROOT / ".nanoflux" / "checks-bench")
    parser.add_argument("--data", type=Path, default=DATA, help="GSM8K's train.jsonl")
    parser.add_argument("--model", default="qwen2.5-coder-1.5b-instruct")
    parser.add_argument("--pairs", type=int, default=50, help="right solutions, and as many wrong ones")
    parser.add_argument("--checks", default="code,blind,answerable")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=8.0, help="start no further solution after this time")
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--reply-tokens", type=int, default=700)
    parser.add_argument(
        "--retries", type=int, default=1, help="requests for a reply that cannot be read, after the first"
    )
    parser.add_argument("--show", action="store_true", help="only print what was measured")
    options = parser.parse_args()
    home = Home(options.home).prepare()
    name = f"checks-{options.pairs}-{options.seed}-{options.checks}"
    if not options.show:
        import_benchmark(home, ImportRequest("gsm8k", "gsm8k", [options.data], str(options.data)), lambda *_: None)
        asyncio.run(measure(home, resolve(options, home), name, options.minutes))
    with LedgerView(home.ledger) as view:
        run = view.find_run(name)["id"]
    show(home, run)


if __name__ == "__main__":
    main()
