"""Loads the frozen base in four bits, as in QLoRA: NF4 with double quantisation, through bitsandbytes.

If bitsandbytes cannot work on this machine, the error says why. On a CPU, bitsandbytes repacks a layer at its first use
without gradients, and a repacked layer has no backward pass. A training run would therefore silently lose its gradients
after the first validation; `keep_gradients` turns the repacking off.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nanoflux_local.errors import RefusedError
from nanoflux_models.offline import go_offline


def build_quantization(dtype: torch.dtype) -> Any:
    """The config that makes transformers load a base in four bits and compute its matrix products in `dtype`.

    Raises:
        RefusedError: bitsandbytes is not installed, or has no library for this machine.
    """
    go_offline()  # bitsandbytes looks for kernels on the hub if the package `kernels` is installed
    try:
        from bitsandbytes import cextension
    except Exception as error:
        raise _build_refusal(str(error)) from error
    if isinstance(cextension.lib, cextension.ErrorHandlerMockBNBNativeLibrary):
        raise _build_refusal("its native library does not load on this machine")
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def _build_refusal(reason: str) -> RefusedError:
    """The error that says why bitsandbytes cannot be used."""
    fix = "install bitsandbytes with a build for this machine, or train without qlora"
    return RefusedError(f"QLoRA needs bitsandbytes, which cannot be used here: {reason}", fix)


def keep_gradients(model: Any) -> None:
    """Keep the layers of `model` from being repacked for inference on a CPU."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def is_four_bit(layer: Any) -> bool:
    """Whether a linear layer holds its weight in four bits."""
    return getattr(layer.weight, "quant_state", None) is not None


def find_unpacker(layer: Any) -> Callable[[Tensor], Tensor] | None:
    """The function that turns the stored weight of a layer into its matrix; None if the matrix itself is stored."""
    if not is_four_bit(layer):
        return None
    from bitsandbytes.functional import dequantize_4bit

    def unpack(packed: Tensor) -> Tensor:
        weight: Tensor = dequantize_4bit(packed, layer.weight.quant_state)
        return weight

    return unpack
