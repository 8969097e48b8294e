"""Check that a loaded adapter still applies: one log-probability, looked at again after a server has woken from sleep.

vLLM has dropped adapters at wake without an error (vllm#53888), and answered as the base. The whole proof (`probe`)
takes PEFT and minutes; this takes one request.
"""

from dataclasses import dataclass

from nanoflux_models.control import Control

TEXT = "A farmer has 17 crates of 12 apples and sells 45 apples. How many apples are left?"


@dataclass(frozen=True, slots=True)
class Sentinel:
    """The token of `TEXT` at which adapter and base differ most, and what each says there, in nats."""

    adapter: str
    position: int
    tuned: float
    base: float


def choose_sentinel(control: Control, base: str, adapter: str) -> Sentinel:
    """Ask base and adapter once each, on a server where the adapter was just proved."""
    tuned, plain = _scores(control, adapter), _scores(control, base)
    position = max(range(len(tuned)), key=lambda index: abs(tuned[index] - plain[index]))
    return Sentinel(adapter, position, tuned[position], plain[position])


def still_applies(control: Control, sentinel: Sentinel) -> bool:
    """Whether the adapter is still nearer to what it said than to what its base said."""
    score = _scores(control, sentinel.adapter)[sentinel.position]
    return abs(score - sentinel.tuned) < abs(score - sentinel.base)


def _scores(control: Control, model: str) -> list[float]:
    """The log-probability of each token of `TEXT` but the first, which has none."""
    body = {"model": model, "prompt": TEXT, "max_tokens": 1, "temperature": 0, "prompt_logprobs": 0}
    entries = control.complete(body)["choices"][0]["prompt_logprobs"]
    return [float(next(iter(entry.values()))["logprob"]) for entry in entries if entry]
