"""Publishes the result of a finished training run: an adapter folder named by its hash, with a training record and a
model card.
"""

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nanoflux_local.adapters.hash import CONFIG, WEIGHTS
from nanoflux_local.adapters.store import MANIFEST, format_json, package_versions, store_new_adapter
from nanoflux_local.errors import DataError
from nanoflux_local.files import write_atomically
from nanoflux_local.quantities import format_quantity
from nanoflux_local.train.events import TrainResult
from nanoflux_local.train.origin import describe_origin
from nanoflux_local.train.settings import TrainSettings


def publish(
    result: TrainResult,
    settings: TrainSettings,
    adapters_dir: Path,
    base: str,
    revision: str = "",
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """Publish the adapter of a finished training run as the folder `adapters_dir/<hash>`, with manifest and card, and
    return the folder.

    `base` and `revision` name the base model in the config and the manifest; `extra` is added to the manifest (for
    instance the run and the query that chose the examples). If the folder already exists with the same content, it is
    not written again.

    Raises:
        DataError: the training run is not finished.
        RefusedError: the folder exists with different content.
    """
    if not result.finished:
        raise DataError(
            "the training run was stopped before its last step", "resume the training run, then publish its adapter"
        )
    adapters_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=adapters_dir, prefix=".new-") as scratch:
        folder = Path(scratch) / "adapter"
        folder.mkdir()
        _copy_adapter(result.adapter_dir, folder, base, revision)
        record = _build_record(result, settings, base, revision) | dict(extra or {})
        return store_new_adapter(folder, adapters_dir, record, _format_card)


def _copy_adapter(source: Path, folder: Path, base: str, revision: str) -> None:
    """Copy the weights unchanged, and the config with the base's name instead of a path on this machine."""
    shutil.copyfile(source / WEIGHTS, folder / WEIGHTS)
    config = json.loads((source / CONFIG).read_text(encoding="utf-8"))
    config |= {"base_model_name_or_path": base, "revision": revision or None}
    write_atomically(folder / CONFIG, format_json(config).encode())


def _build_record(result: TrainResult, settings: TrainSettings, base: str, revision: str) -> dict[str, Any]:
    """The record of a training run for the adapter's manifest."""
    fields = result.to_json()
    losses = {key: fields[key] for key in ("train_losses", "epoch_losses", "val_losses", "initial_val_loss")}
    counts = {key: fields[key] for key in ("examples", "validation_examples", "truncated", "dropped", "tokens")}
    return {
        "schema": 1,
        "base": {"name": base, "revision": revision},
        "data": {"digest": result.data_digest, **counts},
        "settings": settings.model_dump(mode="json"),
        "seed": settings.seed,
        "steps": result.steps,
        "losses": losses,
        "flops": fields["flops"],
        "seconds": result.seconds,
        "hardware": {"dtype": result.dtype, "device": result.device, "processes": result.processes},
        "versions": package_versions(),
    }


def _format_card(manifest: Mapping[str, Any]) -> str:
    """A short model card in the format of the Hugging Face hub."""
    settings, data, losses = manifest["settings"], manifest["data"], manifest["losses"]
    base = manifest["base"]["name"]
    flops = manifest["flops"]
    measured_share = flops["measured"] / flops["6nd"]
    predicted_share = flops["explained"]["total"] / flops["6nd"]
    val_losses = [losses["initial_val_loss"], *losses["val_losses"]]
    origin_rows = "".join(f"| {name} | {text} |\n" for name, text in describe_origin(manifest.get("source") or {}))
    loss_curve = " → ".join("–" if value is None else f"{value:.3f}" for value in val_losses)
    examples = format_quantity(data["examples"], "example")
    return f"""---
base_model: {base}
library_name: peft
tags: [lora, nanoflux-local]
---
# LoRA adapter {manifest["adapter"][:12]} for {base}

Trained by NanoFlux Local on {examples} ({data["tokens"]:,} tokens over all epochs,
{data["truncated"]} cut at {settings["max_length"]} tokens, {data["dropped"]} left out), loss on completions only.

| setting | value |
|---|---|
{origin_rows}| r, alpha, dropout | {settings["r"]}, {settings["alpha"]:g}, {settings["dropout"]:g} |
| learning rate | {settings["learning_rate"]:g}, linear to zero |
| batch × accumulation, epochs | {settings["batch"]} × {settings["gradient_accumulation"]}, {settings["epochs"]} |
| validation loss, before and by epoch | {loss_curve} |
| FLOPs by 6·N·D; measured | {flops["6nd"]:.3g}; {flops["measured"]:.3g} |
| share of 6·N·D: measured; predicted for a frozen base | {measured_share:.2f}; {predicted_share:.2f} |

`{MANIFEST}` holds the whole record. Load it with `peft.PeftModel.from_pretrained(base_model, folder)`.
"""
