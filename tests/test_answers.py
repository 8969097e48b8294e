"""Answers: which number or letter is read from a text, which texts contain neither, and when two numbers agree."""

import math
import time
from decimal import Decimal

import pytest

from nanoflux_local.answers import answer_number, exact_number, numbers_agree, plain_number, read_choice, read_number

# For each notation, texts with the number that `read_number` returns for them.
NUMBERS = {
    "plain": {"12": 12, "12.": 12, "12.0": 12, ".5": 0.5, "0": 0, "007": 7, "12\n": 12, "٣": 3},
    "signs": {"-5": -5, "−7": -7, "–7": -7, "+5": 5, "- 12": -12, "-$5": -5, "$-5": -5, "-.5": -0.5, "(-5)": -5},
    "separators": {"1,234": 1234, "1,234,567": 1234567, "-1,234.50": -1234.5, "1{,}234": 1234, "1\\,234": 1234},
    "fractions": {"3/4": 0.75, "-3/4": -0.75, "100 / 4": 25, "1/3": 1 / 3, "1 1/2": 1.5, "\\frac{3}{4}": 0.75,
                  "7/2.5": 2.8},
    "scientific": {"1e5": 1e5, "1E5": 1e5, "6.02e23": 6.02e23, "10e-2": 0.1, "1e+16": 1e16, "2.5e−3": 0.0025},
    "powers of ten": {"2 x 10^3": 2000, "4.5 × 10^{-3}": 0.0045, "5 * 10**6": 5e6, "10^5": 1e5,
                      "3\\times 10^{12}": 3e12},
    "scales": {"5 million": 5e6, "2.5 Billion dollars": 2.5e9, "3-thousand": 3000, "2 hundred": 200,
               "7 trillions": 7e12},
    "money": {"$1,234.50": 1234.5, "€ 5": 5, "5 €": 5, "US$5": 5, "£7.25": 7.25, "\\$12": 12},
    "LaTeX": {"\\boxed{12}": 12, "$12$": 12, "\\(12\\)": 12, "\\dfrac{1}{4}": 0.25, "\\tfrac{1}{4}": 0.25,
              "-\\frac{1}{2}": -0.5, "\\frac{1,000}{4}": 250, "\\boxed{\\frac{-3}{2}}": -1.5, "12\\%": 12},
    "units": {"7%": 7, "12 apples.": 12, "60 km/h": 60, "12km": 12, "2nd": 2, "12 cm^2": 12, "9.8 m/s**2": 9.8,
              "12\\text{ cm}^2": 12, "$12\\text{ m}^{2}$": 12, "12 cm²": 12, "#5": 5},
    "equations": {"3 * 4 = 12": 12, "x=-5": -5, "12 == 12": 12, "2π = 6.28": 6.28, "a = 1, b = 2": 2, "≈ 5.1": 5.1},
    "prose": {"The answer is 42.": 42, "**12**": 12, "`12`": 12, "12 (that is, 12.0)": 12, "Total - 12": 12,
              "Profit:\n- 12": -12, "12 apples and 12 pears": 12},
    "none": dict.fromkeys(["", "twelve", "half", "NaN", "inf", "H2O", "v1.2", "5/0", "1e400", "=", "3 = 3 * 1", "$"]),
    "several": dict.fromkeys(["5 or 6", "3*4", "20-25", "5–7", "1:30", "3:4", "9 + 9", "9 +9", "10/02/2024", "(1, 2)",
                              "5±1", "±5"]),
    "unknown notations": dict.fromkeys(["1.234.567", "1.234,56", "3,5", "1,2345", "12,34,567", "1_000", "1 000", "0x10",
                                   "4x6", "1..5", "1'000"]),
    "not evaluated": dict.fromkeys(["\\sqrt{16}", "√2", "2π", "\\frac{\\pi}{2}", "\\frac{x}{2}", "\\log 8"]),
}  # fmt: skip
NUMBER_CASES = [
    pytest.param(text, number, id=f"{notation}:{text!r}")
    for notation, number_by_text in NUMBERS.items()
    for text, number in number_by_text.items()
]


@pytest.mark.parametrize(("text", "number"), NUMBER_CASES)
def test_read_number_returns_a_number_only_if_the_text_states_exactly_one(text, number):
    expected = None if number is None else pytest.approx(number, rel=1e-12)
    assert read_number(text) == expected


def test_answer_beyond_the_length_limit_is_not_read():
    assert read_number("42" + " " * 10_000) == 42
    assert read_number("42" + " " * 10_000_000) is None


def test_number_cases_are_at_least_sixty():
    assert len(NUMBER_CASES) >= 60


@pytest.mark.parametrize(
    "repeated_text",
    [
        " ",
        "1",
        "1_",
        "1,",
        "1.",
        "- ",
        "-",
        "\\frac{",
        "A, ",
        "(",
        "a ^ ",
        "1 ",
        "½",
        "10^",
        "9 + ",
        "¹",
        "a (",
        "\\boxed{",
        "~~",
        "\n",
        "= ",
        "A) ",
        "A is ",
        "18\n",
        "Human:",
        "18, a",
        "_",
        "<|",
        "18. A",
    ],
)
def test_long_repetitive_answers_are_read_within_three_cpu_seconds(repeated_text):
    start_s = time.process_time()  # CPU time, so that other processes do not affect the test
    for text in (repeated_text * 8000, f"x{repeated_text * 8000}y"):
        read_number(text)
        read_choice(text, "ABCD")
    assert time.process_time() - start_s < 3


# Texts with the letter that `read_choice` returns for them.
CHOICES = {
    "B": "B", "b": "B", "(b)": "B", "[B]": "B", "B.": "B", "B)": "B", "B. mitochondria": "B", "B: x": "B", "B) x": "B",
    "**B**": "B", "**B. Mito**": "B", '"B"': "B", "`B`": "B", "B, because it binds": "B", "B - mitochondria": "B",
    "Option B": "B", "answer: (c)": "C", "The correct answer is: **D**": "D", "Choice is C.": "C",
    "correct option: B": "B",
    "B\n\nBecause of the membrane": "B", "\\boxed{B}": "B", "$\\text{B}$": "B", "The answer is (B), not A": "B",
    "": None, "E": None, "I": None, "AB": None, "None": None, "mitochondria": None, "42": None,
    "A mutation": None, "The answer is A mutation": None, "B mitochondria": None,
    "A or B": None, "A, C": None, "(A), (C)": None, "A and B": None, "A/B": None, "B\nC": None, "A; and D.": None,
}  # fmt: skip


@pytest.mark.parametrize(("text", "letter"), CHOICES.items(), ids=repr)
def test_read_choice_returns_the_letter_of_the_chosen_option(text, letter):
    assert read_choice(text, "ABCD") == letter


def test_read_choice_accepts_only_the_letters_of_the_domain():
    assert read_choice("E", "ABCDE") == "E"
    assert read_choice("D", "ABC") is None
    assert read_choice("B. E", "ABCD") == "B", "the text of the option was read as a second choice"


@pytest.mark.parametrize(
    ("value", "expected", "agree"),
    [
        (0.0, 0.0, True),
        (0.0, -0.0, True),
        (1e-6, 0.0, True),
        (0.0, 3.2e-7, False),  # below 1e-6, the tolerance is relative to the expected value
        (9.9e-7, 3.2e-7, False),
        (3.2000002e-7, 3.2e-7, True),
        (-3.2e-7, 3.2e-7, False),
        (0.0, 1e-6, True),
        (1.1e-6, 0.0, False),
        (-1.1e-6, 0.0, False),
        (0.5 + 0.9e-6, 0.5, True),  # from 1e-6 to 1, the tolerance is absolute
        (0.5 + 1.1e-6, 0.5, False),
        (100.00009, 100.0, True),
        (100.00011, 100.0, False),
        (9e12 + 8e6, 9e12, True),  # doubles of this size cannot represent a difference of 1e-6
        (9e12 + 1e7, 9e12, False),
        (-9e12, 9e12, False),
        (-5.0, -5.0000049, True),
        (1.7e308, -1.7e308, False),
        (math.nan, math.nan, False),
        (math.nan, 0.0, False),
        (0.0, math.nan, False),
        (math.inf, math.inf, False),
        (1.0, math.inf, False),
        (math.inf, 1.0, False),
    ],
)
def test_numbers_agree_within_the_tolerance(value, expected, agree):
    assert numbers_agree(value, expected) is agree


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (12, "12"), (12.0, "12"), (1234.5, "1234.5"), (100.0, "100"), (0.1 + 0.2, "0.3"), (-0.0, "0"), (-1e-9, "0"),
        (1e-7, "0"), (1 / 3, "0.333333"), (-2.50, "-2.5"), (1e16, "10000000000000000"), (10**30, "1" + "0" * 30),
    ],
)  # fmt: skip
def test_plain_number_has_no_exponent_and_no_trailing_zeros(value, text):
    assert plain_number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3.2e-7, "3.2e-7"), (-4.5e-8, "-4.5e-8"), (0.00025033, "0.00025033"), (12.0, "12"), (12, "12"),
        (1e-6, "0.000001"),
        (-0.0, "0"), (1e16, "10000000000000000"), (0.1 + 0.2, "0.30000000000000004"), (Decimal("1.50"), "1.5"),
        (12345678901234567890, "12345678901234567890"), (5e-324, "5e-324"),
        (Decimal("12345678901234567890123.5"), "12345678901234567890123.5"), (Decimal("1e-400"), "1e-400"),
        (Decimal("1.234567890123456789012345678901230e-7"), "1.23456789012345678901234567890123e-7"),
    ],
)  # fmt: skip
def test_exact_number_keeps_every_digit(value, text):
    assert exact_number(value) == text
    assert read_number(text) == float(value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, Decimal("NaN"), Decimal("Infinity")])
def test_exact_number_refuses_values_that_are_not_finite(value):
    with pytest.raises(ValueError, match="not a finite number"):
        exact_number(value)


@pytest.mark.parametrize(("value", "text"), [(1 / 3, "0.333333"), (3.2e-7, "3.2e-7"), (0.0, "0"), (1e-6, "0.000001")])
def test_answer_number_is_plain_unless_rounding_would_give_zero(value, text):
    assert answer_number(value) == text


@pytest.mark.parametrize("value", [-9867630.0, 0.333333, 1e12, -0.5, 7, 3431580.25])
def test_read_number_recovers_a_plain_number(value):
    assert numbers_agree(read_number(plain_number(value)), value)
