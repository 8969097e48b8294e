"""The judge as a model (paper §3, A.2.3-4): validates attacks and evaluates defences, and is asked again if its
confidence is low.

Nothing is guessed: a reply without a readable decision and confidence is `Unparsed`, and too many replies with a low
confidence are a `Doubt`.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from nanoflux_local.answers import same_number
from nanoflux_local.config import JudgeRules
from nanoflux_local.domains.base import Domain
from nanoflux_local.ledger.calls import Call
from nanoflux_local.records import ChatReply, Message
from nanoflux_local.roles.attacker import normalize_answer
from nanoflux_local.roles.base import Draw, Player, ask_until_read
from nanoflux_local.roles.sections import Unparsed, read_sections
from nanoflux_local.transcript import Attack, Defence, Doubt, Exhibit, Seed, Verdict

ReadVerdict = Callable[[ChatReply], Verdict | Unparsed]
_CONFIDENCE = re.compile(r"[\s*_`(]*(\d+(?:\.\d+)?|\.\d+)(?![.,]?\d|\s*(?:/|out\s+of\b))\s*(%?)")
"""A number, perhaps in markup and with a percent sign, that is not part of a longer number or of a fraction."""


@dataclass(frozen=True, slots=True)
class ModelJudge:
    """Judges with the domain's prompts; `rules` state the confidence that a verdict needs."""

    domain: Domain
    player: Player
    rules: JudgeRules
    retries: int

    @property
    def name(self) -> str:
        return self.player.name

    async def validate(
        self,
        attack: Attack,
        draw: Draw,
        call: Call,
        evidence: tuple[Exhibit, ...] = (),
        seeds: tuple[Seed, ...] = (),
    ) -> Verdict | Doubt | Unparsed:
        """Decide whether the question is clear and sufficient, and its solution and answer right (paper A.2.4)."""
        del seeds  # only checks use them
        prompt = self.domain.render("validation", {"attack": attack, "evidence": evidence})
        return await self._ask_until_confident(prompt, self._read_validation, draw, "validation", call)

    async def evaluate(self, attack: Attack, defence: Defence, draw: Draw, call: Call) -> Verdict | Doubt | Unparsed:
        """Decide whether the answer is right and reached by valid steps (strict), and whether the approach is sound
        (soft; paper A.2.3). If a program grades, it only compares the two answers.
        """
        if not needs_evaluation(self.rules, self.domain):
            agrees = is_same_answer(self.domain, defence.answer, attack.answer) is True
            return Verdict(agrees, 1.0, describe_comparison(agrees), asked=0)
        prompt = self.domain.render("evaluation", {"attack": attack, "defence": defence})
        verdict = await self._ask_until_confident(prompt, self._read_evaluation, draw, "evaluation", call)
        if not isinstance(verdict, Verdict):
            return verdict
        is_right = is_same_answer(self.domain, defence.answer, attack.answer)
        if is_right is False and verdict.positive:  # a different number or letter is wrong, whatever the judge says
            return replace(verdict, positive=False, explanation=f"[the answers differ] {verdict.explanation}")
        return verdict

    async def _ask_until_confident(
        self, prompt: str, read: ReadVerdict, draw: Draw, step: str, call: Call
    ) -> Verdict | Doubt | Unparsed:
        """Request a verdict until its confidence suffices, at most `rules.strikes` times. From the second request on,
        the prompt states the previous confidence.
        """
        sections = getattr(self.domain.sections, step)
        confidences: list[float] = []
        for strike in range(self.rules.strikes):
            strike_prompt = prompt
            if confidences:
                strike_prompt += "\n\n" + self.domain.render("confidence", {"confidence": confidences[-1]})
            make_request = self.player.request_builder((Message("user", strike_prompt),), sections)
            verdict = await ask_until_read(
                self.player, make_request, read, draw, f"{step}-{strike}", self.retries, call
            )
            if isinstance(verdict, Unparsed):
                return verdict
            if verdict.confidence >= self.rules.confidence:
                return replace(verdict, asked=strike + 1)
            confidences.append(verdict.confidence)
        return Doubt(tuple(confidences))

    def _read_validation(self, reply: ChatReply) -> Verdict | Unparsed:
        """Read the verdict on an attack."""
        sections = read_sections(reply.text, self.domain.sections.validation, once=("DECISION", "CONFIDENCE"))
        if isinstance(sections, Unparsed):
            return sections
        return read_verdict(sections, "VALID", "INVALID")

    def _read_evaluation(self, reply: ChatReply) -> Verdict | Unparsed:
        """Read the verdict on a defence. `soft` is None if the reply does not say whether the approach is sound."""
        sections = read_sections(reply.text, self.domain.sections.evaluation, once=("DECISION", "CONFIDENCE"))
        if isinstance(sections, Unparsed):
            return sections
        verdict = read_verdict(sections, "CORRECT", "INCORRECT")
        if isinstance(verdict, Unparsed):
            return verdict
        soundness = _read_first_word(sections["REASONING QUALITY"])
        return replace(verdict, soft={"SOUND": True, "UNSOUND": False}.get(soundness))


def read_verdict(sections: dict[str, str], yes: str, no: str) -> Verdict | Unparsed:
    """Read decision, confidence and explanation. The decision must begin with `yes` or `no`, which are words, and must
    not contain both.
    """
    decision = _read_first_word(sections["DECISION"])
    words = set(re.findall(r"[A-Z]+", sections["DECISION"].upper()))
    if decision not in (yes, no) or {yes, no} <= words:
        return Unparsed(f"DECISION is neither {yes} nor {no}: {sections['DECISION'][:60]!r}")
    confidence = read_confidence(sections["CONFIDENCE"])
    if confidence is None:
        return Unparsed(f"CONFIDENCE is not a number from 0 to 1: {sections['CONFIDENCE'][:60]!r}")
    return Verdict(decision == yes, confidence, sections["EXPLANATION"])


def read_confidence(text: str) -> float | None:
    """Read a confidence in [0, 1]; "95%" is 0.95. None if the text does not state one, as in "95", "1/10" or "0,95"."""
    match = _CONFIDENCE.match(text)
    if match is None:
        return None
    number, percent_sign = match.groups()
    value = float(number) / 100 if percent_sign else float(number)
    return value if 0 <= value <= 1 else None


def needs_evaluation(rules: JudgeRules, domain: Domain) -> bool:
    """Whether the judge evaluates the defender's first answer; otherwise a program compares it with the attacker's."""
    return rules.grading == "judge" or domain.answer == "text"


def describe_comparison(agrees: bool) -> str:
    """The explanation of a verdict that a program reached by comparing two answers."""
    return "the answer is that of the attacker" if agrees else "the answers differ"


def is_same_answer(domain: Domain, answer: str, expected: str) -> bool | None:
    """Whether `answer` equals the number or letter `expected`; None for free text, which only a judge can compare."""
    if domain.answer == "text":
        return None
    if domain.answer == "choice":
        return normalize_answer(domain, answer) == expected
    return same_number(answer, expected)


def _read_first_word(text: str) -> str:
    """The first word of a text in upper case; "" if it has none."""
    match = re.search(r"[A-Za-z]+", text)
    return match[0].upper() if match else ""
