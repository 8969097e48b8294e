"""`nanoflux run start --dry-run` and `run show --config`: print a run's configuration and what the run would cost."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from nanoflux_local.cli.common import print_json, print_table, sanitize, say
from nanoflux_local.paths import Home
from nanoflux_local.quantities import format_quantity

if TYPE_CHECKING:
    from nanoflux_local.config import RunConfig
    from nanoflux_local.run.forecast import Span
    from nanoflux_local.run.preview import Estimate, GpuPlan
    from nanoflux_local.run.sources import Layer, Setting


def show_preview(home: Home, config: "RunConfig", layers: "Sequence[Layer]", as_json: bool) -> None:
    """Print the settings with their sources, the GPU plan and the estimate of a run that is not started.

    Raises:
        NanofluxError, ModelsError: the run could not start; the preview is printed first.
    """
    from nanoflux_local.run.preview import estimate_run, find_obstacle, plan_gpus
    from nanoflux_local.run.sources import DEFAULT, trace_settings

    settings = trace_settings(config, layers)
    gpu_plan = plan_gpus(config, home)
    estimate = estimate_run(config, home)
    obstacle = find_obstacle(config, home)
    if as_json:
        print_json({
            "domain": config.domain,
            "profile": config.profile,
            "config": config.model_dump(mode="json"),
            "settings": [asdict(setting) for setting in settings],
            "gpu_plan": _gpu_plan_to_json(gpu_plan) if gpu_plan else None,
            "estimate": {**asdict(estimate), "least_calls": estimate.least_calls},
            "obstacle": {"message": obstacle.message, "fix": obstacle.fix} if obstacle else None,
        })  # fmt: skip
    else:
        is_fork = layers[0].source.startswith("run ")
        _print_settings(settings, layers[0].source if is_fork else DEFAULT)
        if gpu_plan:
            _print_gpus(gpu_plan, config.profile)
        _print_estimate(estimate)
    if obstacle:
        raise obstacle
    say("dry run: nothing was started")


def _print_settings(settings: "Sequence[Setting]", base: str) -> None:
    """Print the settings that come neither from the defaults nor from the source `base` (for a fork, the original run).
    Hashes are left out.
    """
    from nanoflux_local.run.sources import DEFAULT, HASHES

    changed_settings = [
        setting for setting in settings if setting.source not in (DEFAULT, base) and not HASHES.fullmatch(setting.key)
    ]
    print_table(
        ("setting", "value", "source"),
        [[setting.key, json.dumps(setting.value, ensure_ascii=False), setting.source] for setting in changed_settings],
    )
    description = f"as in {base}" if base.startswith("run ") else "with default values, or hashes"
    hidden_count = len(settings) - len(changed_settings)
    click.echo(f"… and {format_quantity(hidden_count, 'setting')} {description} (--json prints all of them)\n")


def _gpu_plan_to_json(gpu_plan: "GpuPlan") -> dict[str, Any]:
    placement = asdict(gpu_plan.placement) if gpu_plan.placement else {"servers": [], "refusal": "", "would_fit": []}
    return {"gpus": list(gpu_plan.gpus), "fits": bool(gpu_plan.placement and gpu_plan.placement.fits), **placement,
            "problem": gpu_plan.problem}  # fmt: skip


def _print_gpus(gpu_plan: "GpuPlan", profile: str) -> None:
    from nanoflux_local.cli.plan import print_plan

    if gpu_plan.placement and gpu_plan.placement.fits:
        print_plan(gpu_plan.placement, gpu_plan.workloads)
    else:
        say(f"no GPU plan: {gpu_plan.problem}; plan for other GPUs with `nanoflux models plan {profile} --gpus 40,40`")
    click.echo()


def _print_estimate(estimate: "Estimate") -> None:
    """Print the calls of one attempt, the minimum number of calls for the target and, if an earlier run is similar, a
    forecast.
    """
    click.echo("one attempt:")
    print_table(
        ("role", "model", "calls", "prompt tokens", "completion tokens", "dollars"),
        [
            [cost.role, cost.model, cost.calls, f"about {cost.prompt_tokens}", f"at most {cost.most_completion_tokens}",
             "no price" if cost.most_usd is None else f"at most {cost.most_usd:.4f}"]
            for cost in estimate.attempt
        ],
    )  # fmt: skip
    requests = format_quantity(estimate.least_calls, "chat request")
    minimum_text = f"at least {format_quantity(estimate.target, 'attempt')} with {requests}"
    verb = "needs" if estimate.target == 1 else "need"
    click.echo(f"{format_quantity(estimate.target, 'kept example')} {verb} {minimum_text}")
    forecast = estimate.forecast
    if forecast is None:
        say("no forecast: it needs an earlier run with these models and rules, e.g. one with --examples 10")
        return
    click.echo(f"forecast from run {estimate.basis} (same models and rules), median and {forecast.level:.0%} interval:")
    spans = (  # name, span, divisor that converts the span to the unit in the name, decimal places
        ("turns", forecast.turns, 1, 0),
        ("calls", estimate.calls, 1, 0),
        ("minutes", forecast.seconds, 60, 1),
        ("tokens", forecast.tokens, 1, 0),
        ("dollars", forecast.usd, 1, 2),
    )
    print_table(
        ("total", "expected"),
        [(name, describe_span(span, divisor, digits)) for name, span, divisor, digits in spans if span],
    )
    click.echo(f"{forecast.reaches_target:.0%} likely to reach the target within the turn limit")


def describe_span(span: "Span", divisor: int, digits: int) -> str:
    """A median with its interval, divided by `divisor` and with `digits` decimal places: "120 (90 to 160)"."""
    expected, low, high = (f"{value / divisor:,.{digits}f}" for value in (span.expected, span.low, span.high))
    return f"{expected} ({low} to {high})"


def show_config(home: Home, run: str, as_json: bool) -> None:
    """Print a run's stored configuration as TOML for `run start --config`, and the server addresses that were changed
    after the run started.
    """
    from nanoflux_local.ledger.views import LedgerView
    from nanoflux_local.run.sources import render_toml

    with LedgerView(home.ledger) as view:
        row = view.find_run(run)
    config = json.loads(row["config"])
    address_changes = json.loads(row["environment"]).get("moves", [])
    if as_json:
        print_json({"run": row["id"], "config": config, "moves": address_changes})
        return
    click.echo(sanitize(render_toml(config)), nl=False)
    for address_change in address_changes:
        values_by_key = {key: old_and_new for key, old_and_new in address_change.items() if key != "at"}
        changes = ", ".join(f"{key} from {old} to {new}" for key, (old, new) in values_by_key.items())
        say(f"changed at {address_change['at']}: {changes}")
