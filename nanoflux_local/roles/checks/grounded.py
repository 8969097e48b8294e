"""The grounding check: the judge lists the premises of a solution with a quotation for each, and this module looks up
the quotations in the passages.

The attacker may cite what its solution does not use, and use what it does not cite. In this check, the judge says what
the solution rests on. Other checks decide whether its steps are right.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from nanoflux_local.config import JudgeRules
from nanoflux_local.domains.base import Domain
from nanoflux_local.errors import ConfigError
from nanoflux_local.ledger.calls import Call
from nanoflux_local.quantities import format_quantity
from nanoflux_local.records import ChatReply, Message
from nanoflux_local.roles.base import Draw, Player, ask_until_read
from nanoflux_local.roles.checks.base import Check, CheckContext, CheckStage
from nanoflux_local.roles.checks.quotations import (
    Quotation,
    find_first_missing,
    find_passage,
    make_exhibits,
    read_quotations,
)
from nanoflux_local.roles.sections import Unparsed, read_claim, read_sections, refuse_copies, says_none
from nanoflux_local.transcript import Attack, Finding, Seed

SECTIONS = ("PREMISES", "UNSUPPORTED")


@dataclass(frozen=True, slots=True)
class QuotedPremises:
    """The quotations on which a solution rests, and what the judge calls unsupported by any passage ("" if nothing)."""

    quotations: tuple[Quotation, ...]
    unsupported: str


@dataclass(frozen=True, slots=True)
class GroundedCheck:
    """Asks the judge for a solution's premises. An unreadable reply is requested again, at most `retries` times."""

    name: ClassVar[str] = "grounded"
    title: ClassVar[str] = "grounding check"
    stage: ClassVar[CheckStage] = "verifies"
    tools: ClassVar[tuple[str, ...]] = ()
    objection: ClassVar[str] = "a premise is in no passage"
    asks_solvers: ClassVar[bool] = False

    domain: Domain
    player: Player
    retries: int

    @classmethod
    def build(cls, context: CheckContext) -> "GroundedCheck":
        require_prompt(context.domain, cls.name)
        return cls(context.domain, context.player, context.config.retries.parse)

    @classmethod
    def count_calls(cls, rules: JudgeRules) -> Mapping[str, int]:
        del rules
        return {"chat": 1}

    async def examine(self, attack: Attack, draw: Draw, call: Call, seeds: tuple[Seed, ...] = ()) -> Finding:
        """Contradict a solution with a premise that no passage supports. The quotations are the evidence.

        The judge's claim that a premise is unsupported counts only if the premise is in no passage.
        """
        if not seeds:
            return Finding(self.name, "not checked", "the question has no passages")
        prompt = self.domain.render("grounded", {"attack": attack, "passages": seeds})

        def read_reply(reply: ChatReply) -> QuotedPremises | Unparsed:
            return read_premises(reply.text, self.domain.prompts["grounded"])

        make_request = self.player.request_builder((Message("user", prompt),), SECTIONS)
        premises = await ask_until_read(self.player, make_request, read_reply, draw, self.name, self.retries, call)
        if isinstance(premises, Unparsed):
            return Finding(self.name, "not checked", premises.reason)
        unsupported_statements = read_quotations(premises.unsupported)
        if any(find_passage(statement, seeds) is None for statement in unsupported_statements):
            exhibits = make_exhibits(premises.quotations, seeds)
            return Finding(self.name, "contradicts", f"unsupported: {premises.unsupported[:300]}", exhibits)
        # The passages contain all statements that the judge calls unsupported. Small judges make this mistake.
        exhibits = make_exhibits(dict.fromkeys((*premises.quotations, *unsupported_statements)), seeds)
        first_misquoted = find_first_missing(exhibits)
        if first_misquoted:
            reason = f"the judge quotes what no passage says: {first_misquoted!r}"
            return Finding(self.name, "not checked", reason, exhibits)
        if not exhibits:
            return Finding(self.name, "not checked", "the judge quotes no premise")
        verb = "is" if len(exhibits) == 1 else "are"
        reason = f"the {format_quantity(len(exhibits), 'quoted premise')} {verb} in the passages"
        return Finding(self.name, "supports", reason, exhibits)


def require_prompt(domain: Domain, name: str) -> None:
    """Raise ConfigError if the domain has no prompt for a check that compares a question with its passages."""
    if name not in domain.prompts:
        raise ConfigError(
            f"judge.checks: {name!r} needs passages, and the seeds of the domain {domain.name!r} are questions",
            'choose a domain for documents, or write one with extends = "documents"',
        )


def read_premises(text: str, template: str) -> QuotedPremises | Unparsed:
    """Read the sections of a reply. A section is unreadable if it repeats its description in the prompt's `template`
    (but not if it repeats the solution or a passage), or if it is not clear whether it claims something.
    """
    sections = read_sections(text, SECTIONS, once=("UNSUPPORTED",))
    if isinstance(sections, Unparsed):
        return sections
    own_sections = refuse_copies(sections, template)
    if isinstance(own_sections, Unparsed):
        return own_sections
    premises, unsupported = own_sections["PREMISES"], read_claim(own_sections["UNSUPPORTED"])
    if isinstance(unsupported, Unparsed):
        return unsupported
    return QuotedPremises(() if says_none(premises) else read_quotations(premises), unsupported)


CHECK: type[Check] = GroundedCheck
