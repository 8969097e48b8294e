"""An adapter merged into its base: a model folder that loads like any other, with a record of what it was made of.

Owns the merging (PEFT's own), its proof, and what the folder says of itself. Refuses a base other than the one the
adapter was trained on, weights that are stored quantised, and any folder whose answers are not those of base and
adapter: nothing is left behind then.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nanoflux_local.adapters.store import CARD, load_manifest, package_versions, pretty
from nanoflux_local.errors import RefusedError, UsageError
from nanoflux_local.files import new_folder, write_atomically
from nanoflux_models.errors import ModelsError
from nanoflux_models.offline import go_offline
from nanoflux_models.record import RECORD as WEIGHTS_RECORD
from nanoflux_models.record import read_record
from nanoflux_models.weights import weights_dir

RECORD = "nanoflux-merged.json"
# Mean Kullback-Leibler divergence over the probe's tokens, in nats, that rounding alone may cause. Two orders above
# what was measured in float32; in 16 bits five times what was, which is twice that of the base's own rounding.
TOLERANCE = {"float32": 1e-6, "bfloat16": 0.02, "float16": 0.02}
_PROBE = (
    "A farmer has 12345 apples and sells 6.5 percent of them. How many are left?\n"
    "First find the share: 12345 * 0.065 = 802.425. Then take it away.\nANSWER: 11542.575"
)


def base_folder(manifest: Mapping[str, Any], home: Path) -> Path:
    """The installed base of an adapter. Raises RefusedError where it is another revision, ModelsError where it is not
    there."""
    name, trained_on = manifest["base"]["name"], manifest["base"]["revision"]
    folder = weights_dir(name, home)
    found = read_record(folder).revision
    if trained_on and found != trained_on:
        what = f"the adapter was trained on {name} of revision {trained_on[:12]}, and {found[:12]} is installed"
        raise RefusedError(what, "install the weights it was trained on, or train again on these")
    return folder


def merge(adapter: Path, base: Path, target: Path) -> dict[str, Any]:
    """Write `target`: the model of `base` with `adapter` added to its weights, in the base's own precision.

    Returns the record that lies in the folder. Holds the model once in memory.

    Raises:
        UsageError: `target` exists, or the adapter cannot be merged.
        RefusedError: the merged model does not answer as base and adapter do.
    """
    manifest = load_manifest(adapter)
    _refuse_quantised(base)
    with new_folder(target) as folder:
        check = _merged_weights(adapter, base, folder)
        _copy_rest(base, folder)
        record = {
            "schema": 1,
            "kind": "merged",
            "adapter": manifest["adapter"],
            "base": manifest["base"],
            "check": check,
            "versions": package_versions(),
        }
        write_atomically(folder / RECORD, pretty(record).encode())
        write_atomically(folder / CARD, _card(record, manifest, base).encode())
    return record | {"folder": str(target)}


def _refuse_quantised(base: Path) -> None:
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    if config.get("quantization_config"):
        what = f"the weights of {base.name} are stored quantised, and adding to them would round most of it away"
        raise UsageError(what, "serve base and adapter together, or train on the model's unquantised weights")


def _merged_weights(adapter: Path, base: Path, folder: Path) -> dict[str, Any]:
    """Save the merged weights into `folder` and return what the proof found."""
    go_offline()
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with _quiet(), torch.no_grad():
        ids = AutoTokenizer.from_pretrained(base, local_files_only=True)(_PROBE, return_tensors="pt")["input_ids"]
        model = AutoModelForCausalLM.from_pretrained(base, dtype="auto", local_files_only=True).eval()
        untuned = _log_shares(model, ids)
        tuned = PeftModel.from_pretrained(model, str(adapter)).eval()
        apart = _log_shares(tuned, ids)
        try:
            merged = tuned.merge_and_unload(safe_merge=True)
        except ValueError as error:
            raise UsageError(f"the adapter cannot be merged: {error}", "serve base and adapter together") from error
        check = _proved(str(merged.dtype).removeprefix("torch."), untuned, apart, _log_shares(merged, ids))
        merged.save_pretrained(str(folder))
    for path in folder.iterdir():
        path.chmod(0o644)
    return check


def _log_shares(model: Any, ids: Any) -> Any:
    return model(input_ids=ids).logits[0].float().log_softmax(-1)


def _proved(dtype: str, untuned: Any, apart: Any, merged: Any) -> dict[str, Any]:
    """How far the merged model is from base and adapter, and how far these are from the base alone."""
    off, effect = (float((apart.exp() * (apart - other)).sum(-1).mean()) for other in (merged, untuned))
    tolerance = TOLERANCE.get(dtype, 0.02)
    if not off <= tolerance:
        what = f"the merged model is {off:.2g} nats a token from base and adapter; rounding explains {tolerance:g}"
        raise RefusedError(what, "serve base and adapter together; nothing was written")
    return {"dtype": dtype, "nats_from_adapter": max(0.0, off), "nats_from_base": effect, "tolerance": tolerance}


@contextmanager
def _quiet() -> Iterator[None]:
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _copy_rest(base: Path, folder: Path) -> None:
    """All that is not weights comes from the base as it is: config, tokenizer, chat template, licence."""
    skipped = {WEIGHTS_RECORD, "model.safetensors.index.json"}
    for path in base.iterdir():
        if path.is_file() and path.suffix != ".safetensors" and path.name not in skipped:
            shutil.copyfile(path, folder / ("base-README.md" if path.name == CARD else path.name))


def _card(record: Mapping[str, Any], manifest: Mapping[str, Any], base: Path) -> str:
    name, check = manifest["base"]["name"], record["check"]
    revision = manifest["base"]["revision"][:12] or "unknown"
    return f"""---
base_model: {name}
base_model_relation: finetune
library_name: transformers
tags: [merged, nanoflux-local]
---
# {name} with adapter {record["adapter"][:12]} merged in

Made by NanoFlux Local from {name} (revision {revision}, licence: {_licence(base)}) and the
LoRA adapter {record["adapter"]}. Weights in {check["dtype"]}.

On a probe text the merged model is {check["nats_from_adapter"]:.2g} nats a token from base and adapter apart (at most
{check["tolerance"]:g} is allowed, for rounding), which are {check["nats_from_base"]:.2g} from the base alone.

`{RECORD}` holds this as data. `nanoflux models import FOLDER --name NAME` installs it.
"""


def _licence(base: Path) -> str:
    try:
        return read_record(base).licence
    except ModelsError:
        return "unknown"
