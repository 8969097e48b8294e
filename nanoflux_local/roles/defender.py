"""The defender (paper §3, A.2.2): sees the question alone and answers in sections, each within its token budget."""

import re
from dataclasses import dataclass, replace

from nanoflux_local.domains.base import Domain
from nanoflux_local.ledger.calls import Call
from nanoflux_local.reasoning import strip_reasoning
from nanoflux_local.records import ChatReply, CutRequest, Message, storable
from nanoflux_local.roles.base import Ask, Draw, Player, ask_until_read
from nanoflux_local.roles.sections import Unparsed, read_sections, refuse_descriptions, sections_text
from nanoflux_local.transcript import Defence

OVERHEAD_TOKENS = 32
"""Room for the sections' names beside their budgets."""
DEFAULT_BUDGET = 500
_LENGTH = re.compile(r"\(at most \d+ tokens\)")
"""How the prompt's description of a section ends: a section that holds it is the description, given back."""


def defender_messages(domain: Domain, budgets: dict[str, int], question: str) -> tuple[Message, ...]:
    """The conversation a defender sees; the same one trains and evaluates the tuned model."""
    messages: list[Message] = []
    for example in domain.examples:
        messages.append(_prompt_message(domain, budgets, example.question, first=not messages))
        messages.append(Message("assistant", sections_text(example.sections)))
    return (*messages, _prompt_message(domain, budgets, question, first=not messages))


def _prompt_message(domain: Domain, budgets: dict[str, int], question: str, first: bool) -> Message:
    values = {"question": question, "budgets": budgets, "first": first}
    return Message("user", domain.render("defender", values))


def reply_budget(domain: Domain, budgets: dict[str, int]) -> int:
    """Tokens that a whole reply may take."""
    return sum(budgets.get(name, DEFAULT_BUDGET) for name in domain.sections.defender) + OVERHEAD_TOKENS


@dataclass(frozen=True, slots=True)
class Defender:
    """Solves a question; what cannot be read is asked again."""

    domain: Domain
    player: Player
    budgets: dict[str, int]
    retries: int

    @property
    def name(self) -> str:
        return self.player.name

    async def defend(self, question: str, draw: Draw, call: Call) -> Defence | Unparsed:
        messages = defender_messages(self.domain, self.budgets, question)
        if self.player.continues:
            return await self._by_sections(messages, draw, call)
        asked = self.player.asking(messages, self.domain.sections.defender)
        sections = await ask_until_read(self.player, asked, self._read_reply, draw, "defence", self.retries, call)
        if isinstance(sections, Unparsed):
            return sections
        cut = {name: await self._within_budget(name, text, call) for name, text in sections.items()}
        over = tuple(name for name, text in sections.items() if cut[name] != text)
        return Defence(cut["SOLUTION"], cut["ANSWER"], cut.get("ANALYSIS", ""), over)

    async def _by_sections(self, messages: tuple[Message, ...], draw: Draw, call: Call) -> Defence | Unparsed:
        """Ask section by section: each is begun with its name and ends at its budget, so that none can be missing.

        This is how the budgets are enforced where an endpoint goes on with a begun reply; a small model that rambles
        still comes to an answer.
        """
        texts: dict[str, str] = {}
        cut: list[str] = []
        for name in self.domain.sections.defender:
            reply = await ask_until_read(
                self.player,
                self._section(messages, texts, name),
                _not_empty,
                draw,
                f"defence-{name}",
                self.retries,
                call,
            )
            if isinstance(reply, Unparsed):
                return replace(reply, reason=f"section {name}: {reply.reason}")
            texts[name] = _visible(reply)
            cut += [name] if reply.finish == "length" else []
        return Defence(texts["SOLUTION"], texts["ANSWER"], texts.get("ANALYSIS", ""), tuple(cut))

    def _section(self, messages: tuple[Message, ...], texts: dict[str, str], name: str) -> Ask:
        """The request for one section, after those that were told: it ends where the next one would begin."""
        names = self.domain.sections.defender
        stop = tuple(f"\n{later}:" for later in names[names.index(name) + 1 :]) or ("\n",)
        begun = sections_text({**texts, name: ""}).rstrip()
        budget = self.budgets.get(name, DEFAULT_BUDGET)
        return lambda seed: self.player.continuation(messages, begun, seed, budget, stop)

    def _read_reply(self, reply: ChatReply) -> dict[str, str] | Unparsed:
        sections = read_sections(reply.text, self.domain.sections.defender, once=("ANSWER",))
        return sections if isinstance(sections, Unparsed) else refuse_descriptions(sections, _LENGTH.search)

    async def _within_budget(self, name: str, text: str, call: Call) -> str:
        """The part of a section that lies within its budget, counted with the endpoint's own tokenizer."""
        budget = self.budgets.get(name)
        if budget is None or len(text.encode()) <= budget:  # a token is at least one byte
            return text
        return (await call(CutRequest(self.player.identity, text, budget))).text


def _visible(reply: ChatReply) -> str:
    return storable(strip_reasoning(reply.text)).strip()


def _not_empty(reply: ChatReply) -> ChatReply | Unparsed:
    return reply if _visible(reply) else Unparsed("nothing was written")
