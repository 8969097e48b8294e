"""Take in a model that a person brings: which files are weights, which are refused, and what they tell.

Owns the choice of files and the manifest written for a model that has none. Converts nothing and downloads nothing.
"""

import json
import math
import shutil
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nanoflux_models.errors import ManifestError
from nanoflux_models.hub import is_wanted
from nanoflux_models.manifest import Manifest

INDEX = "model.safetensors.index.json"
ADAPTED = {
    "q_proj": "attn_q",
    "k_proj": "attn_k",
    "v_proj": "attn_v",
    "o_proj": "attn_output",
    "gate_proj": "ffn_gate",
    "up_proj": "ffn_up",
    "down_proj": "ffn_down",
}
"""The modules that a LoRA adapts, and what GGUF calls them."""


def adopt_folder(path: Path, files: Path) -> None:
    """Copy a model's files into `files`: one GGUF, or a folder's safetensors, configs and tokenizer."""
    files.mkdir()
    if path.is_file() and path.suffix == ".gguf":
        shutil.copyfile(path, files / path.name)
        return
    _check_folder(path)
    for source in sorted(path.rglob("*")):
        inside = source.relative_to(path)
        if source.is_file() and is_wanted(inside):
            (files / inside).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, files / inside)
    # A record from another home would describe that home's import, not this one.
    (files / "weights.json").unlink(missing_ok=True)


def guess_manifest(name: str, files: Path) -> tuple[Manifest, str]:
    """A manifest, and its TOML text, from what the files tell; what they do not tell is left for a person."""
    embedder = (files / "modules.json").is_file()
    config, tensors = _config(files), _tensors(files)
    text = f"""# Written when {name} was imported; complete it by hand. The packaged manifests are examples.
name = "{name}"
kind = "{"embedder" if embedder else "chat"}"
description = "imported"
licence = "unknown: see where the weights came from"
parameters = {sum(tensors.values())}
context = {config.get("max_position_embeddings", 2048)}

[source]
kind = "file"
"""
    if embedder:
        text += f"\n[embedder]\ndimensions = {config.get('hidden_size', 384)}\n\n[embedder.thresholds]\n"
        text += 'calibrated = ""\nquestion = { default = 0.85 }\nsolution = { default = 0.75 }\n'
    elif targets := _targets(tensors):
        text += f"\n[lora]\ntargets = {json.dumps(targets)}\n"
    return Manifest.model_validate(tomllib.loads(text)), text


def _check_folder(path: Path) -> None:
    if not path.is_dir():
        raise ManifestError(f"{path}: neither a folder nor a .gguf file.", "Name a folder of safetensors or one GGUF.")
    weights = list(path.glob("*.safetensors"))
    if not weights:
        pickled = any(path.glob("*.bin")) or any(path.glob("*.pt"))
        why = "only pickled weights, which can run code when loaded" if pickled else "no .safetensors file"
        raise ManifestError(f"{path}: {why}.", "Get the model's safetensors files.")
    for name in ("config.json", "tokenizer_config.json"):
        if not (path / name).is_file():
            raise ManifestError(f"{path}: no {name}.", "Bring the whole model folder, with its config and tokenizer.")
    if (path / INDEX).is_file():
        shards = set(_read_json(path / INDEX).get("weight_map", {}).values())
        missing = sorted(shards - {weight.name for weight in weights})
        if missing:
            raise ManifestError(f"{path}: weights missing: {', '.join(missing)}.", "Copy the whole folder again.")


def _config(files: Path) -> dict[str, Any]:
    path = files / "config.json"
    return _read_json(path) if path.is_file() else _gguf_config(files)


def _gguf_config(files: Path) -> dict[str, Any]:
    fields = _read_gguf(next(files.glob("*.gguf"))).fields
    lengths = [field.contents() for key, field in fields.items() if key.endswith(".context_length")]
    return {"max_position_embeddings": lengths[0]} if lengths else {}


def _read_gguf(path: Path) -> Any:
    from gguf import GGUFReader

    try:
        return GGUFReader(path)
    except (ValueError, IndexError, KeyError) as error:
        raise ManifestError(f"{path.name}: not a whole GGUF file: {error}", "Copy it again.") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text("utf-8")))
    except ValueError as error:
        raise ManifestError(f"{path.name}: not JSON: {error}", "Copy it again.") from error


def _targets(tensors: Iterable[str]) -> list[str]:
    """Those of the modules that a LoRA adapts which the model has."""
    modules = {part for name in tensors for part in name.split(".")}
    return [module for module, in_gguf in ADAPTED.items() if modules & {module, in_gguf}]


def _tensors(files: Path) -> dict[str, int]:
    """How many numbers each tensor holds, by its name."""
    ggufs = list(files.glob("*.gguf"))
    if ggufs:
        return {tensor.name: int(tensor.n_elements) for tensor in _read_gguf(ggufs[0]).tensors}
    from safetensors import SafetensorError, safe_open

    found: dict[str, int] = {}
    for path in sorted(files.glob("*.safetensors")):
        try:
            with safe_open(str(path), "np") as tensors:
                found |= {key: math.prod(tensors.get_slice(key).get_shape()) for key in tensors.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ManifestError(f"{path.name}: not a whole safetensors file: {error}", "Copy it again.") from error
    return found
