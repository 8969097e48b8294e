"""`nanoflux data`: benchmark files into the ledger."""

import asyncio
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nanoflux_local.cli.common import Bar, home, plain, print_json, print_table, say, with_json
from nanoflux_local.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nanoflux_local.seeds.importers import Placed, Reading

SHOWN = 5
"""Rows of one kind that an import names."""


@click.group(name="data")
def command() -> None:
    """Benchmarks: what is here, and how more comes in."""


@command.command("import")
@click.argument("dataset")
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@click.option("--hub", is_flag=True, help="Fetch it from the model hub, whose host NANOFLUX_ALLOW_HOSTS must name.")
@click.option("--revision", default="", help="Of the hub: a branch, tag or commit, instead of the one known here.")
@click.option("--skip-bad", is_flag=True, help="Leave bad rows out and count them, instead of refusing the import.")
@click.option("--split", type=click.Choice(["official", "hashed"]), default="official", show_default=True,
              help="Splits as the files' names tell, or by a hash of each question's words.")  # fmt: skip
@click.option("--as", "name", default="", help="Another name to import it under.")
@click.option("--replace", is_flag=True, help="Put the files in the place of all that is here under the name; runs so "
              "far go on reading the former items.")  # fmt: skip
@with_json
def import_(
    dataset: str, paths: tuple[Path, ...], hub: bool, revision: str, skip_bad: bool, split: str, name: str,
    replace: bool, as_json: bool,
) -> None:  # fmt: skip
    """Import DATASET from its files, official ones or those of the model hub: all of them, or nothing. Its splits may
    come one after another; the same files again change nothing."""
    if hub == bool(paths) or (revision and not hub):
        raise click.UsageError("Name the files of DATASET, or give --hub (and with it --revision) alone.")
    options = Import(dataset, name or dataset, skip_bad, split, replace)
    if not hub:
        _read_and_import(options, paths, ", ".join(path.name for path in paths), as_json)
        return
    from nanoflux_local.seeds.hub import fetch

    with tempfile.TemporaryDirectory(prefix=".hub-", dir=home().prepare().root) as folder:
        files, source = fetch(dataset, revision, Path(folder))
        say(f"fetched {source}: {', '.join(path.name for path in files)}")
        _read_and_import(options, files, source, as_json)


@dataclass(frozen=True, slots=True)
class Import:
    """What is asked of an import: rows of the format `dataset`, under `name`."""

    dataset: str
    name: str
    skip_bad: bool
    split: str
    replace: bool


def _read_and_import(options: Import, paths: "Sequence[Path]", source: str, as_json: bool) -> None:
    from nanoflux_local.seeds.importers import read_benchmark

    reading = read_benchmark(options.dataset, paths, options.skip_bad, options.split == "hashed", options.name)
    if not reading.items:
        raise UsageError(f"{', '.join(map(str, paths))}: no items", "name the benchmark's files")
    new = _import(options, paths, source, reading)
    for skipped in reading.skipped:
        say(f"skipped: {plain(skipped)}")
    result = {
        "dataset": options.name,
        "items": len(reading.items),
        "skipped": len(reading.skipped),
        "blank": reading.blank,
        "imported": new,
        "restated": _restated(options.name),
        "contradictory": len(reading.contradictory),
        "below_tolerance": len(reading.below_tolerance),
    }
    if as_json:
        print_json(result)
    _report(result, reading)


def _report(result: dict[str, Any], reading: "Reading") -> None:
    counted = f"{result['items']} items, {result['skipped']} bad rows and {result['blank']} blank ones left out"
    say(f"{result['dataset']}: {counted}; {'imported' if result['imported'] else 'were here already, nothing changed'}")
    for other, shares in result["restated"].items():
        for split, count in shares.items():
            say(f"{count} items have the words of {split} items of {other}: do not train on one and test on the other")
    for contradiction in reading.contradictory[:SHOWN]:
        say(f"contradictory: {plain(contradiction)}")
    if len(reading.contradictory) > SHOWN:
        say(f"{len(reading.contradictory)} questions stand there twice with different answers")
    if reading.below_tolerance:
        places = ", ".join(reading.below_tolerance[:SHOWN])
        say(f"{result['below_tolerance']} answers are below 1e-6 and compared relatively: {plain(places)}")


def _import(options: Import, paths: "Sequence[Path]", source: str, reading: "Reading") -> bool:
    """Check the items' programs and store them; False, at once, if these very files were imported before."""
    from nanoflux_local.ledger.store import Ledger
    from nanoflux_local.records import digest
    from nanoflux_local.seeds.importers import content_hash

    content = content_hash(paths)
    if options.split == "hashed" or reading.skipped:  # other items or splits are other content
        content = digest([content, options.split, len(reading.skipped)])
    with Ledger(home().prepare().ledger) as ledger:
        if ledger.has_dataset(options.name, content):
            return False
        items = [(placed.seed, placed.split) for placed in reading.items]
        if not options.replace:
            ledger.refuse_clash(options.name, items)
        asyncio.run(_check(reading.items))
        return ledger.import_dataset(
            options.name, source, content, items, len(reading.skipped), replace=options.replace
        )


def _restated(dataset: str) -> dict[str, dict[str, int]]:
    """By other imported benchmark and its split: how many items of `dataset` restate one of its questions."""
    from nanoflux_local.ledger.views import LedgerView
    from nanoflux_local.seeds.benchmarks import SPLITS
    from nanoflux_local.seeds.importers import restated, stem

    with LedgerView(home().ledger) as view:
        stems = [stem(item.question) for item in view.items(dataset)]
        others = [entry["name"] for entry in view.datasets() if entry["name"] != dataset]
        found = {name: {split: restated(stems, view.items(name, split)) for split in SPLITS} for name in others}
    shared = {name: {split: count for split, count in shares.items() if count} for name, shares in found.items()}
    return {name: shares for name, shares in shared.items() if shares}


async def _check(items: "Sequence[Placed]") -> None:
    """Run every program, with a progress bar."""
    from nanoflux_local.records import PythonReply, PythonRequest
    from nanoflux_local.seeds.importers import check_programs
    from nanoflux_local.tools.python_check import PythonTool

    programs = [item for item in items if item.seed.program]
    if not programs:
        return
    tool, bar, done = PythonTool(), Bar("checking programs"), 0

    async def run(request: PythonRequest) -> PythonReply:
        nonlocal done
        reply = await tool.run(request)
        done += 1
        bar.show(done, len(programs))
        return reply

    try:
        await check_programs(programs, run, await tool.identity())
    finally:
        bar.close()
        await tool.close()


@command.command("list")
@with_json
def list_data(as_json: bool) -> None:
    """The benchmarks that are built in or imported, with the sizes of their splits."""
    from nanoflux_local.ledger.views import LedgerView
    from nanoflux_local.seeds.benchmarks import BUILT_IN, SPLITS

    found = [
        {"name": name, "source": "built in", "splits": {split: len(of_split(split)) for split in SPLITS}}
        for name, of_split in BUILT_IN.items()
    ]
    if home().ledger.exists():
        with LedgerView(home().ledger) as view:
            found += [{key: entry[key] for key in ("name", "source", "splits")} for entry in view.datasets()]
    if as_json:
        print_json(found)
        return
    rows = [[entry["name"], *(entry["splits"].get(split, 0) for split in SPLITS), entry["source"]] for entry in found]  # type: ignore[attr-defined]
    print_table(("dataset", *SPLITS, "source"), rows)


@command.command()
@click.argument("dataset")
@click.option("--split", default="train", show_default=True)
@click.option("--limit", type=click.IntRange(1), default=3, show_default=True)
@with_json
def show(dataset: str, split: str, limit: int, as_json: bool) -> None:
    """Some items of DATASET."""
    from dataclasses import asdict

    from nanoflux_local.seeds.benchmarks import load_items

    items = load_items(home().ledger, dataset, split)
    if as_json:
        print_json([asdict(item) for item in items[:limit]])
        return
    for item in items[:limit]:
        click.echo(plain(f"[{item.id}] {item.question}"))
        for letter, option in item.options.items():
            click.echo(plain(f"  {letter}. {option}"))
        click.echo(plain(f"  = {item.answer}\n"))
    say(f"{min(limit, len(items))} of {len(items)} {split} items")
