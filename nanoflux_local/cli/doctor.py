"""`nanoflux doctor`: check this machine, and list licences."""

import sys
from dataclasses import asdict

import click

from nanoflux_local.cli.common import current_home, format_cell, print_json, print_table, with_json


@click.command(name="doctor")
@click.option("--licences", is_flag=True, help="List the licences of packages and models instead.")
@with_json
def command(licences: bool, as_json: bool) -> None:
    """Check hardware, software, the home and the safety layers, one line each, without changing anything.

    `hint` marks optional advice. `fix` marks a problem; the exit code is then 1.
    """
    if licences:
        _print_licences(as_json)
    else:
        _examine(as_json)


def _examine(as_json: bool) -> None:
    from nanoflux_local.doctor.examination import examine

    checks = []
    for check in examine(current_home()):
        checks.append(check)
        if not as_json:
            fix = f"  → {format_cell(check.fix)}" if check.fix else ""
            click.echo(f"{check.status:<5}  {check.name:<10}  {format_cell(check.state)}{fix}")
    ok = all(check.ok for check in checks)
    if as_json:
        print_json({"ok": ok, "checks": [check.to_json() for check in checks]})
    sys.exit(0 if ok else 1)


def _print_licences(as_json: bool) -> None:
    from nanoflux_local.packages import list_required_packages
    from nanoflux_models.manifest import list_manifests

    packages = [asdict(package) for package in list_required_packages()]
    models = [
        {"name": manifest.name, "licence": manifest.licence, "gated": manifest.gated}
        for manifest in list_manifests(current_home().root)
    ]
    if as_json:
        print_json({"packages": packages, "models": models})
        return
    print_table(
        ("name", "version", "licence"),
        [[package["name"], package["version"] or "missing", package["licence"]] for package in packages],
    )
    click.echo()
    print_table(
        ("model", "licence"),
        [
            [model["name"], f"{model['licence']}{' (must be accepted first)' if model['gated'] else ''}"]
            for model in models
        ],
    )
