"""Whether a server's replies depend on what else is in a batch: the same requests alone and all at once.

vLLM's batch-invariant kernels promise that they do not. A run over such a server is marked repeatable, so the promise
is tested on every server that makes it, before anything is asked of it.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from nanoflux_models.control import Control
from nanoflux_models.probe import PROMPTS

TOKENS = 24
"""Tokens of each reply: enough that a last bit has a chance to tip one."""
REQUESTS = tuple((prompt * length, seed) for length in (1, 3) for seed, prompt in enumerate(PROMPTS))
"""Prompts of different lengths, each with a seed: a batch of them takes other kernels than one alone."""
Reply = tuple[str, tuple[float, ...]]


def batch_dependence(control: Control, model: str) -> str:
    """What differs between a request alone and the same in a batch, in words; "" if nothing does."""
    alone = [_ask(control, model, *request) for request in REQUESTS]
    with ThreadPoolExecutor(len(REQUESTS)) as pool:
        together = list(pool.map(lambda request: _ask(control, model, *request), REQUESTS))
    return _difference(alone, together)


def _difference(alone: Sequence[Reply], together: Sequence[Reply]) -> str:
    texts = sum(one[0] != other[0] for one, other in zip(alone, together, strict=True))
    scores = sum(one[1] != other[1] for one, other in zip(alone, together, strict=True))
    if not texts and not scores:
        return ""
    return (
        f"of {len(alone)} requests asked alone and together, {texts} gave other text and {scores} other probabilities"
    )


def _ask(control: Control, model: str, prompt: str, seed: int) -> Reply:
    body: dict[str, Any] = {"model": model, "prompt": prompt, "max_tokens": TOKENS, "temperature": 0.7, "seed": seed}
    choice = control.complete({**body, "logprobs": 0, "ignore_eos": True})["choices"][0]
    return str(choice["text"]), tuple(map(float, choice["logprobs"]["token_logprobs"]))
