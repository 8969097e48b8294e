"""Counts FLOPs with torch's own formulas, summed over the executed matrix products.

Unlike torch's `FlopCounterMode`, this counter includes attention on CPUs and in-place products. It does not count by
module, which would take a fifth of a step's time.
"""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import addmm_flop, flop_registry, sdpa_flop

_FORMULAS = {
    **flop_registry,
    torch.ops.aten.addmm_: addmm_flop,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: sdpa_flop,
}


class FlopCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A context manager that counts in `total` the FLOPs of the matrix products and attention in its block, forward and
    backward.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        formula = _FORMULAS.get(func.overloadpacket)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=output)
        return output
