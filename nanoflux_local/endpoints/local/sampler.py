"""Draw one token from a row of logits: greedy, or by temperature and nucleus with the row's own random numbers.

Arithmetic is float32 on the CPU and reads nothing but its arguments, so equal logits and seeds give equal tokens.
Imports torch at module level, as the decoder does.
"""

import torch

from nanoflux_local.errors import EndpointError
from nanoflux_local.records import Sampling

COLDEST = 1e-4  # below this, logits divided by the temperature mean nothing in float32: greedy
CANDIDATES = 256


def generator_for(seed: int) -> torch.Generator:
    """Random numbers that depend on the seed alone."""
    return torch.Generator().manual_seed(seed % 2**63)


def draw(logits: torch.Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """One token's id from float32 logits of shape (vocabulary,)."""
    if sampling.temperature < COLDEST:
        return int(logits.argmax())
    weights = torch.softmax(logits / sampling.temperature, 0)
    tokens = None
    if sampling.top_p < 1.0:
        weights, tokens = _nucleus(weights, sampling.top_p)
    mass = weights.double().cumsum(0)
    if not float(mass[-1]) > 0.0:
        raise EndpointError("The model's logits are not numbers.", "Check the weights: nanoflux models verify")
    point = torch.rand(1, generator=generator, dtype=torch.float64) * mass[-1]
    index = min(int(torch.searchsorted(mass, point, right=True)), len(mass) - 1)
    return index if tokens is None else int(tokens[index])


def _nucleus(weights: torch.Tensor, top_p: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The likeliest tokens that together hold `top_p`: sorting a few is enough but for flat distributions."""
    for count in (min(CANDIDATES, len(weights)), len(weights)):
        top, tokens = weights.topk(count)
        mass = top.double().cumsum(0)
        if float(mass[-1]) >= top_p:
            break
    keep = int((mass < top_p).sum()) + 1
    return top[:keep], tokens[:keep]
