"""Derives the manifest of an imported model from its folder: sizes, chat abilities, sampling, LoRA targets, arguments.

Runs, plans and servers read these facts from a manifest. Models of the catalog have a packaged manifest. For all other
models, this module derives a manifest, so that they can be used like the catalog's models.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nanoflux_models.chat_template import choose_reasoning_parser, examine_template, read_template
from nanoflux_models.errors import ModelsError
from nanoflux_models.manifest import CATALOG, Manifest, load_manifest
from nanoflux_models.sizes import Sizes, compute_sizes, find_packed_bits, read_json, read_tensors, read_text_config

MERGE_RECORD = "nanoflux-merged.json"
"""The record in a merged model's folder. It names the base; the merged model inherits the base's manifest."""
ATTENTION = ("q_proj", "k_proj", "v_proj", "qkv_proj", "o_proj")
FEED_FORWARD = ("gate_proj", "up_proj", "gate_up_proj", "down_proj")
"""The names of the modules that a LoRA may adapt: those of attention, and those of feed-forward layers."""
TEXT_MODEL = "language_model"
"""The name of the language model inside the wrapper classes in transformers and vLLM."""
MODALITIES = {"image": "vision_config", "audio": "audio_config", "video": "video_token_id"}
"""The inputs that a wrapper may take besides text, each with a configuration key that is set if the model takes it."""
HEADER = "# Written by `nanoflux models import` (checksum {}). An edited file is kept by later imports.\n"
"""The first line of a derived manifest. The checksum of the other lines reveals whether a user has edited them."""


def load_or_derive_manifest(name: str, folder: Path, home: Path) -> tuple[Manifest, str]:
    """The manifest of the model in `folder`, and the text to save with `save_manifest` ("" if nothing must be saved).

    A packaged manifest is used unchanged, and so is a manifest that a user wrote or edited.

    Raises:
        ManifestError: the folder's files cannot be read.
    """
    path = manifest_path(name, home)
    has_manifest = path.is_file() or (CATALOG / path.name).is_file()
    if has_manifest and not is_unedited_import(path):
        return load_manifest(name, home), ""
    manifest = derive_manifest(name, folder, home)
    return manifest, render_with_header(manifest)


def save_manifest(name: str, text: str, home: Path) -> None:
    """Store an imported model's manifest in the home directory."""
    path = manifest_path(name, home)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")


def manifest_path(name: str, home: Path) -> Path:
    """The path of a model's manifest in the home directory."""
    return home / "models" / f"{name}.toml"


def summarize_manifest(manifest: Manifest) -> str:
    """The main facts of a manifest in one line."""
    memory = manifest.memory
    chat = manifest.chat
    facts = [f"{manifest.parameters / 1e6:,.0f} million parameters", f"context {manifest.context:,}"]
    if memory:
        facts += [f"{memory.weights_gib:g} GiB", f"{memory.kv_bytes_per_token:,} bytes of KV cache per token"]
    if manifest.kind == "chat" and chat.template:
        facts.append("system role" if chat.system_role else "no system role")
        if chat.thinks:
            facts.append("thinks")
    return ", ".join(facts)


def is_unedited_import(path: Path) -> bool:
    """Whether an import wrote this manifest and nobody has edited it since."""
    if not path.is_file():
        return False
    first_line, _, body = path.read_text("utf-8").partition("\n")
    return f"{first_line}\n" == HEADER.format(_checksum(body))


def render_with_header(manifest: Manifest) -> str:
    """A manifest as TOML, after a comment with the command that wrote it and a checksum of the TOML."""
    body = render_manifest(manifest)
    return HEADER.format(_checksum(body)) + body


def render_manifest(manifest: Manifest) -> str:
    """A manifest as TOML, without values that equal the schema's defaults."""
    values = manifest.model_dump(mode="json", exclude_defaults=True)
    values["source"] = manifest.source.model_dump(mode="json")
    return "\n".join(_render_table(values, ()))


def derive_manifest(name: str, folder: Path, home: Path) -> Manifest:
    """Derive a manifest from a folder's files; for a merged model, from the manifest of its base."""
    inherited = _inherit_manifest(name, folder, home)
    if inherited:
        return inherited
    config = read_json(folder / "config.json")
    tensors = read_tensors(folder)
    sizes = compute_sizes(tensors, read_text_config(folder), find_packed_bits(config))
    architectures = config.get("architectures") or [""]
    architecture = architectures[0]
    values: dict[str, Any] = {
        "name": name,
        "kind": "chat",
        "description": f"imported: {architecture or 'unknown architecture'}",
        "licence": _read_licence(folder),
        "architecture": architecture,
        "parameters": sizes.parameters,
        "context": sizes.context,
        "source": {"kind": "file"},
        "memory": _describe_memory(sizes),
    }
    if (folder / "modules.json").is_file():
        return Manifest.model_validate(values | _describe_embedder(config, sizes))
    return Manifest.model_validate(values | _describe_chat(folder, config, tensors, architecture))


def _describe_memory(sizes: Sizes) -> dict[str, Any]:
    """The values of a manifest's [memory] table."""
    memory = {"weights_gib": sizes.weights_gib, "kv_bytes_per_token": sizes.kv_bytes_per_token}
    if not sizes.sliding_window:
        return memory
    sliding_memory = {"sliding_bytes_per_token": sizes.sliding_bytes_per_token, "sliding_window": sizes.sliding_window}
    return memory | sliding_memory


def _describe_embedder(config: Mapping[str, Any], sizes: Sizes) -> dict[str, Any]:
    """The values of an embedder's manifest that differ from those of a chat model."""
    # These are the thresholds of the catalog's all-minilm-l6-v2; they are not calibrated for this model.
    thresholds = {"question": {"default": 0.85}, "solution": {"default": 0.75}}
    memory = {"weights_gib": sizes.weights_gib, "kv_bytes_per_token": 0}
    dimensions = config.get("hidden_size", 384)
    return {"kind": "embedder", "memory": memory, "embedder": {"dimensions": dimensions, "thresholds": thresholds}}


def _describe_chat(
    folder: Path, config: Mapping[str, Any], tensors: Iterable[str], architecture: str
) -> dict[str, Any]:
    """The values of a chat model's manifest that an embedder does not have."""
    chat = examine_template(folder)
    vllm_args = _list_modality_args(config)
    targets = _choose_targets(tensors, is_wrapper=bool(vllm_args))
    if chat.thinks:
        vllm_args += ["--reasoning-parser", choose_reasoning_parser(read_template(folder), architecture)]
    return {
        "chat": chat.model_dump(),
        "sampling": _read_sampling(folder),
        "vllm": {"args": vllm_args},
        "lora": {"targets": targets} if targets else None,
    }


def _list_modality_args(config: Mapping[str, Any]) -> list[str]:
    """The arguments that keep vLLM from reserving memory for images, sound and video, since this project sends none."""
    limits = {modality: 0 for modality, key in MODALITIES.items() if config.get(key)}
    return ["--limit-mm-per-prompt", json.dumps(limits)] if limits else []


def _choose_targets(tensors: Iterable[str], is_wrapper: bool) -> list[str]:
    """The names of the modules that a LoRA adapts: those of the model's attention and feed-forward layers.

    Experts are left out, since servers refuse a LoRA on packed experts. In a wrapper, the modules of the vision encoder
    have the same names as those of the language model, so a regular expression that matches full module names limits
    the adapter to the language model.
    """
    model_modules: set[str] = set()
    for name in tensors:
        model_modules.update(name.split("."))
    adaptable_modules = ATTENTION if "experts" in model_modules else ATTENTION + FEED_FORWARD
    targets = [module for module in adaptable_modules if module in model_modules]
    if is_wrapper and targets:
        return [rf".*{TEXT_MODEL}.*\.({'|'.join(targets)})"]
    return targets


def _read_sampling(folder: Path) -> dict[str, float]:
    """The sampling that the model's authors recommend; {} if they recommend greedy decoding or nothing."""
    path = folder / "generation_config.json"
    values = read_json(path) if path.is_file() else {}
    if not values.get("do_sample"):
        return {}
    return {key: float(values[key]) for key in ("temperature", "top_p") if isinstance(values.get(key), int | float)}


def _read_licence(folder: Path) -> str:
    """The licence that the model's card names in its first 4,000 characters."""
    card = folder / "README.md"
    card_start = card.read_text("utf-8", "replace")[:4000] if card.is_file() else ""
    for key in ("license_name", "license"):
        match = re.search(rf"^{key}:\s*(\S.*?)\s*$", card_start, re.MULTILINE)
        if match:
            return match[1]
    return "unknown: see where the weights came from"


def _inherit_manifest(name: str, folder: Path, home: Path) -> Manifest | None:
    """The manifest of a merged model, which is that of its base with another name; None for other models."""
    if not (folder / MERGE_RECORD).is_file():
        return None
    record = read_json(folder / MERGE_RECORD)
    try:
        base = load_manifest(str(record["base"]["name"]), home)
    except (ModelsError, KeyError, TypeError):
        return None  # the base has no manifest on this machine, so the files are read instead
    description = f"{base.name} with adapter {str(record.get('adapter', ''))[:12]} merged in"
    return Manifest.model_validate(
        {**base.model_dump(), "name": name, "description": description, "gated": False, "source": {"kind": "file"}}
    )


def _checksum(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()[:12]


def _render_table(values: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    """The TOML lines of the table at `path`: its values, then its inner tables. A value of None is omitted."""
    lines: list[str] = []
    for key, value in values.items():
        if value is not None and not isinstance(value, dict):
            lines.append(f"{_render_key(key)} = {json.dumps(value, ensure_ascii=False)}")
    for key, value in values.items():
        if isinstance(value, dict):
            inner_path = (*path, _render_key(key))
            lines += ["", f"[{'.'.join(inner_path)}]", *_render_table(value, inner_path)]
    return lines


def _render_key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key)
