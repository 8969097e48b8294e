"""Rough time and memory of a training run, for the audit.

The estimates are for planning: whether a training run takes minutes or hours, and whether it fits into memory. They
guarantee nothing.
"""

import time
from pathlib import Path

from nanoflux_local.train.flops import count_head_weights, count_parameters, measure_stored_bytes, read_shape
from nanoflux_local.train.settings import TrainSettings

_MATRIX_SHARE = 0.55  # share of a training run's time in matrix products (profiled: SmolLM2-135M on CPU)
_VECTORS_PER_LAYER = 34  # vectors of hidden size that a layer, its MLP included, keeps per token for the backward pass
_LIBRARY_BYTES = 600_000_000  # bytes that torch, transformers and peft take in a process on a CPU
_LORA_WIDTHS_PER_LAYER = 20  # input and output widths of a layer's seven linear layers, in units of the hidden size
_BYTES_PER_LORA_WEIGHT = 16  # in float32: the weight, its gradient and the two moments of AdamW
_BYTES_PER_LOGIT = 8  # in float32: the logit and its log-probability
_LABELS_PER_SLICE = 128  # labels whose logits are in memory at a time (`fused.HeadLoss`)
_BYTES_PER_4_BIT_WEIGHT = 0.516  # half a byte, an 8-bit scale per 64 weights, and a float per 256 scales
MEMORY_FACTOR = 1.5
"""The memory estimate differs from the measured peak by at most this factor (docs/log.md); a test checks it."""


def estimate_seconds(flops: float, settings: TrainSettings) -> float:
    """Seconds for `flops`, at the speed of matrix products that is measured now, with the precision and device of
    `settings`.
    """
    return flops / _measure_matrix_speed(settings) / _MATRIX_SHARE


def choose_precision(settings: TrainSettings) -> str:
    """The precision of the base that a training run on this machine would choose."""
    from nanoflux_local.train.model import choose_device, choose_dtype

    return str(choose_dtype(settings.dtype, choose_device(settings.device))).removeprefix("torch.")


def estimate_memory(base_dir: Path, settings: TrainSettings, longest_row: int, max_labels: int) -> int:
    """Peak bytes on the device that trains: the base, LoRA weights with their optimizer state, the activations of a
    batch, a slice of logits; on a CPU also the libraries and the memory-mapped weights file.

    Activations are those of a batch of the longest rows. Gradient checkpointing keeps one vector per layer and token,
    plus all activations of the one layer that is being recomputed.
    """
    from nanoflux_local.train.model import choose_device

    shape, bytes_per_value = read_shape(base_dir), 4 if choose_precision(settings) == "float32" else 2
    unquantized = count_head_weights(base_dir) if settings.qlora else count_parameters(base_dir)
    base_bytes = unquantized * bytes_per_value + (count_parameters(base_dir) - unquantized) * _BYTES_PER_4_BIT_WEIGHT
    vectors = shape.layers * _VECTORS_PER_LAYER
    if settings.gradient_checkpointing:
        vectors = shape.layers + _VECTORS_PER_LAYER
    activations = settings.batch * longest_row * shape.hidden * vectors * bytes_per_value
    lora_weights = settings.r * shape.layers * shape.hidden * _LORA_WIDTHS_PER_LAYER
    adapter = lora_weights * _BYTES_PER_LORA_WEIGHT
    logits = min(settings.batch * max_labels, _LABELS_PER_SLICE) * shape.vocabulary * _BYTES_PER_LOGIT
    cpu_overhead = (
        _LIBRARY_BYTES + measure_stored_bytes(base_dir) if choose_device(settings.device).type == "cpu" else 0
    )
    return int(base_bytes + adapter + activations + logits + cpu_overhead)


def _measure_matrix_speed(settings: TrainSettings) -> float:
    """The FLOP/s of a matrix product of a training run's size (1024 tokens, hidden size 1024): the best of four."""
    import torch

    from nanoflux_local.train.model import choose_device, choose_dtype

    device = choose_device(settings.device)
    matrix = torch.ones(1024, 1024, dtype=choose_dtype(settings.dtype, device), device=device)
    best_s = float("inf")
    for _ in range(4):
        start = time.perf_counter()
        float((matrix @ matrix)[0, 0])  # reading a value waits for the device to finish
        best_s = min(best_s, time.perf_counter() - start)
    return 2 * 1024**3 / best_s
