"""Counts the FLOPs of a training run in two ways: by the 6·N·D convention, and from the executed matrix products.

6·N·D counts 2·N·D for the forward pass and 4·N·D for the backward pass of a model that trains every weight, with N all
parameters of the base and D all tokens of all epochs without padding. The measured count (`counter`) sums torch's own
formulas over every matrix product and attention of the first epoch, forward and backward, with padding but without
elementwise operations; later epochs have the same rows, so the sum is scaled by tokens. The two counts differ because
training a LoRA skips the gradients of frozen weights (a third of 6·N·D) and applies the head to label positions only,
but computes attention and low-rank products, which 6·N·D leaves out. `explain_flops` derives the expected count from
the architecture, so that the measured count can be checked against it.
"""

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanoflux_local.errors import DataError
from nanoflux_local.records import digest
from nanoflux_models.offline import go_offline


def six_nd(parameters: int, tokens: int) -> float:
    """6·N·D for a base of `parameters` weights. `tokens` are those of all epochs."""
    return 6.0 * parameters * tokens


def count_parameters(base_dir: Path) -> int:
    """The number of weights in `base_dir`'s safetensors files, from the files' headers. Tied weights count once."""
    total = 0
    for path in _list_weight_files(base_dir):
        total += sum(math.prod(tensor["shape"]) for tensor in _read_header(path).values())
    return total


@dataclass(frozen=True, slots=True)
class Matrices:
    """The sizes that determine the FLOPs at each position: the numbers of weights of all linear layers, of their LoRA
    pairs and of the head, and the width of attention (heads × head size, summed over layers).
    """

    linear: int
    low_rank: int
    head: int
    attention: int


@dataclass(frozen=True, slots=True)
class TrainingVolume:
    """The amount of data that a training run processes, summed over its batches: positions with padding (rows × longest
    row), pairs of positions in attention (`squares`: rows × longest row²), and labels.
    """

    positions: int
    squares: int
    label_count: int


def explain_flops(matrices: Matrices, volume: TrainingVolume, checkpointing: bool = False) -> dict[str, float]:
    """The expected FLOPs of LoRA training, by component, and their sum as "total".

    Per weight and position, a frozen matrix takes 2 FLOPs forward and 2 backward (the gradient of its weights, which is
    not needed, would take 2 more); a LoRA pair takes 6; the head takes 4, at label positions only. Per pair of
    positions and unit of width, attention takes 4 forward and 10 backward, because the backward pass recomputes its
    probabilities. Gradient checkpointing repeats the forward pass.
    """
    repeated_passes = 1 if checkpointing else 0
    flops_by_component = {
        "frozen": (4.0 + 2 * repeated_passes) * matrices.linear * volume.positions,
        "low_rank": (6.0 + 2 * repeated_passes) * matrices.low_rank * volume.positions,
        "attention": (14.0 + 4 * repeated_passes) * matrices.attention * volume.squares,
        "head": 4.0 * matrices.head * volume.label_count,
    }
    return flops_by_component | {"total": sum(flops_by_component.values())}


def count_head_weights(base_dir: Path) -> int:
    """The number of weights of the embeddings and the head: one matrix if they are tied, otherwise two."""
    shape = read_shape(base_dir)
    return shape.vocabulary * shape.hidden * (1 if shape.tied else 2)


def measure_stored_bytes(base_dir: Path) -> int:
    """The size of the weights on disk, in bytes."""
    return sum(path.stat().st_size for path in _list_weight_files(base_dir))


def read_base_identity(base_dir: Path) -> str:
    """A digest of the base's configuration and of its tensors' names, types and offsets; reads no weights."""
    config = (base_dir / "config.json").read_text(encoding="utf-8")
    file_entries = [[path.name, path.stat().st_size, _read_header(path)] for path in _list_weight_files(base_dir)]
    return digest([config, file_entries])


def _list_weight_files(base_dir: Path) -> list[Path]:
    """The safetensors files in `base_dir`, sorted by name. Raises DataError if there is none."""
    files = sorted(base_dir.glob("*.safetensors"))
    if not files:
        raise DataError(f"{base_dir} has no safetensors weights", "pull or import the model first")
    return files


def _read_header(path: Path) -> dict[str, Any]:
    """The entry of each tensor in a safetensors file's header (dtype, shape and offsets), by name."""
    with path.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header: dict[str, Any] = json.loads(file.read(size))
    header.pop("__metadata__", None)
    return header


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes that determine a model's FLOPs and memory, from its configuration and its tensors. If `tied` is true,
    the head uses the matrix of the embeddings.
    """

    hidden: int
    layers: int
    heads: int
    vocabulary: int
    tied: bool


def read_shape(base_dir: Path) -> Shape:
    """The shape of the model in `base_dir`. It is read through transformers, because a published config leaves out
    values that equal the defaults of its class, and a multimodal config has a separate section for the text model.

    Raises:
        DataError: transformers cannot read the configuration.
    """
    go_offline()
    from transformers import AutoConfig

    try:
        text_config = AutoConfig.from_pretrained(base_dir, local_files_only=True).get_text_config()
    except (OSError, ValueError, KeyError) as error:
        fix = "import the model again, or upgrade transformers if it does not support this architecture"
        raise DataError(f"{base_dir / 'config.json'} cannot be read: {error}", fix) from error
    tensor_names = {name for path in _list_weight_files(base_dir) for name in _read_header(path)}
    tied = not any(name.endswith("lm_head.weight") for name in tensor_names)
    return Shape(
        text_config.hidden_size,
        text_config.num_hidden_layers,
        text_config.num_attention_heads,
        text_config.vocab_size,
        tied,
    )


def estimate_flops(base_dir: Path, tokens: int, label_count: int, mean_length: float) -> float:
    """The FLOPs of one epoch, estimated before training: 4·N·D without embeddings and head, 4 per label and weight of
    the head, and attention for rows of `mean_length` tokens, forward and backward.
    """
    shape = read_shape(base_dir)
    head_weights = shape.vocabulary * shape.hidden
    inner_weights = count_parameters(base_dir) - count_head_weights(base_dir)
    return (
        4.0 * inner_weights * tokens
        + 4.0 * head_weights * label_count
        + 14.0 * tokens * mean_length * shape.hidden * shape.layers
    )
