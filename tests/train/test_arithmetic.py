"""Our own autograd steps against the plain formulas they stand for."""

import pytest
import torch
from torch.nn import functional as F

from nanoflux_local.train.attention import CausalAttention
from nanoflux_local.train.fused import HeadLoss, LoraLinear, draw_dropped


@pytest.mark.parametrize("heads", [(4, 4), (6, 2)])
def test_attention_gradients_are_exact(heads: tuple[int, int]) -> None:
    torch.manual_seed(0)
    sizes = [(1, h, 5, 4) for h in (heads[0], heads[1], heads[1])]
    inputs = [torch.randn(size, dtype=torch.float64, requires_grad=True) for size in sizes]
    assert torch.autograd.gradcheck(lambda q, k, v: CausalAttention.apply(q, k, v, 0.3), inputs)


@pytest.mark.parametrize("bias", [False, True])
def test_lora_layer_equals_the_formula(bias: bool) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(3, 5, 6, requires_grad=True), torch.randn(7, 6)
    offset = torch.randn(7) if bias else None
    a, b = torch.randn(2, 6, requires_grad=True), torch.randn(7, 2, requires_grad=True)
    ours = LoraLinear.apply(x, weight, offset, a, b, 1.5, 0.0)
    plain = F.linear(x, weight, offset) + 1.5 * x @ a.T @ b.T
    torch.testing.assert_close(ours, plain)
    slope = torch.randn_like(plain)
    ours_grads = torch.autograd.grad(ours, (x, a, b), slope)
    for mine, theirs in zip(ours_grads, torch.autograd.grad(plain, (x, a, b), slope), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_lora_drops_the_same_values_forward_and_backward() -> None:
    x = torch.ones(40, 50, requires_grad=True)
    a, b = torch.ones(1, 50, requires_grad=True), torch.ones(1, 1, requires_grad=True)
    torch.manual_seed(3)
    y = LoraLinear.apply(x, torch.zeros(1, 50), None, a, b, 1.0, 0.3)
    torch.manual_seed(3)
    kept = torch.ones(40 * 50).index_fill(0, draw_dropped(x, 0.3), 0).view(40, 50)
    torch.testing.assert_close(y, kept.sum(1, keepdim=True))
    grad_x, grad_a = torch.autograd.grad(y.sum(), (x, a))
    torch.testing.assert_close(grad_x, kept)
    torch.testing.assert_close(grad_a, kept.sum(0, keepdim=True))


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_dropout_zeroes_each_value_with_its_probability(share: float) -> None:
    torch.manual_seed(0)
    taken = torch.zeros(200, 500)
    for row in taken:
        row[draw_dropped(row, share)] = 1
    error = (share * (1 - share) / taken.numel()) ** 0.5
    assert float(taken.mean()) == pytest.approx(share, abs=5 * error)
    spread = float(taken.sum(1).var()) / (500 * share * (1 - share))
    assert spread == pytest.approx(1, abs=0.5)  # independent: the counts vary as a binomial's


def test_head_loss_equals_cross_entropy() -> None:
    torch.manual_seed(0)
    hidden, head = torch.randn(300, 8, requires_grad=True), torch.randn(50, 8)
    labels = torch.randint(50, (300,))
    ours = HeadLoss.apply(hidden, head, labels) * 0.1
    plain = F.cross_entropy(hidden @ head.T, labels, reduction="sum") * 0.1
    torch.testing.assert_close(ours, plain)
    torch.testing.assert_close(torch.autograd.grad(ours, hidden), torch.autograd.grad(plain, hidden))
    with torch.no_grad():
        torch.testing.assert_close(HeadLoss.apply(hidden, head, labels) * 0.1, plain)
