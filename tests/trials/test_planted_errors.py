"""Planted errors: wrong answers differ by more than the tolerance, and a needed quantity of a question is removed or
changed.
"""

import random
import re
from dataclasses import replace
from typing import Any

import pytest

from nanoflux_local.answers import numbers_agree, read_number
from nanoflux_local.run.trials.planted_errors import (
    break_question,
    change_quantity,
    find_quantities,
    plant_error,
    remove_quantity,
)
from nanoflux_local.transcript import Attack, Seed

SUM_SEED = Seed("sum", "d", "How much are 1,000 and 234?", "1234", "1000 + 234 = 1,234 in all. The answer is 1,234.")
CHOICE_SEED = Seed("choice", "d", "Which?", "B", options={"A": "an ant", "B": "a bee", "C": "a cat"})


def make_attack(seed: Seed) -> Attack:
    """The attack that states a seed's question, solution and answer."""
    return Attack(seed.question, seed.solution, seed.answer)


def make_seed(question: str, solution: str) -> Seed:
    """A seed whose answer does not matter."""
    return Seed("s", "d", question, "1", solution)


@pytest.mark.parametrize("answer", ["1234", "-3", "0", "1", "0.5", "12.25", "1000000000000", "123456789012.75"])
def test_planted_answer_differs_by_more_than_the_numeric_tolerance(answer: str) -> None:
    seed = replace(SUM_SEED, answer=answer)
    for rng_seed in range(50):
        wrong_attack = plant_error(make_attack(seed), seed, "answer", random.Random(rng_seed))
        planted_number, right_number = read_number(wrong_attack.answer), read_number(answer)
        assert planted_number is not None and right_number is not None
        assert not numbers_agree(planted_number, right_number)
        assert wrong_attack.solution == SUM_SEED.solution


def test_slip_replaces_the_stated_result_or_appends_the_wrong_one() -> None:
    wrong_attack = plant_error(make_attack(SUM_SEED), SUM_SEED, "slip", random.Random(1))
    assert wrong_attack.solution == f"1000 + 234 = 1,234 in all. The answer is {wrong_attack.answer}."
    attack_without_result = replace(make_attack(SUM_SEED), solution="Add them: 12345 is another number.")
    wrong_attack = plant_error(attack_without_result, SUM_SEED, "slip", random.Random(1))
    assert wrong_attack.solution == f"Add them: 12345 is another number.\nSo the answer is {wrong_attack.answer}."


@pytest.mark.parametrize("kind", ["slip", "answer"])
def test_plant_error_gives_a_choice_question_another_option_as_answer(kind: Any) -> None:
    wrong_attack = plant_error(make_attack(CHOICE_SEED), CHOICE_SEED, kind, random.Random(2))
    assert wrong_attack.answer in "AC" and wrong_attack.answer != CHOICE_SEED.answer
    assert wrong_attack.solution.endswith(
        f"The answer is {wrong_attack.answer}. {CHOICE_SEED.options[wrong_attack.answer]}"
    )


@pytest.mark.parametrize(
    ("question", "solution", "values"),
    [
        ("She packs 12 boxes of 8 pens.", "12 * 8 = 96", [12, 8]),
        ("She packs 12 boxes of 8 pens in 5 days.", "12*8 = 96", [12, 8]),  # the days are not needed
        ("He has 5 red and 5 blue pens.", "5 + 5 = 10", []),  # the same number occurs twice
        ("48 friends, half of them, 24, are tall.", "48/2 = 24", [48]),  # 24 is a result
        ("A $1,250 bike costs 20% less.", "1,250 * .20 = 250", [1250, 20]),
        ("A shop sold 3 bags at $4.50 each.", "3 * $4.50 = $13.50", [3, 4.5]),
        ("A 12-inch rod and 1/2 of it.", "12 * 1/2 = 6", []),  # neither is a plain number
        ("At 5:30 he ran 4 laps.", "4 * 400 = 1600", [4]),
    ],
)
def test_find_quantities_lists_the_quantities_that_the_solution_needs(
    question: str, solution: str, values: list[float]
) -> None:
    assert [quantity.value for quantity in find_quantities(make_seed(question, solution))] == values


@pytest.mark.parametrize(
    ("question", "solution", "broken"),
    [
        ("She sold 48 clips.", "48 / 2 = 24", "She sold a certain number of clips."),
        ("48 children came.", "48 / 2 = 24", "A certain number of children came."),
        ("He ran. 30 small dogs ran.", "30 * 2 = 60", "He ran. A certain number of small dogs ran."),
        ("Each costs $18, he says.", "18 * 2 = 36", "Each costs a certain amount, he says."),
        ("It pays $18 per hour.", "18 * 2 = 36", "It pays a certain amount per hour."),
        ("He saves 20% of it.", "20 / 100 = 0.2", "He saves a certain percentage of it."),
        ("It took 3 hours.", "3 * 60 = 180", "It took a certain number of hours."),
    ],
)
def test_remove_quantity_keeps_the_sentence_grammatical(question: str, solution: str, broken: str) -> None:
    assert remove_quantity(make_seed(question, solution), random.Random(0)) == broken


@pytest.mark.parametrize(
    ("question", "solution"),
    [
        ("He opens the 5 boxes.", "5 * 2 = 10"),
        ("He gets a 20% discount.", "20 / 100 = .2"),
        ("He has 1 hour.", "1 * 60 = 60"),
        ("He has a $5 bill.", "5 * 2 = 10"),
        ("He buys $5 tickets.", "5 * 2 = 10"),
        ("He has 7 more than she has.", "7 + 2 = 9"),
        ("There is no number.", "So the answer is 1."),
    ],
)
def test_remove_quantity_returns_none_if_the_sentence_would_be_ungrammatical(question: str, solution: str) -> None:
    assert remove_quantity(make_seed(question, solution), random.Random(0)) is None


@pytest.mark.parametrize("text", ["12", "1,250", "$18", "$4.50", "20%", "99%", "2"])
def test_change_quantity_replaces_one_number_in_its_format(text: str) -> None:
    value = text.strip("$%")
    seed = make_seed(f"It is {text} of them.", f"{value} * 3 = 7")
    for rng_seed in range(30):
        question = change_quantity(seed, random.Random(rng_seed))
        assert question is not None and question != seed.question
        match = re.fullmatch(r"It is (\$?)([\d.,]+)(%?) of them\.", question)
        assert match is not None
        currency_sign, number, percent_sign = match.groups()
        assert currency_sign + percent_sign == text.strip("0123456789.,")
        changed_value = float(number.replace(",", ""))
        assert changed_value >= 2 and changed_value != float(value.replace(",", ""))
        assert ("," in number) == ("," in text) or changed_value < 1000
        assert "%" not in text or changed_value < 100


def test_break_question_keeps_solution_and_answer() -> None:
    attack = break_question(make_attack(SUM_SEED), SUM_SEED, "changed", random.Random(3))
    assert attack is not None and attack.question != SUM_SEED.question
    assert (attack.solution, attack.answer) == (SUM_SEED.solution, SUM_SEED.answer)


def test_break_question_removes_only_numbers_that_count_a_noun() -> None:
    assert break_question(make_attack(SUM_SEED), SUM_SEED, "removed", random.Random(3)) is None
