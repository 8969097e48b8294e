"""Resolves LoRA targets, which are names or regular expressions, to layers of the base, and refuses unusable targets.

The layers are determined from the base model's configuration; the weights are not loaded. Layers of vision encoders are
refused: vLLM serves only adapters of the language model, and the prompts of a run are text.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanoflux_local.errors import UsageError
from nanoflux_local.quantities import format_quantity

ALL = "all-linear"
"""PEFT's name for all linear layers except the output head (`lm_head`); here, only those of the text tower."""
_EXPRESSION_CHARACTER = re.compile(r"[*+?()\[\]|\\^$]")
"""Characters that make a target a regular expression. A dot is part of a name: `self_attn.q_proj`."""
_MAX_ENDINGS = 8
"""The maximum number of layer names in a suggested regular expression."""


@dataclass(frozen=True, slots=True)
class AdaptedLayers:
    """The layers that a LoRA adapts in one base, with two tensors for each layer.

    `modules` is the value of PEFT's `target_modules`: names, or one regular expression that matches full module names.
    `layers` are the full names of the adapted layers. `tower` is the name of the language model (the text tower) inside
    a multimodal model, "" if the base has no encoders.
    """

    modules: str | tuple[str, ...]
    layers: tuple[str, ...]
    tower: str

    @property
    def tensors(self) -> int:
        return 2 * len(self.layers)

    def __str__(self) -> str:
        return f"{self.tensors} tensors of {'the text tower' if self.tower else 'the model'}, two per layer"


def resolve_targets(base_dir: Path, targets: str | Sequence[str]) -> AdaptedLayers:
    """The layers that `targets` select in the model in `base_dir`; only the model's configuration is read.

    Raises:
        UsageError: a target matches no linear layer, or layers outside the text tower.
    """
    return resolve_targets_in(_load_meta_model(base_dir), targets)


def resolve_targets_in(base: Any, targets: str | Sequence[str]) -> AdaptedLayers:
    """The layers that `targets` select in `base`, a transformers model, either loaded or on the meta device.

    Raises:
        UsageError: a target matches no linear layer, or layers outside the text tower.
    """
    tower, layers = _find_tower(base), _list_linear_layers(base)
    if targets == ALL:
        text_layers = tuple(name for name in layers if not tower or name.startswith(f"{tower}."))
        if len(text_layers) == len(layers):
            return AdaptedLayers(ALL, text_layers, tower)
        endings = "|".join(sorted(_list_endings(text_layers)))
        return AdaptedLayers(rf"{re.escape(tower)}\..*\.(?:{endings})", text_layers, tower)
    target_list = (targets,) if isinstance(targets, str) else tuple(targets)
    names = (*layers, *_list_embeddings(base))
    for target in target_list:
        if not any(_matches(target, name) for name in names):
            raise UsageError(
                f"target_modules: {target!r} matches no linear layer of the base",
                f"choose among {', '.join(sorted(_list_endings(layers)))}, or give a regular expression that "
                f"matches full module names, such as {_suggest_expression(tower, layers)!r}",
            )
    adapted_layers = tuple(name for name in names if any(_matches(target, name) for target in target_list))
    _refuse_other_towers(adapted_layers, tower, layers)
    return AdaptedLayers(_convert_for_peft(target_list), adapted_layers, tower)


def is_expression(target: str) -> bool:
    """Whether a target is a regular expression that matches full module names, rather than the end of a module's
    name.
    """
    return _EXPRESSION_CHARACTER.search(target) is not None


def _convert_for_peft(target_list: tuple[str, ...]) -> str | tuple[str, ...]:
    """The targets as PEFT accepts them: a list of names, or one regular expression."""
    if not any(is_expression(target) for target in target_list):
        return target_list
    if len(target_list) == 1:
        return target_list[0]
    patterns = (target if is_expression(target) else rf"(?:.*\.)?{re.escape(target)}" for target in target_list)
    return "|".join(f"(?:{pattern})" for pattern in patterns)


def _matches(target: str, name: str) -> bool:
    """Whether PEFT would match a layer's name: a regular expression must match the whole name, a plain target its
    end.
    """
    if not is_expression(target):
        return name == target or name.endswith(f".{target}")
    try:
        return re.fullmatch(target, name) is not None
    except re.error as error:
        raise UsageError(
            f"target_modules: {target!r} is not a regular expression: {error}", "correct the regular expression"
        ) from error


def _refuse_other_towers(adapted_layers: Sequence[str], tower: str, layers: Sequence[str]) -> None:
    """Raise UsageError if one of the adapted layers is outside the text tower."""
    other_layers = [name for name in adapted_layers if tower and not name.startswith(f"{tower}.")]
    if other_layers:
        layer_count = format_quantity(len(other_layers), "layer")
        raise UsageError(
            f"target_modules match {layer_count} outside the text tower, such as {other_layers[0]}: vLLM "
            "refuses an adapter of a vision tower",
            f"choose only layers of the text tower: target_modules={_suggest_expression(tower, layers)!r}",
        )


def _suggest_expression(tower: str, layers: Sequence[str]) -> str:
    """A regular expression that matches layers of the text tower, as an example in an error message."""
    text_layers = [name for name in layers if not tower or name.startswith(f"{tower}.")]
    endings = "|".join(sorted(_list_endings(text_layers))[:_MAX_ENDINGS])
    if not tower:
        return rf".*\.({endings})"
    tower_ending = tower.split(".")[-1]
    return rf".*{tower_ending}.*\.({endings})"


def _list_endings(names: Iterable[str]) -> set[str]:
    """The last parts of full names: `q_proj` of `model.layers.0.self_attn.q_proj`."""
    return {name.rsplit(".", 1)[-1] for name in names}


def _find_tower(base: Any) -> str:
    """The name of the language model inside a multimodal model; "" for a text model."""
    decoder = base.get_decoder()
    if getattr(base.config, "vision_config", None) is None and getattr(base.config, "audio_config", None) is None:
        return ""
    return next((name for name, module in base.named_modules() if module is decoder), "")


def _list_linear_layers(base: Any) -> tuple[str, ...]:
    """The full names of all linear layers except the output head (`lm_head`), in module order. PEFT chooses these for
    `all-linear`.
    """
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    head, linear_types = base.get_output_embeddings(), (nn.Linear, Conv1D)
    return tuple(
        name for name, module in base.named_modules() if isinstance(module, linear_types) and module is not head
    )


def _list_embeddings(base: Any) -> tuple[str, ...]:
    """The full names of the embedding layers, which PEFT adapts as well if a target names them."""
    from torch import nn

    return tuple(name for name, module in base.named_modules() if isinstance(module, nn.Embedding))


def _load_meta_model(base_dir: Path) -> Any:
    """The model in `base_dir` on torch's meta device: modules without weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(base_dir, local_files_only=True)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)
