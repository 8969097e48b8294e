"""The project's autograd functions equal the plain formulas that they implement."""

import pytest
import torch
from torch.nn import functional as F

from nanoflux_local.train.attention import CausalAttention
from nanoflux_local.train.fused import HeadLoss, LoraLinear, draw_dropped


@pytest.mark.parametrize(("query_heads", "key_heads"), [(4, 4), (6, 2)])
def test_attention_gradients_equal_numerical_gradients(query_heads: int, key_heads: int) -> None:
    torch.manual_seed(0)
    inputs = [
        torch.randn(1, heads, 5, 4, dtype=torch.float64, requires_grad=True)
        for heads in (query_heads, key_heads, key_heads)
    ]
    assert torch.autograd.gradcheck(lambda q, k, v: CausalAttention.apply(q, k, v, 0.3), inputs)


@pytest.mark.parametrize("has_bias", [False, True])
def test_lora_linear_equals_its_formula(has_bias: bool) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(3, 5, 6, requires_grad=True), torch.randn(7, 6)
    bias = torch.randn(7) if has_bias else None
    a, b = torch.randn(2, 6, requires_grad=True), torch.randn(7, 2, requires_grad=True)
    our_output = LoraLinear.apply(x, weight, bias, a, b, 1.5, 0.0)
    plain_output = F.linear(x, weight, bias) + 1.5 * x @ a.T @ b.T
    torch.testing.assert_close(our_output, plain_output)
    output_grad = torch.randn_like(plain_output)
    our_grads = torch.autograd.grad(our_output, (x, a, b), output_grad)
    plain_grads = torch.autograd.grad(plain_output, (x, a, b), output_grad)
    for our_grad, plain_grad in zip(our_grads, plain_grads, strict=True):
        torch.testing.assert_close(our_grad, plain_grad)


def test_lora_linear_drops_the_same_values_forward_and_backward() -> None:
    """Inputs and LoRA weights are 1 and frozen weights are 0, so each output is the number of values that were kept."""
    x = torch.ones(40, 50, requires_grad=True)
    a, b = torch.ones(1, 50, requires_grad=True), torch.ones(1, 1, requires_grad=True)
    torch.manual_seed(3)
    output = LoraLinear.apply(x, torch.zeros(1, 50), None, a, b, 1.0, 0.3)
    torch.manual_seed(3)
    keep_mask = torch.ones(40 * 50).index_fill(0, draw_dropped(x, 0.3), 0).view(40, 50)
    torch.testing.assert_close(output, keep_mask.sum(1, keepdim=True))
    grad_x, grad_a = torch.autograd.grad(output.sum(), (x, a))
    torch.testing.assert_close(grad_x, keep_mask)
    torch.testing.assert_close(grad_a, keep_mask.sum(0, keepdim=True))


@pytest.mark.parametrize("probability", [0.05, 0.5])
def test_dropout_zeroes_each_value_independently_with_its_probability(probability: float) -> None:
    torch.manual_seed(0)
    dropped = torch.zeros(200, 500)
    for row in dropped:
        row[draw_dropped(row, probability)] = 1
    standard_error = (probability * (1 - probability) / dropped.numel()) ** 0.5
    assert float(dropped.mean()) == pytest.approx(probability, abs=5 * standard_error)
    binomial_variance = 500 * probability * (1 - probability)
    assert float(dropped.sum(1).var()) / binomial_variance == pytest.approx(1, abs=0.5), (
        "the variance of the counts per row is not binomial, so values are not dropped independently"
    )


def test_head_loss_equals_cross_entropy() -> None:
    torch.manual_seed(0)
    hidden, head = torch.randn(300, 8, requires_grad=True), torch.randn(50, 8)
    labels = torch.randint(50, (300,))
    our_loss = HeadLoss.apply(hidden, head, labels) * 0.1
    plain_loss = F.cross_entropy(hidden @ head.T, labels, reduction="sum") * 0.1
    torch.testing.assert_close(our_loss, plain_loss)
    torch.testing.assert_close(torch.autograd.grad(our_loss, hidden), torch.autograd.grad(plain_loss, hidden))
    with torch.no_grad():  # without gradients, the forward pass takes a different path
        torch.testing.assert_close(HeadLoss.apply(hidden, head, labels) * 0.1, plain_loss)
