"""`nanoflux adapters`: what training left, by content hash; merged into its base, or carried elsewhere."""

from pathlib import Path
from typing import Any

import click

from nanoflux_local.cli.common import flops_line, home, print_json, print_table, say, with_json
from nanoflux_local.errors import NothingMatchedError


@click.group(name="adapters")
def command() -> None:
    """Trained adapters, by content hash."""


@command.command("list")
@with_json
def list_all(as_json: bool) -> None:
    """Every adapter of this home."""
    from nanoflux_local.adapters.store import list_adapters

    found = list_adapters(home().adapters)
    if as_json:
        print_json(found)
        return
    if not found:
        raise NothingMatchedError("there are no adapters yet", "train one: nanoflux train RUN --base smollm2-135m")
    print_table(("adapter", "base", "examples", "dev loss", "probe", "run"), [_row(entry) for entry in found])
    for entry in found:
        if "problem" in entry:
            say(entry["problem"])


def _row(entry: dict[str, Any]) -> list[object]:
    if "problem" in entry:
        return [entry["adapter"][:16], "damaged", "", "", "", ""]
    if imported := entry.get("imported"):
        return [
            entry["adapter"][:16],
            entry["base"]["name"],
            "imported",
            "–",
            _probed(entry["probe"]),
            imported["name"],
        ]
    losses = _dev_losses(entry)
    dev = f"{losses[0]:.3f} → {losses[-1]:.3f}" if len(losses) > 1 else "–"
    found = [entry["adapter"][:16], entry["base"]["name"], entry["data"]["examples"], dev]
    return [*found, _probed(entry["probe"]), entry.get("run", "")]


def _probed(probe: dict[str, Any] | None) -> str:
    return "–" if probe is None else "works" if probe["passed"] else "fails"


def _dev_losses(entry: dict[str, Any]) -> list[float]:
    losses = entry["losses"]
    return [loss for loss in (losses["initial_val_loss"], *losses["val_losses"]) if loss is not None]


@command.command()
@click.argument("adapter")
@with_json
def show(adapter: str, as_json: bool) -> None:
    """What ADAPTER is and how it came about (the beginning of its hash is enough)."""
    from nanoflux_local.adapters.store import described, find_adapter

    folder = find_adapter(home().adapters, adapter)
    manifest = described(folder)
    if as_json:
        print_json(manifest)
        return
    print_table(("adapter", manifest["adapter"]), _told(manifest))
    say(f"its files are in {folder}; `--json` prints the whole record")


def _told(manifest: dict[str, Any]) -> list[tuple[str, object]]:
    if "imported" in manifest:
        return _describe_imported(manifest)
    settings, data, flops = manifest["settings"], manifest["data"], manifest["flops"]
    base, hardware, probe = manifest["base"], manifest["hardware"], manifest["probe"]
    return [
        ("base", f"{base['name']}, revision {base['revision'][:12] or 'unknown'}"),
        ("run", manifest.get("run") or "–"),
        (
            "examples",
            f"{data['examples']} ({data['truncated']} cut, {data['dropped']} left out), {data['tokens']} tokens",
        ),
        ("data digest", data["digest"]),
        ("LoRA", f"r {settings['r']}, alpha {settings['alpha']:g}, dropout {settings['dropout']:g}"),
        ("training", f"{manifest['steps']} steps, {settings['epochs']} epochs, rate {settings['learning_rate']:g}"),
        ("seed", manifest["seed"]),
        ("dev loss", " → ".join(f"{loss:.3f}" for loss in _dev_losses(manifest)) or "–"),
        ("FLOPs", flops_line(flops)),
        ("seconds", f"{manifest['seconds']:.0f} on {hardware['device']} in {hardware['dtype']}"),
        ("last probe", _last_probe(probe)),
        ("versions", ", ".join(f"{name} {version}" for name, version in manifest["versions"].items())),
    ]


def _describe_imported(manifest: dict[str, Any]) -> list[tuple[str, object]]:
    settings, base = manifest["settings"], manifest["base"]
    return [
        ("base", f"{base['name']}, revision {base['revision'][:12]}"),
        ("imported as", manifest["imported"]["name"]),
        ("base it named", manifest["imported"]["base_hint"] or "none"),
        ("LoRA", f"r {settings['r']}, alpha {settings['alpha']:g}, dropout {settings['dropout']:g}"),
        ("last probe", _last_probe(manifest["probe"])),
    ]


def _last_probe(probe: dict[str, Any] | None) -> str:
    return f"{probe['verdict']} ({probe['at']})" if probe else "none: `nanoflux models probe` makes one"


@command.command("import")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--base", default="", help="The installed model it was trained on [default: the one that it names].")
@click.option("--name", default="", help="What to call it besides its hash [default: the folder's name].")
@with_json
def import_folder(folder: Path, base: str, name: str, as_json: bool) -> None:
    """Take in FOLDER, a LoRA that another trainer saved in PEFT's format."""
    from nanoflux_local.adapters.importing import import_adapter
    from nanoflux_local.adapters.store import load_manifest

    place = home().prepare()
    manifest = load_manifest(import_adapter(folder, place.root, place.adapters, base, name))
    if as_json:
        print_json(manifest)
        return
    print_table(("adapter", manifest["adapter"]), _describe_imported({**manifest, "probe": None}))
    say(f"evaluate it: nanoflux eval --model {manifest['base']['name']} --adapter {manifest['adapter'][:12]} --data …")


@command.command()
@click.argument("adapter")
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="A new folder.")
@with_json
def merge(adapter: str, out: Path, as_json: bool) -> None:
    """Write the base with ADAPTER merged into its weights: a model folder like any other."""
    from nanoflux_local.adapters.merge import base_folder
    from nanoflux_local.adapters.merge import merge as write_merged
    from nanoflux_local.adapters.store import find_adapter, load_manifest

    folder = find_adapter(home().adapters, adapter)
    record = write_merged(folder, base_folder(load_manifest(folder), home().root), out)
    if as_json:
        print_json(record)
        return
    check = record["check"]
    print_table(
        ("model", str(out)),
        [
            ("adapter", record["adapter"][:16]),
            ("base", record["base"]["name"]),
            ("weights", check["dtype"]),
            ("from base and adapter", f"{check['nats_from_adapter']:.2g} nats a token, {check['tolerance']:g} allowed"),
            ("from the base alone", f"{check['nats_from_base']:.2g} nats a token"),
        ],
    )
    say(f"install it with `nanoflux models import {out} --name NAME`")


@command.command()
@click.argument("adapter")
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="A new folder.")
@click.option("--format", "kind", type=click.Choice(["safetensors", "gguf"]), default="safetensors", show_default=True)
@with_json
def export(adapter: str, out: Path, kind: str, as_json: bool) -> None:
    """Write ADAPTER for other programs: PEFT's folder, or the merged model as one GGUF file."""
    from nanoflux_local.adapters.store import export_peft, find_adapter, load_manifest

    folder = find_adapter(home().adapters, adapter)
    if kind == "gguf":
        from nanoflux_local.adapters.gguf import export_gguf
        from nanoflux_local.adapters.merge import base_folder

        record = export_gguf(folder, base_folder(load_manifest(folder), home().root), out)
    else:
        manifest = export_peft(folder, out)
        record = {"adapter": manifest["adapter"], "base": manifest["base"], "folder": str(out)}
    record["format"] = kind
    if as_json:
        print_json(record)
        return
    print_table(("exported", kind), [("adapter", record["adapter"]), ("to", record.get("file", record["folder"]))])
