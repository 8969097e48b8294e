"""The attacker as a model (paper §3, A.2.1): it builds a new question with its solution and answer from seeds."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from nanoflux_local.answers import answer_number, read_choice, read_number
from nanoflux_local.domains.base import Domain
from nanoflux_local.ledger.calls import Call
from nanoflux_local.records import Message
from nanoflux_local.reply_end import cut_at_next_turn
from nanoflux_local.roles.base import Draw, Player, ask
from nanoflux_local.roles.sections import (
    RefusedPrompt,
    Unparsed,
    read_sections,
    read_tags,
    refuse_descriptions,
    render_sections,
)
from nanoflux_local.transcript import Attack, Seed


@dataclass(frozen=True, slots=True)
class ModelAttacker:
    """Prompts a model to stitch the seeds' concepts together. An unreadable reply ends the attempt without a retry."""

    domain: Domain
    player: Player

    @property
    def name(self) -> str:
        return self.player.name

    async def attack(self, seeds: tuple[Seed, ...], draw: Draw, call: Call) -> Attack | Unparsed:
        """Request an attack built from these seeds. Returns the attack, or why there is none."""
        messages = build_attacker_messages(self.domain, seeds)
        request = self.player.build_request(messages, draw.seed("attack"), self.domain.sections.attacker)
        reply = await ask(request, call)
        if isinstance(reply, RefusedPrompt):
            return reply
        incomplete = self.player.refuse_incomplete(reply)
        return read_attack(self.domain, reply.text) if incomplete is None else incomplete


def build_attacker_messages(domain: Domain, seeds: Sequence[Seed]) -> tuple[Message, ...]:
    """The conversation that the attacker sees: the domain's example attacks, then the prompt with the seeds."""
    messages: list[Message] = []
    for example in domain.attacks:
        example_seeds = [Seed(str(number), domain.name, text, "") for number, text in enumerate(example.material)]
        messages.append(_build_prompt_message(domain, example_seeds, first=not messages))
        messages.append(Message("assistant", render_sections(example.sections)))
    return (*messages, _build_prompt_message(domain, seeds, first=not messages))


def _build_prompt_message(domain: Domain, seeds: Sequence[Seed], first: bool) -> Message:
    """The prompt with these seeds. The `first` prompt of a conversation also contains the instructions."""
    return Message("user", domain.render("attacker", {"seeds": seeds, "first": first}))


def read_attack(domain: Domain, text: str) -> Attack | Unparsed:
    """Read an attack from the text of a reply. Its answer must be of the domain's kind (number, choice or text), and is
    normalized.
    """
    sections = read_sections(text, domain.sections.attacker, once=("ANSWER",))
    if isinstance(sections, Unparsed):
        return sections
    bracketed = {name: content for name, content in sections.items() if re.fullmatch(r"\[[^][]*\]", content)}
    if bracketed:  # the prompt describes sections in brackets, and small models keep the brackets
        prompt = _build_prompt_message(domain, (), first=True).content
        own_sections = refuse_descriptions(bracketed, lambda content: content in prompt)
        if isinstance(own_sections, Unparsed):
            return own_sections
        sections |= {name: content[1:-1].strip() for name, content in own_sections.items()}
    answer = normalize_answer(domain, sections["ANSWER"])
    if answer is None:
        return Unparsed(f"ANSWER is not a {domain.answer}: {sections['ANSWER'][:80]!r}")
    solution = read_tags(sections["SOLUTION"], domain.tags) if domain.tags else sections["SOLUTION"]
    if isinstance(solution, Unparsed):
        return Unparsed(f"SOLUTION: {solution.reason}")
    notes = {name: value for name, value in sections.items() if name not in ("QUESTION", "SOLUTION", "ANSWER")}
    return Attack(sections["QUESTION"], solution, answer, notes=notes)


def normalize_answer(domain: Domain, text: str) -> str | None:
    """Read an answer in its machine-readable form; None if the text does not state exactly one."""
    if domain.answer == "number":
        number = read_number(text)
        return None if number is None else answer_number(number)
    if domain.answer == "choice":
        return read_choice(text, domain.letters)
    return cut_at_next_turn(text, speakers_only=True).strip() or None
