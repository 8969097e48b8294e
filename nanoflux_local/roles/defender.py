"""The defender (paper §3, A.2.2): sees only the question and answers in sections, each within its token budget."""

import re
from dataclasses import dataclass, replace

from nanoflux_local.domains.base import Domain
from nanoflux_local.ledger.calls import Call
from nanoflux_local.reasoning import strip_reasoning
from nanoflux_local.records import ChatReply, CutRequest, Message, storable
from nanoflux_local.roles.base import Draw, MakeRequest, Player, ask_until_read
from nanoflux_local.roles.sections import Unparsed, read_sections, refuse_descriptions, render_sections
from nanoflux_local.transcript import Defence

OVERHEAD_TOKENS = 32
"""Tokens for the sections' names, on top of their budgets."""
DEFAULT_BUDGET = 500
"""The token budget of a section for which the run sets none."""
_LENGTH = re.compile(r"\(at most \d+ tokens\)")
"""The end of the prompt's description of a section. A section of a reply that contains it repeats the description."""


def build_defender_messages(domain: Domain, budgets: dict[str, int], question: str) -> tuple[Message, ...]:
    """The conversation that the defender sees. The tuned model is trained and evaluated with the same conversation."""
    messages: list[Message] = []
    for example in domain.examples:
        messages.append(_build_prompt_message(domain, budgets, example.question, first=not messages))
        messages.append(Message("assistant", render_sections(example.sections)))
    return (*messages, _build_prompt_message(domain, budgets, question, first=not messages))


def _build_prompt_message(domain: Domain, budgets: dict[str, int], question: str, first: bool) -> Message:
    values = {"question": question, "budgets": budgets, "first": first}
    return Message("user", domain.render("defender", values))


def reply_budget(domain: Domain, budgets: dict[str, int]) -> int:
    """The maximum number of tokens of a whole reply."""
    return sum(budgets.get(name, DEFAULT_BUDGET) for name in domain.sections.defender) + OVERHEAD_TOKENS


@dataclass(frozen=True, slots=True)
class Defender:
    """Solves a question; an unreadable reply is requested again. Answers after the first (`draw.sample` > 0) are
    sampled at a temperature above 0.
    """

    domain: Domain
    player: Player
    budgets: dict[str, int]
    retries: int

    @property
    def name(self) -> str:
        return self.player.name

    async def defend(self, question: str, draw: Draw, call: Call) -> Defence | Unparsed:
        defender = replace(self, player=self.player.vary()) if draw.sample else self
        return await defender._answer(question, draw, call)

    async def _answer(self, question: str, draw: Draw, call: Call) -> Defence | Unparsed:
        messages = build_defender_messages(self.domain, self.budgets, question)
        if self.player.supports_prefill:
            return await self._defend_by_sections(messages, draw, call)
        make_request = self.player.request_builder(messages, self.domain.sections.defender)
        sections = await ask_until_read(
            self.player, make_request, self._read_reply, draw, "defence", self.retries, call
        )
        if isinstance(sections, Unparsed):
            return sections
        truncated_texts = {name: await self._truncate_to_budget(name, text, call) for name, text in sections.items()}
        truncated_names = tuple(name for name, text in sections.items() if truncated_texts[name] != text)
        return Defence(
            truncated_texts["SOLUTION"], truncated_texts["ANSWER"], truncated_texts.get("ANALYSIS", ""), truncated_names
        )

    async def _defend_by_sections(self, messages: tuple[Message, ...], draw: Draw, call: Call) -> Defence | Unparsed:
        """Request the sections one by one. Each request ends with a section's name, so no section can be missing.

        The endpoint stops each section at its budget, so that even a small model that rambles reaches an answer.
        """
        texts: dict[str, str] = {}
        truncated_names: list[str] = []
        for name in self.domain.sections.defender:
            reply = await ask_until_read(
                self.player,
                self._build_section_request(messages, texts, name),
                _refuse_empty,
                draw,
                f"defence-{name}",
                self.retries,
                call,
            )
            if isinstance(reply, Unparsed):
                return replace(reply, reason=f"section {name}: {reply.reason}")
            texts[name] = _strip_reply(reply)
            truncated_names += [name] if reply.finish == "length" else []
        return Defence(texts["SOLUTION"], texts["ANSWER"], texts.get("ANALYSIS", ""), tuple(truncated_names))

    def _build_section_request(self, messages: tuple[Message, ...], texts: dict[str, str], name: str) -> MakeRequest:
        """The request for the section after those in `texts`. The reply stops before the next section's name."""
        names = self.domain.sections.defender
        stop = tuple(f"\n{later_name}:" for later_name in names[names.index(name) + 1 :]) or ("\n",)
        beginning = render_sections({**texts, name: ""}).rstrip()
        budget = self.budgets.get(name, DEFAULT_BUDGET)
        return lambda seed: self.player.build_continuation(messages, beginning, seed, budget, stop)

    def _read_reply(self, reply: ChatReply) -> dict[str, str] | Unparsed:
        sections = read_sections(reply.text, self.domain.sections.defender, once=("ANSWER",))
        return sections if isinstance(sections, Unparsed) else refuse_descriptions(sections, _LENGTH.search)

    async def _truncate_to_budget(self, name: str, text: str, call: Call) -> str:
        """A section truncated to its token budget, as the endpoint's tokenizer counts."""
        budget = self.budgets.get(name)
        if budget is None or len(text.encode()) <= budget:  # a token is at least one byte
            return text
        return (await call(CutRequest(self.player.identity, text, budget))).text


def _strip_reply(reply: ChatReply) -> str:
    return storable(strip_reasoning(reply.text)).strip()


def _refuse_empty(reply: ChatReply) -> ChatReply | Unparsed:
    return reply if _strip_reply(reply) else Unparsed("nothing was written")
