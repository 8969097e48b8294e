"""`nanoflux models rehearse`: run a profile end to end on stand-ins, before its weights are installed."""

from functools import partial
from typing import TYPE_CHECKING

import click

from nanoflux_local.cli.common import (
    current_home,
    end_at_sigterm,
    print_json,
    sanitize,
    say,
    with_json,
)
from nanoflux_local.errors import NanofluxError
from nanoflux_local.quantities import format_quantity

if TYPE_CHECKING:
    from nanoflux_local.rehearsal.steps import RehearsalReport, RehearsalStep


@click.command("rehearse")
@click.argument("profiles", nargs=-1, required=True, metavar="PROFILE…")
@click.option(
    "--full-size", is_flag=True, help="Rehearse the models at full size, with random weights, on this machine's GPUs."
)
@click.option("--keep", is_flag=True, help="Keep the scratch home, with its ledger and server logs.")
@with_json
def command(profiles: tuple[str, ...], full_size: bool, keep: bool, as_json: bool) -> None:
    """Rehearse PROFILE end to end on tiny stand-ins for its models: plan, serve, run turns, train, evaluate, stop.

    The servers, the training and the evaluation are real; only the models are replaced by tiny ones with random
    weights. The command works in a scratch home and leaves your own home unchanged. A model that several profiles use
    is rehearsed once. If a step fails, the exit code is 1.
    """
    end_at_sigterm()
    reports = _rehearse_at_full_size(profiles) if full_size else _rehearse(profiles, keep)
    if as_json:
        report_documents = [report.to_json() for report in reports]
        print_json(report_documents[0] if len(report_documents) == 1 else report_documents)
    failed_steps = [step for report in reports for step in report.steps if step.outcome == "failed"]
    if failed_steps:
        first_failed = f"{failed_steps[0].name} {failed_steps[0].model}".rstrip()
        raise NanofluxError(
            f"{format_quantity(len(failed_steps), 'step')} of the rehearsal failed; first failed step: {first_failed}",
            "read the cause of each failure in the lines marked `failed` above",
        )


def _rehearse(profiles: tuple[str, ...], keep: bool) -> "list[RehearsalReport]":
    """Rehearse the profiles with tiny stand-ins for their models."""
    from nanoflux_local.rehearsal.environment import RehearsalEnvironment
    from nanoflux_local.rehearsal.profile_rehearsal import rehearse_all

    environment = RehearsalEnvironment(current_home())
    reports = _make_reports(profiles)
    try:
        rehearse_all(environment, reports)
    finally:
        environment.clear(keep)
        if keep:
            say(f"kept the scratch home: {environment.home.root}")
    return reports


def _rehearse_at_full_size(profiles: tuple[str, ...]) -> "list[RehearsalReport]":
    """Rehearse the profiles with models of full size on this machine's GPUs."""
    from nanoflux_local.rehearsal.full_size import rehearse_all_at_full_size

    reports = _make_reports(profiles)
    rehearse_all_at_full_size(current_home(), reports)
    return reports


def _make_reports(profiles: tuple[str, ...]) -> "list[RehearsalReport]":
    from nanoflux_local.rehearsal.steps import RehearsalReport

    return [RehearsalReport(profile, partial(_print_step, profile)) for profile in dict.fromkeys(profiles)]


def _print_step(profile: str, step: "RehearsalStep") -> None:
    say(sanitize(f"{profile}: {step} ({step.seconds:.0f} s)"))
