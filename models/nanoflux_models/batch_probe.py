"""Tests whether a server's replies depend on the rest of the batch, by sending the same requests first one by one and
then all together.

With vLLM's batch-invariant kernels, replies should not depend on the batch. A run that uses such a server is marked as
repeatable, so every server with these kernels is tested before its first request.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from nanoflux_models.probe import PROMPTS
from nanoflux_models.server_client import ServerClient

REPLY_TOKENS = 24
"""The number of tokens of each reply: enough for a difference in the last bit to change a token."""
LONG_PROMPTS = tuple(prompt * 3 for prompt in PROMPTS)
SEEDS = range(len(PROMPTS))
REQUESTS = (*zip(PROMPTS, SEEDS, strict=True), *zip(LONG_PROMPTS, SEEDS, strict=True))
"""The prompt and the sampling seed of each request. The prompts have different lengths, since a server may choose its
kernels by the length of a prompt and the size of a batch."""
ScoredReply = tuple[str, tuple[float, ...]]
"""The text of a reply, and the log-probability of each of its tokens."""


def find_batch_dependence(client: ServerClient, model: str) -> str:
    """Describe how the replies to a batch of requests differ from the replies to the same requests sent alone; "" if
    all replies are equal.
    """
    single_replies = [_send_request(client, model, *request) for request in REQUESTS]
    with ThreadPoolExecutor(len(REQUESTS)) as pool:
        batch_replies = list(pool.map(lambda request: _send_request(client, model, *request), REQUESTS))
    return _describe_difference(single_replies, batch_replies)


def _describe_difference(single_replies: Sequence[ScoredReply], batch_replies: Sequence[ScoredReply]) -> str:
    """How many replies of the batch differ from the replies to single requests; "" if none does."""
    changed_texts = changed_scores = 0
    for (single_text, single_scores), (batch_text, batch_scores) in zip(single_replies, batch_replies, strict=True):
        if single_text != batch_text:
            changed_texts += 1
        if single_scores != batch_scores:
            changed_scores += 1
    if not changed_texts and not changed_scores:
        return ""
    changed_replies = "1 reply changed its" if changed_texts == 1 else f"{changed_texts} replies changed their"
    owner = "its" if changed_scores == 1 else "their"
    return (
        f"{len(single_replies)} requests were sent alone and then as a batch: {changed_replies} text, and "
        f"{changed_scores} {owner} log-probabilities"
    )


def _send_request(client: ServerClient, model: str, prompt: str, seed: int) -> ScoredReply:
    """Request a sampled reply of exactly `REPLY_TOKENS` tokens."""
    body: dict[str, Any] = {
        "model": model,
        "prompt": prompt,
        "max_tokens": REPLY_TOKENS,
        "temperature": 0.7,
        "seed": seed,
    }
    choice = client.complete({**body, "logprobs": 0, "ignore_eos": True})["choices"][0]
    return str(choice["text"]), tuple(map(float, choice["logprobs"]["token_logprobs"]))
