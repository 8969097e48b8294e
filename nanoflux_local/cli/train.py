"""`nanoflux train`: train a LoRA adapter on a run's kept examples, or on the rows of a file."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nanoflux_local.cli import common
from nanoflux_local.cli.bar import Bar
from nanoflux_local.cli.common import (
    build_choice,
    describe_flops,
    end_at_sigterm,
    launch_detached,
    print_json,
    print_table,
    sanitize,
    say,
    with_choice,
    with_json,
)
from nanoflux_local.cli.names import MODEL, RUN
from nanoflux_local.errors import UsageError
from nanoflux_local.paths import Home
from nanoflux_local.quantities import format_quantity

if TYPE_CHECKING:
    from nanoflux_local.jobs import Worker
    from nanoflux_local.train.audit import Audit
    from nanoflux_local.train.choice import Choice
    from nanoflux_local.train.events import TrainEvent
    from nanoflux_local.train.summary import TrainingOutcome, TrainingSummary
    from nanoflux_local.train.trainings import TrainingData

MAX_LISTED = 20
"""Maximum number of findings in a table; `--json` prints all of them."""


@click.command(name="train")
@click.argument("run", required=False, type=RUN)
@click.option(
    "--data", type=click.Path(dir_okay=False, path_type=Path), help="JSON Lines file of rows, instead of a run."
)
@click.option("--base", type=MODEL, default="smollm2-135m", show_default=True, help="Model to train an adapter for.")
@click.option("--qlora", is_flag=True, help="Load the base model in 4 bits (bitsandbytes, NF4).")
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Training setting, e.g. epochs=3; repeatable."
)
@with_choice
@click.option(
    "--mix",
    "mixes",
    multiple=True,
    metavar="DATASET=RATIO",
    help="Add RATIO benchmark rows per row of the run; repeatable.",
)
@click.option("--dry-run", is_flag=True, help="Audit the rows and print the plan; train nothing.")
@click.option(
    "--tensorboard",
    type=click.Path(file_okay=False),
    default="",
    help="Directory for TensorBoard event files.",
)
@click.option(
    "--launch",
    default="",
    metavar="ARGS",
    help='Train in several processes with `accelerate launch ARGS`, e.g. "--multi_gpu --num_processes 2".',
)
@click.option("--detach", is_flag=True, help="Train in a background process that outlives this terminal.")
@with_json
def command(
    run: str | None,
    data: Path | None,
    base: str,
    qlora: bool,
    settings: tuple[str, ...],
    mixes: tuple[str, ...],
    dry_run: bool,
    tensorboard: str,
    launch: str,
    detach: bool,
    as_json: bool,
    **choice: Any,
) -> None:
    """Train a LoRA adapter for BASE on the kept examples of RUN, or on the rows of a file (paper §3, A.1).

    Run the same command again to resume a stopped or killed training.
    """
    from nanoflux_local.config import parse_settings
    from nanoflux_local.train import trainings
    from nanoflux_local.train.settings import parse_train_settings

    if launch and detach:
        raise UsageError(
            "--launch and --detach cannot be combined", "use --launch alone, and detach it with your shell or scheduler"
        )
    home = common.current_home()
    setting_values = parse_settings(settings, "--set epochs=3")
    if qlora:
        setting_values["qlora"] = True
    train_settings = trainings.apply_manifest_targets(home, base, parse_train_settings(setting_values))
    training_data = _load_data(home, run, data, build_choice(choice, train_settings.seed), base, mixes)
    if dry_run:
        from nanoflux_local.train.audit import audit
        from nanoflux_models.weights import weights_dir

        audit_report = audit(
            train_settings,
            training_data.rows,
            training_data.validation,
            weights_dir(base, home.root),
            training_data.held_out,
            training_data.source,
        )
        show_audit(audit_report, as_json)
        return
    tensorboard_folder = str(Path(tensorboard).absolute()) if tensorboard else ""
    training = trainings.create_training(home, base, train_settings, training_data, tensorboard_folder)
    train_and_report(home, training, detach, as_json, launch)


def _load_data(
    home: Home, run: str | None, file: Path | None, choice: "Choice", base: str, mixes: Sequence[str]
) -> "TrainingData":
    """Load the rows of a run or a file. For a run, print which rows were left out, and which were included on request.

    Raises:
        UsageError: neither or both of run and file are set, or benchmark rows are to be mixed into a file.
    """
    from nanoflux_local.train import trainings
    from nanoflux_local.train.mixing import parse_mix
    from nanoflux_local.train.origin import describe_included, describe_left_out

    if (run is None) == (file is None):
        raise UsageError(
            "train needs either a run or --data FILE", "write `nanoflux train RUN` or `nanoflux train --data FILE`"
        )
    if run is not None:
        bar = Bar("comparing solutions", "solutions")
        try:
            run_data = trainings.load_run_data(home, run, choice, base, [parse_mix(mix) for mix in mixes], bar.show)
        finally:
            bar.close()
        for sentence in describe_left_out(run_data.source):
            say(f"left out: {sentence}")
        for sentence in describe_included(run_data.source):
            say(f"included: {sentence}")
        return run_data
    assert file is not None
    if mixes:
        problem = "--mix needs a run: benchmark rows use its domain's prompt, and a file has no domain"
        raise UsageError(problem, "pass a run instead of --data, or leave out --mix")
    return trainings.load_file_data(home, file, choice)


def train_and_report(home: Home, training: str, detach: bool, as_json: bool, launch: str = "") -> None:
    """Train in this process, and print the outcome. With `detach`, start a background process that trains, and print
    the training run's status; with `launch`, train in processes that `accelerate launch` starts. The launched processes
    also call this function, but print no outcome.
    """
    from nanoflux_local.train.distributed import count_processes

    if detach:
        from nanoflux_local import jobs
        from nanoflux_local.train import trainings

        launch_detached(home, jobs.Job(jobs.TRAINING, training))
        result: TrainingOutcome | TrainingSummary = trainings.summarize_training(home, training)
    else:
        result = train_with_progress(home, training, launch)
    if count_processes() == 1:
        _show_result(result, as_json)


def _show_result(result: "TrainingOutcome | TrainingSummary", as_json: bool) -> None:
    from nanoflux_local.train.summary import TrainingSummary

    if as_json:
        print_json(result.to_json())
    elif isinstance(result, TrainingSummary):
        show_summary(result)
    else:
        show_outcome(result)


def train_with_progress(home: Home, training: str, launch: str = "") -> "TrainingOutcome | TrainingSummary":
    """Train with a progress bar. After Ctrl-C or SIGTERM, the training run can be resumed from its last checkpoint."""
    from nanoflux_local.train import trainings
    from nanoflux_local.train.distributed import is_main_process

    end_at_sigterm()
    if launch:
        return trainings.launch_processes(home, training, launch)
    bar = Bar(training, "steps")
    if is_main_process():
        say(f"{training}; stop with Ctrl-C, resume with `nanoflux trainings resume {training}`")
    try:
        return trainings.resume_training(home, training, lambda event: report_step(bar, event))
    finally:
        bar.close()


def report_step(bar: Bar, event: "TrainEvent") -> None:
    """Show the progress of a step; other events are only stored in the ledger."""
    from nanoflux_local.train.events import StepEvent

    if isinstance(event, StepEvent):
        bar.show(event.step, event.steps, f"loss {event.loss:.3f}, {event.tokens_per_s:.0f} tokens/s")


def show_outcome(outcome: "TrainingOutcome") -> None:
    """Print the outcome of a finished training as a table."""
    initial, final = outcome.initial_val_loss, outcome.val_loss
    print_table(
        ("adapter", outcome.adapter[:16]),
        [
            ("base", outcome.base),
            ("examples", f"{outcome.examples} ({outcome.truncated} over the length limit)"),
            ("steps", f"{outcome.steps} on {outcome.tokens} tokens, at {outcome.tokens_per_s:.0f} tokens/s"),
            ("train loss", f"{outcome.train_loss:.3f}"),
            ("dev loss", "none" if final is None or initial is None else f"{initial:.3f} before, {final:.3f} after"),
            ("FLOPs", describe_flops(dict(outcome.flops))),
            ("seconds", f"{outcome.seconds:.0f}"),
        ],
    )
    say(sanitize(f"show its record with `nanoflux adapters show {outcome.adapter[:12]}`"))


def show_summary(summary: "TrainingSummary") -> None:
    """Print a training run as a table: its progress, its latest losses and its process."""
    from nanoflux_local.train.origin import describe_origin

    dev_losses = [loss for loss in summary.val_losses if loss is not None]
    train_loss = "none yet" if summary.loss is None else f"{summary.loss:.3f}, {summary.tokens_per_s:.0f} tokens/s"
    print_table(
        ("training", summary.training),
        [
            ("base", summary.base),
            ("rows", summary.run or summary.source.get("file", "")),
            ("status", f"{summary.status} {summary.message}".strip()),
            *describe_origin(summary.source),
            ("step", f"{summary.step} of {summary.steps}"),
            ("train loss", train_loss),
            ("dev loss", " → ".join(f"{loss:.3f}" for loss in dev_losses) or "none"),
            ("adapter", summary.adapter[:16] or "none yet"),
            ("seconds", f"{summary.seconds:.0f}"),
            ("process", _describe_process(summary.worker)),
            *([("note", summary.note)] if summary.note else []),
        ],
    )


def _describe_process(worker: "Worker | None") -> str:
    """The worker's process id, and its pending pause or stop request."""
    if worker is None:
        return "none"
    return f"{worker.pid} ({worker.wish} requested)" if worker.wish else str(worker.pid)


def _describe_system_messages(merged_rows: int) -> str:
    """In how many rows the system message is prepended to the user's message, and why."""
    if not merged_rows:
        return "unchanged"
    reason = "the chat template of the base model accepts no system message"
    return f"prepended to the user's message in {format_quantity(merged_rows, 'row')}: {reason}"


def show_audit(audit: "Audit", as_json: bool) -> None:
    """Print the audit: a table, the findings by row, and one example as the model sees it."""
    if as_json:
        print_json(audit.to_json())
        return
    from nanoflux_local.train.estimate import MEMORY_FACTOR
    from nanoflux_local.train.origin import describe_leaks, describe_origin

    tokens, label_tokens = audit.tokens, audit.labels
    truncated = (
        f"{format_quantity(audit.cut_rows, 'row')} over max_length; truncation removes"
        f" {format_quantity(audit.cut_tokens, 'token')}, at most {audit.cut_most} per row (overlong={audit.overlong})"
    )
    print_table(
        ("audit", "planned training"),
        [
            ("rows", f"{audit.rows}: {audit.usable} for training, {audit.validation} for validation"),
            *describe_origin(audit.source),
            ("tokens", f"{tokens.total} per epoch; median {tokens.median:.0f}, max {tokens.most} per row"),
            (
                "label tokens",
                f"{label_tokens.total} per epoch; median {label_tokens.median:.0f}, min {label_tokens.least} per row",
            ),
            ("truncated", truncated if audit.cut_rows else "none"),
            ("leaks", describe_leaks(len(audit.leaked))),
            ("system messages", _describe_system_messages(audit.system_merged)),
            ("steps", audit.steps),
            ("target modules", audit.adapted),
            (
                "FLOPs",
                f"{audit.flops_6nd:.3g} as 6ND, N = {audit.parameters:,}; {audit.flops_expected:.3g} by architecture",
            ),
            ("time", f"about {audit.seconds:.0f} s, extrapolated from a matrix multiplication timed on this machine"),
            ("memory", f"about {audit.memory_bytes / 1e9:.1f} GB in {audit.dtype}, within a factor of {MEMORY_FACTOR}"),
        ],
    )
    lines = [str(finding) for finding in audit.findings]
    lines += [f"validation {finding}" for finding in audit.validation_findings]
    lines += [f"row {row}: contains a question of the test split" for row in audit.leaked]
    for line in lines[:MAX_LISTED]:
        click.echo(sanitize(line))
    if len(lines) > MAX_LISTED:
        click.echo(f"… and {len(lines) - MAX_LISTED} more; --json prints all of them")
    click.echo(f"\nThe first example as the model sees it:\n{sanitize(audit.rendered)}")
