"""Draws one token from a row of logits: greedily, or by temperature and nucleus sampling with the row's generator.

The draw is computed in float32 on the CPU from its arguments alone, so equal logits and seeds yield equal tokens. Like
the decoder, this module imports torch at module level.
"""

import torch

from nanoflux_local.errors import EndpointError
from nanoflux_local.records import Sampling

MIN_TEMPERATURE = 1e-4
"""Below this temperature, float32 is too coarse, and the draw is greedy."""
CANDIDATES = 256
"""The number of likeliest tokens that are sorted first; usually they contain the whole nucleus."""


def make_generator(seed: int) -> torch.Generator:
    """A random generator that depends only on the seed."""
    return torch.Generator().manual_seed(seed % 2**63)


def draw(logits: torch.Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """Draw a token id from float32 logits of shape (vocabulary,).

    Raises:
        EndpointError: the logits are not finite numbers.
    """
    if sampling.temperature < MIN_TEMPERATURE:
        return int(logits.argmax())
    probabilities = torch.softmax(logits / sampling.temperature, 0)
    tokens = None
    if sampling.top_p < 1.0:
        probabilities, tokens = _select_nucleus(probabilities, sampling.top_p)
    cumulative_probabilities = probabilities.double().cumsum(0)
    total_probability = float(cumulative_probabilities[-1])
    if not total_probability > 0.0:  # also true for NaN
        raise EndpointError(
            "the model's logits are not finite numbers", "check the weights with `nanoflux models verify NAME`"
        )
    threshold = torch.rand(1, generator=generator, dtype=torch.float64) * cumulative_probabilities[-1]
    position = int(torch.searchsorted(cumulative_probabilities, threshold, right=True))
    index = min(position, len(cumulative_probabilities) - 1)  # rounding can put the threshold at the very end
    return index if tokens is None else int(tokens[index])


def _select_nucleus(probabilities: torch.Tensor, top_p: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The smallest set of likeliest tokens whose total probability reaches `top_p`: their probabilities and ids."""
    top_probabilities, tokens = probabilities.topk(min(CANDIDATES, len(probabilities)))
    cumulative_probabilities = top_probabilities.double().cumsum(0)
    if float(cumulative_probabilities[-1]) < top_p:  # the candidates do not contain the whole nucleus
        top_probabilities, tokens = probabilities.topk(len(probabilities))
        cumulative_probabilities = top_probabilities.double().cumsum(0)
    nucleus_size = int((cumulative_probabilities < top_p).sum()) + 1
    return top_probabilities[:nucleus_size], tokens[:nucleus_size]
