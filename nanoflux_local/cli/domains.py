"""`nanoflux domains`: what can be asked, the user's own domains among it, and what a prompt looks like."""

from typing import Any

import click

from nanoflux_local.cli.common import home, plain, print_json, print_table, with_json


@click.group(name="domains")
def command() -> None:
    """Domains: those that ship, and your own in NANOFLUX_HOME/domains."""


@command.command("list")
@with_json
def list_domains(as_json: bool) -> None:
    """All domains, with their benchmarks."""
    from nanoflux_local.domains.own import known_domains, load_domain

    domains = [load_domain(name, home().root) for name in known_domains(home().root)]
    found = [{key: getattr(domain, key) for key in ("name", "title", "answer", "datasets")} for domain in domains]
    if as_json:
        print_json(found)
        return
    print_table(
        ("domain", "answer", "benchmarks", "title"),
        [(each["name"], each["answer"], ", ".join(each["datasets"]), each["title"]) for each in found],
    )


@command.command()
@click.argument("name")
@click.option("--prompt", help="Its attacker, defender, validation, evaluation, confidence or code prompt, filled in.")
@with_json
def show(name: str, prompt: str | None, as_json: bool) -> None:
    """What NAME says, once its file and its prompts are known to be right."""
    from nanoflux_local.domains.own import load_domain, render_prompt

    domain = load_domain(name, home().root)
    if prompt:
        text = render_prompt(domain, prompt)
        if as_json:
            print_json({"domain": name, "prompt": prompt, "text": text})
        else:
            click.echo(plain(text))
        return
    found: dict[str, Any] = domain.model_dump(mode="json", exclude={"prompts"})
    found |= {"hash": domain.hash, "prompts": sorted(domain.prompts)}
    if as_json:
        print_json(found)
        return
    print_table(("key", name), [(key, value) for key, value in found.items() if value not in ("", [], None)])
