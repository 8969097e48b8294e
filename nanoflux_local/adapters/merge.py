"""Merges an adapter into its base: writes a model folder that loads like any other, with a record of the base and the
adapter.

PEFT does the arithmetic; this module checks and records the result. It refuses quantised weights, a base that the
adapter was not trained on, and a merged model whose output differs from that of the base with the adapter. A refusal
leaves no files behind.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nanoflux_local.adapters.record import Adapter, BaseModel
from nanoflux_local.adapters.store import CARD, format_json, package_versions
from nanoflux_local.errors import DataError, RefusedError, UsageError
from nanoflux_local.files import new_folder, write_atomically
from nanoflux_models.errors import ModelsError
from nanoflux_models.offline import go_offline
from nanoflux_models.record import RECORD as WEIGHTS_RECORD
from nanoflux_models.record import read_record
from nanoflux_models.weights import weights_dir

RECORD = "nanoflux-merged.json"
"""The file of the record of a merge, in the merged model's folder."""
TOLERANCE = {"float32": 1e-6, "bfloat16": 0.02, "float16": 0.02}
"""The largest mean Kullback-Leibler divergence over the tokens of the probe text, in nats, that rounding may cause, by
the precision of the merged weights. In float32, the tolerance is 100 times the measured divergence. In 16 bits, it is 5
times the measured divergence, which was twice that of rounding only the base.
"""
_PROBE_TEXT = (
    "A farmer has 12345 apples and sells 6.5 percent of them. How many are left?\n"
    "First find the share: 12345 * 0.065 = 802.425. Then take it away.\nANSWER: 11542.575"
)
"""The text on which the merged model is compared with the base and the unmerged adapter."""


@dataclass(frozen=True, slots=True)
class MergeCheck:
    """The check of a merge on the probe text: the distances of the base with the unmerged adapter from the merged model
    (`nats_from_adapter`) and from the base alone (`nats_from_base`).

    Distances are mean Kullback-Leibler divergences in nats per token. `dtype` is the precision of the merged weights,
    and `tolerance` is the maximum distance that rounding may cause.
    """

    dtype: str
    nats_from_adapter: float
    nats_from_base: float
    tolerance: float

    @property
    def has_effect(self) -> bool:
        """Whether the adapter changes the base's output by more than the rounding of the merge does."""
        return self.nats_from_base > self.nats_from_adapter


@dataclass(frozen=True, slots=True)
class MergeRecord:
    """A merged model's base and adapter, and the check of the merge, stored as `nanoflux-merged.json`."""

    adapter: str
    base: BaseModel
    check: MergeCheck
    versions: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """The contents of `nanoflux-merged.json`."""
        return {
            "schema": 1,
            "kind": "merged",
            "adapter": self.adapter,
            "base": self.base.to_json(),
            "check": asdict(self.check),
            "versions": dict(self.versions),
        }


def read_merge_record(folder: Path) -> MergeRecord:
    """Read the record of the merged model in `folder`.

    Raises:
        DataError: the record cannot be read.
    """
    path = folder / RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        base = BaseModel(**record["base"])
        check = MergeCheck(**record["check"])
        return MergeRecord(record["adapter"], base, check, record["versions"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} cannot be read: {error}", f"delete {folder} and merge again") from error


def find_base(adapter: Adapter, home: Path) -> Path:
    """The folder of an adapter's installed base.

    Raises:
        RefusedError: a different revision of the base is installed.
        ModelsError: the base is not installed.
    """
    name = adapter.base.name
    trained_revision = adapter.base.revision
    folder = weights_dir(name, home)
    installed_revision = read_record(folder).revision
    if trained_revision and installed_revision != trained_revision:
        problem = (
            f"the adapter was trained on {name} of revision {trained_revision[:12]}, but {installed_revision[:12]} is "
            "installed"
        )
        raise RefusedError(problem, "install the revision it was trained on, or train on the installed revision")
    return folder


def merge(adapter: Adapter, base: Path, target: Path) -> MergeRecord:
    """Write `target`, a new folder with the model in `base` whose weights include `adapter`, in the base's precision.

    Returns the record, which is also written into the folder. Merging needs memory for one copy of the model.

    Raises:
        UsageError: `target` exists, or the adapter cannot be merged.
        RefusedError: the output of the merged model differs from that of the base with the adapter.
    """
    _refuse_quantised(base)
    with new_folder(target) as folder:
        check = _write_merged_weights(adapter.folder, base, folder)
        _copy_other_files(base, folder)
        record = MergeRecord(adapter.hash, adapter.base, check, package_versions())
        write_atomically(folder / RECORD, format_json(record.to_json()).encode())
        write_atomically(folder / CARD, _write_card(record, base).encode())
    return record


def _refuse_quantised(base: Path) -> None:
    """Raise UsageError if the weights of the model in `base` are quantised."""
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    if config.get("quantization_config"):
        problem = f"the weights of {base.name} are quantised: rounding would remove most of the adapter's effect"
        raise UsageError(problem, "serve base and adapter together, or train on the model's unquantised weights")


def _write_merged_weights(adapter: Path, base: Path, folder: Path) -> MergeCheck:
    """Save the merged weights into `folder` and return the check."""
    go_offline()
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with _hide_progress_bars(), torch.no_grad():
        tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
        token_ids = tokenizer(_PROBE_TEXT, return_tensors="pt")["input_ids"]
        model = AutoModelForCausalLM.from_pretrained(base, dtype="auto", local_files_only=True).eval()
        base_log_probs = _compute_log_probabilities(model, token_ids)
        peft_model = PeftModel.from_pretrained(model, str(adapter)).eval()
        adapter_log_probs = _compute_log_probabilities(peft_model, token_ids)
        try:
            merged_model = peft_model.merge_and_unload(safe_merge=True)
        except ValueError as error:
            raise UsageError(f"the adapter cannot be merged: {error}", "serve base and adapter together") from error
        merged_log_probs = _compute_log_probabilities(merged_model, token_ids)
        dtype = str(merged_model.dtype).removeprefix("torch.")
        check = _check_distances(dtype, base_log_probs, adapter_log_probs, merged_log_probs)
        merged_model.save_pretrained(str(folder))
    for path in folder.iterdir():
        path.chmod(0o644)
    return check


def _compute_log_probabilities(model: Any, token_ids: Any) -> Any:
    """The log-probabilities of the model in float32, of shape (tokens, vocabulary)."""
    return model(input_ids=token_ids).logits[0].float().log_softmax(-1)


def _check_distances(dtype: str, base_log_probs: Any, adapter_log_probs: Any, merged_log_probs: Any) -> MergeCheck:
    """Measure how far the base with the unmerged adapter is from the merged model, and how far from the base alone.

    Raises:
        RefusedError: the distance from the merged model is larger than rounding explains.
    """
    nats_from_merged = _mean_divergence(adapter_log_probs, merged_log_probs)
    nats_from_base = _mean_divergence(adapter_log_probs, base_log_probs)
    tolerance = TOLERANCE.get(dtype, 0.02)
    if not nats_from_merged <= tolerance:  # also refuses NaN
        problem = (
            f"the merged model differs by {nats_from_merged:.2g} nats per token from base and adapter; "
            f"rounding explains at most {tolerance:g}"
        )
        raise RefusedError(problem, "serve base and adapter together; nothing was written")
    return MergeCheck(dtype, max(0.0, nats_from_merged), nats_from_base, tolerance)


def _mean_divergence(log_probs: Any, other_log_probs: Any) -> float:
    """The Kullback-Leibler divergence of `other_log_probs` from `log_probs`, in nats, averaged over the tokens."""
    divergence_by_token = (log_probs.exp() * (log_probs - other_log_probs)).sum(-1)
    return float(divergence_by_token.mean())


@contextmanager
def _hide_progress_bars() -> Iterator[None]:
    """Hide transformers' progress bars while the context lasts."""
    from transformers.utils import logging

    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            logging.enable_progress_bar()


def _copy_other_files(base: Path, folder: Path) -> None:
    """Copy all files of the base except its weights, unchanged: config, tokenizer, chat template, licence."""
    skipped_names = {WEIGHTS_RECORD, "model.safetensors.index.json"}
    for path in base.iterdir():
        if path.is_file() and path.suffix != ".safetensors" and path.name not in skipped_names:
            name = "base-README.md" if path.name == CARD else path.name  # the merged model has its own card
            shutil.copyfile(path, folder / name)


def _write_card(record: MergeRecord, base: Path) -> str:
    """The text of the README in a merged model's folder."""
    base_name = record.base.name
    check = record.check
    revision = record.base.revision[:12] or "unknown"
    return f"""---
base_model: {base_name}
base_model_relation: finetune
library_name: transformers
tags: [merged, nanoflux-local]
---
# {base_name} with adapter {record.adapter[:12]} merged in

Made by NanoFlux Local from {base_name} (revision {revision}, licence: {_licence(base)}) and the
LoRA adapter {record.adapter}. Weights in {check.dtype}.

On a probe text, the merged model differs by {check.nats_from_adapter:.2g} nats per token from base and unmerged adapter
(rounding may cause {check.tolerance:g}). Base and unmerged adapter differ by {check.nats_from_base:.2g} from the base
alone.

`{RECORD}` contains these values. `nanoflux models import FOLDER --name NAME` installs it.
"""


def _licence(base: Path) -> str:
    """The licence in the record of the base's weights; "unknown" if there is no record."""
    try:
        return read_record(base).licence
    except ModelsError:
        return "unknown"
