"""What all roles share: players, the random seeds of an attempt, and requests that are repeated until the reply is
readable.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from nanoflux_local.endpoints.kinds.base import interface_supports_prefill
from nanoflux_local.errors import PromptRefusedError
from nanoflux_local.ledger.calls import Call
from nanoflux_local.quantities import format_quantity
from nanoflux_local.reasoning import CUT_IN_REASONING, ends_in_reasoning
from nanoflux_local.records import ChatReply, ChatRequest, Identity, Message, Sampling, derive_seed, storable
from nanoflux_local.roles.sections import RefusedPrompt, Unparsed
from nanoflux_local.transcript import Attack, Defence, Doubt, Exhibit, Seed, Verdict

T = TypeVar("T")
MakeRequest = Callable[[int], ChatRequest]
"""Builds a request with a given sampling seed."""
VARIED_TEMPERATURE = 0.7
"""The temperature at which several replies to one prompt are sampled if the role's own temperature is 0. At temperature
0, these replies would be identical.
"""
_JSON_INSTRUCTION = (
    "Give the sections as one JSON object instead: each section's name is a key, spaces in it become underscores, "
    "and its text is the value."
)


@dataclass(frozen=True, slots=True)
class Draw:
    """The source of all randomness in one attempt. It depends only on the run's seed, the turn and the attempt, so that
    a replay draws the same values. `sample` is the number, from 0, of one of the defender's answers to a question.
    """

    run_seed: int
    turn: int
    attempt: int
    sample: int = 0

    def seed(self, step: str, retry: int = 0) -> int:
        """The sampling seed of one request."""
        # Sample 0 adds nothing to the key, so that the first answer has the same seed whether or not others follow.
        sample_key = (self.sample,) if self.sample else ()
        return derive_seed(self.run_seed, self.turn, self.attempt, step, retry, *sample_key)

    def rng(self, step: str) -> random.Random:
        """The random number generator for one step of a built-in program."""
        return random.Random(self.seed(step))


class Judge(Protocol):
    """Validates attacks and evaluates defences. `evidence` comes from the checks that inform the judge. `seeds` are the
    seeds from which the attack was built; only checks use them.
    """

    @property
    def name(self) -> str: ...

    async def validate(
        self,
        attack: Attack,
        draw: Draw,
        call: Call,
        evidence: tuple[Exhibit, ...] = (),
        seeds: tuple[Seed, ...] = (),
    ) -> Verdict | Doubt | Unparsed:
        """Decide whether an attack is valid."""
        ...

    async def evaluate(self, attack: Attack, defence: Defence, draw: Draw, call: Call) -> Verdict | Doubt | Unparsed:
        """Decide whether a defence is correct."""
        ...


@dataclass(frozen=True, slots=True)
class Player:
    """A model in a role: its endpoint's name in the profile, its identity, and how its replies are sampled.

    A `structured` player is asked for a JSON object with the sections as keys, and its server enforces this schema. If
    `thinks`, the model reasons before it answers; `sampling.max_tokens` then includes its endpoint's
    `reasoning_tokens`.
    """

    name: str
    identity: Identity
    sampling: Sampling
    structured: bool = False
    thinks: bool = False

    def vary(self) -> "Player":
        """This player at a temperature above 0, so that several replies to one prompt differ."""
        temperature = self.sampling.temperature or VARIED_TEMPERATURE
        return replace(self, sampling=replace(self.sampling, temperature=temperature))

    def build_request(self, messages: tuple[Message, ...], seed: int, sections: tuple[str, ...]) -> ChatRequest:
        """The request for a reply that consists of these sections."""
        if not self.structured:
            return ChatRequest(self.identity, messages, self.sampling, seed)
        last_message = replace(messages[-1], content=f"{messages[-1].content}\n\n{_JSON_INSTRUCTION}")
        return ChatRequest(self.identity, (*messages[:-1], last_message), self.sampling, seed, sections)

    def request_builder(self, messages: tuple[Message, ...], sections: tuple[str, ...]) -> MakeRequest:
        """A function that takes a sampling seed and builds the request for a reply with these sections."""
        return lambda seed: self.build_request(messages, seed, sections)

    @property
    def supports_prefill(self) -> bool:
        """Whether the reply can be prefilled: its beginning is sent as the last assistant message, and the endpoint
        continues it. The reply of a player that thinks is never prefilled, because reasoning must precede the answer.
        """
        return not self.thinks and interface_supports_prefill(self.identity.interface)

    def build_continuation(
        self, messages: tuple[Message, ...], beginning: str, seed: int, max_tokens: int, stop: tuple[str, ...]
    ) -> ChatRequest:
        """The request whose reply continues the prefilled `beginning`."""
        sampling = replace(self.sampling, max_tokens=max_tokens, stop=(*stop, *self.sampling.stop))
        return ChatRequest(self.identity, (*messages, Message("assistant", beginning)), sampling, seed)

    def refuse_incomplete(self, reply: ChatReply) -> Unparsed | None:
        """Why the reply is unusable (it is empty, or ends inside its reasoning), and which setting to raise. None if
        the reply is complete.
        """
        if not reply.text.strip() and reply.finish == "stop":
            return Unparsed("the reply is empty")
        if not ends_in_reasoning(storable(reply.text), reply.finish):
            return None
        tokens = format_quantity(reply.completion_tokens or reply.reasoning_tokens, "token")
        setting = f"endpoints.{self.name}.reasoning_tokens"
        if reply.finish == "length":
            return Unparsed(f"{CUT_IN_REASONING} after {tokens}; raise {setting}")
        if self.thinks:
            return Unparsed(f"ended inside its reasoning after {tokens}, without an answer")
        return Unparsed(f"{CUT_IN_REASONING} after {tokens}, perhaps at a stop string; set {setting}")


async def ask(request: ChatRequest, call: Call) -> ChatReply | RefusedPrompt:
    """Send a request. Returns the reply, or why the endpoint refused the prompt."""
    try:
        return await call(request)
    except PromptRefusedError as error:
        return RefusedPrompt(error.message)


async def ask_until_read(
    player: Player,
    make_request: MakeRequest,
    read: Callable[[ChatReply], T | Unparsed],
    draw: Draw,
    step: str,
    retries: int,
    call: Call,
) -> T | Unparsed:
    """Send a request. As long as the reply is unreadable, send it again with a different seed, at most `retries` times.
    A refused prompt is not sent again, because the refusal does not depend on the seed.
    """
    result: T | Unparsed = Unparsed("not asked")
    for retry in range(retries + 1):
        reply = await ask(make_request(draw.seed(step, retry)), call)
        if isinstance(reply, RefusedPrompt):
            return reply
        incomplete = player.refuse_incomplete(reply)
        result = read(reply) if incomplete is None else incomplete
        if not isinstance(result, Unparsed):
            return result
    return result
