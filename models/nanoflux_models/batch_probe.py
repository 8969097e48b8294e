"""Tests whether a server's replies depend on the rest of the batch, by sending the same requests one by one and all at
once.

With vLLM's batch-invariant kernels, replies should not depend on the batch. A run that uses such a server is marked as
repeatable, so every server with these kernels is tested before its first request.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from nanoflux_models.probe import PROMPTS
from nanoflux_models.server_client import ServerClient

TOKENS = 24
"""The number of tokens of each reply: enough for a difference in the last bit to change a token."""
REQUESTS = tuple((prompt * length, seed) for length in (1, 3) for seed, prompt in enumerate(PROMPTS))
"""Prompts of different lengths, each with a seed. A server may use other kernels for a batch than for one prompt."""
ScoredReply = tuple[str, tuple[float, ...]]


def find_batch_dependence(client: ServerClient, model: str) -> str:
    """Describe how the replies to a batch of requests differ from the replies to the same requests alone; "" if they
    are equal.
    """
    alone = [_send_request(client, model, *request) for request in REQUESTS]
    with ThreadPoolExecutor(len(REQUESTS)) as pool:
        together = list(pool.map(lambda request: _send_request(client, model, *request), REQUESTS))
    return _describe_difference(alone, together)


def _describe_difference(alone: Sequence[ScoredReply], together: Sequence[ScoredReply]) -> str:
    texts = sum(one[0] != other[0] for one, other in zip(alone, together, strict=True))
    scores = sum(one[1] != other[1] for one, other in zip(alone, together, strict=True))
    if not texts and not scores:
        return ""
    return (
        f"of {len(alone)} requests sent alone and as a batch, {texts} gave other text and {scores} other probabilities"
    )


def _send_request(client: ServerClient, model: str, prompt: str, seed: int) -> ScoredReply:
    body: dict[str, Any] = {"model": model, "prompt": prompt, "max_tokens": TOKENS, "temperature": 0.7, "seed": seed}
    choice = client.complete({**body, "logprobs": 0, "ignore_eos": True})["choices"][0]
    return str(choice["text"]), tuple(map(float, choice["logprobs"]["token_logprobs"]))
