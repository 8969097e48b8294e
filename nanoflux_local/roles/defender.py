"""The defender (paper §3, A.2.2): it sees only the question, and replies in sections, each within its token budget."""

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
"""The tokens allowed for the names of the sections, in addition to the budgets of the sections."""
DEFAULT_BUDGET = 500
"""The token budget of a section for which the run sets none."""
_BUDGET_NOTE = re.compile(r"\(at most \d+ tokens\)")
"""The end of the description of a section in the prompt. A section of a reply that contains such a note repeats the
description.
"""


def build_defender_messages(domain: Domain, budgets: dict[str, int], question: str) -> tuple[Message, ...]:
    """The conversation that the defender sees. The tuned model is trained and evaluated with the same conversation."""
    messages: list[Message] = []
    for example in domain.examples:
        messages.append(_build_prompt_message(domain, budgets, example.question, first=not messages))
        messages.append(Message("assistant", render_sections(example.sections)))
    return (*messages, _build_prompt_message(domain, budgets, question, first=not messages))


def _build_prompt_message(domain: Domain, budgets: dict[str, int], question: str, first: bool) -> Message:
    """The prompt with this question. The `first` prompt of a conversation also contains the instructions."""
    values = {"question": question, "budgets": budgets, "first": first}
    return Message("user", domain.render("defender", values))


def compute_reply_budget(domain: Domain, budgets: dict[str, int]) -> int:
    """The maximum number of tokens of a whole reply; `budgets` are those of its sections."""
    return sum(budgets.get(name, DEFAULT_BUDGET) for name in domain.sections.defender) + OVERHEAD_TOKENS


@dataclass(frozen=True, slots=True)
class Defender:
    """Solves questions. An unreadable reply is requested again, at most `retries` times for each request."""

    domain: Domain
    player: Player
    budgets: dict[str, int]
    retries: int

    @property
    def name(self) -> str:
        return self.player.name

    async def defend(self, question: str, draw: Draw, call: Call) -> Defence | Unparsed:
        """Answer a question. Answers after the first (`draw.sample` > 0) are sampled at a temperature above 0. Returns
        the defence, or why there is none.
        """
        if draw.sample == 0:
            return await self._answer(question, draw, call)
        return await replace(self, player=self.player.vary())._answer(question, draw, call)

    async def _answer(self, question: str, draw: Draw, call: Call) -> Defence | Unparsed:
        """Answer a question with this player: section by section if replies can be prefilled, else in one reply."""
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
        analysis = truncated_texts.get("ANALYSIS", "")
        return Defence(truncated_texts["SOLUTION"], truncated_texts["ANSWER"], analysis, truncated_names)

    async def _defend_by_sections(self, messages: tuple[Message, ...], draw: Draw, call: Call) -> Defence | Unparsed:
        """Request the sections one by one. Each request prefills the reply up to a section's name, so no section can be
        missing. The endpoint stops each section at its budget, so that even a small model that rambles reaches an
        answer.
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
            if reply.finish == "length":
                truncated_names.append(name)
        return Defence(texts["SOLUTION"], texts["ANSWER"], texts.get("ANALYSIS", ""), tuple(truncated_names))

    def _build_section_request(self, messages: tuple[Message, ...], texts: dict[str, str], name: str) -> MakeRequest:
        """A function that builds the request for section `name`, which follows those in `texts`. The reply stops before
        the name of a later section; the last section stops at the end of its line.
        """
        names = self.domain.sections.defender
        later_names = names[names.index(name) + 1 :]
        stop = tuple(f"\n{later_name}:" for later_name in later_names) if later_names else ("\n",)
        beginning = render_sections({**texts, name: ""}).rstrip()
        budget = self.budgets.get(name, DEFAULT_BUDGET)
        return lambda seed: self.player.build_continuation(messages, beginning, seed, budget, stop)

    def _read_reply(self, reply: ChatReply) -> dict[str, str] | Unparsed:
        """Read the sections of a whole reply."""
        sections = read_sections(reply.text, self.domain.sections.defender, once=("ANSWER",))
        return sections if isinstance(sections, Unparsed) else refuse_descriptions(sections, _BUDGET_NOTE.search)

    async def _truncate_to_budget(self, name: str, text: str, call: Call) -> str:
        """The text of section `name`, truncated to its token budget with the endpoint's tokenizer."""
        budget = self.budgets.get(name)
        if budget is None or len(text.encode()) <= budget:  # a token is at least one byte
            return text
        reply = await call(CutRequest(self.player.identity, text, budget))
        return reply.text


def _strip_reply(reply: ChatReply) -> str:
    """The text of a reply without reasoning and surrounding white space."""
    return storable(strip_reasoning(reply.text)).strip()


def _refuse_empty(reply: ChatReply) -> ChatReply | Unparsed:
    """The reply, or Unparsed if nothing remains once its reasoning is removed."""
    return reply if _strip_reply(reply) else Unparsed("nothing was written")
