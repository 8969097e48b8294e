"""`nanoflux corpus`: the local search corpus of fact checks."""

from pathlib import Path

import click

from nanoflux_local.cli.common import home, plain, print_json, print_table, say, with_json
from nanoflux_local.errors import NothingMatchedError


@click.group(name="corpus")
def command() -> None:
    """The lab's own documents, which the judge searches when it checks facts."""


@command.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@with_json
def add(paths: tuple[Path, ...], as_json: bool) -> None:
    """Take documents in: txt, md, html, pdf, jsonl; folders with all of theirs. All of them or none."""
    from nanoflux_local.tools.corpus import Corpus

    with Corpus(home().prepare().corpus, write=True) as corpus:
        found = corpus.add(paths) | {"digest": corpus.digest()}
    if as_json:
        print_json(found)
        return
    say(f"{found['added']} added, {found['replaced']} replaced, {found['unchanged']} unchanged")
    say(f"the corpus holds {found['passages']} passages")


@command.command()
@click.argument("query")
@click.option("--top", type=click.IntRange(1, 100), default=5, show_default=True, help="As many passages at most.")
@with_json
def search(query: str, top: int, as_json: bool) -> None:
    """What the judge would find for QUERY: the best passages with their sources."""
    from nanoflux_local.tools.corpus import Corpus

    with Corpus(home().corpus) as corpus:
        found = corpus.search(query, top)
    if as_json:
        print_json([{"title": each.title, "place": each.place, "snippet": each.snippet} for each in found])
        return
    if not found:
        raise NothingMatchedError(f"nothing in the corpus answers to {query!r}", "search for other words")
    for each in found:
        click.echo(plain(f"{each.title} ({each.place})\n    {each.snippet}\n"))


@command.command()
@with_json
def show(as_json: bool) -> None:
    """The documents of the corpus."""
    from nanoflux_local.tools.corpus import Corpus

    with Corpus(home().corpus) as corpus:
        found = corpus.documents()
    if as_json:
        print_json(found)
        return
    rows = [(each["sha256"][:12], each["passages"], each["source"]) for each in found]
    print_table(("sha256", "passages", "source"), rows)
