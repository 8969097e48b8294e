"""`nanoflux corpus`: manage the local documents that fact checks search."""

from dataclasses import asdict
from pathlib import Path

import click

from nanoflux_local.cli.common import current_home, print_json, print_table, sanitize, say, with_json
from nanoflux_local.errors import NothingMatchedError
from nanoflux_local.quantities import format_quantity


@click.group(name="corpus")
def command() -> None:
    """Manage the documents that the judge searches when it checks facts."""


@command.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@with_json
def add(paths: tuple[Path, ...], as_json: bool) -> None:
    """Add documents (txt, md, html, pdf, docx, jsonl) or folders of documents: all of them, or none."""
    from nanoflux_local.tools.corpus import Corpus

    with Corpus(current_home().prepare().corpus, write=True) as corpus:
        summary = corpus.add(paths) | {"digest": corpus.digest()}
    if as_json:
        print_json(summary)
        return
    say(f"{summary['added']} added, {summary['replaced']} replaced, {summary['unchanged']} unchanged")
    say(f"the corpus now has {format_quantity(int(summary['passages']), 'passage')}")


@command.command()
@click.argument("query")
@click.option("--top", type=click.IntRange(1, 100), default=5, show_default=True, help="Maximum number of passages.")
@with_json
def search(query: str, top: int, as_json: bool) -> None:
    """Show the passages that a fact check would find for QUERY, best first, with their sources."""
    from nanoflux_local.tools.corpus import Corpus

    with Corpus(current_home().corpus) as corpus:
        passages = corpus.search(query, top)
    if as_json:
        print_json(
            [{"title": passage.title, "place": passage.place, "snippet": passage.snippet} for passage in passages]
        )
        return
    if not passages:
        raise NothingMatchedError(f"no passage of the corpus matches {query!r}", "search for other words")
    for passage in passages:
        click.echo(sanitize(f"{passage.title} ({passage.place})\n    {passage.snippet}\n"))


@command.command()
@with_json
def show(as_json: bool) -> None:
    """List the documents of the corpus."""
    from nanoflux_local.tools.corpus import Corpus

    with Corpus(current_home().corpus) as corpus:
        documents = corpus.documents()
    if as_json:
        print_json([asdict(document) for document in documents])
        return
    rows = [(document.sha256[:12], document.passages, document.source) for document in documents]
    print_table(("sha256", "passages", "source"), rows)
