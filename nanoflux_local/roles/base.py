"""What all roles share: who plays, the seeds of a turn's draws, and asking until a reply can be read."""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from nanoflux_local.endpoints.kinds.base import continues_replies
from nanoflux_local.errors import PromptRefusedError
from nanoflux_local.ledger.calls import Call
from nanoflux_local.reasoning import CUT_IN_REASONING, ends_in_reasoning
from nanoflux_local.records import ChatReply, ChatRequest, Identity, Message, Sampling, derive_seed, storable
from nanoflux_local.roles.sections import Refused, Unparsed
from nanoflux_local.transcript import Attack, Defence, Doubt, Exhibit, Verdict

T = TypeVar("T")
Ask = Callable[[int], ChatRequest]
"""A request that lacks only its seed."""
_AS_JSON = (
    "Give the sections as one JSON object instead: each section's name is a key, spaces in it become underscores, "
    "and its text is the value."
)


@dataclass(frozen=True, slots=True)
class Draw:
    """The source of everything random in one attempt: (run seed, turn, attempt), so that repeats stay repeats."""

    run_seed: int
    turn: int
    attempt: int

    def seed(self, step: str, retry: int = 0) -> int:
        """The sampling seed of one request."""
        return derive_seed(self.run_seed, self.turn, self.attempt, step, retry)

    def rng(self, step: str) -> random.Random:
        """A generator for one step of a built-in program."""
        return random.Random(self.seed(step))


class Judge(Protocol):
    """Validates attacks and evaluates defences; `evidence` is what the informing checks looked up."""

    @property
    def name(self) -> str: ...

    async def validate(
        self, attack: Attack, draw: Draw, call: Call, evidence: tuple[Exhibit, ...] = ()
    ) -> Verdict | Doubt | Unparsed: ...

    async def evaluate(
        self, attack: Attack, defence: Defence, draw: Draw, call: Call
    ) -> Verdict | Doubt | Unparsed: ...


@dataclass(frozen=True, slots=True)
class Player:
    """A model in a role: the endpoint's name in the profile, its identity, and how its replies are drawn.

    A `structured` one is asked for the same sections as the keys of a JSON object, which its server sees to. One that
    `thinks` reasons before it answers, within the room that its endpoint's `reasoning_tokens` add to `sampling`.
    """

    name: str
    identity: Identity
    sampling: Sampling
    structured: bool = False
    thinks: bool = False

    def request(self, messages: tuple[Message, ...], seed: int, sections: tuple[str, ...]) -> ChatRequest:
        """The request for a reply of these sections."""
        if not self.structured:
            return ChatRequest(self.identity, messages, self.sampling, seed)
        asked = replace(messages[-1], content=f"{messages[-1].content}\n\n{_AS_JSON}")
        return ChatRequest(self.identity, (*messages[:-1], asked), self.sampling, seed, sections)

    def asking(self, messages: tuple[Message, ...], sections: tuple[str, ...]) -> Ask:
        return lambda seed: self.request(messages, seed, sections)

    @property
    def continues(self) -> bool:
        """Whether the endpoint goes on with a reply that was begun for it, as a last message of the assistant. A reply
        that is begun with its answer leaves no place for thoughts.
        """
        return not self.thinks and continues_replies(self.identity.interface)

    def continuation(
        self, messages: tuple[Message, ...], begun: str, seed: int, max_tokens: int, stop: tuple[str, ...]
    ) -> ChatRequest:
        """The request for what follows `begun`."""
        sampling = replace(self.sampling, max_tokens=max_tokens, stop=(*stop, *self.sampling.stop))
        return ChatRequest(self.identity, (*messages, Message("assistant", begun)), sampling, seed)

    def find_cut(self, reply: ChatReply) -> Unparsed | None:
        """Why a reply that ended inside its reasoning holds no answer, with the key to raise; None for any other."""
        if not ends_in_reasoning(storable(reply.text), reply.finish):
            return None
        tokens, key = reply.completion_tokens or reply.reasoning_tokens, f"endpoints.{self.name}.reasoning_tokens"
        if reply.finish == "length":
            return Unparsed(f"{CUT_IN_REASONING} after {tokens} tokens; raise {key}")
        if self.thinks:
            return Unparsed(f"ended inside its reasoning after {tokens} tokens, without an answer")
        return Unparsed(f"{CUT_IN_REASONING} after {tokens} tokens, where a stop string may stand; set {key}")


async def ask(request: ChatRequest, call: Call) -> ChatReply | Refused:
    """The reply to a request, or why the endpoint refuses its prompt."""
    try:
        return await call(request)
    except PromptRefusedError as error:
        return Refused(error.message)


async def ask_until_read(
    player: Player,
    make_request: Ask,
    read: Callable[[ChatReply], T | Unparsed],
    draw: Draw,
    step: str,
    retries: int,
    call: Call,
) -> T | Unparsed:
    """Ask, and ask again with another seed while the reply cannot be read; at most `retries` more times (SPEC §6). A
    prompt that is refused is not asked again: no seed changes it.
    """
    read_reply: T | Unparsed = Unparsed("not asked")
    for retry in range(retries + 1):
        reply = await ask(make_request(draw.seed(step, retry)), call)
        if isinstance(reply, Refused):
            return reply
        read_reply = player.find_cut(reply) or read(reply)
        if not isinstance(read_reply, Unparsed):
            return read_reply
    return read_reply
