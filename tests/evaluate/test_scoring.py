"""The strict scorer reads only the ANSWER section, and marks the reply right, wrong or unanswered (paper A.1)."""

import pytest

from nanoflux_local.domains.own import load_domain
from nanoflux_local.evaluate.scoring import Score, score_reply
from nanoflux_local.transcript import Seed

NUMBER_DOMAIN, LETTER_DOMAIN = load_domain("gsmhard"), load_domain("starter-medicine")
TEXT_DOMAIN = NUMBER_DOMAIN.model_copy(update={"answer": "text"})
LARGE_ITEM = Seed("l", "gsmhard", "Q", "9000000000000")

# The expected reading and mark of each reply. The right answer is 1234.5 in `NUMBER_REPLIES`, B in `LETTER_REPLIES`.
NUMBER_REPLIES = {
    "SOLUTION: s\nANSWER: 1234.5": ("1234.5", "right"),
    "ANSWER: $1,234.50": ("1234.5", "right"),
    "**Answer:** 1234.50 dollars": ("1234.5", "right"),
    "ANSWER: 2469/2": ("1234.5", "right"),
    "ANSWER: 2 * 617.25 = 1234.5": ("1234.5", "right"),
    "ANSWER: 1234.501": ("1234.501", "right"),
    "ANSWER: 1234.51": ("1234.51", "wrong"),
    "ANSWER: -1234.5": ("-1234.5", "wrong"),
    "ANSWER: 1234": ("1234", "wrong"),
    "ANSWER: 0": ("0", "wrong"),
    "<think>ANSWER: 7</think>ANSWER: 1234.5": ("1234.5", "right"),
    "<think>ANSWER: 1234.5</think>ANSWER: 7": ("7", "wrong"),
    "ANSWER: 1234.5\nANSWER: 1234.5": ("1234.5", "right"),
    "ANSWER: 1234.5\nANSWER: 7": ("", "unanswered"),
    "ANSWER: 1234.5 or 7": ("", "unanswered"),
    "ANSWER: I do not know": ("", "unanswered"),
    "ANSWER:": ("", "unanswered"),
    "The answer is 1234.5": ("", "unanswered"),
    "<think>ANSWER: 1234.5": ("", "unanswered"),
    "": ("", "unanswered"),
}
LETTER_REPLIES = {
    "ANSWER: B": ("B", "right"),
    "ANSWER: (b) bee": ("B", "right"),
    "ANSWER: **B.**\n\nBees sting.": ("B", "right"),
    "ANSWER: C": ("C", "wrong"),
    "ANSWER: B or C": ("", "unanswered"),
    "ANSWER: E": ("", "unanswered"),
    "ANSWER: bee": ("", "unanswered"),
    "B": ("", "unanswered"),
}


@pytest.mark.parametrize(("reply", "reading_and_mark"), NUMBER_REPLIES.items(), ids=repr)
def test_score_reply_marks_numbers(reply, reading_and_mark):
    assert score_reply(NUMBER_DOMAIN, reply, Seed("n", "gsmhard", "Q", "1234.5")) == Score(*reading_and_mark)


@pytest.mark.parametrize(("reply", "reading_and_mark"), LETTER_REPLIES.items(), ids=repr)
def test_score_reply_marks_letters(reply, reading_and_mark):
    item = Seed("c", "starter-medicine", "Q", "B", options={"A": "ant", "B": "bee", "C": "cat", "D": "dog"})
    assert score_reply(LETTER_DOMAIN, reply, item) == Score(*reading_and_mark)


@pytest.mark.parametrize(
    ("answer", "mark"), [("9e12", "right"), ("9000000000001", "right"), ("9000010000000", "wrong")]
)
def test_large_numbers_agree_within_a_relative_tolerance(answer, mark):
    assert score_reply(NUMBER_DOMAIN, f"ANSWER: {answer}", LARGE_ITEM).mark == mark


def test_free_text_is_unscored_without_a_judge():
    assert score_reply(TEXT_DOMAIN, "ANSWER: a bee", Seed("t", "x", "Q", "a bee")) == Score("a bee", "unscored")


@pytest.mark.parametrize(("options", "answer", "mark"), [("ABCDE", "E", "right"), ("ABC", "D", "unanswered")])
def test_accepted_letters_are_those_of_the_items_options(options: str, answer: str, mark: str) -> None:
    """Items of MedQA have four or five options, those of PubMedQA three."""
    item = Seed("m", "medqa", "Q", options[-1], options={letter: letter for letter in options})
    domain = load_domain("multimedqa")
    assert domain.letters == "ABCD" and score_reply(domain, f"ANSWER: {answer}", item).mark == mark
    assert f"({', '.join(options)})" in domain.with_letters(item.options).answer_rule
