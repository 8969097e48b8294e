"""Rough time and memory of a training, for the audit.

Owns two estimates and says what they rest on. They are for planning (minutes or hours? does it fit?), never a promise.
"""

import time
from pathlib import Path

from nanoflux_local.train.flops import parameters, shape
from nanoflux_local.train.settings import TrainSettings

_SHARE = 0.55  # of a training's time is spent in matrix products (profiled: SmolLM2-135M on CPU)
_KEPT = 34  # values of hidden size that a layer keeps for the way back, for each token, counting its wider MLP


def seconds(flops: float) -> float:
    """Seconds for `flops`, from the speed of one matrix product measured now on the device training would take."""
    return flops / _matrix_speed() / _SHARE


def precision(settings: TrainSettings) -> str:
    """The base's precision as training would choose it here."""
    from nanoflux_local.train.model import choose_device, choose_dtype

    return str(choose_dtype(settings.dtype, choose_device(settings.device))).removeprefix("torch.")


def memory(base_dir: Path, settings: TrainSettings, longest: int, labels: int) -> int:
    """Bytes at the peak: weights, LoRA weights with their optimizer state, activations of a batch, a slice of logits,
    and on a CPU the libraries themselves.

    Activations are counted for a batch of the longest rows; gradient checkpointing keeps one value a layer instead.
    """
    form, width = shape(base_dir), 4 if precision(settings) == "float32" else 2
    kept = 1 if settings.gradient_checkpointing else _KEPT
    activations = settings.batch * longest * form.hidden * form.layers * kept * width
    adapter = 16 * settings.r * form.layers * form.hidden * 20  # A and B of seven layers; weights, gradient, AdamW
    logits = min(settings.batch * labels, 128) * form.vocabulary * 4 * 2
    return parameters(base_dir) * width + adapter + activations + logits


def _matrix_speed() -> float:
    """FLOP/s of a product of training's kind (1024 tokens, hidden 1024), best of three."""
    import torch

    from nanoflux_local.train.model import choose_device, choose_dtype

    device = choose_device("auto")
    a = torch.ones(1024, 1024, dtype=choose_dtype("auto", device), device=device)
    best = float("inf")
    for _ in range(4):
        start = time.perf_counter()
        float((a @ a)[0, 0])
        best = min(best, time.perf_counter() - start)
    return 2 * 1024**3 / best
