"""`nanoflux domains`: list and show the built-in domains, the user's domains, and their prompts."""

from dataclasses import asdict
from typing import Any

import click

from nanoflux_local.cli.common import current_home, print_json, print_table, sanitize, with_json
from nanoflux_local.cli.names import DOMAIN


@click.group(name="domains")
def command() -> None:
    """List and show domains: the built-in ones and your own in NANOFLUX_HOME/domains."""


@command.command("list")
@with_json
def list_domains(as_json: bool) -> None:
    """List all domains with their benchmarks."""
    from nanoflux_local.domains.own import list_entries

    entries = list_entries(current_home().root)
    if as_json:
        print_json([asdict(entry) for entry in entries])
        return
    print_table(
        ("domain", "answer", "benchmarks", "title"),
        [(entry.name, entry.answer or "–", ", ".join(entry.datasets) or "–", entry.title) for entry in entries],
    )


@command.command()
@click.argument("name", type=DOMAIN)
@click.option(
    "--prompt",
    help="Show this prompt with its values filled in, e.g. attacker; `domains show NAME` lists the names.",
)
@with_json
def show(name: str, prompt: str | None, as_json: bool) -> None:
    """Check the file and the prompts of domain NAME, and show its settings."""
    from nanoflux_local.domains.own import load_domain, render_prompt
    from nanoflux_local.roles.checks.base import refuse_unknown_checks

    domain = load_domain(name, current_home().root)
    refuse_unknown_checks(domain.checks, f"domain {name}: checks")
    if prompt:
        text = render_prompt(domain, prompt)
        if as_json:
            print_json({"domain": name, "prompt": prompt, "text": text})
        else:
            click.echo(sanitize(text))
        return
    values: dict[str, Any] = domain.model_dump(mode="json", exclude={"prompts"})
    values |= {"hash": domain.hash, "prompts": sorted(domain.prompts)}
    if as_json:
        print_json(values)
        return
    print_table(("key", name), [(key, value) for key, value in values.items() if value not in ("", [], None)])
