"""`nanoflux data`: benchmark files into the ledger."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nanoflux_local.cli.common import Bar, home, plain, print_json, print_table, say, with_json
from nanoflux_local.errors import UsageError

if TYPE_CHECKING:
    from nanoflux_local.transcript import Seed


@click.group(name="data")
def command() -> None:
    """Benchmarks: what is here, and how more comes in."""


@command.command("import")
@click.argument("dataset")
@click.argument("paths", nargs=-1, required=True, type=click.Path())
@with_json
def import_(dataset: str, paths: tuple[str, ...], as_json: bool) -> None:
    """Import DATASET from its official file. All of it, or nothing; twice changes nothing."""
    from nanoflux_local.seeds.importers import reader

    if len(paths) != 1:
        raise UsageError(f"{dataset} is one file, not {len(paths)}", "name its official file")
    read = reader(dataset)
    path = Path(paths[0])
    items = list(read(path))
    if not items:
        raise UsageError(f"{path} has no items", "name the benchmark's official file")
    new = _import(dataset, path, items)
    if as_json:
        print_json({"dataset": dataset, "items": len(items), "imported": new})
    say(f"{dataset}: {len(items)} items {'imported' if new else 'were here already; nothing changed'}")


def _import(dataset: str, path: Path, items: "list[tuple[int, Seed]]") -> bool:
    """Check the items' programs and store them; False, at once, where this very file was imported before."""
    from nanoflux_local.ledger.store import Ledger
    from nanoflux_local.seeds.importers import file_hash, hashed_split

    content = file_hash(path)
    with Ledger(home().prepare().ledger) as ledger:
        if ledger.has_dataset(dataset, content):
            return False
        asyncio.run(_check(path, items))
        split = [(item, hashed_split(item.question)) for _, item in items]
        return ledger.import_dataset(dataset, path.name, content, split, 0)


async def _check(path: Path, items: "list[tuple[int, Seed]]") -> None:
    """Run every program, with a progress bar."""
    from nanoflux_local.records import PythonReply, PythonRequest
    from nanoflux_local.seeds.importers import check_programs
    from nanoflux_local.tools.python_check import PythonTool

    tool, bar, done = PythonTool(), Bar("checking programs"), 0

    async def run(request: PythonRequest) -> PythonReply:
        nonlocal done
        reply = await tool.run(request)
        done += 1
        bar.show(done, len(items))
        return reply

    try:
        await check_programs(path, items, run, await tool.identity())
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
