"""The answerability check: does a question state everything that its answer needs? The judge must prove it by
quotations.

The judge says what is asked, quotes the given facts, and names what is missing or contradictory. This module looks each
quotation up in the question. If a quotation is not in the question, the judge has misread it, and the reply is ignored.
Other checks decide whether the answer is right.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from nanoflux_local.config import JudgeRules
from nanoflux_local.domains.base import Domain
from nanoflux_local.ledger.calls import Call
from nanoflux_local.records import ChatReply, Message
from nanoflux_local.roles.base import Draw, Player, ask_until_read
from nanoflux_local.roles.checks.base import Check, CheckContext, CheckStage
from nanoflux_local.roles.sections import Unparsed, read_claim, read_sections, refuse_copies, says_none
from nanoflux_local.transcript import Attack, Conclusion, Exhibit, Finding, Seed

SECTIONS = ("ASKED", "GIVEN", "MISSING", "CONTRADICTION")
_QUOTED = re.compile('["\u201c\u201d\u00ab\u00bb]([^"\u201c\u201d\u00ab\u00bb]+)["\u201c\u201d\u00ab\u00bb]')
_BULLET = re.compile(r"^\s*(?:[-*•]\s+|\d+[.)]\s+)+")
_ELLIPSIS = re.compile(r"…|\.\.\.|\[\W*\]")
"""A mark of omitted words in a quotation: "…", "..." or "[…]"."""


@dataclass(frozen=True, slots=True)
class Premises:
    """What a reply says about a question: the given facts that it quotes, and what it calls missing or contradictory
    ("" if nothing). `contradictory` are the quotations in `contradiction`.
    """

    quotations: tuple[str, ...]
    missing: str
    contradiction: str
    contradictory: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AnswerableCheck:
    """Asks the judge what the question states. An unreadable reply is requested again, at most `retries` times."""

    name: ClassVar[str] = "answerable"
    title: ClassVar[str] = "answerability check"
    stage: ClassVar[CheckStage] = "verifies"
    tools: ClassVar[tuple[str, ...]] = ()
    objection: ClassVar[str] = "it cannot be answered"
    asks_solvers: ClassVar[bool] = False

    domain: Domain
    player: Player
    retries: int

    @classmethod
    def build(cls, context: CheckContext) -> "AnswerableCheck":
        return cls(context.domain, context.player, context.config.retries.parse)

    @classmethod
    def count_calls(cls, rules: JudgeRules) -> Mapping[str, int]:
        del rules
        return {"chat": 1}

    async def examine(self, attack: Attack, draw: Draw, call: Call, seeds: tuple[Seed, ...] = ()) -> Finding:
        """Contradict a question that lacks something or contradicts itself. The quotations are the evidence."""
        del seeds  # the judge sees only the question
        prompt = self.domain.render("answerable", {"question": attack.question})

        def read_reply(reply: ChatReply) -> Premises | Unparsed:
            return read_premises(reply.text, prompt)

        make_request = self.player.request_builder((Message("user", prompt),), SECTIONS)
        premises = await ask_until_read(self.player, make_request, read_reply, draw, self.name, self.retries, call)
        if isinstance(premises, Unparsed):
            return Finding(self.name, "not checked", premises.reason)
        quotations = (*premises.quotations, *premises.contradictory)
        misquoted = [quotation for quotation in quotations if not is_quoted_from(quotation, attack.question)]
        conclusion, reason = _conclude(premises, misquoted)
        exhibits = tuple(_make_exhibit(quotation, quotation not in misquoted) for quotation in quotations)
        return Finding(self.name, conclusion, reason, exhibits)


def _conclude(premises: Premises, misquoted: Sequence[str]) -> tuple[Conclusion, str]:
    """The conclusion and its reason; `misquoted` are the quotations that are not in the question."""
    if misquoted:
        return "not checked", f"the judge quotes what the question does not say: {misquoted[0][:120]!r}"
    if premises.missing:
        return "contradicts", f"missing: {premises.missing[:300]}"
    if premises.contradictory:
        return "contradicts", f"contradictory: {premises.contradiction[:300]}"
    if premises.contradiction:
        return "not checked", f"the judge names a contradiction without a quotation: {premises.contradiction[:120]!r}"
    if not premises.quotations:
        return "not checked", "the judge quotes nothing that is given"
    return "supports", "every quoted statement is in the question, and nothing is missing"


def _make_exhibit(quotation: str, found_in_question: bool) -> Exhibit:
    return Exhibit("quotation", quotation, "in the question" if found_in_question else "not in the question")


def read_premises(text: str, prompt: str) -> Premises | Unparsed:
    """Read the sections of a reply to `prompt`. A section is unreadable if it repeats its description in the prompt, or
    if it is not clear whether it claims something.
    """
    sections = read_sections(text, SECTIONS, once=("MISSING", "CONTRADICTION"))
    if isinstance(sections, Unparsed):
        return sections
    claims = {name: sections[name] for name in ("MISSING", "CONTRADICTION")}
    own_claims = refuse_copies(claims, prompt)
    if isinstance(own_claims, Unparsed):
        return own_claims
    missing = read_claim(own_claims["MISSING"])
    if isinstance(missing, Unparsed):
        return missing
    contradiction = read_claim(own_claims["CONTRADICTION"])
    if isinstance(contradiction, Unparsed):
        return contradiction
    quotations = () if says_none(sections["GIVEN"]) else _read_quotations(sections["GIVEN"])
    return Premises(quotations, missing, contradiction, tuple(_QUOTED.findall(contradiction)))


def _read_quotations(text: str) -> tuple[str, ...]:
    """The texts between quotation marks, without repetitions. A line without quotation marks is one quotation."""
    quotations: list[str] = []
    for line in text.splitlines():
        if line.strip():
            content = _BULLET.sub("", line).strip()
            quoted_texts = _QUOTED.findall(content)
            quotations += quoted_texts if quoted_texts else [content]
    return tuple(dict.fromkeys(quotations))


def is_quoted_from(quotation: str, question: str) -> bool:
    """Whether the words of a quotation occur in the question, in the same order; an ellipsis stands for any words.
    Case, spaces, markup and punctuation between words do not matter.
    """
    question_words = f" {_normalize_words(question)} "
    pieces = [_normalize_words(piece) for piece in _ELLIPSIS.split(quotation)]
    pieces = [piece for piece in pieces if piece]
    start = 0
    for piece in pieces:
        position = question_words.find(f" {piece} ", start)
        if position < 0:
            return False
        start = position + len(piece)
    return bool(pieces)


def _normalize_words(text: str) -> str:
    """The words and numbers of a text, in lower case and separated by single spaces."""
    plain_text = unicodedata.normalize("NFKC", text).casefold().replace("_", " ")
    return " ".join(re.findall(r"\d[\d,.]*\d|\w+", plain_text))


CHECK: type[Check] = AnswerableCheck
