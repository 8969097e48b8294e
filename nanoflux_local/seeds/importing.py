"""Imports a benchmark: reads its files, checks its programs, and stores all of its items in the ledger, or none."""

import asyncio
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nanoflux_local.answers import same_number
from nanoflux_local.errors import UsageError
from nanoflux_local.ledger.calls import Answer
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.records import Identity, PythonReply, PythonRequest, digest
from nanoflux_local.seeds.reading import BenchmarkContent, LocatedItem, make_row_error, read_benchmark
from nanoflux_local.seeds.splits import SPLITS, count_restated, extract_stem
from nanoflux_local.tools.python_check import PythonTool, make_unavailable_error

OnProgram = Callable[[int, int], None]
"""Called with the number of programs that have been checked, and the total number of programs."""


@dataclass(frozen=True, slots=True)
class ImportRequest:
    """A request to import the files `paths`, which have the format of `dataset`, under `name`. `data list` shows
    `source` as their origin.

    `skip_bad` leaves bad rows out. `hashed` assigns splits by a hash of the words of each question. `replace` replaces
    the items that are stored under the name.
    """

    dataset: str
    name: str
    paths: Sequence[Path]
    source: str
    skip_bad: bool = False
    hashed: bool = False
    replace: bool = False


@dataclass(frozen=True, slots=True)
class ImportSummary:
    """An import's result. `imported` is False if the same files had been imported before.

    `restated` maps each other benchmark and split to the number of imported items that restate one of its questions.
    """

    dataset: str
    content: BenchmarkContent
    imported: bool
    restated: dict[str, dict[str, int]]


def import_benchmark(home: Home, request: ImportRequest, on_program: OnProgram) -> ImportSummary:
    """Read the files, check the programs of their items in the sandbox, and store the items: all of them, or none.

    Raises:
        UsageError: `dataset` or `name` is refused, or the files contain no items.
        DataError: a file cannot be read, a row is bad, or a program contradicts its item.
        RefusedError: this machine cannot isolate programs.
    """
    content = read_benchmark(request.dataset, request.paths, request.skip_bad, request.hashed, request.name)
    if not content.items:
        raise UsageError(f"no items in {', '.join(map(str, request.paths))}", "pass the benchmark's files")
    imported = _store(home, request, content, on_program)
    return ImportSummary(request.name, content, imported, _count_restated_by_dataset(home, request.name))


def _store(home: Home, request: ImportRequest, content: BenchmarkContent, on_program: OnProgram) -> bool:
    """Check the programs and store the items. Returns False, and does neither, if the files were imported before."""
    content_digest = hash_content(request.paths)
    if request.hashed or content.skipped:  # with these options, the same files yield different splits or items
        content_digest = digest([content_digest, "hashed" if request.hashed else "official", len(content.skipped)])
    with Ledger(home.prepare().ledger) as ledger:
        if ledger.has_dataset(request.name, content_digest, request.replace):
            return False
        items = [(located.seed, located.split) for located in content.items]
        if not request.replace:
            ledger.refuse_clash(request.name, items)
        asyncio.run(_check_in_sandbox(content.items, on_program))
        skipped = len(content.skipped)
        return ledger.import_dataset(
            request.name, request.source, content_digest, items, skipped, replace=request.replace
        )


async def _check_in_sandbox(items: Sequence[LocatedItem], on_program: OnProgram) -> None:
    """Check the programs of items in the sandbox, and report the progress."""
    items_with_programs = [item for item in items if item.seed.program]
    if not items_with_programs:
        return
    tool = PythonTool()
    checked_count = 0

    async def run_program(request: PythonRequest) -> PythonReply:
        nonlocal checked_count
        reply = await tool.run(request)
        checked_count += 1
        on_program(checked_count, len(items_with_programs))
        return reply

    try:
        await check_programs(items_with_programs, run_program, await tool.identity())
    finally:
        await tool.close()


async def check_programs(items: Iterable[LocatedItem], run_program: Answer, sandbox: Identity) -> None:
    """Run the programs of items in the sandbox, and compare the number that each program prints with the item's answer.

    Raises:
        DataError: a program fails or contradicts its item; the message names its file and line.
        RefusedError: this machine cannot isolate programs.
    """
    for location, item, _ in items:
        if not item.program:
            continue
        reply = await run_program(PythonRequest(sandbox, item.program))
        assert isinstance(reply, PythonReply)
        if reply.status == "unavailable":
            raise make_unavailable_error(reply.stderr)
        output_lines = reply.stdout.strip().splitlines()
        printed_number = output_lines[-1] if output_lines else ""
        if reply.status != "ok" or not same_number(printed_number, item.answer):
            reason = f"its program gives {printed_number[:60]!r} ({reply.status}), not {item.answer}"
            raise make_row_error(location, reason)


def _count_restated_by_dataset(home: Home, dataset: str) -> dict[str, dict[str, int]]:
    """How many items of `dataset` restate a question of each other benchmark and split, without zeros."""
    counts_by_dataset: dict[str, dict[str, int]] = {}
    with LedgerView(home.ledger) as view:
        stems = [extract_stem(item.question) for item in view.items(dataset)]
        for other_dataset in view.datasets():
            if other_dataset.name == dataset:
                continue
            count_by_split = {split: count_restated(stems, view.items(other_dataset.name, split)) for split in SPLITS}
            positive_counts = {split: count for split, count in count_by_split.items() if count}
            if positive_counts:
                counts_by_dataset[other_dataset.name] = positive_counts
    return counts_by_dataset


def hash_content(paths: Iterable[Path]) -> str:
    """The SHA-256 of the content of files and of folders of `.arrow` files; the order of `paths` does not affect it."""
    files: list[Path] = []
    for path in paths:
        files += sorted(path.glob("*.arrow")) if path.is_dir() else [path]
    hashes = sorted(hash_file(file) for file in files)
    return hashes[0] if len(hashes) == 1 else digest(hashes)


def hash_file(path: Path) -> str:
    """The SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
