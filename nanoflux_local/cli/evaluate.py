"""`nanoflux eval`: a model on held-out items."""

import asyncio
from typing import TYPE_CHECKING, Any

import click

from nanoflux_local.cli.common import Bar, home, print_json, print_table, with_json
from nanoflux_local.errors import NothingMatchedError, UsageError
from nanoflux_local.paths import Home

if TYPE_CHECKING:
    from nanoflux_local.endpoints.base import Endpoint


@click.command(name="eval")
@click.option("--model", required=True, help="An installed model, e.g. smollm2-135m.")
@click.option("--adapter", default="", help="The hash of a trained adapter, or its beginning.")
@click.option("--data", required=True, help="A benchmark, see `nanoflux data list`.")
@click.option("--split", default="test", show_default=True)
@click.option("--limit", type=click.IntRange(1), help="Only the first N items of the split.")
@click.option("--runs", type=click.IntRange(1), default=5, show_default=True, help="Repeats with different seeds.")
@click.option("--temperature", type=click.FloatRange(0), default=0.7, show_default=True, help="0 is greedy.")
@click.option(
    "--via",
    type=click.Choice(["in_process", "vllm"]),
    default="in_process",
    show_default=True,
    help="In this process, or through a vLLM server: one that runs, or one that ends with this command.",
)
@click.option("--arg", "args", multiple=True, help="An argument for vLLM as it is, e.g. --arg=--enforce-eager.")
@click.option("--mode", type=click.Choice(["strict"]), default="strict", show_default=True)
@with_json
def command(
    model: str,
    adapter: str,
    data: str,
    split: str,
    limit: int | None,
    runs: int,
    temperature: float,
    via: str,
    args: tuple[str, ...],
    mode: str,
    as_json: bool,
) -> None:
    """Evaluate a model, strictly: the exact letter, or the number within tolerance."""
    del mode
    if runs > 1 and temperature == 0:
        raise UsageError("greedy replies are the same in every run", "use --runs 1, or a temperature above 0")
    result = evaluate(home().prepare(), model, adapter, data, split, limit, runs, temperature, via, args)
    if as_json:
        print_json(result)
        return
    strict = result["strict"]
    print_table(
        ("eval", result["eval"]),
        [
            ("model", f"{model}{' + ' + result['adapter'][:16] if result['adapter'] else ''}"),
            ("data", f"{data} {split}, {result['n']} items, {runs} runs"),
            ("strict", f"{strict['mean']:.1%} ± {strict['sd']:.1%} over runs"),
            ("95% interval", f"{strict['ci95'][0]:.1%} to {strict['ci95'][1]:.1%}"),
            ("no answer read", result["unanswered"]),
            ("unscored", result["unscored"]),
        ],
    )


def evaluate(
    place: Home,
    model: str,
    adapter: str,
    data: str,
    split: str,
    limit: int | None,
    runs: int,
    temperature: float,
    via: str = "in_process",
    args: tuple[str, ...] = (),
) -> dict[str, Any]:
    """One evaluation with a progress bar. An adapter that changes nothing is refused."""
    from nanoflux_local.evaluate.evaluation import evaluate as ask_all
    from nanoflux_local.evaluate.evaluation import make_plan
    from nanoflux_local.ledger.store import Ledger
    from nanoflux_local.seeds.benchmarks import load_items

    items = load_items(place.ledger, data, split)[:limit]
    if not items:
        raise NothingMatchedError(f"{data} has no {split} items", "see `nanoflux data list`")
    bar = Bar(f"evaluating {model}{' + adapter' if adapter else ''}")

    async def ask() -> dict[str, Any]:
        endpoint = _endpoint(place, model, adapter, via, args)
        try:
            plan = make_plan(endpoint.identity, data, split, items, runs, temperature, root=place.root)
            with Ledger(place.ledger) as ledger:
                return await ask_all(ledger, endpoint, plan, bar.show)
        finally:
            await endpoint.close()

    try:
        return asyncio.run(ask())
    finally:
        bar.close()


def _endpoint(place: Home, model: str, adapter: str, via: str, args: tuple[str, ...]) -> "Endpoint":
    """The model in this process, or behind a managed server."""
    from nanoflux_local.binding import local_endpoint
    from nanoflux_local.config import EndpointConfig
    from nanoflux_local.serving import served

    if via == "in_process":
        return local_endpoint(model, adapter, place)
    config = EndpointConfig(interface="vllm", model=model, adapter=adapter, args=args)
    return served({model: config}, place)[0][model]
