"""The strict scorer reads the ANSWER section as expected, for more than 450 answers in the forms that models produce.

The expected readings were written down before the scorer was run on these answers. The reading "" means that no answer
can be read, and that the reply is marked "unanswered".
"""

import json
from pathlib import Path
from typing import Any

import pytest

from nanoflux_local.domains.own import load_domain
from nanoflux_local.evaluate.scoring import Score, score_reply
from nanoflux_local.transcript import Seed

LM_EVAL_RECORDS = json.loads(Path(__file__).with_name("lm_eval.json").read_text(encoding="utf-8"))["replies"]
"""Replies with the readings of the GSM8K rules of lm-evaluation-harness (recorded by bench/lm_eval_rules.py), and the
reason ("why") if this project's scorer marks the reply differently.
"""
NUMBER_DOMAIN, LETTER_DOMAIN = load_domain("gsmhard"), load_domain("starter-medicine")
# The expected reading of each answer, grouped by the form of the answer. In the domain of `NUMBERS`, answers are
# numbers; in that of `LETTERS`, they are the options A to D.
NUMBERS: dict[str, dict[str, str]] = {
    "plain": {
        "18": "18", "18.": "18", "18.0": "18", "0": "0", "-3": "-3", "−3": "-3", "+3": "3", "3.14": "3.14",
        ".75": "0.75",
        "0.5": "0.5", "-0.25": "-0.25", "1000000": "1000000", "**18**": "18", "`18`": "18", "_18_": "18", '"18"': "18",
        "[18]": "18", "(18)": "18", "<18>": "18", "18;": "18", "18!": "18", "  18  ": "18", "18\n": "18", "# 18": "18",
        "~18": "18", "≈ 18.5": "18.5", "18,": "18",
    },
    "fractions": {
        "1/2": "0.5", "-1/2": "-0.5", "3 / 4": "0.75", "22/7": "3.142857", "1 1/2": "1.5", "2 3/4 cups": "2.75",
        "-1 1/2": "-1.5", "½": "0.5", "1½": "1.5", "¾ of the cake": "0.75", "3⁄4": "0.75", "7/1": "7", "5/0": "",
        "1/2 or 3/4": "", "10/02/2024": "", "1/2/3": "",
    },
    "units": {
        "12 apples": "12", "12 apples.": "12", "60 km/h": "60", "60km/h": "60", "12 m^2": "12", "12 m²": "12",
        "12 cm3": "12", "9.8 m/s^2": "9.8", "3 hours": "3", "12 °C": "12", "12°": "12", "5 kg per week": "5",
        "12-inch": "12", "2nd": "2", "7 days a week": "7", "48 square feet": "48", "15 people": "15", "12 m**2": "12",
        "3 hours 20 minutes": "", "5 feet 3 inches": "", "12 apples and 12 pears": "12", "12 apples and 7 pears": "",
    },
    "thousands separators": {
        "1,234": "1234", "1,234,567": "1234567", "1,234,567.89": "1234567.89", "-1,234": "-1234", "$1,234": "1234",
        "1,234.50": "1234.5", "12,345 units": "12345", "1 234": "", "1 234 567": "", "1_000": "", "1'000": "",
        "1.234.567": "", "1.234,56": "", "12,34,567": "", "1,23": "", "1{,}234": "1234", "1\\,234": "1234",
        "1\\,234\\,567": "1234567", "1\u202f234": "", "1\u00a0234": "",
    },
    "scientific notation": {
        "1e5": "100000", "1E5": "100000", "1.5e3": "1500", "2.5e-3": "0.0025", "1e+6": "1000000", "-4e2": "-400",
        "2 x 10^3": "2000", "2 × 10^3": "2000", "2×10³": "2000", "2 * 10^3": "2000", "2 * 10**3": "2000",
        "3.2 × 10^{4}": "32000", "5×10⁻³": "0.005", "3\\times10^{12}": "3000000000000",
        "4.5\\cdot 10^{-2}": "0.045", "10^5": "100000", "10³": "1000", "1e400": "",
        "6.02 × 10^12 atoms": "6020000000000",
    },
    "LaTeX": {
        "\\boxed{18}": "18", "$18$": "18", "\\(18\\)": "18", "\\[18\\]": "18", "$$18$$": "18",
        "\\boxed{\\$18}": "18", "\\frac{1}{2}": "0.5", "\\dfrac{3}{4}": "0.75", "-\\frac{3}{4}": "-0.75",
        "\\boxed{\\frac{7}{2}}": "3.5", "1\\frac{1}{2}": "1.5", "2\\dfrac{3}{4}": "2.75", "\\frac12": "0.5",
        "12\\text{ cm}": "12", "12\\,\\text{cm}": "12", "12 \\text{ cm}^2": "12", "50\\%": "50",
        "\\mathbf{18}": "18", "\\textbf{18}": "18", "x = 18": "18", "\\(x = 18\\)": "18", "18^\\circ": "18",
        "\\approx 18": "18", "\\sqrt{16}": "", "2\\pi": "", "\\frac{\\pi}{2}": "", "\\frac{x}{2}": "",
        "\\boxed{18} or \\boxed{20}": "",
        "\\text{18 apples}": "18", "\\left(18\\right)": "18",
    },
    "percent": {
        "7%": "7", "7 %": "7", "7.5%": "7.5", "-7%": "-7", "7 percent": "7", "7 per cent": "7", "100%": "100",
        "about 7%": "7", "7% (0.07)": "7", "7% = 0.07": "0.07",
    },
    "money": {
        "$18": "18", "$18.00": "18", "$1,234.56": "1234.56", "-$18": "-18", "$-18": "-18", "18 dollars": "18",
        "US$18": "18", "USD 18": "18", "18 USD": "18", "€18": "18", "18 €": "18", "£18.50": "18.5", "¥1800": "1800",
        "₹500": "500", "₩1000": "1000", "18 cents": "18", "$ 18": "18", "\\$18": "18", "$18 and 50 cents": "",
        "$2.5 million": "2500000",
        "$18k": "",
    },
    "words of size": {
        "5 million": "5000000", "2.5 billion": "2500000000", "3 thousand": "3000", "1.2 trillion": "1200000000000",
        "two": "", "twelve": "", "a dozen": "", "half": "", "none": "", "zero": "",
    },
    "sentences": {
        "The answer is 18": "18", "The answer is 18.": "18", "The final answer is: 18": "18", "answer: 18": "18",
        "Answer = 18": "18", "So, 18": "18", "She has 18 left.": "18", "It is 18 (eighteen).": "18",
        "Therefore the total is $18.": "18", "18 - that is all": "18", "Janet makes $18 every day.": "18",
        "18, because nothing else is left": "18", "#### 18": "18", "18\n\nI hope that helps!": "18",
    },
    "equations": {
        "3 * 6 = 18": "18", "x=18": "18", "2 + 3 = 5 = 5": "5", "a = 1, b = 2": "2", "9 + 9 = $18": "18",
        "36 / 2 = 18 apples": "18", "18 = 18": "18", "3 * 6": "", "9 + 9": "", "20 - 2": "",
    },
    "two answers": {
        "18 or 20": "", "18, 20": "", "18 and 20": "", "18/20 or 9": "", "between 18 and 20": "", "18-20": "",
        "18–20": "",
        "18 to 20": "", "18 ± 2": "", "either 18 or 18": "18", "18 (or 18.0)": "18", "3:4": "", "1:30": "",
        "(1, 2)": "",
        "18\n20": "",
    },
    "refusals": {
        "I do not know": "", "I don't know.": "", "unknown": "", "N/A": "", "cannot be determined": "",
        "none of these": "",
        "I'm sorry, but I cannot help with that.": "", "?": "", "-": "", "...": "", "NaN": "", "inf": "",
        "undefined": "",
        "not enough information": "", "As an AI language model, I cannot answer": "",
    },
    "next turns": {
        "18\n\nHuman: What is 2 + 2?\nAssistant: 2 + 2 = 4": "18", "18\nUser: 5 + 5 = 10": "18",
        "18\n\nQuestion 2: How many is 5 + 5 = 10?": "18", "18\n\n### Problem: 9 = 9": "18", "18\nQ: 7 + 7 = 14": "18",
        "18 Human: What is 2 + 2?": "18", "18\n---\nInput: 20": "18", "18\nSystem: 20": "18",
        "18\n\n**Exercise 3:** 4 = 4": "18", "18\nInstruction: take 20": "18",
    },
    "control tokens": {
        "18<|im_end|>": "18", "18<|im_end|>\n<|im_start|>user\n5+5=10": "18", "18</s>": "18", "18 </s> 20": "18",
        "18<|eot_id|><|start_header_id|>user<|end_header_id|>\n20": "18", "18<|endoftext|>20": "18",
        "18<end_of_turn>\n<start_of_turn>user\n20": "18", "18<｜end▁of▁sentence｜>": "18", "18 [/INST] 20": "18",
        "18<eos>": "18", "<|begin_of_box|>18<|end_of_box|>": "18", "<|im_start|>assistant\n18": "18", "<|im_end|>": "",
    },
    "remarks": {
        "$18 per day (total for the week = $126)": "18", "18 (n = 9)": "18", "18 (rounded from 17.6)": "18",
        "18 (18%)": "18", "1/3 (≈ 0.333)": "0.333333", "Total: 18 (9 eggs × $2)": "18", "-18 (a loss of 20)": "-18",
        "18 eggs (2 dozen = 24 minus 6)": "18", "$18 per day, total = $126": "18", "18, n = 9": "18",
        "18, not 20": "18", "18 not 20": "18", "18 rather than 20": "18", "18 — that is 9 eggs at $2": "18",
        "18. Janet makes $18 a day from 9 eggs.": "18", "18; she sells 9 eggs": "18", "18 != 20": "18", "18 ≠ 20": "18",
        "18 \\neq 20": "18", "~~20~~ 18": "18", "18 ~~20~~": "18", "18 (9 + 9)": "", "18 (or 20)": "", "2(9)": "",
        "2 (3 + 4)": "", "3 * (4 + 2)": "", "x != 20": "", "18 <= 20": "",
    },
    "checks": {
        "18\n\nCheck: 16 - 3 = 13": "18", "18. Check: 16 - 3 = 13": "18", "18, since 16 - 3 = 13": "18",
        "The answer is 18, because 16 - 3 = 13": "18", "18 because 9 + 9 = 18": "18", "18\nNote: n = 9": "18",
        "18\n\nLet me verify: 16 - 3 - 4 = 9; 9 * 2 = 18": "18", "18\n16 - 3 = 13": "18",
        "**18**\n\n**Explanation:** 5 = 5": "18", "9 eggs, so 9 * 2 = 18": "18", "9 eggs at $2. So 9 * 2 = 18": "18",
        "16 - 3 - 4 = 9 eggs, so 9 * 2 = 18": "18", "She had 20 eggs. She sold 2. The answer is 18.": "",
        "1. The total is 18": "", "12 apples, and 7 pears": "", "10 a.m. to 5 p.m.": "", "18 feet, 3 inches": "",
        "3 * 6\n= 18": "18", "Total =\n18": "18", "16 - 3 - 4 = 9\n9 * 2 = 18": "9",
    },
    "boxes": {
        "We have 9 eggs at $2.\n\\boxed{18}": "18", "Since 9 eggs cost $2 each, it is \\boxed{18}.": "18",
        "$\\boxed{18}$. Since 9 * 2 = 18": "18", "\\boxed{\\frac{36}{2}}": "18", "\\boxed{1{,}800}": "1800",
        "\\boxed{\\text{18 dollars}}": "18", "\\boxed 18": "18", "\\fbox{18}": "18", "\\[\n\\boxed{18}\n\\]": "18",
        "\\boxed{x = 18}": "18", "We had 9 of \\boxed{18} and \\boxed{20}": "", "\\boxed{1.8 \\times 10^{1}}": "18",
    },
    "widths, signs and marks": {
        "１８": "18", "１，２３４": "1234", "－１８": "-18", "‑18": "-18", "１８％": "18", "＄１８": "18",
        "ｘ＝１８": "18",
        "__18__ dollars": "18", "_18_ dollars": "18", "***18***": "18", "1.8·10^1": "18", "\\cfrac{36}{2}": "18",
    },
    "below the tolerance": {
        "3.2e-7": "3.2e-7", "4.5 × 10^{-8}": "4.5e-8", "0.00000032": "3.2e-7", "1e-6": "0.000001",
    },
    "not numbers": {"H2O": "", "v1.2": "", "0x10": "", "4x6": "", "x": "", "A": "", "i": "", "10:30 pm": ""},
}  # fmt: skip
LETTERS: dict[str, dict[str, str]] = {
    "a letter": {
        "B": "B", "b": "B", "B.": "B", "b.": "B", "B)": "B", "b)": "B", "(B)": "B", "(b)": "B", "[B]": "B", "{B}": "B",
        "**B**": "B", "*B*": "B", "_B_": "B", "`B`": "B", '"B"': "B", "'B'": "B", "B:": "B", "B,": "B", "B;": "B",
        "<B>": "B",
        "\\boxed{B}": "B", "$B$": "B", "\\text{B}": "B", "\\textbf{B}": "B", "\\(B\\)": "B", "B\n": "B", "  B": "B",
    },
    "a letter with its text": {
        "B. bee": "B", "B) bee": "B", "(B) bee": "B", "(b) bee": "B", "B: bee": "B", "B - bee": "B", "B – bee": "B",
        "**B. bee**": "B", "**(B)** bee": "B", "B, because bees sting": "B", "B\n\nBees sting.": "B", "B. A bee": "B",
        "B (bee)": "B", "B/bee": "",
    },
    "sentences": {
        "answer: b": "B", "Answer: B": "B", "The answer is B": "B", "The answer is B.": "B", "The answer is (B).": "B",
        "The correct answer is B": "B", "The correct answer is: **B**": "B", "The correct option is B.": "B",
        "option b": "B", "Option (B)": "B", "choice B": "B", "The best answer is B.": "B", "The final answer is B": "B",
        "It is B.": "B", "I would choose B.": "B", "Correct answer: B": "B", "The answer is B, not C.": "B",
    },
    "two answers": {
        "B or C": "", "B and C": "", "B, C": "", "B/C": "", "(B), (C)": "", "BC": "", "both B and C": "", "B\nC": "",
        "A, B, C, D": "", "either B or B": "",
    },
    "options listed again": {
        "A. ant\nB. bee\nC. cat\nD. dog": "", "A) ant B) bee C) cat D) dog": "", "A. ant\n\nB. bee\n\nC. cat": "",
        "A: ant, B: bee, C: cat, D: dog": "", "**A.** ant\n**B.** bee\n**C.** cat\n**D.** dog": "",
        "A. ant\nB. bee": "",
        "- A. ant\n- B. bee\n- C. cat": "", "(A) ant\n(B) bee": "",
        "B. bee\n\nA. ant is wrong.\nC. cat is wrong.": "B",
    },
    "letters called right or wrong": {
        "A) is incorrect. B) is correct.": "B", "A is incorrect. B is correct.": "B", "B is correct. A is wrong.": "B",
        "B is correct.": "B", "B is the correct answer": "B", "**B** is the correct answer": "B", "(B) is right": "B",
        "A: is incorrect\nB: is correct": "B", "A (ant) is wrong. B (bee) is correct.": "B", "A. is not correct": "",
        "A) Incorrect. B) Correct.": "B", "A. ant is wrong. B. bee is correct.": "B",
        "A. wrong\nB. right\nC. wrong": "B", "B. bee, which is not a cat": "B",
        "A. ant is wrong\nB. bee is correct\nC. cat is wrong": "B", "B. bee because A is wrong": "B", "B. wrong": "B",
        "B. bee is right, A is wrong": "B", "B. Both A and C": "B", "B. Both (A) and (C) are right": "B",
        "B. all of the above: A, C and D": "B", "B. no": "B", "B) True": "B", "(A) ant and (C) cat": "",
        "A) ant and C) cat, both right": "",
        "B. bee\nA is wrong because ants bite.": "B", "A. ant is a possibility. B is correct.": "",
        "A is correct and B is correct": "", "A) ant and C) cat": "", "B (bee) or C (cat)": "", "B & C": "",
    },
    "what follows a letter": {
        "B<|im_end|>": "B", "B</s>": "B", "B\n\nHuman: Next question\nAssistant: C": "B", "B. Binding of E. coli": "B",
        "（Ｂ）": "B", "Ｂ": "B", "~~A~~ B": "B", "\\boxed{\\textbf{(B)}}": "B", "The answer is option (B).": "B",
        "B. bee (not C. cat)": "B",
    },
    "refusals and other texts": {
        "I do not know": "", "None": "", "none of the above": "", "bee": "", "42": "", "?": "", "E": "", "A bee": "",
        "A bee stings": "", "all of them": "", "N/A": "", "I": "", "As a doctor I cannot say": "",
    },
}  # fmt: skip


def list_cases(readings_by_form: dict[str, dict[str, str]]) -> list[object]:
    """The parameters (answer, reading) of a test, with an id for each answer."""
    cases: list[object] = []
    for form, reading_by_answer in readings_by_form.items():
        for answer, reading in reading_by_answer.items():
            cases.append(pytest.param(answer, reading, id=f"{form}:{answer!r}"))
    return cases


@pytest.mark.parametrize(("answer", "reading"), list_cases(NUMBERS))
def test_score_reply_reads_numbers(answer: str, reading: str) -> None:
    score = score_reply(NUMBER_DOMAIN, f"SOLUTION: s\nANSWER: {answer}", Seed("n", "gsmhard", "Q", "18"))
    mark_of_answer = "right" if reading == "18" else "wrong"
    assert score.reading == reading
    assert score.mark == (mark_of_answer if reading else "unanswered")


@pytest.mark.parametrize(("answer", "reading"), list_cases(LETTERS))
def test_score_reply_reads_letters(answer: str, reading: str) -> None:
    options = {"A": "ant", "B": "bee", "C": "cat", "D": "dog"}
    item = Seed("c", "starter-medicine", "Q", "B", options=options)
    score = score_reply(LETTER_DOMAIN, f"SOLUTION: s\nANSWER: {answer}", item)
    assert score.reading == reading
    assert score.mark == ("right" if reading == "B" else "unanswered")


def test_reading_tables_have_at_least_450_answers() -> None:
    reading_tables = [*NUMBERS.values(), *LETTERS.values()]
    assert sum(len(reading_by_answer) for reading_by_answer in reading_tables) >= 450


def score_recorded_reply(record: dict[str, Any]) -> Score:
    return score_reply(NUMBER_DOMAIN, record["reply"], Seed("n", "gsm8k", "Q", record["answer"]))


@pytest.mark.parametrize("record", LM_EVAL_RECORDS, ids=lambda record: repr(record["reply"][-24:]))
def test_differences_from_the_flexible_rule_have_a_recorded_reason(record: dict[str, Any]) -> None:
    """The reasons are those in docs/explanation/evaluation.md. If no reason is recorded, the scorers must agree."""
    score = score_recorded_reply(record)
    _, is_right_by_flexible_rule = record["flexible-extract"]
    differs = (score.mark == "right") != is_right_by_flexible_rule
    assert differs == bool(record["why"]), score


def test_reply_that_the_strict_rule_accepts_is_never_marked_wrong() -> None:
    for record in LM_EVAL_RECORDS:
        _, is_right_by_strict_rule = record["strict-match"]
        if is_right_by_strict_rule:
            assert score_recorded_reply(record).mark != "wrong"
