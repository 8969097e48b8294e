"""Faults planted by a program: a wrong result in a right solution, or a question with a removed or changed quantity."""

import random
import re
from dataclasses import dataclass, replace

from nanoflux_local.answers import plain_number, read_number
from nanoflux_local.evaluate.evaluation import format_question
from nanoflux_local.transcript import Attack, Seed

_NUMBER = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?"
_QUANTITY = re.compile(rf"(?<![\w.,/:$#-])\$?{_NUMBER}%?(?![\w%/:-]|[.,]\d)")
_OPERANDS = re.compile(rf"(?:(?<=[-+*/×(])|(?<=[-+*/×(]\s)|(?<=[-+*/×]\s\$)|(?<=[-+*/×(]\$))({_NUMBER}|\.\d+)")
_LEFT_OPERANDS = re.compile(rf"({_NUMBER}|(?<!\d)\.\d+)%?(?=\s?[-+*/×])")
_RESULTS = re.compile(rf"=\s*\$?\s*({_NUMBER}|\.\d+)")
_DETERMINER = re.compile(
    r"an?|the|th(?:is|at|ese|ose)|his|hers?|their|its|my|our|your|another|other|first|last|next|all|each|every|no|both"
    r"|some|any|remaining",
    re.IGNORECASE,
)
"""Words after which "a certain number of" would be ungrammatical."""
_NOUN_SEARCH_END = re.compile(
    r"of|and|or|to|in|more|less|fewer|as|than|by|at|the|for|from|on|with|is|was|are|were|has|does|his|its|this|us|yes|plus"
    r"|minus|per|each|every|who|which|that|if|when|then|so|but|out",
    re.IGNORECASE,
)
"""Words at which the search for the plural noun after a number stops."""
_PLURAL = re.compile(r"people|children|men|women|feet|[a-z-]+[^s']s")
_AFTER_AMOUNT = re.compile(
    r"each|per|an?|for|in|from|to|of|and|or|every|at|more|less|when|if|as|with|by|total|after|before|but|so|while|who"
    r"|which|that|extra|on|off",
    re.IGNORECASE,
)
"""Words that may follow "a certain amount" and "a certain percentage"."""


@dataclass(frozen=True, slots=True)
class StatedNumber:
    """A number in a question: its span, its text with its currency or percent sign, and its value."""

    start: int
    end: int
    text: str
    value: float


def plant_fault(attack: Attack, seed: Seed, fault: str, rng: random.Random) -> Attack:
    """The solution with a wrong answer. For the fault "slip", the result that the solution states is changed too; for
    "answer", the stated answer contradicts the steps.
    """
    if seed.options:
        wrong_answer = rng.choice([letter for letter in seed.options if letter != seed.answer])
        statement = f"The answer is {wrong_answer}. {seed.options[wrong_answer]}"
        solution = f"{attack.solution}\n{statement}" if fault == "answer" else statement
        return replace(attack, answer=wrong_answer, solution=solution)
    value = read_number(attack.answer)
    if value is None:
        return replace(attack, answer=f"not {attack.answer}", solution=f"{attack.solution}\nSo the opposite holds.")
    wrong_answer = plain_number(_draw_wrong_number(value, rng))
    solution = _replace_result(attack, wrong_answer) if fault == "slip" else attack.solution
    return replace(attack, answer=wrong_answer, solution=solution)


def _draw_wrong_number(value: float, rng: random.Random) -> float:
    """A different number of the same kind (integer or 2 decimals), close enough to come from a slip."""
    shift = rng.choice([-1, 1]) * rng.uniform(0.02, 0.3) * abs(value)
    if value == int(value):
        return int(value) + (round(shift) or rng.choice([-2, -1, 1, 2]))
    return round(value + shift, 2) if round(value + shift, 2) != round(value, 2) else value + 1


def _replace_result(attack: Attack, wrong_answer: str) -> str:
    """The solution with the last occurrence of its answer replaced, or with the wrong answer appended."""
    answer_pattern = re.escape(attack.answer) if "," in attack.answer else "(?:,?)".join(map(re.escape, attack.answer))
    matches = list(re.finditer(rf"(?<![\d.,]){answer_pattern}(?![\d]|[.,]\d)", attack.solution))
    if not matches:
        return f"{attack.solution}\nSo the answer is {wrong_answer}."
    return attack.solution[: matches[-1].start()] + wrong_answer + attack.solution[matches[-1].end() :]


def find_quantities(seed: Seed) -> list[StatedNumber]:
    """The quantities that the solution needs from the question. Each occurs once in the question, the solution
    calculates with it, and it is not the result of a calculation, so nothing else in the question implies it.
    """
    quantities = [
        StatedNumber(match.start(), match.end(), match[0], _parse_value(match[0].strip("$%")))
        for match in _QUANTITY.finditer(seed.question)
    ]
    values = [quantity.value for quantity in quantities]
    operand_texts = (*_OPERANDS.findall(seed.solution), *_LEFT_OPERANDS.findall(seed.solution))
    operands = {_parse_value(text) for text in operand_texts}
    results = {_parse_value(text) for text in _RESULTS.findall(seed.solution)}
    return [
        quantity
        for quantity in quantities
        if values.count(quantity.value) == 1
        and quantity.value not in results
        and (quantity.value in operands or ("%" in quantity.text and quantity.value / 100 in operands))
    ]


def _parse_value(text: str) -> float:
    return float(text.replace(",", ""))


def remove_quantity(seed: Seed, rng: random.Random) -> str | None:
    """The question without one quantity that its solution needs: "48 friends" becomes "a certain number of friends".
    None if no quantity can be removed grammatically.
    """
    replacements = [(quantity, _choose_indefinite_words(seed.question, quantity)) for quantity in find_quantities(seed)]
    replacements = [(quantity, words) for quantity, words in replacements if words]
    if not replacements:
        return None
    quantity, words = rng.choice(replacements)
    return seed.question[: quantity.start] + words + seed.question[quantity.end :]


def _choose_indefinite_words(question: str, quantity: StatedNumber) -> str:
    """The words that can stand for a quantity, "" if none can."""
    before, after = question[: quantity.start], question[quantity.end :]
    previous = re.search(r"([A-Za-z']+)\s+$", before)
    if previous and _DETERMINER.fullmatch(previous[1]):
        return ""
    following = re.match(r"((?:\s+[A-Za-z'-]+){1,3})", after)
    nouns = following[1].split() if following else []
    if "$" in quantity.text or "%" in quantity.text:
        if nouns and not _AFTER_AMOUNT.fullmatch(nouns[0]):
            return ""
        words = "a certain percentage" if "%" in quantity.text else "a certain amount"
    elif quantity.value > 1 and _counts_plural(nouns):
        words = "a certain number of"
    else:
        return ""
    return words.capitalize() if re.search(r"(?:^|[.!?]\s+)$", before) else words


def _counts_plural(words: list[str]) -> bool:
    """Whether the words after a number lead to a plural noun."""
    for word in words:
        if _NOUN_SEARCH_END.fullmatch(word):
            return False
        if _PLURAL.fullmatch(word):
            return True
    return False


def change_quantity(seed: Seed, rng: random.Random) -> str | None:
    """The question with a different value for one quantity that the solution needs. None if there is no such
    quantity.
    """
    quantities = [quantity for quantity in find_quantities(seed) if quantity.value >= 2]
    if not quantities:
        return None
    quantity = rng.choice(quantities)
    new_value = quantity.value
    while new_value == quantity.value or new_value < 2 or (quantity.value < 100 <= new_value and "%" in quantity.text):
        new_value = _draw_wrong_number(quantity.value, rng)
    number = f"{new_value:,}" if "," in quantity.text else plain_number(new_value)
    money, percent = "$" * quantity.text.startswith("$"), "%" * quantity.text.endswith("%")
    return seed.question[: quantity.start] + money + number + percent + seed.question[quantity.end :]


def break_question(attack: Attack, seed: Seed, fault: str, rng: random.Random) -> Attack | None:
    """The solution with a question to which it no longer applies, because one quantity was "removed" or "changed". None
    if the question has no suitable quantity.
    """
    question = remove_quantity(seed, rng) if fault == "removed" else change_quantity(seed, rng)
    return None if question is None else replace(attack, question=format_question(replace(seed, question=question)))
