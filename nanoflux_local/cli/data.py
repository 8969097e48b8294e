"""`nanoflux data`: list, import and show benchmarks and documents."""

import tempfile
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nanoflux_local.cli.bar import Bar
from nanoflux_local.cli.common import current_home, print_json, print_table, sanitize, say, with_json
from nanoflux_local.quantities import format_quantity

if TYPE_CHECKING:
    from nanoflux_local.seeds.importing import ImportRequest, ImportSummary

MAX_LISTED_ROWS = 5
"""Maximum number of rows that an import lists for each kind of problem."""


@click.group(name="data")
def command() -> None:
    """List, import and show benchmarks and documents."""


@command.command("import")
@click.argument("dataset")
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--hub", is_flag=True, help="Fetch DATASET from the Hugging Face Hub; NANOFLUX_ALLOW_HOSTS must name its host."
)
@click.option("--revision", default="", help="With --hub: branch, tag or commit, instead of the default one.")
@click.option("--skip-bad", is_flag=True, help="Leave out and list invalid rows instead of refusing the import.")
@click.option("--split", type=click.Choice(["official", "hashed"]), default="official", show_default=True,
              help="Take splits from the file names (official) or from hashes of the questions (hashed).")  # fmt: skip
@click.option("--as", "name", default="", help="Name to import the items under, instead of DATASET.")
@click.option("--replace", "replaces", is_flag=True, help="Replace all items imported under this name; existing runs "
              "keep the items they started with.")  # fmt: skip
@with_json
def import_(
    dataset: str, paths: tuple[Path, ...], hub: bool, revision: str, skip_bad: bool, split: str, name: str,
    replaces: bool, as_json: bool,
) -> None:  # fmt: skip
    """Import DATASET, a benchmark or your own data, from files or from the Hugging Face Hub: either all rows or none.

    Splits can be imported one at a time. Importing the same files again changes nothing.
    """
    has_one_source = hub != bool(paths)  # either the hub or files, but not both
    if not has_one_source or (revision and not hub):
        raise click.UsageError("Pass either the files of DATASET or --hub; --revision needs --hub.")
    from nanoflux_local.seeds.importing import ImportRequest

    file_names = ", ".join(path.name for path in paths)
    request = ImportRequest(dataset, name or dataset, paths, file_names, skip_bad, split == "hashed", replaces)
    if not hub:
        _import_and_report(request, as_json)
        return
    from nanoflux_local.seeds.hub import fetch_benchmark

    with tempfile.TemporaryDirectory(prefix=".hub-", dir=current_home().prepare().root) as folder:
        files, source = fetch_benchmark(dataset, revision, Path(folder))
        say(f"fetched {source}: {', '.join(path.name for path in files)}")
        _import_and_report(replace(request, paths=files, source=source), as_json)


def _import_and_report(request: "ImportRequest", as_json: bool) -> None:
    """Import a benchmark, with a progress bar while programs are checked, and print the summary."""
    from nanoflux_local.seeds.importing import import_benchmark

    bar = Bar("checking programs", "programs")
    with ExitStack() as stack:

        def show_progress(checked: int, total: int) -> None:
            if checked == 1:  # close the bar only if it is shown: an import without programs shows none
                stack.callback(bar.close)
            bar.show(checked, total)

        summary = import_benchmark(current_home(), request, show_progress)
    _report_summary(summary, as_json)


def _report_summary(summary: "ImportSummary", as_json: bool) -> None:
    """Print the counts of an import, and the rows that need attention, to stderr; with `as_json`, also print the counts
    to stdout.
    """
    content = summary.content
    for skipped in content.skipped:
        say(f"skipped: {sanitize(skipped)}")
    counts = {"items": len(content.items), "skipped": len(content.skipped), "blank": content.blank}
    if as_json:
        print_json({
            "dataset": summary.dataset,
            **counts,
            "imported": summary.imported,
            "restated": summary.restated,
            "contradictory": len(content.contradictory),
            "below_tolerance": len(content.below_tolerance),
        })  # fmt: skip
    outcome = "imported" if summary.imported else "already imported, nothing changed"
    left_out = f"{counts['skipped']} invalid and {format_quantity(counts['blank'], 'blank row')} left out"
    say(f"{summary.dataset}: {format_quantity(counts['items'], 'item')}, {left_out}; {outcome}")
    for dataset, count_by_split in summary.restated.items():
        for split, count in count_by_split.items():
            say(
                f"repeated in the {split} items of {dataset}, with the same or other numbers: "
                f"{format_quantity(count, 'question')}; do not train on one dataset and test on the other"
            )
    for contradiction in content.contradictory[:MAX_LISTED_ROWS]:
        say(f"contradictory: {sanitize(contradiction)}")
    if len(content.contradictory) > MAX_LISTED_ROWS:
        say(f"{format_quantity(len(content.contradictory), 'question')} in total are repeated with a different answer")
    if content.below_tolerance:
        locations = ", ".join(content.below_tolerance[:MAX_LISTED_ROWS])
        answers = format_quantity(len(content.below_tolerance), "answer")
        say(f"{answers} below 1e-6, compared by relative instead of absolute difference: {sanitize(locations)}")


@command.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--as", "name", default="documents", show_default=True, help="Name to import the passages under.")
@click.option("--domain", "domain_name", default="", metavar="NAME",
              help="Also write a domain with this name, whose runs draw their seeds from the passages.")  # fmt: skip
@click.option("--held-out", "held_out", multiple=True, type=click.Path(path_type=Path), metavar="PATH",
              help="Document or folder to hold out [default: a fifth of the documents]; repeatable.")  # fmt: skip
@click.option(
    "--skip-bad", is_flag=True, help="Leave out and list unreadable documents instead of refusing the import."
)
@click.option("--replace", "replaces", is_flag=True, help="Replace all items imported under this name; existing runs "
              "keep the items they started with.")  # fmt: skip
@with_json
def documents(
    paths: tuple[Path, ...], name: str, domain_name: str, held_out: tuple[Path, ...], skip_bad: bool, replaces: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Import documents (txt, md, html, pdf, docx, jsonl) or folders of documents; their passages become seeds.

    Either all documents are imported or none. Whole documents are held out; near-duplicate passages are left out.
    """
    from nanoflux_local.domains.own import find_documents_domain, write_documents_domain
    from nanoflux_local.seeds.documents import DocumentsRequest, import_documents

    home = current_home()
    domain_file = find_documents_domain(home.root, domain_name, name) if domain_name else None
    summary = import_documents(home, DocumentsRequest(name, paths, held_out, skip_bad, replaces))
    if domain_file is not None:
        write_documents_domain(domain_file, name)
    if as_json:
        print_json({**summary.to_json(), "domain": str(domain_file) if domain_file else None})
    else:
        rows = [(split, count, summary.passages[split]) for split, count in summary.documents.items()]
        print_table(("split", "documents", "passages"), rows)
    for skipped in summary.skipped:
        say(f"skipped: {sanitize(skipped)}")
    if summary.held_out:
        say(sanitize(f"held out: {', '.join(summary.held_out)}"))
    else:
        say(
            "warning: no document is held out for dev and test, so questions are not checked for contamination, and "
            "no items are left to evaluate on; name documents to hold out with --held-out, or import at least three"
        )
    say(f"passages left out: {format_quantity(summary.near_duplicates, 'near-duplicate')}, {summary.short} too short")
    if not summary.imported:
        say("already imported, nothing changed")
    say(f"start a run on the passages: nanoflux run start {_format_run_options(name, domain_name)}")


def _format_run_options(dataset: str, domain_name: str) -> str:
    """The options of `run start` for a run that draws its seeds from the passages of a dataset."""
    if domain_name:
        return f"--domain {domain_name}"
    set_option = "" if dataset == "documents" else f""" --set 'datasets=["{dataset}"]'"""
    return f"--domain documents{set_option}"


@command.command("list")
@with_json
def list_data(as_json: bool) -> None:
    """List the built-in and imported benchmarks with the sizes of their splits."""
    from nanoflux_local.ledger.views import LedgerView
    from nanoflux_local.seeds.benchmarks.base import list_built_in_benchmarks
    from nanoflux_local.seeds.splits import SPLITS

    entries: list[dict[str, Any]] = [
        {"name": name, "source": "built in", "splits": {split: len(benchmark.items(split)) for split in SPLITS}}
        for name, benchmark in list_built_in_benchmarks().items()
    ]
    if current_home().ledger.exists():
        with LedgerView(current_home().ledger) as view:
            entries += [asdict(dataset) for dataset in view.datasets()]
    if as_json:
        print_json(entries)
        return
    rows = [[entry["name"], *(entry["splits"].get(split, 0) for split in SPLITS), entry["source"]] for entry in entries]
    print_table(("dataset", *SPLITS, "source"), rows)


@command.command()
@click.argument("dataset")
@click.option("--split", default="train", show_default=True, help="Split to show items of.")
@click.option("--limit", type=click.IntRange(1), default=3, show_default=True, help="Number of items.")
@with_json
def show(dataset: str, split: str, limit: int, as_json: bool) -> None:
    """Show some items of DATASET."""
    from nanoflux_local.seeds.datasets import load_items

    items = load_items(current_home().ledger, dataset, split)
    if as_json:
        print_json([item.to_json() for item in items[:limit]])
        return
    for item in items[:limit]:
        click.echo(sanitize(f"[{item.id}] {item.question}"))
        if item.source:
            click.echo(sanitize(f"  {item.location}\n"))
            continue
        for letter, option in item.options.items():
            click.echo(sanitize(f"  {letter}. {option}"))
        click.echo(sanitize(f"  = {item.answer}\n"))
    say(f"{min(limit, len(items))} of {format_quantity(len(items), f'{split} item')}")
