"""A model's context length, and whether prompt, reasoning and answer fit into it together.

If they do not fit, a server silently gives the reply fewer tokens than requested, and a reasoning model's reply is
truncated within its reasoning. The total is therefore checked before the first request.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nanoflux_local.records import Message

if TYPE_CHECKING:
    from nanoflux_local.endpoints.base import Endpoint

BYTES_PER_TOKEN = 4
"""The assumed number of bytes per token for endpoints without a tokenizer. It is rather high, so that the tokens of a
prompt are not overestimated.
"""


@dataclass(frozen=True, slots=True)
class Context:
    """An endpoint's context: `tokens` is the limit on prompt and reply together (0: unknown). `reasoning` is the number
    of tokens that a reply may spend on reasoning, in addition to its answer's tokens (0: the model does not reason).
    """

    tokens: int = 0
    reasoning: int = 0


def find_overflow(endpoint: "Endpoint", messages: Sequence[Message], answer_tokens: int) -> str:
    """Describe how a request exceeds its endpoint's context; "" if the request fits or the context's length is unknown.
    `answer_tokens` is the maximum number of tokens of the answer.
    """
    context = endpoint.context
    if not context.tokens:
        return ""
    prompt_tokens = sum(_count_tokens(endpoint, message.content) for message in messages)
    total_tokens = prompt_tokens + answer_tokens + context.reasoning
    if total_tokens <= context.tokens:
        return ""
    breakdown = f"prompt {prompt_tokens:,}, answer {answer_tokens:,}, reasoning {context.reasoning:,}"
    return f"the request needs {total_tokens:,} tokens ({breakdown}), but the context holds {context.tokens:,}"


def _count_tokens(endpoint: "Endpoint", text: str) -> int:
    """Count the tokens of `text`, or estimate their number if the endpoint has no tokenizer."""
    tokens = endpoint.count_tokens(text)
    if tokens is not None:
        return tokens
    return len(text.encode("utf-8", "replace")) // BYTES_PER_TOKEN
