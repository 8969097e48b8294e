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
"""Servers that accept only 32-bit seeds get the seed modulo this number."""
STOP_LIMIT = 4
"""The number of stop strings that every server accepts, even if it limits their number."""
_PREFIX = r"^(?:.*[./]|ft:)?"  # a gateway, provider or region before the model's name: azure/…, us.anthropic.…
_OPENAI_REASONING = re.compile(_PREFIX + r"(?:o\d|gpt-[5-9])(?!.*-chat)")
_CLAUDE = re.compile(_PREFIX + r"claude-")
_CLAUDE_WITH_SAMPLING = re.compile(
    _PREFIX + r"claude-(?:[23]|instant|(?:opus|sonnet|haiku)-4(?:[-.][0-6])?(?:-\d{8}|-v\d|-latest|[@:]|$))"
)

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
    """The accepted parameters, with the same fields as the endpoint's switches (`Send`), but each field has a value."""

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
        """Temperature and top_p, if the server accepts them. If only one of the two may be sent, the temperature is,
        unless only top_p differs from its default.
        """
        values = {"temperature": sampling.temperature, "top_p": sampling.top_p}
        if self.temperature and self.top_p and not self.temperature_with_top_p:
            del values["temperature" if sampling.temperature == 1.0 and sampling.top_p < 1.0 else "top_p"]
        return {name: value for name, value in values.items() if getattr(self, name)}

    def stop_strings(self, stop: tuple[str, ...]) -> list[str]:
        """The stop strings to send. The client truncates the reply at every stop string, even at those that are not
        sent.
        """
        return list(stop if self.stop is True else stop[: int(self.stop)])

    def messages(self, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        """The messages to send. If the server accepts no system message, that text starts the first user message."""
        return messages if self.system else without_system(messages)


def infer_accepted(model: str, thinks: bool = False, send: Send | None = None) -> AcceptedParameters:
    """The parameters that the server of a model accepts, judged by the model's name; all if the name is unknown. Stop
    strings are not sent to a reasoning model, since its server would apply them to the reasoning. The switches in
    `send` override both rules.
    """
    accepted = AcceptedParameters()
    if _OPENAI_REASONING.match(model):
        accepted = AcceptedParameters(temperature=False, top_p=False, stop=False, max_tokens="max_completion_tokens")
    elif _CLAUDE.match(model):
        accepts_sampling = bool(_CLAUDE_WITH_SAMPLING.match(model))
        accepted = AcceptedParameters(
            temperature=accepts_sampling, top_p=accepts_sampling, temperature_with_top_p=False
        )
    if thinks:
        accepted = replace(accepted, stop=False)
    return replace(accepted, **(send.model_dump(exclude_none=True) if send else {}))


def learn_from_refusal(refusal: ErrorBody, accepted: AcceptedParameters, request: ChatRequest) -> dict[str, Any]:
    """The switches to change after a refused request, with their new values. Empty if the refusal names no
    parameter.
    """
    text = " ".join((refusal.message, *refusal.codes)).lower()
    says_unsupported, params = bool(_UNSUPPORTED.search(text)), set(refusal.params)

    def names_parameter(parameter: str) -> bool:
        return parameter in params or bool(re.search(rf"(?<![\w-]){parameter}(?![\w-])", text))

    if (
        accepted.temperature_with_top_p
        and names_parameter("temperature")
        and names_parameter("top_p")
        and _NOT_TOGETHER.search(text)
    ):
        return {"temperature_with_top_p": False}
    changes: dict[str, Any] = {}
    if says_unsupported:
        changes.update(
            {name: False for name in ("temperature", "top_p") if getattr(accepted, name) and names_parameter(name)}
        )
        other_name = "max_completion_tokens" if accepted.max_tokens == "max_tokens" else "max_tokens"
        changes.update({"max_tokens": other_name} if names_parameter(accepted.max_tokens) else {})
    if accepted.seed and names_parameter("seed"):
        should_shorten = accepted.seed is True and not says_unsupported and request.seed >= INT32_SEEDS
        changes["seed"] = "int32" if should_shorten else False
    if (
        accepted.stop
        and request.sampling.stop
        and (_STOP.search(text) or {"stop", "stop_sequences"} & {*refusal.params})
    ):
        may_limit = accepted.stop is True and not says_unsupported and len(request.sampling.stop) > STOP_LIMIT
        changes["stop"] = STOP_LIMIT if may_limit else False
    if accepted.system and _NO_SYSTEM.search(text) and any(message.role == "system" for message in request.messages):
        changes["system"] = False
    return changes


def format_change(changes: Mapping[str, Any]) -> str:
    """The changes as a `send` table of a profile; JSON's booleans, numbers and strings are valid TOML."""
    return f"send = {{ {', '.join(f'{name} = {json.dumps(value)}' for name, value in changes.items())} }}"
