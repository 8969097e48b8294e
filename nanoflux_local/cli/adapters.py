"""`nanoflux adapters`: list, show, import, merge and export adapters."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from nanoflux_local.cli.common import (
    NewPath,
    current_home,
    describe_flops,
    print_json,
    print_table,
    say,
    with_json,
)
from nanoflux_local.cli.names import ADAPTER
from nanoflux_local.errors import NothingMatchedError
from nanoflux_local.quantities import format_quantity

if TYPE_CHECKING:
    from nanoflux_local.adapters.merge import MergeRecord
    from nanoflux_local.adapters.record import Adapter, DamagedAdapter, ProbeRecord, TrainingRecord

LabelledValues = list[tuple[str, object]]
"""The rows of a table that describes one adapter: each is a label and a value."""


@click.group(name="adapters")
def command() -> None:
    """List, show, import, merge and export adapters, named by content hash."""


@command.command("list")
@with_json
def list_all(as_json: bool) -> None:
    """List all adapters."""
    from nanoflux_local.adapters.record import DamagedAdapter
    from nanoflux_local.adapters.store import list_adapters

    adapters = list_adapters(current_home().adapters)
    if as_json:
        print_json([adapter.to_json() for adapter in adapters])
        return
    if not adapters:
        raise NothingMatchedError("there are no adapters", "train one with `nanoflux train RUN --base smollm2-135m`")
    rows = [_adapter_cells(adapter) for adapter in adapters]
    print_table(("adapter", "base", "examples", "dev loss", "probe", "run"), rows)
    for adapter in adapters:
        if isinstance(adapter, DamagedAdapter):
            say(adapter.problem)


def _adapter_cells(adapter: "Adapter | DamagedAdapter") -> list[object]:
    """The cells of an adapter in the table of `adapters list`; a damaged adapter has only a hash."""
    from nanoflux_local.adapters.record import DamagedAdapter

    if isinstance(adapter, DamagedAdapter):
        return [adapter.hash[:16], "damaged", "", "", "", ""]
    probe_result = "–"
    if adapter.probe is not None:
        probe_result = "works" if adapter.probe.passed else "fails"
    training = adapter.training
    if training is None:
        imported_name = adapter.imported.name if adapter.imported else ""
        return [adapter.hash[:16], adapter.base.name, "imported", "–", probe_result, imported_name]
    dev_losses = training.dev_losses
    dev_loss = f"{dev_losses[0]:.3f} → {dev_losses[-1]:.3f}" if len(dev_losses) > 1 else "–"
    return [adapter.hash[:16], adapter.base.name, training.examples, dev_loss, probe_result, training.run]


@command.command()
@click.argument("adapter", type=ADAPTER)
@with_json
def show(adapter: str, as_json: bool) -> None:
    """Show the record of ADAPTER: a hash, the start of a hash, or the name of an imported adapter."""
    from nanoflux_local.adapters.store import find_adapter, read_adapter

    adapter_record = read_adapter(find_adapter(current_home().adapters, adapter))
    if as_json:
        print_json(adapter_record.to_json())
        return
    _show_adapter(adapter_record)
    say(f"adapter directory: {adapter_record.folder}; `--json` prints the whole record")


def _show_adapter(adapter: "Adapter") -> None:
    describe = _describe_imported if adapter.training is None else _describe_trained
    print_table(("adapter", adapter.hash), describe(adapter))


def _describe_trained(adapter: "Adapter") -> LabelledValues:
    training = adapter.training
    assert training is not None
    steps = format_quantity(training.steps, "step")
    return [
        ("base", f"{adapter.base.name}, revision {adapter.base.revision[:12] or 'unknown'}"),
        ("run", training.run or "–"),
        ("examples", _describe_examples(training)),
        ("data digest", training.data_digest),
        ("LoRA", _describe_lora(adapter)),
        ("training", f"{steps}, {format_quantity(training.epochs, 'epoch')}, learning rate {training.learning_rate:g}"),
        ("seed", training.seed),
        ("dev loss", " → ".join(f"{loss:.3f}" for loss in training.dev_losses) or "–"),
        ("FLOPs", describe_flops(dict(training.flops))),
        ("seconds", f"{training.seconds:.0f} on {training.device} in {training.dtype}"),
        ("last probe", _describe_probe(adapter.probe)),
        ("versions", ", ".join(f"{name} {version}" for name, version in adapter.versions.items())),
    ]


def _describe_imported(adapter: "Adapter") -> LabelledValues:
    imported = adapter.imported
    assert imported is not None
    return [
        ("base", f"{adapter.base.name}, revision {adapter.base.revision[:12]}"),
        ("imported as", imported.name),
        ("base named in its configuration", imported.base_hint or "none"),
        ("LoRA", _describe_lora(adapter)),
        ("last probe", _describe_probe(adapter.probe)),
    ]


def _describe_examples(training: "TrainingRecord") -> str:
    counts = f"{training.truncated} truncated, {training.dropped} left out"
    return f"{training.examples} ({counts}), {format_quantity(training.tokens, 'token')}"


def _describe_lora(adapter: "Adapter") -> str:
    lora = adapter.lora
    return f"r {lora.r}, alpha {lora.alpha:g}, dropout {lora.dropout:g}"


def _describe_probe(probe: "ProbeRecord | None") -> str:
    return f"{probe.verdict} ({probe.time})" if probe else "none yet: run `nanoflux models probe`"


@command.command("import")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--base",
    default="",
    help="Installed model that the adapter was trained on [default: the model that the adapter's configuration names].",
)
@click.option("--name", default="", help="Additional name for the adapter [default: the folder's name].")
@with_json
def import_folder(folder: Path, base: str, name: str, as_json: bool) -> None:
    """Import FOLDER, a LoRA adapter in PEFT's format from another trainer or another home.

    The base model must be installed, since its tensors are compared with the adapter's. No code in FOLDER is executed.
    """
    from nanoflux_local.adapters.importing import import_adapter
    from nanoflux_local.adapters.store import read_adapter

    home = current_home().prepare()
    adapter = read_adapter(import_adapter(folder, home.root, home.adapters, base, name))
    if as_json:
        print_json(dict(adapter.manifest))
        return
    _show_adapter(adapter)
    say(f"evaluate it: nanoflux eval --model {adapter.base.name} --adapter {adapter.id} --data …")


@command.command()
@click.argument("adapter", type=ADAPTER)
@click.option("-o", "--out", type=NewPath(), required=True, help="New directory to write.")
@with_json
def merge(adapter: str, out: Path, as_json: bool) -> None:
    """Merge ADAPTER into the weights of its base model and write the result as a model directory."""
    from nanoflux_local.adapters.merge import find_base
    from nanoflux_local.adapters.merge import merge as write_merged
    from nanoflux_local.adapters.store import find_adapter, read_adapter

    adapter_record = read_adapter(find_adapter(current_home().adapters, adapter))
    merge_record = write_merged(adapter_record, find_base(adapter_record, current_home().root), out)
    if as_json:
        print_json({**merge_record.to_json(), "folder": str(out)})
        return
    _show_merge(merge_record, out)


def _show_merge(record: "MergeRecord", out: Path) -> None:
    check = record.check
    print_table(
        ("model", str(out)),
        [
            ("adapter", record.adapter[:16]),
            ("base", record.base.name),
            ("weights", check.dtype),
            ("difference from base with adapter",
             f"{check.nats_from_adapter:.2g} nats per token, at most {check.tolerance:g} allowed"),
            ("difference from base alone", f"{check.nats_from_base:.2g} nats per token"),
        ],
    )  # fmt: skip
    say(f"install it with `nanoflux models import {out} --name NAME`")


@command.command()
@click.argument("adapter", type=ADAPTER)
@click.option("-o", "--out", type=NewPath(), required=True, help="New directory to write.")
@click.option("--format", "export_format", type=click.Choice(["safetensors", "gguf"]), default="safetensors",
              show_default=True, help="Format of the exported weights.")  # fmt: skip
@with_json
def export(adapter: str, out: Path, export_format: str, as_json: bool) -> None:
    """Export ADAPTER for other programs: as a PEFT directory, or merged into its base model as one GGUF file."""
    from nanoflux_local.adapters.store import export_peft, find_adapter, read_adapter

    adapter_record = read_adapter(find_adapter(current_home().adapters, adapter))
    export_json: dict[str, object]
    if export_format == "gguf":
        from nanoflux_local.adapters.gguf import export_gguf
        from nanoflux_local.adapters.merge import find_base

        merge_record, file = export_gguf(adapter_record, find_base(adapter_record, current_home().root), out)
        export_json = {**merge_record.to_json(), "folder": str(out), "file": str(file)}
    else:
        export_peft(adapter_record, out)
        export_json = {"adapter": adapter_record.hash, "base": adapter_record.base.to_json(), "folder": str(out)}
    export_json["format"] = export_format
    if as_json:
        print_json(export_json)
        return
    path = export_json.get("file", str(out))
    print_table(("format", export_format), [("adapter", adapter_record.hash), ("path", path)])
