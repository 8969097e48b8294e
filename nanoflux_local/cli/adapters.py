"""`nanoflux adapters`: what training left, by content hash."""

from typing import Any

import click

from nanoflux_local.cli.common import home, print_json, print_table, say, with_json
from nanoflux_local.errors import NothingMatchedError


@click.group(name="adapters")
def command() -> None:
    """Trained adapters, by content hash."""


@command.command("list")
@with_json
def list_all(as_json: bool) -> None:
    """Every adapter of this home."""
    from nanoflux_local.train.adapters import list_adapters

    found = list_adapters(home().adapters)
    if as_json:
        print_json(found)
        return
    if not found:
        raise NothingMatchedError("there are no adapters yet", "train one: nanoflux train RUN --base smollm2-135m")
    print_table(("adapter", "base", "examples", "run"), [_row(entry) for entry in found])
    for entry in found:
        if "problem" in entry:
            say(entry["problem"])


def _row(entry: dict[str, Any]) -> list[object]:
    if "problem" in entry:
        return [entry["adapter"][:16], "damaged", "", ""]
    return [entry["adapter"][:16], entry["base"]["name"], entry["data"]["examples"], entry.get("run", "")]


@command.command()
@click.argument("adapter")
def show(adapter: str) -> None:
    """The manifest of ADAPTER (the beginning of its hash is enough)."""
    from nanoflux_local.train.adapters import find_adapter, load_manifest

    print_json(load_manifest(find_adapter(home().adapters, adapter)))
