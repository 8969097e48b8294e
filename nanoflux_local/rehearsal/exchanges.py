"""Writes the exchanges of a rehearsal's stand-ins: the prompts of each role, each with the expected reply.

A model with random weights writes neither questions nor verdicts, so no example would be kept, and no later step could
be tested. `fitting` therefore fits each stand-in to its exchanges.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from nanoflux_local.config import RunConfig
from nanoflux_local.domains.base import Domain
from nanoflux_local.records import Message
from nanoflux_local.roles.attacker import build_attacker_messages
from nanoflux_local.roles.base import Draw
from nanoflux_local.roles.defender import build_defender_messages
from nanoflux_local.roles.sections import render_sections
from nanoflux_local.seeds.source import SeedSource
from nanoflux_local.transcript import Attack, Defence, Seed

REASONING = "Read it.\n\nThen solve it."
"""Two paragraphs, like real reasoning: a stop string that is wrongly applied to the reasoning would truncate it."""
GREETING, GREETING_REPLY = "What is 7 times 12?", "84."
"""The first message to a stand-in after its server has started, and the expected reply."""
_QUESTION_TEMPLATES = (
    ("A farmer fills {a} crates with {b} apples each and eats {c}. How many apples are left?", 7, 12, 5),
    ("Mia glues {a} rows of {b} stamps and loses {c}. How many stamps has she?", 9, 8, 4),
    ("A library holds {a} boxes of {b} maps and lends {c}. How many maps stay?", 6, 15, 8),
    ("A baker packs {a} trays of {b} rolls and burns {c}. How many good rolls are there?", 11, 6, 9),
)
"""Templates of questions, each with the values of a, b and c. The answer is a * b - c."""
TURNS = 4
"""The number of turns whose seeds an attacker is fitted to: the maximum of a rehearsed run."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """A conversation and the expected reply, without reasoning."""

    messages: tuple[Message, ...]
    reply: str


def make_attack(number: int) -> Attack:
    """The question, solution and answer that stand-in `number` writes as the attacker. Each stand-in asks a different
    question, since a run rejects repeated questions.
    """
    template, a, b, c = _QUESTION_TEMPLATES[number % len(_QUESTION_TEMPLATES)]
    solution = f"{a} * {b} = {a * b}; {a * b} - {c} = {a * b - c}."
    return Attack(template.format(a=a, b=b, c=c), solution, str(a * b - c), notes={"REFLECTION": "the loss."})


def make_wrong_defence() -> Defence:
    """An answer that is wrong for every question: the defender fails, and the question is kept."""
    return Defence("7 * 12 = 84; 84 + 5 = 89.", "89")


def write_exchanges(
    config: RunConfig, domain: Domain, source: SeedSource, number: int, items: Sequence[Seed] = ()
) -> list[Exchange]:
    """Write the exchanges of stand-in `number` in every role that it may have.

    Starting with the first, the stand-in answers every second item of `items` right, and the other items wrong.
    """
    reply = _write_attack(domain, make_attack(number))
    attack_exchanges = []
    for turn in range(TURNS):
        messages = build_attacker_messages(domain, _draw_seeds(source, config, turn))
        attack_exchanges.append(Exchange(messages, reply))
    defence_exchanges: list[Exchange] = []
    judgement_exchanges: list[Exchange] = []
    for index in range(len(_QUESTION_TEMPLATES)):  # the attacks of all stand-ins
        attack = make_attack(index)
        defence_exchanges.append(_write_defence_exchange(domain, config, attack.question, make_wrong_defence()))
        judgement_exchanges += _write_judgement_exchanges(domain, attack)
    for index, item in enumerate(items):
        defence = Defence(item.solution, item.answer) if index % 2 == 0 else make_wrong_defence()
        defence_exchanges.append(_write_defence_exchange(domain, config, item.question, defence))
    greeting_exchange = Exchange((Message("user", GREETING),), GREETING_REPLY)
    return [greeting_exchange, *attack_exchanges, *defence_exchanges, *judgement_exchanges]


def reply_to(prompt: str, rng: random.Random) -> str:
    """The reply of the fake server that replaces hosted models. The prompt shows which role it was written for."""
    del rng
    if "VALID or INVALID" in prompt:
        return _VALID
    if "CORRECT or INCORRECT" in prompt:
        return _INCORRECT
    if "QUESTION:" in prompt:
        return _write_attack(None, make_attack(len(_QUESTION_TEMPLATES) - 1))
    return _write_defence(None, make_wrong_defence())


def _draw_seeds(source: SeedSource, config: RunConfig, turn: int) -> tuple[Seed, ...]:
    """Draw the seeds that `turn.draw_seeds` draws for a turn's first attempt."""
    rng = Draw(config.seed, turn, 0).rng("seeds")
    return source.draw(rng.randint(config.seeds.min, config.seeds.max), rng)


def _write_defence_exchange(domain: Domain, config: RunConfig, question: str, defence: Defence) -> Exchange:
    """The defender's exchange about a question: its prompt, and `defence` as the reply."""
    return Exchange(build_defender_messages(domain, config.budgets, question), _write_defence(domain, defence))


def _write_attack(domain: Domain | None, attack: Attack) -> str:
    """An attacker's reply with the domain's sections, or with all sections of the attack if there is no domain."""
    texts = {"QUESTION": attack.question, "SOLUTION": attack.solution, "ANSWER": attack.answer, **attack.notes}
    names = domain.sections.attacker if domain else tuple(texts)
    return render_sections({name: texts.get(name, "none") for name in names})


def _write_defence(domain: Domain | None, defence: Defence) -> str:
    """A defender's reply with the domain's sections, or with analysis, solution and answer if there is no domain."""
    texts = {"ANALYSIS": "count.", "SOLUTION": defence.solution, "ANSWER": defence.answer}
    names = domain.sections.defender if domain else tuple(texts)
    return render_sections({name: texts[name] for name in names})


def _write_judgement_exchanges(domain: Domain, attack: Attack) -> Sequence[Exchange]:
    """The judge's two exchanges about an attack: it judges the question valid, and the wrong defence incorrect."""
    validation = domain.render("validation", {"attack": attack, "evidence": ()})
    evaluation = domain.render("evaluation", {"attack": attack, "defence": make_wrong_defence()})
    return (
        Exchange((Message("user", validation),), _VALID),
        Exchange((Message("user", evaluation),), _INCORRECT),
    )


_VALID = render_sections({
    "ANALYSIS": "complete.",
    "VERIFICATION": "redone.",
    "DECISION": "VALID",
    "CONFIDENCE": "0.97",
    "EXPLANATION": "it follows.",
})  # fmt: skip
"""The judge's reply that calls a question valid."""
_INCORRECT = render_sections({
    "ANALYSIS": "it adds.",
    "REASONING QUALITY": "UNSOUND",
    "CALCULATION ACCURACY": "wrong.",
    "DECISION": "INCORRECT",
    "CONFIDENCE": "0.97",
    "EXPLANATION": "it adds.",
})  # fmt: skip
"""The judge's reply that calls a defence incorrect."""
