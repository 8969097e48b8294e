"""`nanoflux train`: LoRA on a run's kept examples, or on the rows of a file."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nanoflux_local.cli.common import (
    Bar,
    build_choice,
    end_at_sigterm,
    flops_line,
    home,
    launch_detached,
    plain,
    print_json,
    print_table,
    say,
    with_choice,
    with_json,
)
from nanoflux_local.errors import UsageError
from nanoflux_local.paths import Home

if TYPE_CHECKING:
    from nanoflux_local.train.audit import Audit
    from nanoflux_local.train.choice import Choice
    from nanoflux_local.train.events import TrainEvent
    from nanoflux_local.train.trainings import TrainingData

SHOWN = 20
"""Findings that a table shows; `--json` has all."""


@click.command(name="train")
@click.argument("run", required=False)
@click.option("--data", type=click.Path(dir_okay=False, path_type=Path), help="A JSON lines file in place of a run.")
@click.option("--base", default="smollm2-135m", show_default=True, help="The model to tune.")
@click.option("--qlora", is_flag=True, help="Hold the base in 4 bits (bitsandbytes, NF4).")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any training setting, e.g. epochs=3.")
@with_choice
@click.option("--dry-run", is_flag=True, help="Audit the examples and print the plan; train nothing.")
@click.option(
    "--tensorboard", type=click.Path(file_okay=False), default="", help="Write TensorBoard's files there too."
)
@click.option(
    "--launch",
    default="",
    metavar="ARGS",
    help='In several processes, by `accelerate launch ARGS`, e.g. "--multi_gpu --num_processes 2".',
)
@click.option("--detach", is_flag=True, help="Train in a process of its own that outlives this terminal.")
@with_json
def command(
    run: str | None,
    data: Path | None,
    base: str,
    qlora: bool,
    settings: tuple[str, ...],
    dry_run: bool,
    tensorboard: str,
    launch: str,
    detach: bool,
    as_json: bool,
    **choice: Any,
) -> None:
    """LoRA-tune BASE on the kept examples of RUN, or on the rows of a file (paper §3, A.1).

    The same command again goes on with a training that was stopped or killed.
    """
    from nanoflux_local.config import parse_settings
    from nanoflux_local.train import trainings
    from nanoflux_local.train.settings import train_settings

    if launch and detach:
        raise UsageError("--launch and --detach do not go together", "detach the command with your shell or scheduler")
    place = home()
    stated = train_settings({**parse_settings(settings), **({"qlora": True} if qlora else {})})
    chosen = trainings.with_targets(place, base, stated)
    rows = _data(place, run, data, build_choice(choice, chosen.seed))
    if dry_run:
        from nanoflux_local.train.audit import audit
        from nanoflux_models.weights import weights_dir

        found = audit(chosen, rows.rows, rows.validation, weights_dir(base, place.root), rows.held_out)
        show_audit(found, as_json)
        return
    board = str(Path(tensorboard).absolute()) if tensorboard else ""
    work(place, trainings.create(place, base, chosen, rows, board), detach, as_json, launch)


def _data(place: Home, run: str | None, file: Path | None, choice: "Choice") -> "TrainingData":
    from nanoflux_local.train import trainings

    if (run is None) == (file is None):
        raise UsageError("name a run, or a file with --data: one of them", "nanoflux train RUN, or train --data FILE")
    if run is not None:
        return trainings.data_of_run(place, run, choice)
    assert file is not None
    return trainings.data_of_file(place, file, choice)


def work(place: Home, training: str, detach: bool, as_json: bool, launch: str = "") -> None:
    """Train here, in a process of its own or in several, and print what came of it; of several that train together none
    prints, but whoever launched them.
    """
    from nanoflux_local.train.team import size

    if detach:
        from nanoflux_local import jobs
        from nanoflux_local.train import trainings

        launch_detached(place, jobs.Work(jobs.TRAINING, training))
        result = trainings.show(place, training)
    else:
        result = carry_on(place, training, launch)
    if size() > 1:
        return
    if as_json:
        print_json({key: value for key, value in result.items() if key != "train_losses"})
    elif "flops" in result:
        show_training(result)
    else:
        show_state(result)


def carry_on(place: Home, training: str, launch: str = "") -> dict[str, Any]:
    """Train with a progress bar; Ctrl-C and SIGTERM end it with its last checkpoint kept."""
    from nanoflux_local.train import trainings
    from nanoflux_local.train.team import follows

    end_at_sigterm()
    if launch:
        return trainings.carry_on_launched(place, training, launch)
    bar = Bar(training)
    if not follows():
        say(f"{training}; stop with Ctrl-C, go on with `nanoflux trainings resume {training}`")
    try:
        return trainings.carry_on(place, training, lambda event: told(bar, event))
    finally:
        bar.close()


def told(bar: Bar, event: "TrainEvent") -> None:
    """A step as progress; the other events are in the ledger."""
    from nanoflux_local.train.events import StepEvent

    if isinstance(event, StepEvent):
        bar.show(event.step, event.steps, f"loss {event.loss:.3f}, {event.tokens_per_s:.0f} tokens/s")


def show_training(result: dict[str, Any]) -> None:
    """The outcome of a training as a table."""
    before, after = result["initial_val_loss"], result["val_loss"]
    print_table(
        ("adapter", result["adapter"][:16]),
        [
            ("base", result["base"]),
            ("examples", f"{result['examples']} ({result['truncated']} over the length limit)"),
            ("steps", f"{result['steps']} over {result['tokens']} tokens, {result['tokens_per_s']:.0f} tokens/s"),
            ("train loss", f"{result['train_loss']:.3f}"),
            ("dev loss", "none" if after is None or before is None else f"{before:.3f} before, {after:.3f} after"),
            ("FLOPs", flops_line(result["flops"])),
            ("seconds", f"{result['seconds']:.0f}"),
        ],
    )
    say(plain(f"see it with `nanoflux adapters show {result['adapter'][:12]}`"))


def show_state(found: dict[str, Any]) -> None:
    """A training that is not done, or its record, as a table."""
    loss, dev = found["loss"], [value for value in found["val_losses"] if value is not None]
    worker = found["worker"]
    print_table(
        ("training", found["training"]),
        [
            ("base", found["base"]),
            ("rows", found["run"] or found["source"].get("file", "")),
            ("status", f"{found['status']} {found['message']}".strip()),
            ("step", f"{found['step']} of {found['steps']}"),
            ("train loss", "none yet" if loss is None else f"{loss:.3f}, {found['tokens_per_s']:.0f} tokens/s"),
            ("dev loss", " → ".join(f"{value:.3f}" for value in dev) or "none"),
            ("adapter", found["adapter"][:16] or "none yet"),
            ("seconds", f"{found['seconds']:.0f}"),
            ("process", f"{worker['pid']} {worker['wish']}".strip() if worker else "none"),
        ],
    )


def _describe_merged(rows: int) -> str:
    return f"in {rows} rows they open the user's message: the base takes none" if rows else "as they are"


def show_audit(found: "Audit", as_json: bool) -> None:
    """The audit: a table, what is wrong with which row, and one example as the model sees it."""
    if as_json:
        print_json(found.to_json())
        return
    from nanoflux_local.train.estimate import WITHIN

    cut = f"{found.cut_rows} rows lose {found.cut_tokens} tokens, at most {found.cut_most}"
    print_table(
        ("audit", "what a training would do"),
        [
            ("rows", f"{found.rows}, of which {found.usable} are trained on and {found.validation} validated on"),
            ("tokens", f"{found.tokens.total} an epoch; median {found.tokens.median:.0f}, most {found.tokens.most}"),
            ("labels", f"{found.labels.total} an epoch; median {found.labels.median:.0f}, least {found.labels.least}"),
            ("cut", f"{cut} ({found.overlong})" if found.cut_rows else "none"),
            ("leaks", f"{len(found.leaked)} rows hold a test question" if found.leaked else "none"),
            ("system messages", _describe_merged(found.system_merged)),
            ("steps", found.steps),
            ("adapts", found.adapted),
            ("FLOPs", f"{found.flops_6nd:.3g} by 6ND, N = {found.parameters:,}; {found.flops_expected:.3g} expected"),
            ("time", f"about {found.seconds:.0f} s, from a matrix product timed just now"),
            ("memory", f"about {found.memory_bytes / 1e9:.1f} GB in {found.dtype}, within a factor of {WITHIN}"),
        ],
    )
    told = [str(finding) for finding in found.findings]
    told += [f"validation {finding}" for finding in found.validation_findings]
    told += [f"row {row}: holds a question of the test split" for row in found.leaked]
    for line in told[:SHOWN]:
        click.echo(plain(line))
    if len(told) > SHOWN:
        click.echo(f"… and {len(told) - SHOWN} more; --json has all")
    click.echo(f"\nThe first example as the model sees it:\n{plain(found.rendered)}")
