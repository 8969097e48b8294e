"""Scores replies with a judge (paper §3), which accepts sound reasoning with minor slips.

If the judge's verdict cannot be read or stays in doubt, the reply is "unscored": neither right nor wrong.
"""

from dataclasses import asdict, dataclass
from typing import Any

from nanoflux_local.config import JudgeRules
from nanoflux_local.domains.base import Domain
from nanoflux_local.endpoints.base import Endpoint
from nanoflux_local.errors import EndpointError
from nanoflux_local.evaluate.scoring import Mark
from nanoflux_local.ledger.calls import Call, acting_as
from nanoflux_local.reasoning import CUT_IN_REASONING
from nanoflux_local.records import Sampling
from nanoflux_local.roles.base import Draw, Player
from nanoflux_local.roles.judge import ModelJudge
from nanoflux_local.roles.sections import Unparsed, read_sections
from nanoflux_local.transcript import Attack, Defence, Seed, Verdict

REPLY_TOKENS = 2048
"""The maximum number of tokens of a judge's reply, not counting its reasoning."""
RETRIES = 2
"""How often a judge's reply that cannot be read is requested again."""


@dataclass(frozen=True, slots=True)
class SoftJudge:
    """A judge model, the endpoint that serves it, and the form of its replies: JSON if `structured` is true, otherwise
    sections, with at most `reply_tokens` tokens.
    """

    name: str
    endpoint: Endpoint
    structured: bool = False
    reply_tokens: int = REPLY_TOKENS

    @property
    def settings(self) -> list[Any]:
        """The settings that determine a mark, apart from the domain's prompts."""
        reasoning = self.endpoint.context.reasoning
        settings = [asdict(self.endpoint.identity), self.structured, self.reply_tokens]
        return [*settings, reasoning] if reasoning else settings

    async def mark(self, domain: Domain, question: str, item: Seed, reply: str, draw: Draw, call: Call) -> Mark:
        """The soft mark of one reply. A reply that lacks a solution or an answer is "unanswered".

        Raises:
            EndpointError: the judge did not reply, or the reply was truncated inside the reasoning.
        """
        sections = read_sections(reply, ("SOLUTION", "ANSWER"), once=("ANSWER",))
        if isinstance(sections, Unparsed):
            return "unanswered"
        reasoning = self.endpoint.context.reasoning
        sampling = Sampling(0.0, 1.0, self.reply_tokens + reasoning)
        player = Player(self.name, self.endpoint.identity, sampling, self.structured, thinks=reasoning > 0)
        judge = ModelJudge(domain, player, JudgeRules(confidence=domain.confidence), RETRIES)
        attack = Attack(question, item.solution or "(none is given)", item.answer)
        with acting_as("judge"):
            verdict = await judge.evaluate(attack, Defence(sections["SOLUTION"], sections["ANSWER"]), draw, call)
        if isinstance(verdict, Unparsed) and CUT_IN_REASONING in verdict.reason:
            raise EndpointError(f"the judge's reply was {verdict.reason}", "run the same command again")
        if not isinstance(verdict, Verdict) or verdict.soft is None:
            return "unscored"
        return "right" if verdict.soft else "wrong"
