"""The frozen base in four bits, as QLoRA has it: NF4 with its scales quantised again, through bitsandbytes.

Owns how such a base is asked for and how its weights are made whole for a product. Refuses where bitsandbytes cannot
work, with its reason. On a CPU bitsandbytes repacks a layer at its first use without gradients and has no way back
through it, so that a training would silently lose its gradients after one validation: that is switched off here.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nanoflux_local.errors import RefusedError
from nanoflux_models.offline import go_offline


def quantization(dtype: torch.dtype) -> Any:
    """What transformers needs to load a base in four bits that computes in `dtype`.

    Raises:
        RefusedError: bitsandbytes is not installed, or has no library for this machine.
    """
    go_offline()  # bitsandbytes looks for kernels on the hub where the package `kernels` is installed
    try:
        from bitsandbytes import cextension
    except Exception as error:
        raise _refused(str(error)) from error
    if isinstance(cextension.lib, cextension.ErrorHandlerMockBNBNativeLibrary):
        raise _refused("its native library does not load on this machine")
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def _refused(reason: str) -> RefusedError:
    fix = "install bitsandbytes with a build for this machine, or train without qlora"
    return RefusedError(f"QLoRA needs bitsandbytes, which cannot be used here: {reason}", fix)


def keep_gradients(model: Any) -> None:
    """No layer of `model` is repacked for a CPU that only infers."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def is_four_bit(layer: Any) -> bool:
    """Whether a linear layer holds its weight in four bits."""
    return getattr(layer.weight, "quant_state", None) is not None


def whole(layer: Any) -> Callable[[Tensor], Tensor] | None:
    """What turns the stored weight of a layer into its matrix; None where it is stored whole."""
    if not is_four_bit(layer):
        return None
    from bitsandbytes.functional import dequantize_4bit

    def unpacked(packed: Tensor) -> Tensor:
        weight: Tensor = dequantize_4bit(packed, layer.weight.quant_state)
        return weight

    return unpacked
