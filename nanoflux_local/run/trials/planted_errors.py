"""Plants errors: puts a wrong answer into a right solution, or removes or changes a quantity in its question."""

import random
import re
from dataclasses import dataclass, replace

from nanoflux_local.answers import plain_number, read_number
from nanoflux_local.transcript import Attack, Seed

_NUMBER = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?"
"""A number without a sign, such as "48", "1,200" or "3.50"."""
_QUANTITY = re.compile(rf"(?<![\w.,/:$#-])\$?{_NUMBER}%?(?![\w%/:-]|[.,]\d)")
"""In a question: a number that stands alone, such as "48", possibly with a currency or percent sign ("$3.50", "25%").
"""
_OPERANDS = re.compile(rf"(?:(?<=[-+*/×(])|(?<=[-+*/×(]\s)|(?<=[-+*/×]\s\$)|(?<=[-+*/×(]\$))({_NUMBER}|\.\d+)")
"""In a solution: a number after an operator or after "("."""
_LEFT_OPERANDS = re.compile(rf"({_NUMBER}|(?<!\d)\.\d+)%?(?=\s?[-+*/×])")
"""In a solution: a number before an operator."""
_RESULTS = re.compile(rf"=\s*\$?\s*({_NUMBER}|\.\d+)")
"""In a solution: a number after "="."""
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
"""Words that look like plural nouns."""
_AFTER_AMOUNT = re.compile(
    r"each|per|an?|for|in|from|to|of|and|or|every|at|more|less|when|if|as|with|by|total|after|before|but|so|while|who"
    r"|which|that|extra|on|off",
    re.IGNORECASE,
)
"""Words that can follow "a certain amount" or "a certain percentage" in a grammatical sentence."""


@dataclass(frozen=True, slots=True)
class StatedQuantity:
    """A number in a question: its position (from `start` up to, but not including, `end`), its text with its currency
    or percent sign, and its value, for instance 25 for "25%".
    """

    start: int
    end: int
    text: str
    value: float


def plant_error(attack: Attack, seed: Seed, kind: str, rng: random.Random) -> Attack:
    """The attack with a wrong answer in place of the right one. `kind` is "slip" or "answer".

    If the answer is a number, a "slip" also changes the result that the solution states, and "answer" leaves the
    solution unchanged, so that its steps contradict the answer. If the answer is an option, a "slip" replaces the
    solution by a statement of the wrong option, and "answer" appends this statement. If it is a short text, both kinds
    append that the opposite holds.
    """
    if seed.options:
        wrong_answer = rng.choice([letter for letter in seed.options if letter != seed.answer])
        statement = f"The answer is {wrong_answer}. {seed.options[wrong_answer]}"
        solution = f"{attack.solution}\n{statement}" if kind == "answer" else statement
        return replace(attack, answer=wrong_answer, solution=solution)
    value = read_number(attack.answer)
    if value is None:
        return replace(attack, answer=f"not {attack.answer}", solution=f"{attack.solution}\nSo the opposite holds.")
    wrong_answer = plain_number(_draw_nearby_number(value, rng))
    solution = _replace_result(attack, wrong_answer) if kind == "slip" else attack.solution
    return replace(attack, answer=wrong_answer, solution=solution)


def _draw_nearby_number(value: float, rng: random.Random) -> float:
    """A different number near `value`, as a slip could give: an integer if `value` is one, otherwise rounded to
    two decimal places.
    """
    shift = rng.choice([-1, 1]) * rng.uniform(0.02, 0.3) * abs(value)
    if value == int(value):
        integer_shift = round(shift)
        if integer_shift == 0:
            integer_shift = rng.choice([-2, -1, 1, 2])
        return int(value) + integer_shift
    shifted_value = round(value + shift, 2)
    return shifted_value if shifted_value != round(value, 2) else value + 1


def _replace_result(attack: Attack, wrong_answer: str) -> str:
    """The solution of an attack with the last occurrence of its answer replaced by the wrong answer. If the solution
    does not state its answer, the wrong answer is appended in a sentence.
    """
    # The solution may write the answer with thousands separators, so a comma may follow each digit.
    optional_comma = "" if "," in attack.answer else "(?:,?)"
    answer_pattern = optional_comma.join(map(re.escape, attack.answer))
    matches = list(re.finditer(rf"(?<![\d.,]){answer_pattern}(?![\d]|[.,]\d)", attack.solution))
    if not matches:
        return f"{attack.solution}\nSo the answer is {wrong_answer}."
    last_match = matches[-1]
    return attack.solution[: last_match.start()] + wrong_answer + attack.solution[last_match.end() :]


def find_quantities(seed: Seed) -> list[StatedQuantity]:
    """The quantities of a seed's question that its solution needs. Each occurs only once in the question, is an operand
    in the solution, and is not a result there; so it cannot be inferred from the rest of the question.
    """
    quantities = [
        StatedQuantity(match.start(), match.end(), match[0], _parse_value(match[0].strip("$%")))
        for match in _QUANTITY.finditer(seed.question)
    ]
    values = [quantity.value for quantity in quantities]
    operand_texts = (*_OPERANDS.findall(seed.solution), *_LEFT_OPERANDS.findall(seed.solution))
    operands = {_parse_value(text) for text in operand_texts}
    results = {_parse_value(text) for text in _RESULTS.findall(seed.solution)}
    return [
        quantity
        for quantity in quantities
        if values.count(quantity.value) == 1 and quantity.value not in results and _is_operand(quantity, operands)
    ]


def _is_operand(quantity: StatedQuantity, operands: set[float]) -> bool:
    """Whether a quantity is among the operands; a percentage may also occur as a fraction, for instance 25% as 0.25."""
    return quantity.value in operands or ("%" in quantity.text and quantity.value / 100 in operands)


def _parse_value(text: str) -> float:
    """The value of a number that may have thousands separators."""
    return float(text.replace(",", ""))


def remove_quantity(seed: Seed, rng: random.Random) -> str | None:
    """The question without one of the quantities that its solution needs: "48 friends" becomes "a certain number of
    friends". None if no quantity can be removed grammatically.
    """
    replacements = [(quantity, _choose_indefinite_words(seed.question, quantity)) for quantity in find_quantities(seed)]
    grammatical_replacements = [(quantity, words) for quantity, words in replacements if words]
    if not grammatical_replacements:
        return None
    quantity, words = rng.choice(grammatical_replacements)
    return _replace_quantity(seed.question, quantity, words)


def _replace_quantity(question: str, quantity: StatedQuantity, replacement: str) -> str:
    """The question with `replacement` in place of the quantity."""
    return question[: quantity.start] + replacement + question[quantity.end :]


def _choose_indefinite_words(question: str, quantity: StatedQuantity) -> str:
    """The words that can replace a quantity in a question, such as "a certain amount"; "" if no words would be
    grammatical.
    """
    text_before, text_after = question[: quantity.start], question[quantity.end :]
    previous_word = re.search(r"([A-Za-z']+)\s+$", text_before)
    if previous_word and _DETERMINER.fullmatch(previous_word[1]):
        return ""
    next_words_match = re.match(r"((?:\s+[A-Za-z'-]+){1,3})", text_after)
    next_words = next_words_match[1].split() if next_words_match else []
    if "$" in quantity.text or "%" in quantity.text:
        if next_words and not _AFTER_AMOUNT.fullmatch(next_words[0]):
            return ""
        replacement = "a certain percentage" if "%" in quantity.text else "a certain amount"
    elif quantity.value > 1 and _starts_with_plural(next_words):
        replacement = "a certain number of"
    else:
        return ""
    begins_sentence = re.search(r"(?:^|[.!?]\s+)$", text_before) is not None
    return replacement.capitalize() if begins_sentence else replacement


def _starts_with_plural(words: list[str]) -> bool:
    """Whether the words after a number are a plural noun, possibly after adjectives."""
    for word in words:
        if _NOUN_SEARCH_END.fullmatch(word):
            return False
        if _PLURAL.fullmatch(word):
            return True
    return False


def change_quantity(seed: Seed, rng: random.Random) -> str | None:
    """The question with a different value for one of the quantities that its solution needs. None if the question has
    no such quantity of at least 2.
    """
    quantities = [quantity for quantity in find_quantities(seed) if quantity.value >= 2]
    if not quantities:
        return None
    quantity = rng.choice(quantities)
    new_value = quantity.value  # not a plausible change, so that a new value is drawn at least once
    while not _is_plausible_change(quantity, new_value):
        new_value = _draw_nearby_number(quantity.value, rng)
    number = f"{new_value:,}" if "," in quantity.text else plain_number(new_value)
    currency_sign = "$" if quantity.text.startswith("$") else ""
    percent_sign = "%" if quantity.text.endswith("%") else ""
    return _replace_quantity(seed.question, quantity, f"{currency_sign}{number}{percent_sign}")


def _is_plausible_change(quantity: StatedQuantity, new_value: float) -> bool:
    """Whether `new_value` differs from the quantity, is at least 2, and does not raise a percentage to 100% or more."""
    reaches_100_percent = "%" in quantity.text and quantity.value < 100 <= new_value
    return new_value != quantity.value and new_value >= 2 and not reaches_100_percent


def break_question(attack: Attack, seed: Seed, kind: str, rng: random.Random) -> Attack | None:
    """The attack with a changed question that its solution no longer solves: one quantity of the question is removed
    (for the kind "removed") or changed (for the kind "changed"). None if the question has no suitable quantity.
    """
    question = remove_quantity(seed, rng) if kind == "removed" else change_quantity(seed, rng)
    return None if question is None else replace(attack, question=replace(seed, question=question).format_question())
