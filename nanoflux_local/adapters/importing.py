"""Imports adapters: checks a PEFT folder against its installed base, and stores it under its hash like an adapter that
was trained here.

An adapter is accepted only if PEFT in this process, a merge and vLLM would all apply it in the same way. To check this,
PEFT creates the LoRA of the adapter's config on the base (without weights), and the file must contain exactly the
tensors of this LoRA. Pickled weights are never read, because unpickling executes code. An adapter that was exported
from another home keeps its hash and its record.
"""

import json
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nanoflux_local.adapters.hash import CONFIG, WEIGHTS
from nanoflux_local.adapters.rank import highest_rank
from nanoflux_local.adapters.record import Adapter, BaseModel
from nanoflux_local.adapters.store import (
    CARD,
    MANIFEST,
    package_versions,
    read_adapter,
    store_folder,
    store_new_adapter,
)
from nanoflux_local.errors import DataError, NothingMatchedError, UsageError
from nanoflux_local.files import write_atomically
from nanoflux_models.errors import ModelsError
from nanoflux_models.manifest import load_manifest as load_model_manifest
from nanoflux_models.offline import go_offline
from nanoflux_models.record import read_record
from nanoflux_models.weights import list_installed, weights_dir

NAME_PATTERN = re.compile(r"\w[\w.-]*")
"""The pattern of the name of an imported adapter."""
MAX_RANK = 512
"""The highest rank that vLLM serves."""
PICKLED = "adapter_model.bin"
"""The file in which older versions of PEFT store the weights."""
MAX_LISTED = 3
"""The maximum number of tensors that a message names; the message states only the number of further tensors."""
_INCOMPLETE_FIX = "pass the complete folder that PEFT's save_pretrained wrote"
_FIX = (
    "merge the adapter with the program that trained it, and install the merged model: "
    "nanoflux models import FOLDER --name NAME"
)
_BASE_CHANGING_INITIALISATIONS = ("pissa", "olora", "loftq", "corda")
"""Initialisations of a LoRA that also change the base's weights: the adapter does not fit the published base."""
_REASON_BY_UNSUPPORTED_KEY = {
    "use_dora": "it is a DoRA, whose magnitudes vLLM does not serve",
    "lora_bias": "its LoRA layers have biases, which vLLM does not serve",
    "use_qalora": "it is a QA-LoRA, which vLLM does not serve",
    "use_bdlora": "its LoRA is block-diagonal",
    "alora_invocation_tokens": "it is an activated LoRA, which has an effect only after its invocation tokens",
    "layer_replication": "it repeats layers of its base",
    "trainable_token_indices": "it also trained embeddings of single tokens",
    "target_parameters": "it adapts parameters that are not linear layers (such as those of a mixture of experts)",
    "megatron_config": "it was trained with Megatron's own layers",
}
"""Keys of a LoRA config that must not be set, each with the reason for refusing an adapter that sets it."""


def import_adapter(source: Path, home: Path, adapters_dir: Path, base: str = "", name: str = "") -> Path:
    """Store the PEFT folder `source` as `adapters_dir/<hash>`, with a record of the import; return the new folder.

    `base` is an installed model; if it is "", the adapter's config must name an installed model as its base. The source
    is not changed. An exported adapter keeps its record if the recorded revision of its base is installed.

    Raises:
        UsageError: `name` could be mistaken for a path or a pattern, or NanoFlux exported the adapter, so its name is
            fixed.
        DataError: the folder is not a PEFT LoRA, cannot be used here, or was not trained on that base.
        NothingMatchedError: `base` is "", and the config names no installed model.
        ModelsError: the base is not installed.
    """
    if name and not NAME_PATTERN.fullmatch(name):
        raise UsageError(f"{name!r} is not a valid name for an adapter", "use letters, digits, '.', '_' and '-'")
    config = _read_config(source)
    refuse_unusable(config)
    base_hint = str(config.get("base_model_name_or_path") or "")
    base = base or _find_hinted_base(base_hint, home)
    base_folder = weights_dir(base, home)
    _refuse_unfit_tensors(source, config, base_folder, base)
    revision = read_record(base_folder).revision
    adapters_dir.mkdir(parents=True, exist_ok=True)
    exported_adapter = read_adapter(source) if (source / MANIFEST).is_file() else None
    with tempfile.TemporaryDirectory(dir=adapters_dir, prefix=".new-") as scratch:
        new_folder = Path(scratch) / "adapter"
        new_folder.mkdir()
        if exported_adapter and exported_adapter.base == BaseModel(base, revision):
            return _store_exported(exported_adapter, new_folder, adapters_dir, name)
        shutil.copyfile(source / WEIGHTS, new_folder / WEIGHTS)
        new_config = {**config, "base_model_name_or_path": base, "revision": revision, "inference_mode": True}
        write_atomically(new_folder / CONFIG, (json.dumps(new_config, indent=2, sort_keys=True) + "\n").encode())
        record = {
            "schema": 1,
            "base": {"name": base, "revision": revision},
            "imported": {"name": name or source.resolve().name, "base_hint": _drop_folders(base_hint)},
            "settings": {"r": config["r"], "alpha": config["lora_alpha"], "dropout": config.get("lora_dropout", 0.0)},
            "versions": package_versions(),
        }
        return store_new_adapter(new_folder, adapters_dir, record, _write_card)


def _store_exported(exported_adapter: Adapter, new_folder: Path, adapters_dir: Path, name: str) -> Path:
    """Store an exported adapter with the record that it already has."""
    if name:
        raise UsageError(
            f"adapter {exported_adapter.id} was exported by NanoFlux and keeps its own record",
            "import it without --name",
        )
    for file in (WEIGHTS, CONFIG, MANIFEST, CARD):
        shutil.copyfile(exported_adapter.folder / file, new_folder / file)
    return store_folder(new_folder, adapters_dir / read_adapter(new_folder).hash)


def _drop_folders(base_hint: str) -> str:
    """Reduce a hint that is an absolute path on another machine to its last part, and keep any other hint."""
    return Path(base_hint).name if Path(base_hint).is_absolute() else base_hint


def refuse_unusable(config: Mapping[str, Any]) -> None:
    """Refuse a LoRA config that PEFT, a merge and vLLM would not all apply in the same way.

    Raises:
        DataError: the config cannot be used; the message states every reason.
    """
    reasons = [reason for key, reason in _REASON_BY_UNSUPPORTED_KEY.items() if config.get(key)]
    if config.get("modules_to_save"):
        modules = ", ".join(map(str, config["modules_to_save"]))
        reasons.append(f"it also contains whole modules ({modules}; modules_to_save), which vLLM does not serve")
    if config.get("bias", "none") != "none":
        reasons.append(f"it also trained biases of its base (bias = {config['bias']!r})")
    initialisation = config.get("init_lora_weights")
    if isinstance(initialisation, str) and initialisation.lower().startswith(_BASE_CHANGING_INITIALISATIONS):
        reasons.append(f"it was initialised as {initialisation}, which changes the base's weights too")
    rank = highest_rank(config)
    if rank > MAX_RANK:
        reasons.append(f"its rank is {rank}, and vLLM serves {MAX_RANK} at most")
    if reasons:
        raise DataError(f"NanoFlux cannot use this adapter: {'; '.join(reasons)}", _FIX)


def _read_config(source: Path) -> dict[str, Any]:
    """Read the config of a PEFT folder. Raises DataError if the folder is not a LoRA stored as safetensors."""
    if not source.is_dir():
        raise DataError(f"{source} is not a folder", f"pass the folder with {CONFIG} and {WEIGHTS}")
    if not (source / WEIGHTS).is_file():
        if (source / PICKLED).is_file():
            fix = "save the adapter again with PEFT's save_pretrained, which writes safetensors"
            raise DataError(f"{source / PICKLED} is pickled, and reading it would execute its code", fix)
        raise DataError(f"{source} has no {WEIGHTS}", "pass the folder that PEFT's save_pretrained wrote")
    try:
        config: Any = json.loads((source / CONFIG).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{source / CONFIG} cannot be read: {error}", _INCOMPLETE_FIX) from error
    if not isinstance(config, dict) or str(config.get("peft_type", "")).upper() != "LORA":
        peft_type = config.get("peft_type") if isinstance(config, dict) else None
        raise DataError(f"{source / CONFIG} is not the config of a LoRA (peft_type: {peft_type!r})", _FIX)
    unusable_keys = [key for key in ("r", "lora_alpha") if not _is_positive_number(config.get(key))]
    if unusable_keys:
        raise DataError(
            f"{source / CONFIG} has no usable number for {', '.join(unusable_keys)}", "copy the folder again"
        )
    return config


def _is_positive_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def _find_hinted_base(base_hint: str, home: Path) -> str:
    """The installed model that `base_hint` names, by its name here or on the hub. The hint is the value of
    `base_model_name_or_path` in the adapter's config.

    Raises:
        NothingMatchedError: the hint names no installed model, or several.
    """
    names = [record.name for record in list_installed(home)]
    matches = [name for name in names if base_hint and _is_hinted(name, base_hint, home)]
    if len(matches) == 1:
        return matches[0]
    problem = "the adapter does not say what it was trained on"
    if base_hint:
        matching_models = "several installed models have" if matches else "no installed model has"
        problem = f"the adapter was trained on {base_hint!r}, and {matching_models} that name"
    fix = f"pass its base with --base; installed models: {', '.join(names) or 'none'}"
    raise NothingMatchedError(problem, fix)


def _is_hinted(name: str, base_hint: str, home: Path) -> bool:
    """Whether `base_hint` names the installed model `name`: by its name, its repository, or the last part of a path."""
    try:
        repo = str(getattr(load_model_manifest(name, home).source, "repo", ""))
    except ModelsError:
        repo = ""
    last_part = base_hint.rstrip("/").rsplit("/", 1)[-1]
    return base_hint in (name, repo) or last_part.casefold() == name.casefold()


def _refuse_unfit_tensors(source: Path, config: Mapping[str, Any], base_folder: Path, base_name: str) -> None:
    """Raise DataError unless the adapter's tensors are those that its config requires on the base."""
    saved_shapes = _read_saved_shapes(source / WEIGHTS)
    other_tensors = [name for name in saved_shapes if ".lora_A." not in name and ".lora_B." not in name]
    if other_tensors:
        only_embeddings = all("embed" in name for name in other_tensors)
        other_kind = "embedding layers" if only_embeddings else "tensors other than its LoRA"
        raise DataError(
            f"the adapter also contains {other_kind}, which vLLM does not serve: {_format_tensors(other_tensors)}", _FIX
        )
    required_shapes = _list_required_shapes(config, base_folder, base_name)
    differences = []
    for name in sorted(saved_shapes.keys() & required_shapes.keys()):
        if saved_shapes[name] != required_shapes[name]:
            saved_shape = _format_shape(saved_shapes[name])
            required_shape = _format_shape(required_shapes[name])
            differences.append(f"{name} is {saved_shape}, {base_name} requires {required_shape}")
    tensors_by_problem = {
        "tensors of other sizes": differences,
        f"tensors for layers that {base_name} lacks": sorted(saved_shapes.keys() - required_shapes.keys()),
        "no tensors for": sorted(required_shapes.keys() - saved_shapes.keys()),
    }
    reasons = [f"{problem}: {_format_tensors(tensors)}" for problem, tensors in tensors_by_problem.items() if tensors]
    if reasons:
        raise DataError(
            f"the adapter was not trained on {base_name}: it has {'; '.join(reasons)}",
            "pass the model it was trained on with --base",
        )


def _read_saved_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor in the file. Raises DataError unless every value is a finite number."""
    from safetensors import SafetensorError, safe_open

    shapes: dict[str, tuple[int, ...]] = {}
    try:
        with safe_open(str(path), framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a mapping
                tensor = file.get_tensor(name)
                if not tensor.is_floating_point() or not bool(tensor.isfinite().all()):
                    raise DataError(
                        f"tensor {name} of the adapter has values that are not finite numbers",
                        "train the adapter again",
                    )
                shapes[name] = tuple(tensor.shape)
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path} cannot be read: {error}", _INCOMPLETE_FIX) from error
    if not shapes:
        raise DataError(f"{path} has no tensors", _INCOMPLETE_FIX)
    return shapes


def _list_required_shapes(config: Mapping[str, Any], base_folder: Path, base_name: str) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor, by name, that PEFT creates for `config` on a base without weights.

    Raises:
        DataError: PEFT cannot apply the config to the base.
    """
    go_offline()
    import torch
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
    from transformers import AutoConfig, AutoModelForCausalLM

    lora_keys = (LoraConfig().to_dict().keys() & config.keys()) - {"base_model_name_or_path", "revision"}
    try:
        base_config = AutoConfig.from_pretrained(base_folder, local_files_only=True)
        if hasattr(base_config, "quantization_config"):
            del base_config.quantization_config  # quantisation does not change the sizes of a layer's input and output
        lora_config = LoraConfig(**{key: config[key] for key in lora_keys})
        with torch.device("meta"):  # the base gets shapes, but no values
            model = get_peft_model(AutoModelForCausalLM.from_config(base_config), lora_config)
        lora_tensors = get_peft_model_state_dict(model, save_embedding_layers=False)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, NotImplementedError) as error:
        raise DataError(
            f"the adapter cannot be applied to {base_name}: {error}", "pass its base with --base"
        ) from error
    return {name: tuple(tensor.shape) for name, tensor in lora_tensors.items()}


def _format_shape(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape))


def _format_tensors(names: Sequence[str]) -> str:
    """List the first `MAX_LISTED` names, without PEFT's prefix, and the number of further names."""
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return ", ".join(name.removeprefix("base_model.model.") for name in names[:MAX_LISTED]) + more


def _write_card(manifest: Mapping[str, Any]) -> str:
    """The text of the README in an imported adapter's folder."""
    base = manifest["base"]["name"]
    settings = manifest["settings"]
    return f"""---
base_model: {base}
library_name: peft
tags: [lora, nanoflux-local]
---
# LoRA adapter {manifest["adapter"][:12]} for {base}

Imported into NanoFlux Local as {manifest["imported"]["name"]!r}. It was trained elsewhere, on unknown data:
r = {settings["r"]}, alpha = {settings["alpha"]:g}.

`{MANIFEST}` contains the record. Load it with `peft.PeftModel.from_pretrained(base_model, folder)`.
"""
