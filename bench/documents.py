"""Generates examples from a folder of documents, and measures how many kept examples are grounded in the documents.

    python bench/documents.py [--pages 200] [--examples 20] [--minutes 30] [--profile FILE] [--home DIR]

The script writes invented guidelines in five formats, imports them, and generates examples. One model, served by a
managed vLLM server, plays all roles; import it first with `nanoflux models import`. `--profile` names another profile,
for instance `scripted`. Every reply is stored, so the same command resumes a run that the time limit or a signal has
ended. At the end, the script prints the share of kept examples whose every premise is grounded, and the examples with
their citations; with `--show`, it does nothing else.
"""

import argparse
import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from support.guideline_writer import write_guidelines
from support.measured_run import find_run, write_profile

from nanoflux_local.errors import NanofluxError
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.run import configs, runs
from nanoflux_local.run.engine import RunProgress
from nanoflux_local.seeds.documents import DocumentsRequest, import_documents
from nanoflux_local.transcript import Attempt, TurnRecord

ROOT = Path(__file__).resolve().parents[1]
RUN_NAME = "documents-bench"
ATTACKER_SETTINGS = "sampling = { temperature = 0.7, top_p = 0.95 }"


def build_settings(options: argparse.Namespace) -> dict[str, Any]:
    """The settings of the run. A small model's confidence is not informative, so no minimum is required. The hashing
    embedder rates questions of the same form as similar, so the threshold is high and rejects only near-copies.
    """
    return {
        "target": options.examples,
        "max_turns": 1000,
        "seed": options.seed,
        "seeds": {"min": 2, "max": 3},
        "reply_tokens": options.reply_tokens,
        "novelty": {"question": 0.97},
        "judge": {"confidence": 0.0},
        "retries": {"parse": 1},
        "pause_after_unread": 0,
        "pause_when_saturated": 0,
    }


def resolve_profile(options: argparse.Namespace, home: Home) -> str:
    """The profile to use: the one that `--profile` names, or a new file in the home with a managed server."""
    if options.profile:
        return str(options.profile)
    return write_profile(
        home.root / "documents-bench.toml", "writer", options.model,
        context=6144, concurrency=options.concurrency, attacker_settings=ATTACKER_SETTINGS,
    )  # fmt: skip


async def execute_run(home: Home, options: argparse.Namespace) -> None:
    """Start or resume the run, for at most `--minutes` of wall-clock time."""
    run = find_run(home, RUN_NAME)
    if not run:
        config = configs.resolve(options.domain, resolve_profile(options, home), build_settings(options), home)
        run = await runs.start(home, config, RUN_NAME)
    with LedgerView(home.ledger) as view:
        spent_hours = view.find_run(run)["seconds"] / 3600
    runs.change(home, run, {"budget": {"hours": spent_hours + options.minutes / 60}})
    try:
        await runs.execute(home, run, print_progress)
    except NanofluxError as error:
        print(f"stopped: {error.message}")


def print_progress(progress: RunProgress) -> None:
    print(f"{time.strftime('%H:%M:%S')} {progress.kept} kept in {progress.turns} turns", flush=True)


def print_results(home: Home) -> None:
    """Print how the attempts ended, what each check concluded on kept examples, the share of grounded examples, and the
    examples.
    """
    run = find_run(home, RUN_NAME)
    if not run:
        print("there is no run in this home yet; run this command without --show to start it")
        return
    with LedgerView(home.ledger) as view:
        records = view.turn_records(run)
        row = view.find_run(run)
    attempts = [attempt for record in records for attempt in record.attempts]
    kept_records = [record for record in records if record.kept]
    kept_attempts = [record.last_attempt for record in kept_records]
    print(
        f"{len(records)} turns, {len(attempts)} attempts, {len(kept_attempts)} kept, {row['seconds'] / 60:.1f} minutes"
    )
    print("attempts:", format_counts(attempt.outcome for attempt in attempts))
    rejections = [name_rejection(attempt) for attempt in attempts]
    print("rejected by:", format_counts(rejection for rejection in rejections if rejection))
    for check in ("cited", "grounded", "open_book"):
        print(f"{check} on kept:", format_counts(get_conclusion(attempt, check) for attempt in kept_attempts))
    grounded_attempts = [attempt for attempt in kept_attempts if is_grounded(attempt)]
    share = f"{len(grounded_attempts) / len(kept_attempts):.0%}" if kept_attempts else "none kept"
    print(f"kept examples whose every premise is grounded: {len(grounded_attempts)}/{len(kept_attempts)} ({share})")
    print_examples(kept_records)


def get_conclusion(attempt: Attempt, check: str) -> str:
    """The conclusion of a check about an attempt's question, or "did not run"."""
    finding = attempt.finding(check)
    return finding.conclusion if finding else "did not run"


def is_grounded(attempt: Attempt) -> bool:
    """Whether the passages contain every citation, and every premise that the judge lists."""
    return get_conclusion(attempt, "cited") == get_conclusion(attempt, "grounded") == "supports"


def name_rejection(attempt: Attempt) -> str:
    """The name of the check that rejected an invalid question, or "judge"; "" for an attempt with another outcome."""
    if attempt.outcome != "invalid" or attempt.validation is None:
        return ""
    names = [finding.check for finding in attempt.validation.findings if finding.conclusion == "contradicts"]
    return names[0] if names else "judge"


def format_counts(names: Iterable[str]) -> str:
    """How often each name occurs: "defender_right 12, invalid 3"."""
    return ", ".join(f"{name} {count}" for name, count in Counter(names).most_common()) or "none"


def print_examples(records: Sequence[TurnRecord]) -> None:
    for record in records:
        attack = record.last_attempt.attack
        assert attack is not None
        print(f"\nturn {record.number}: {attack.question}\n  answer: {attack.answer}")
        print("  solution:", " ".join(attack.solution.split()))
        for citation in record.last_attempt.citations:
            print(f'  {citation.source}, {citation.place}: "{citation.quotation}"')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--home", type=Path, default=ROOT / ".nanoflux" / "documents-bench", help="home of the measured run"
    )
    parser.add_argument("--pages", type=int, default=200, help="number of pages of the invented guidelines")
    parser.add_argument("--examples", type=int, default=20, help="kept examples at which the run ends")
    parser.add_argument("--minutes", type=float, default=30.0, help="maximum wall-clock time of this command")
    parser.add_argument(
        "--domain", default="documents", choices=("documents", "documents-choice"), help="domain of the questions"
    )
    parser.add_argument("--model", default="qwen2.5-coder-1.5b-instruct", help="model that plays all roles")
    parser.add_argument("--profile", default="", help="profile to use instead of the managed server")
    parser.add_argument("--concurrency", type=int, default=8, help="number of turns that run at a time")
    parser.add_argument("--reply-tokens", type=int, default=700, help="token limit of attacks and judgements")
    parser.add_argument("--seed", type=int, default=0, help="seed of the run")
    parser.add_argument("--show", action="store_true", help="only print the results so far")
    options = parser.parse_args()
    home = Home(options.home).prepare()
    if not options.show:
        folder = home.root / "documents"
        documents, pages = write_guidelines(folder, options.pages)
        summary = import_documents(home, DocumentsRequest("documents", [folder]))
        passages = ", ".join(f"{split} {count}" for split, count in summary.passages.items())
        print(f"{documents} documents, {pages} pages; passages: {passages}")
        print(f"{summary.near_duplicates} near-duplicates left out")
        try:
            asyncio.run(execute_run(home, options))
        except KeyboardInterrupt:
            print("interrupted; run the same command again to resume the run")
    print_results(home)


if __name__ == "__main__":
    main()
