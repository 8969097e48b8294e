"""A model's context: how many tokens it holds, and whether prompt, thoughts and answer fit into it together.

A server gives a reply fewer tokens than were asked for if the context ends earlier, and does not report it: a model
that thinks is then cut inside its thoughts. So the sum is checked before anything is asked.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nanoflux_local.records import Message

if TYPE_CHECKING:
    from nanoflux_local.endpoints.base import Endpoint

BYTES_PER_TOKEN = 4
"""For endpoints without a tokenizer here: more than most have, so that no prompt is taken for longer than it is."""


@dataclass(frozen=True, slots=True)
class Context:
    """What an endpoint's model holds: `tokens` of prompt and reply together (0 if that is not known here), `reasoning`
    tokens of a reply for thoughts, on top of its answer's budget (0 for a model that does not think).
    """

    tokens: int = 0
    reasoning: int = 0


def find_overflow(endpoint: "Endpoint", messages: Sequence[Message], answer: int) -> str:
    """By what a request goes beyond its endpoint's context, in words; "" if it fits or the context is not known here.
    `answer` is the answer's budget in tokens.
    """
    context = endpoint.context
    prompt = sum(_count(endpoint, message.content) for message in messages) if context.tokens else 0
    total = prompt + answer + context.reasoning
    if not context.tokens or total <= context.tokens:
        return ""
    parts = f"{prompt:,} of the prompt, {answer:,} of the answer and {context.reasoning:,} of reasoning_tokens"
    return f"{context.tokens:,} tokens of context are too few for a request of {total:,}: {parts}"


def _count(endpoint: "Endpoint", text: str) -> int:
    counted = endpoint.count_tokens(text)
    return len(text.encode("utf-8", "replace")) // BYTES_PER_TOKEN if counted is None else counted
