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
"""The name of this attention in transformers."""
_MAX_TOKENS = 1024  # for longer rows, the tokens × tokens matrix would take too much memory


class CausalAttention(torch.autograd.Function):
    """Causal attention: softmax(scale · q kᵀ + causal mask) v. q has the shape (batch, heads, tokens, d), and k and v
    have the shape (batch, key heads, tokens, d).
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        shares_key_heads = q.shape[1] != k.shape[1]
        output = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=shares_key_heads)
        ctx.save_for_backward(q, k, v, output)
        ctx.scale = scale
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, output = ctx.saved_tensors
        # The query heads that share a key head are stacked: (batch, key heads, heads per key head × tokens, d). One
        # matrix product then also sums the gradients that these heads contribute to their key head.
        stacked_shape = (*k.shape[:2], -1, k.shape[-1])
        stacked_q, stacked_output = q.reshape(stacked_shape), output.reshape(stacked_shape)
        grad = grads[0].reshape(stacked_shape)
        probabilities = _compute_probabilities(stacked_q * ctx.scale, k)
        grad_probabilities = grad @ v.mT
        # the mean of each row of `grad_probabilities`, weighted by the row's probabilities
        row_means = (grad * stacked_output).sum(-1, keepdim=True)
        grad_scores = grad_probabilities.sub_(row_means).mul_(probabilities).mul_(ctx.scale)
        grad_q = (grad_scores @ k).view(q.shape)
        grad_k = grad_scores.mT @ stacked_q
        grad_v = probabilities.mT @ grad
        return grad_q, grad_k, grad_v, None


def _compute_probabilities(stacked_q: Tensor, k: Tensor) -> Tensor:
    """The attention probabilities: the causal softmax of the scores of the stacked query heads."""
    tokens = k.shape[2]
    heads_per_key_head = stacked_q.shape[2] // tokens
    future_mask = torch.full((tokens, tokens), -torch.inf, dtype=k.dtype).triu_(1)
    return (stacked_q @ k.mT).add_(future_mask.repeat(heads_per_key_head, 1)).softmax(-1)


def attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """transformers' attention interface. Inputs are (batch, heads, tokens, d), the result (batch, tokens, heads, d)."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if _is_unsupported(module, query, key, attention_mask, kwargs):
        result: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
        return result
    scale = kwargs.get("scaling") or query.shape[-1] ** -0.5
    output: Tensor = CausalAttention.apply(query, key, value, scale)  # type: ignore[no-untyped-call]
    return output.transpose(1, 2).contiguous(), None


def _is_unsupported(module: nn.Module, query: Tensor, key: Tensor, mask: Tensor | None, kwargs: dict[str, Any]) -> bool:
    """Whether `CausalAttention` cannot compute this attention, or would be slower than torch's own."""
    is_causal = kwargs.get("is_causal") is not False and getattr(module, "is_causal", True)
    is_unmasked = mask is None and query.shape[2] == key.shape[2]  # with cached keys, there are more keys than queries
    is_short = key.shape[2] <= _MAX_TOKENS
    trains_on_cpu = torch.is_grad_enabled() and query.device.type == "cpu"
    has_other_options = bool(kwargs.get("dropout") or kwargs.get("softcap") or kwargs.get("position_bias") is not None)
    return has_other_options or not (is_causal and is_unmasked and is_short and trains_on_cpu)


def register() -> str:
    """Register the attention with transformers and return the name that selects it when a model is loaded."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    return NAME
