"""Checks that a server still applies a loaded adapter after waking from sleep mode, by comparing one log-probability.

vLLM has dropped adapters on waking, without an error (vllm#53888), and then answered like the base. The full proof
(`probe`) needs PEFT and takes minutes; this check needs one request.
"""

from dataclasses import dataclass

from nanoflux_models.server_client import ServerClient

TEXT = "A farmer has 17 crates of 12 apples and sells 45 apples. How many apples are left?"
"""The text whose tokens are scored with and without the adapter."""


@dataclass(frozen=True, slots=True)
class Sentinel:
    """The token of `TEXT` at which adapter and base differ most: its position, and its log-probability with the adapter
    (`tuned`) and with the base alone, in nats.
    """

    adapter: str
    position: int
    tuned: float
    base: float


def choose_sentinel(client: ServerClient, base: str, adapter: str) -> Sentinel:
    """Choose the sentinel with one request each to base and adapter, on a server where the adapter was just probed."""
    tuned_scores = _score_text(client, adapter)
    base_scores = _score_text(client, base)
    differences = [abs(tuned - untuned) for tuned, untuned in zip(tuned_scores, base_scores, strict=True)]
    position = differences.index(max(differences))
    return Sentinel(adapter, position, tuned_scores[position], base_scores[position])


def still_applies(client: ServerClient, sentinel: Sentinel) -> bool:
    """Whether the log-probability with the adapter is closer to its earlier value than to that of the base."""
    score = _score_text(client, sentinel.adapter)[sentinel.position]
    return abs(score - sentinel.tuned) < abs(score - sentinel.base)


def _score_text(client: ServerClient, model: str) -> list[float]:
    """The log-probability of each token of `TEXT` except the first, which has none."""
    body = {"model": model, "prompt": TEXT, "max_tokens": 1, "temperature": 0, "prompt_logprobs": 0}
    entries = client.complete(body)["choices"][0]["prompt_logprobs"]
    # With 0 alternatives, each entry contains only the token of `TEXT`.
    return [float(next(iter(entry.values()))["logprob"]) for entry in entries if entry]
