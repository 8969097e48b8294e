"""Estimates the time and memory of a training run, for the audit of its rows (`train.audit`).

The estimates are rough. They show whether a training run takes minutes or hours, and whether it fits into memory.
"""

import time
from pathlib import Path

from nanoflux_local.train.flops import count_head_weights, count_parameters, measure_stored_bytes, read_shape
from nanoflux_local.train.settings import TrainSettings

_MATRIX_SHARE = 0.55  # share of a training run's time in matrix products (profiled: SmolLM2-135M on CPU)
_VECTORS_PER_LAYER = 34  # vectors of hidden size that a layer, its MLP included, keeps per token for the backward pass
_LIBRARY_BYTES = 600_000_000  # bytes that torch, transformers and peft take in a process on a CPU
_LORA_WIDTHS_PER_LAYER = 20  # sum of the input and output widths of a layer's linear layers, in units of hidden size
_BYTES_PER_LORA_WEIGHT = 16  # in float32: the weight, its gradient and the two moments of AdamW
_BYTES_PER_LOGIT = 8  # in float32: the logit and its log-probability
_LABELS_PER_SLICE = 128  # labels whose logits are in memory at a time (`fused.HeadLoss`)
_BYTES_PER_4_BIT_WEIGHT = 0.516  # half a byte, an 8-bit scale per 64 weights, and a float per 256 scales
MEMORY_FACTOR = 1.5
"""The memory estimate and the measured peak differ by at most this factor (docs/log.md); a test checks it."""


def estimate_seconds(flops: float, settings: TrainSettings) -> float:
    """Seconds that `flops` take with the precision and device of `settings`. The call measures the speed of matrix
    products on this machine.
    """
    return flops / _measure_matrix_speed(settings) / _MATRIX_SHARE


def choose_precision(settings: TrainSettings) -> str:
    """The precision of the base that a training run on this machine would choose."""
    from nanoflux_local.train.model import choose_device, choose_dtype

    return str(choose_dtype(settings.dtype, choose_device(settings.device))).removeprefix("torch.")


def estimate_memory(base_dir: Path, settings: TrainSettings, longest_row: int, max_labels: int) -> int:
    """Peak bytes on the device that trains: the base, LoRA weights with their optimizer state, the activations of a
    batch, a slice of logits; on a CPU also the libraries and the memory-mapped weights file.

    The batch consists of rows of `longest_row` tokens with `max_labels` labels. Gradient checkpointing keeps one vector
    per layer and token, plus all activations of the one layer that is being recomputed.
    """
    from nanoflux_local.train.model import choose_device

    shape = read_shape(base_dir)
    bytes_per_value = 4 if choose_precision(settings) == "float32" else 2
    parameters = count_parameters(base_dir)
    unquantized = count_head_weights(base_dir) if settings.qlora else parameters
    base_bytes = unquantized * bytes_per_value + (parameters - unquantized) * _BYTES_PER_4_BIT_WEIGHT
    vectors_per_token = shape.layers * _VECTORS_PER_LAYER
    if settings.gradient_checkpointing:
        vectors_per_token = shape.layers + _VECTORS_PER_LAYER
    activation_bytes = settings.batch * longest_row * shape.hidden * vectors_per_token * bytes_per_value
    lora_weights = settings.r * shape.layers * shape.hidden * _LORA_WIDTHS_PER_LAYER
    lora_bytes = lora_weights * _BYTES_PER_LORA_WEIGHT
    labels_in_memory = min(settings.batch * max_labels, _LABELS_PER_SLICE)
    logit_bytes = labels_in_memory * shape.vocabulary * _BYTES_PER_LOGIT
    cpu_bytes = 0
    if choose_device(settings.device).type == "cpu":
        cpu_bytes = _LIBRARY_BYTES + measure_stored_bytes(base_dir)
    return int(base_bytes + lora_bytes + activation_bytes + logit_bytes + cpu_bytes)


def _measure_matrix_speed(settings: TrainSettings) -> float:
    """FLOP/s of a matrix product as in a training run (1024 tokens, hidden size 1024): the fastest of four products."""
    import torch

    from nanoflux_local.train.model import choose_device, choose_dtype

    device = choose_device(settings.device)
    matrix = torch.ones(1024, 1024, dtype=choose_dtype(settings.dtype, device), device=device)
    best_s = float("inf")
    for _ in range(4):
        start = time.perf_counter()
        float((matrix @ matrix)[0, 0])  # reading a value waits until the device has finished
        best_s = min(best_s, time.perf_counter() - start)
    return 2 * 1024**3 / best_s
