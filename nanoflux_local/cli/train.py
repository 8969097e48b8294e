"""`nanoflux train`: LoRA on a run's kept examples."""

from typing import TYPE_CHECKING

import click

from nanoflux_local.cli.common import Bar, home, plain, print_json, print_table, say, with_json

if TYPE_CHECKING:
    from nanoflux_local.train.events import TrainEvent


@click.command(name="train")
@click.argument("run")
@click.option("--base", default="smollm2-135m", show_default=True, help="The model to tune.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any training setting, e.g. epochs=3.")
@click.option("--dry-run", is_flag=True, help="Audit the examples and print the plan; train nothing.")
@with_json
def command(run: str, base: str, settings: tuple[str, ...], dry_run: bool, as_json: bool) -> None:
    """LoRA-tune BASE on the kept examples of RUN (paper §3, A.1)."""
    from nanoflux_local import trainings
    from nanoflux_local.config import parse_settings
    from nanoflux_local.train.settings import train_settings
    from nanoflux_models.weights import weights_dir

    chosen = train_settings(parse_settings(settings))
    place = home()
    name, domain, rows = trainings.run_examples(place, run)
    validation = trainings.validation_examples(place, domain)
    if dry_run:
        from nanoflux_local.train.audit import audit

        held_out = trainings.held_out_questions(place, domain)
        print_json(audit(chosen, rows, validation, weights_dir(base, place.root), held_out).to_json())
        return
    bar = Bar(f"training {base}")
    try:
        result = trainings.train_adapter(place, name, base, chosen, rows, validation, lambda event: told(bar, event))
    finally:
        bar.close()
    if as_json:
        print_json({key: value for key, value in result.items() if key != "train_losses"})
        return
    show_training(result)


def told(bar: Bar, event: "TrainEvent") -> None:
    """A step as progress; the other events are in the ledger."""
    from nanoflux_local.train.events import StepEvent

    if isinstance(event, StepEvent):
        bar.show(event.step, event.steps, f"loss {event.loss:.3f}, {event.tokens_per_s:.0f} tokens/s")


def show_training(result: dict) -> None:  # type: ignore[type-arg]
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
            ("FLOPs", f"{result['flops']['measured']:.3g} measured, {result['flops']['6nd']:.3g} by 6ND"),
            ("seconds", f"{result['seconds']:.0f}"),
        ],
    )
    say(plain(f"see it with `nanoflux adapters show {result['adapter'][:12]}`"))
