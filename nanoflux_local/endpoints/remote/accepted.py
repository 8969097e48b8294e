"""Infers which parameters a server accepts from the model's name, the endpoint's switches (`send`) and past refusals.

Servers refuse requests with parameters that they do not support. The model's name determines the defaults, but it is an
unreliable hint, since a gateway can serve a model under any name. The endpoint's switches therefore override the
defaults, and a refusal that names a parameter changes that parameter for later requests. None of this changes a
request's key in the ledger, which stores the original request rather than the form in which it was sent.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from nanoflux_local.config import Send
from nanoflux_local.endpoints.remote.error_body import ErrorBody
from nanoflux_local.records import ChatRequest, Message, Sampling, without_system

INT32_SEEDS = 2**31 - 1
"""The number of seeds that a server with 32-bit seeds accepts. Such a server is sent the seed modulo this number."""
STOP_LIMIT = 4
"""The number of stop strings that every server accepts, even if it limits their number."""
_PREFIX = r"^(?:.*[./]|ft:)?"  # a gateway, provider or region before the model's name: azure/…, us.anthropic.…
_OPENAI_REASONING = re.compile(_PREFIX + r"(?:o\d|gpt-[5-9])(?!.*-chat)")
"""The names of OpenAI's reasoning models, which accept no sampling parameters and no stop strings."""
_CLAUDE = re.compile(_PREFIX + r"claude-")
_CLAUDE_WITH_SAMPLING = re.compile(
    _PREFIX + r"claude-(?:[23]|instant|(?:opus|sonnet|haiku)-4(?:[-.][0-6])?(?:-\d{8}|-v\d|-latest|[@:]|$))"
)
"""The names of the Claude models up to version 4.6, which accept sampling parameters."""

# Wordings of refusals in lower case: of any parameter, of temperature and top_p together, of stop strings, and of
# system messages.
_UNSUPPORTED = re.compile(
    r"unsupported|not supported|(?:n't|not|no longer) (?:currently )?support|not permitted|not allowed|not accept"
    r"|unexpected|unknown|unrecogni[sz]ed|extra_forbidden|extra inputs|extra fields|deprecated|cannot find field"
    r"|not available|cannot be used"
)
_NOT_TOGETHER = re.compile(r"both|only one|together|same time|simultaneous|either")
_STOP = re.compile(r"""[.'"`]stop['"`]|\bstop[_ ](?:sequences?|strings?|words?)\b|(?:^|[.\s])stop:""")
_NO_SYSTEM = re.compile(
    r"system.{0,40}(?:not supported|unsupported|not allowed|not enabled|not permitted)|not support.{0,20}system"
    r"|developer instruction is not enabled|roles must alternate|only user and assistant roles"
)


@dataclass(frozen=True, slots=True)
class AcceptedParameters:
    """The parameters that a server accepts. The fields are those of the endpoint's switches (`Send`), but none is None.
    `stop` is a number if the server limits the number of stop strings. `max_tokens` is the name under which the server
    accepts the token limit.
    """

    seed: bool | Literal["int32"] = True
    temperature: bool = True
    top_p: bool = True
    temperature_with_top_p: bool = True
    stop: bool | int = True
    max_tokens: str = "max_tokens"
    system: bool = True

    def seed_parameter(self, seed: int) -> dict[str, int]:
        """The seed parameter to send; empty if the server accepts none."""
        if self.seed == "int32":
            return {"seed": seed % INT32_SEEDS}
        return {"seed": seed} if self.seed else {}

    def sampling_parameters(self, sampling: Sampling) -> dict[str, float]:
        """Temperature and top_p, if the server accepts them. If it does not accept both together, only one is sent:
        top_p if only top_p differs from its default, else the temperature.
        """
        sends_temperature, sends_top_p = self.temperature, self.top_p
        if sends_temperature and sends_top_p and not self.temperature_with_top_p:
            only_top_p_is_set = sampling.temperature == 1.0 and sampling.top_p < 1.0
            sends_temperature, sends_top_p = not only_top_p_is_set, only_top_p_is_set
        parameters = {}
        if sends_temperature:
            parameters["temperature"] = sampling.temperature
        if sends_top_p:
            parameters["top_p"] = sampling.top_p
        return parameters

    def stop_strings(self, stop: tuple[str, ...]) -> list[str]:
        """The stop strings to send. The client also truncates the reply at the stop strings that are not sent."""
        if self.stop is True:
            return list(stop)
        return list(stop[: int(self.stop)])  # False sends none

    def messages(self, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        """The messages to send. If the server accepts no system message, its text is put before the first user
        message.
        """
        return messages if self.system else without_system(messages)


def infer_accepted(model: str, is_reasoning_model: bool = False, send: Send | None = None) -> AcceptedParameters:
    """The parameters that the server of a model accepts, inferred from the model's name; all parameters if the name is
    unknown. Stop strings are not sent to a reasoning model, since its server would apply them to the reasoning. The
    switches in `send` override both rules.
    """
    accepted = AcceptedParameters()
    if _OPENAI_REASONING.match(model):
        accepted = AcceptedParameters(temperature=False, top_p=False, stop=False, max_tokens="max_completion_tokens")
    elif _CLAUDE.match(model):
        accepts_sampling = bool(_CLAUDE_WITH_SAMPLING.match(model))
        accepted = AcceptedParameters(
            temperature=accepts_sampling, top_p=accepts_sampling, temperature_with_top_p=False
        )
    if is_reasoning_model:
        accepted = replace(accepted, stop=False)
    if send:
        accepted = replace(accepted, **send.model_dump(exclude_none=True))
    return accepted


def learn_from_refusal(refusal: ErrorBody, accepted: AcceptedParameters, request: ChatRequest) -> dict[str, Any]:
    """The switches to change after a refused request, with their new values; empty if the refusal names no parameter.
    `accepted` are the parameters with which the request was sent.
    """
    text = " ".join((refusal.message, *refusal.codes)).lower()
    says_unsupported = bool(_UNSUPPORTED.search(text))

    def names_parameter(parameter: str) -> bool:
        return parameter in refusal.params or bool(re.search(rf"(?<![\w-]){parameter}(?![\w-])", text))

    names_both = names_parameter("temperature") and names_parameter("top_p")
    if accepted.temperature_with_top_p and names_both and _NOT_TOGETHER.search(text):
        return {"temperature_with_top_p": False}
    changes: dict[str, Any] = {}
    if says_unsupported:
        for name in ("temperature", "top_p"):
            if getattr(accepted, name) and names_parameter(name):
                changes[name] = False
        if names_parameter(accepted.max_tokens):
            uses_old_name = accepted.max_tokens == "max_tokens"
            changes["max_tokens"] = "max_completion_tokens" if uses_old_name else "max_tokens"
    if accepted.seed and names_parameter("seed"):
        may_be_too_large = accepted.seed is True and not says_unsupported and request.seed >= INT32_SEEDS
        changes["seed"] = "int32" if may_be_too_large else False
    names_stop = _STOP.search(text) or "stop" in refusal.params or "stop_sequences" in refusal.params
    if accepted.stop and request.sampling.stop and names_stop:
        may_be_too_many = accepted.stop is True and not says_unsupported and len(request.sampling.stop) > STOP_LIMIT
        changes["stop"] = STOP_LIMIT if may_be_too_many else False
    has_system_message = any(message.role == "system" for message in request.messages)
    if accepted.system and has_system_message and _NO_SYSTEM.search(text):
        changes["system"] = False
    return changes


def format_change(changes: Mapping[str, Any]) -> str:
    """The changes as a `send` table of a profile; JSON's booleans, numbers and strings are valid TOML."""
    entries = [f"{name} = {json.dumps(value)}" for name, value in changes.items()]
    return f"send = {{ {', '.join(entries)} }}"
