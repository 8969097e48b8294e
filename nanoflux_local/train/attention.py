"""Causal attention for training on a CPU: torch's forward pass, and a backward pass in a few large matrix products.

On a CPU, torch's own backward pass of attention takes four times as long as its forward pass (measured at 200 to 500
tokens in bfloat16). This module's backward pass recomputes the probabilities and then needs only a few matrix products,
so it takes about as long as the forward pass. Masked, windowed or cached attention, long rows and GPUs use
transformers' own attention.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NAME = "nanoflux_cpu"
_MAX_TOKENS = 1024  # for longer rows, the tokens × tokens matrix would take too much memory


class CausalAttention(torch.autograd.Function):
    """softmax(scale · q kᵀ, causal) v for q (batch, heads, tokens, d) and k, v (batch, key heads, tokens, d)."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=q.shape[1] != k.shape[1])
        ctx.save_for_backward(q, k, v, out)
        ctx.scale = scale
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out = ctx.saved_tensors
        # Query heads that share a key head become rows of one product, which also sums their key gradients.
        merged_shape = (*k.shape[:2], -1, k.shape[-1])
        query, grad, output = q.reshape(merged_shape), grads[0].reshape(merged_shape), out.reshape(merged_shape)
        probabilities = _compute_probabilities(query * ctx.scale, k)
        grad_v = probabilities.mT @ grad
        grad_probabilities = (grad @ v.mT).sub_((grad * output).sum(-1, keepdim=True))
        grad_scores = grad_probabilities.mul_(probabilities).mul_(ctx.scale)
        return (grad_scores @ k).view(q.shape), grad_scores.mT @ query, grad_v, None


def _compute_probabilities(query: Tensor, k: Tensor) -> Tensor:
    """The causal softmax of the attention scores. The rows of `query` are those of several heads, one head after
    another.
    """
    tokens = k.shape[2]
    future_mask = torch.full((tokens, tokens), -torch.inf, dtype=k.dtype).triu_(1)
    return (query @ k.mT).add_(future_mask.repeat(query.shape[2] // tokens, 1)).softmax(-1)


def attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """transformers' attention interface: (batch, heads, tokens, d) in, (batch, tokens, heads, d) out."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if _is_unsupported(module, query, key, attention_mask, kwargs):
        result: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
        return result
    scale = kwargs.get("scaling") or query.shape[-1] ** -0.5
    out: Tensor = CausalAttention.apply(query, key, value, scale)  # type: ignore[no-untyped-call]
    return out.transpose(1, 2).contiguous(), None


def _is_unsupported(module: nn.Module, query: Tensor, key: Tensor, mask: Tensor | None, kwargs: dict[str, Any]) -> bool:
    """Whether `CausalAttention` cannot compute this attention, or would be slower than torch's own."""
    is_causal = kwargs.get("is_causal") is not False and getattr(module, "is_causal", True)
    fits_unmasked = mask is None and query.shape[2] == key.shape[2] <= _MAX_TOKENS
    trains_on_cpu = torch.is_grad_enabled() and query.device.type == "cpu"
    has_other_options = bool(kwargs.get("dropout") or kwargs.get("softcap") or kwargs.get("position_bias") is not None)
    return has_other_options or not (is_causal and fits_unmasked and trains_on_cpu)


def register() -> str:
    """Register the attention with transformers and return the name that selects it when a model is loaded."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    return NAME
