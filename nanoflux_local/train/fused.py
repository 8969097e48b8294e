"""The two computations that take most of a training run's time, written so that no intermediate value is computed
twice: the LoRA layer as one autograd function, and a cross-entropy that holds only a slice of the logits in memory.

Tests check that both equal the plain formulas up to rounding.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nanoflux_local.train.four_bit import find_unpacker

_LABELS_PER_SLICE = 128
"""The number of labels whose logits are in memory at a time."""


class LoraLinear(torch.autograd.Function):
    """y = x Wᵀ + bias + scale · dropout(x) Aᵀ Bᵀ, with W and bias frozen, and A (r, in) and B (out, r) trained.

    The low-rank products are computed in x's type, as under autocast. For the backward pass, PEFT's own layer keeps a
    float32 copy of x, a copy after dropout and the summands; this layer keeps x, the indices of the dropped values and
    the product of x and Aᵀ, (tokens, r). If the weight is stored packed, `unpack` computes W in each pass, and W is not
    kept in memory.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        a: Tensor,
        b: Tensor,
        scale: float,
        p: float,
        unpack: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        flat_x = x.reshape(-1, x.shape[-1])
        a, b = a.to(x.dtype), b.to(x.dtype)
        dropped = draw_dropped(flat_x, p) if p else None
        low_rank = _zero_at(flat_x, dropped) @ a.T
        matrix = unpack(weight).to(x.dtype) if unpack else weight
        y = F.linear(flat_x, matrix, bias).addmm_(low_rank, b.T, alpha=scale)
        ctx.save_for_backward(flat_x, weight, a, b, low_rank, dropped)
        ctx.scale, ctx.shape, ctx.unpack = scale, x.shape, unpack
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        flat_x, weight, a, b, low_rank, dropped = ctx.saved_tensors
        grad = grads[0].reshape(-1, grads[0].shape[-1])
        grad_low_rank = (grad @ b).mul_(ctx.scale)
        grad_a = (grad_low_rank.T @ _zero_at(flat_x, dropped)).float()
        grad_b = (low_rank.T @ grad).T.float().mul_(ctx.scale)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x_of_lora = _zero_at(grad_low_rank @ a, dropped)
            matrix = ctx.unpack(weight).to(grad.dtype) if ctx.unpack else weight
            grad_x = torch.mm(grad, matrix).add_(grad_x_of_lora).view(ctx.shape)
        return grad_x, None, None, grad_a, grad_b, None, None, None


def draw_dropped(x: Tensor, p: float) -> Tensor:
    """Flat indices of the values of x that dropout sets to zero: each independently with probability `p`.

    The number of indices is drawn from a Poisson distribution with the mean -ln(1 - p) per value, and the indices are
    drawn uniformly. Each value is then missed with probability 1 - p, independently of the others, as if it were drawn
    separately. For p = 0.05, this needs a twentieth of the random numbers, and indices are kept instead of a mask.
    """
    draws = int(torch.poisson(torch.tensor(-math.log1p(-p) * x.numel(), dtype=torch.float64)))
    return torch.randint(x.numel(), (draws,), device=x.device)


def _zero_at(x: Tensor, indices: Tensor | None) -> Tensor:
    """`x` with zeros at the flat `indices`; `x` itself if `indices` is None."""
    return x if indices is None else x.flatten().index_fill(0, indices, 0).view_as(x)


class HeadLoss(torch.autograd.Function):
    """The sum of the cross-entropies of hidden states (n, d) and labels (n,) through a frozen head (vocabulary, d).

    The forward pass computes the logits of a slice of rows at a time and turns them into the gradient immediately.
    Memory therefore does not grow with labels × vocabulary, and the backward pass has nothing left to compute.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, labels: Tensor) -> Tensor:
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        grad = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for start in range(0, len(labels), _LABELS_PER_SLICE):
            rows = slice(start, start + _LABELS_PER_SLICE)
            logits, label_column = (hidden[rows] @ head.T).float(), labels[rows, None]
            log_probabilities = logits.log_softmax(-1)
            total -= log_probabilities.gather(1, label_column).sum()
            if grad is not None:  # the gradient of the logits is their softmax minus 1 at the label
                grad_logits = log_probabilities.exp_()
                grad_logits.scatter_add_(1, label_column, torch.full_like(label_column, -1, dtype=grad_logits.dtype))
                grad[rows] = grad_logits.to(hidden.dtype) @ head
        ctx.save_for_backward(grad)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = ctx.saved_tensors
        return grad * grads[0].to(grad.dtype), None, None


def fuse(model: nn.Module, adapter: str = "default") -> int:
    """Run every plain PEFT LoRA layer of `model` as `LoraLinear`; other layers keep PEFT's forward pass. Returns the
    number of replaced layers.
    """
    from peft.tuners.lora.layer import LoraLayer

    layers = [module for module in model.modules() if isinstance(module, LoraLayer) and _can_fuse(module, adapter)]
    for layer in layers:
        layer.forward = _FusedLayer(layer, adapter)
    return len(layers)


def _can_fuse(layer: Any, adapter: str) -> bool:
    """Whether the layer adapts a frozen nn.Linear, unpacked or in four bits, without a LoRA variant or a LoRA bias."""
    base = layer.base_layer
    is_linear = type(base) is nn.Linear or (isinstance(base, nn.Linear) and find_unpacker(base) is not None)
    return is_linear and adapter not in layer.lora_variant and not layer.lora_bias[adapter]


class _FusedLayer:
    """The forward pass of one PEFT layer through `LoraLinear`, which replaces the layer's method `forward`."""

    def __init__(self, layer: Any, adapter: str) -> None:
        self.layer, self.base, self.unpack = layer, layer.base_layer, find_unpacker(layer.base_layer)
        self.a, self.b = layer.lora_A[adapter], layer.lora_B[adapter]
        self.dropout = float(getattr(layer.lora_dropout[adapter], "p", 0.0))
        self.scaling = float(layer.scaling[adapter])

    def __call__(self, x: Tensor) -> Tensor:
        p = self.dropout if self.layer.training else 0.0
        y: Tensor = LoraLinear.apply(  # type: ignore[no-untyped-call]
            x, self.base.weight, self.base.bias, self.a.weight, self.b.weight, self.scaling / (1 - p), p,
            self.unpack,
        )  # fmt: skip
        return y
