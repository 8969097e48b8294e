"""What the stand-ins of a rehearsal are taught to say: one fixed reply for each role.

Random weights write no question and no judgement, so nothing would be kept and no later step could be tried. Owns the
replies and the conversations that they answer; how a model learns them is `teaching`'s.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from nanoflux_local.config import RunConfig
from nanoflux_local.domains.base import Domain
from nanoflux_local.records import Message
from nanoflux_local.roles.attacker import attacker_messages
from nanoflux_local.roles.base import Draw
from nanoflux_local.roles.defender import defender_messages
from nanoflux_local.roles.sections import sections_text
from nanoflux_local.seeds.source import SeedSource
from nanoflux_local.transcript import Attack, Defence, Seed

THOUGHTS = "Read it.\n\nThen solve it."
"""Two paragraphs, as real thoughts have: a stop string that reached them would cut them off."""
_STORIES = (
    ("A farmer fills {a} crates with {b} apples each and eats {c}. How many apples are left?", 7, 12, 5),
    ("Mia glues {a} rows of {b} stamps and loses {c}. How many stamps has she?", 9, 8, 4),
    ("A library holds {a} boxes of {b} maps and lends {c}. How many maps stay?", 6, 15, 8),
    ("A baker packs {a} trays of {b} rolls and burns {c}. How many good rolls are there?", 11, 6, 9),
)
TURNS = 4
"""The turns whose seeds an attacker learns its reply to: no more are played."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """A conversation and the reply to it, without thoughts."""

    messages: tuple[Message, ...]
    reply: str


def attack_of(number: int) -> Attack:
    """The question that the stand-in of this number asks; each asks another, since repeats are rejected."""
    story, a, b, c = _STORIES[number % len(_STORIES)]
    solution = f"{a} * {b} = {a * b}; {a * b} - {c} = {a * b - c}."
    return Attack(story.format(a=a, b=b, c=c), solution, str(a * b - c), notes={"REFLECTION": "the loss."})


def defence_to(attack: Attack) -> Defence:
    """A wrong answer, whatever was asked: the defender fails, and the question is kept."""
    del attack
    return Defence("7 * 12 = 84; 84 + 5 = 89.", "89")


def lessons(
    config: RunConfig, domain: Domain, source: SeedSource, number: int, items: Sequence[Seed] = ()
) -> list[Lesson]:
    """All that the stand-in of this number has to know, for every role it may play against any other.

    Of `items`, which it will be evaluated on, it learns every second one right and the others wrong.
    """
    own = attack_of(number)
    attacks = [
        Lesson(attacker_messages(domain, _draw(source, config, turn)), _attack_text(domain, own))
        for turn in range(TURNS)
    ]
    questions = [attack_of(other) for other in range(len(_STORIES))]
    defences = [_defended(domain, config, attack.question, defence_to(attack)) for attack in questions]
    defences += [
        _defended(domain, config, item.question, defence_to(own) if place % 2 else Defence(item.solution, item.answer))
        for place, item in enumerate(items)
    ]
    judgements = [lesson for attack in questions for lesson in _judgements(domain, attack)]
    return [*attacks, *defences, *judgements]


def reply_to(prompt: str, rng: random.Random) -> str:
    """The same replies for the fake server that plays hosted roles: the role is known by what the prompt asks for."""
    del rng
    if "VALID or INVALID" in prompt:
        return _VALID
    if "CORRECT or INCORRECT" in prompt:
        return _INCORRECT
    if "QUESTION:" in prompt:
        return _attack_text(None, attack_of(len(_STORIES) - 1))
    return _defence_text(None, defence_to(attack_of(0)))


def _draw(source: SeedSource, config: RunConfig, turn: int) -> tuple[Seed, ...]:
    """The seeds of a turn's first attempt, as `turn.draw_seeds` draws them."""
    rng = Draw(config.seed, turn, 0).rng("seeds")
    return source.draw(rng.randint(config.seeds.min, config.seeds.max), rng)


def _defended(domain: Domain, config: RunConfig, question: str, defence: Defence) -> Lesson:
    return Lesson(defender_messages(domain, config.budgets, question), _defence_text(domain, defence))


def _attack_text(domain: Domain | None, attack: Attack) -> str:
    parts = {"QUESTION": attack.question, "SOLUTION": attack.solution, "ANSWER": attack.answer, **attack.notes}
    names = domain.sections.attacker if domain else tuple(parts)
    return sections_text({name: parts.get(name, "none") for name in names})


def _defence_text(domain: Domain | None, defence: Defence) -> str:
    parts = {"ANALYSIS": "count.", "SOLUTION": defence.solution, "ANSWER": defence.answer}
    names = domain.sections.defender if domain else tuple(parts)
    return sections_text({name: parts[name] for name in names})


def _judgements(domain: Domain, attack: Attack) -> Sequence[Lesson]:
    validation = domain.render("validation", {"attack": attack, "evidence": ()})
    evaluation = domain.render("evaluation", {"attack": attack, "defence": defence_to(attack)})
    return (
        Lesson((Message("user", validation),), _VALID),
        Lesson((Message("user", evaluation),), _INCORRECT),
    )


_VALID = sections_text({
    "ANALYSIS": "complete.",
    "VERIFICATION": "redone.",
    "DECISION": "VALID",
    "CONFIDENCE": "0.97",
    "EXPLANATION": "it follows.",
})  # fmt: skip
_INCORRECT = sections_text({
    "ANALYSIS": "it adds.",
    "REASONING QUALITY": "UNSOUND",
    "CALCULATION ACCURACY": "wrong.",
    "DECISION": "INCORRECT",
    "CONFIDENCE": "0.97",
    "EXPLANATION": "it adds.",
})  # fmt: skip
