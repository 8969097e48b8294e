"""`nanoflux profiles`: list, show, write, change and check profiles."""

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from nanoflux_local.cli.common import current_home, format_cell, print_json, print_table, sanitize, say, with_json
from nanoflux_local.cli.names import PROFILE
from nanoflux_local.errors import NanofluxError
from nanoflux_local.quantities import format_quantity

if TYPE_CHECKING:
    from nanoflux_local.run.profiles import ProfileCheck


@click.group(name="profiles")
def command() -> None:
    """List, show, write, change and check profiles: which model has which role."""


@command.command("list")
@with_json
def list_profiles(as_json: bool) -> None:
    """List the packaged profiles and those in NANOFLUX_HOME/profiles, with the model of each role."""
    from nanoflux_local.run.profiles import list_entries

    entries = list_entries(current_home())
    if as_json:
        print_json([asdict(entry) for entry in entries])
        return
    print_table(
        ("profile", "attacker", "defender", "judge", "summary"),
        [[entry.name, *(entry.models.get(role, "–") for role in ("attacker", "defender", "judge")),
          f"(your own) {entry.summary}" if entry.own else entry.summary] for entry in entries],
    )  # fmt: skip


@command.command()
@click.argument("profile", type=PROFILE)
@with_json
def show(profile: str, as_json: bool) -> None:
    """Show the file of PROFILE, a name or a .toml file."""
    from nanoflux_local.run.configs import find_profile, load_profile

    home = current_home()
    values = load_profile(profile, home)
    path = find_profile(profile, home)
    if as_json:
        print_json({"profile": profile, "path": str(path), "values": values})
        return
    click.echo(sanitize(path.read_text("utf-8").rstrip()))
    say(f"profile: {path}")


@command.command()
@click.argument("name")
@click.option("--server", "servers", multiple=True, metavar="MODEL@URL",
              help="Your server, e.g. qwen3-32b@http://10.0.0.5:8000/v1; the first one attacks, the second defends, "
              "the third judges (without a third, the first judges too); repeatable.")  # fmt: skip
@click.option(
    "--copy", "source_profile", default="", metavar="PROFILE", help="Existing profile to copy; not with --server."
)
@with_json
def new(name: str, servers: tuple[str, ...], source_profile: str, as_json: bool) -> None:
    """Write a new profile NAME into NANOFLUX_HOME/profiles, with comments for you to edit it.

    Without options, the profile is for two servers and has placeholders for their models and addresses.
    """
    from nanoflux_local.run.profiles import ServerAddress, write_profile

    if servers and source_profile:
        raise click.UsageError("--server and --copy cannot be combined.")
    addresses = [ServerAddress.parse(server) for server in servers]
    path = write_profile(current_home().prepare(), name, addresses, source_profile)
    if as_json:
        print_json({"profile": name, "path": str(path)})
        return
    say(f"edit {path}, then check it with `nanoflux profiles check {name} --connect`")


@command.command("set")
@click.argument("profile", type=PROFILE)
@click.argument("settings", nargs=-1, required=True, metavar="KEY=VALUE...")
@click.option("--domain", default="starter", show_default=True, help="Domain to check the new values with.")
@with_json
def set_keys(profile: str, settings: tuple[str, ...], domain: str, as_json: bool) -> None:
    """Set keys of PROFILE, a profile in NANOFLUX_HOME/profiles; its other keys and comments stay unchanged.

    For instance: nanoflux profiles set lab endpoints.first.url=http://10.0.0.7:8000/v1
    """
    from nanoflux_local.config import parse_settings
    from nanoflux_local.run.profiles import change_profile

    changes = parse_settings(settings, "endpoints.first.url=http://10.0.0.7:8000/v1")
    path = change_profile(current_home(), profile, changes, domain)
    if as_json:
        print_json({"profile": profile, "path": str(path)})
        return
    say(f"changed {path}; check it with `nanoflux profiles check {profile} --connect`")


@command.command()
@click.argument("profile", type=PROFILE)
@click.option("--domain", default="starter", show_default=True, help="Domain to check the profile with.")
@click.option("--connect", is_flag=True, help="Also ask each server for its models.")
@with_json
def check(profile: str, domain: str, connect: bool, as_json: bool) -> None:
    """Check PROFILE: its settings, installed weights, API keys of servers, and with --connect the servers.

    The command starts nothing. `hint` marks advice; `fix` marks a problem, and the exit code is then 1. A wrong key or
    value ends the check, and the exit code is 2.
    """
    from nanoflux_local.run.profiles import check_profile

    checks = []
    for profile_check in check_profile(profile, domain, current_home(), connect):
        checks.append(profile_check)
        if not as_json:
            _print_check(profile_check)
    problem_count = sum(not profile_check.ok for profile_check in checks)
    if as_json:
        entries = [asdict(profile_check) for profile_check in checks]
        print_json({"profile": profile, "ok": not problem_count, "checks": entries})
    if problem_count:
        raise NanofluxError(
            f"profile {profile}: {problem_count} of {format_quantity(len(checks), 'check')} failed",
            "follow the advice in the lines marked `fix`",
        )


def _print_check(check: "ProfileCheck") -> None:
    word = "fix"
    if check.ok:
        word = "hint" if check.fix else "ok"
    fix = f"  → {format_cell(check.fix)}" if check.fix else ""
    click.echo(f"{word:<5}  {check.subject:<20}  {format_cell(check.state)}{fix}")
