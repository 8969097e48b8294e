"""Rough time and memory of a training, for the audit.

The estimates serve planning: whether a training takes minutes or hours, and whether it fits. They are no guarantee.
"""

import time
from pathlib import Path

from nanoflux_local.train.flops import count_head_weights, parameters, read_shape, stored_bytes
from nanoflux_local.train.settings import TrainSettings

_MATRIX_SHARE = 0.55  # share of a training's time spent in matrix products (profiled: SmolLM2-135M on CPU)
_VECTORS_PER_LAYER = 34  # of hidden size, kept for the backward pass of each token, including the layer's wider MLP
_LIBRARIES = 600_000_000  # bytes that torch, transformers and peft take in a process on a CPU
_FOUR_BITS = 0.516  # bytes per weight: half a byte, an 8-bit scale per 64 weights, and a float per 256 scales
WITHIN = 1.5
"""The memory estimate is within this factor of the measured peak (docs/log.md); a test checks it."""


def estimate_seconds(flops: float, settings: TrainSettings) -> float:
    """Seconds for `flops`, from the speed of a matrix product measured now in the training's precision and device."""
    return flops / _measure_matrix_speed(settings) / _MATRIX_SHARE


def choose_precision(settings: TrainSettings) -> str:
    """The precision of the base that a training on this machine would choose."""
    from nanoflux_local.train.model import choose_device, choose_dtype

    return str(choose_dtype(settings.dtype, choose_device(settings.device))).removeprefix("torch.")


def estimate_memory(base_dir: Path, settings: TrainSettings, longest: int, labels: int) -> int:
    """Peak bytes on the device that trains: the base, LoRA weights with their optimizer state, the activations of a
    batch, a slice of logits; on a CPU also the libraries and the weights' file, which is mapped while it is read.

    Activations are those of a batch of the longest rows. Gradient checkpointing keeps one vector per layer and token,
    plus all activations of the one layer that is being recomputed.
    """
    from nanoflux_local.train.model import choose_device

    sizes, width = read_shape(base_dir), 4 if choose_precision(settings) == "float32" else 2
    unquantized = count_head_weights(base_dir) if settings.qlora else parameters(base_dir)
    base = unquantized * width + (parameters(base_dir) - unquantized) * _FOUR_BITS
    vectors = sizes.layers * _VECTORS_PER_LAYER
    if settings.gradient_checkpointing:
        vectors = sizes.layers + _VECTORS_PER_LAYER
    activations = settings.batch * longest * sizes.hidden * vectors * width
    adapter = 16 * settings.r * sizes.layers * sizes.hidden * 20  # A and B of seven layers; weights, gradient, AdamW
    logits = min(settings.batch * labels, 128) * sizes.vocabulary * 4 * 2
    on_cpu = _LIBRARIES + stored_bytes(base_dir) if choose_device(settings.device).type == "cpu" else 0
    return int(base + adapter + activations + logits + on_cpu)


def _measure_matrix_speed(settings: TrainSettings) -> float:
    """FLOP/s of a matrix product such as a training computes (1024 tokens, hidden size 1024), best of four."""
    import torch

    from nanoflux_local.train.model import choose_device, choose_dtype

    device = choose_device(settings.device)
    a = torch.ones(1024, 1024, dtype=choose_dtype(settings.dtype, device), device=device)
    best = float("inf")
    for _ in range(4):
        start = time.perf_counter()
        float((a @ a)[0, 0])
        best = min(best, time.perf_counter() - start)
    return 2 * 1024**3 / best
