"""Test whether a server's replies depend on the rest of the batch: send the same requests one by one and all at once.

vLLM's batch-invariant kernels promise that they do not. A run over such a server is marked repeatable, so every server
that promises it is tested before its first request.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from nanoflux_models.probe import PROMPTS
from nanoflux_models.server_client import ServerClient

TOKENS = 24
"""Tokens of each reply: enough for a difference in the last bit to change one."""
REQUESTS = tuple((prompt * length, seed) for length in (1, 3) for seed, prompt in enumerate(PROMPTS))
"""Prompts of different lengths, each with a seed: a batch of them uses other kernels than a single one."""
Reply = tuple[str, tuple[float, ...]]


def find_batch_dependence(client: ServerClient, model: str) -> str:
    """Describe how replies to requests in a batch differ from those to the same requests alone; "" if none differs."""
    alone = [_ask(client, model, *request) for request in REQUESTS]
    with ThreadPoolExecutor(len(REQUESTS)) as pool:
        together = list(pool.map(lambda request: _ask(client, model, *request), REQUESTS))
    return _describe_difference(alone, together)


def _describe_difference(alone: Sequence[Reply], together: Sequence[Reply]) -> str:
    texts = sum(one[0] != other[0] for one, other in zip(alone, together, strict=True))
    scores = sum(one[1] != other[1] for one, other in zip(alone, together, strict=True))
    if not texts and not scores:
        return ""
    return (
        f"of {len(alone)} requests sent alone and as a batch, {texts} gave other text and {scores} other probabilities"
    )


def _ask(client: ServerClient, model: str, prompt: str, seed: int) -> Reply:
    body: dict[str, Any] = {"model": model, "prompt": prompt, "max_tokens": TOKENS, "temperature": 0.7, "seed": seed}
    choice = client.complete({**body, "logprobs": 0, "ignore_eos": True})["choices"][0]
    return str(choice["text"]), tuple(map(float, choice["logprobs"]["token_logprobs"]))
