"""Checks that a loaded adapter still applies after its server woke from sleep, by comparing one log-probability.

vLLM has dropped adapters at a wake without an error (vllm#53888), and then answered like the base. The full proof
(`probe`) needs PEFT and takes minutes; this check needs one request.
"""

from dataclasses import dataclass

from nanoflux_models.server_client import ServerClient

TEXT = "A farmer has 17 crates of 12 apples and sells 45 apples. How many apples are left?"


@dataclass(frozen=True, slots=True)
class Sentinel:
    """The position in `TEXT` at which adapter and base differ most, and their log-probabilities there, in nats."""

    adapter: str
    position: int
    tuned: float
    base: float


def choose_sentinel(client: ServerClient, base: str, adapter: str) -> Sentinel:
    """Choose the sentinel with one request each to base and adapter, on a server where the adapter was just probed."""
    tuned_scores, base_scores = _score_text(client, adapter), _score_text(client, base)
    position = max(range(len(tuned_scores)), key=lambda index: abs(tuned_scores[index] - base_scores[index]))
    return Sentinel(adapter, position, tuned_scores[position], base_scores[position])


def still_applies(client: ServerClient, sentinel: Sentinel) -> bool:
    """Whether the adapter's log-probability is closer to its earlier value than to the base's."""
    score = _score_text(client, sentinel.adapter)[sentinel.position]
    return abs(score - sentinel.tuned) < abs(score - sentinel.base)


def _score_text(client: ServerClient, model: str) -> list[float]:
    """The log-probability of each token of `TEXT` except the first, which has none."""
    body = {"model": model, "prompt": TEXT, "max_tokens": 1, "temperature": 0, "prompt_logprobs": 0}
    entries = client.complete(body)["choices"][0]["prompt_logprobs"]
    return [float(next(iter(entry.values()))["logprob"]) for entry in entries if entry]
