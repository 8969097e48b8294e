"""Raw replies with reasoning: where the answer begins, where stop strings cut it, and replies without an answer."""

import pytest

from nanoflux_local.reasoning import cut_answer, ends_in_reasoning, find_answer_start, find_opening_tag, with_reasoning

STOP_STRINGS = ("\n\n", "\nProblem:")
"""The stop strings with which replies are cut."""
HARMONY_REASONING = "<|channel|>analysis<|message|>One.\n\nTwo.<|end|><|start|>assistant<|channel|>final<|message|>"
"""The beginning of a reply in the harmony format: its reasoning, and the tokens that open the answer."""


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("ANSWER: 5", "ANSWER: 5"),
        ("\n\nANSWER: 5", "\n\nANSWER: 5"),  # without reasoning a reply is unchanged
        ("<think>\nOne.\n\nTwo.\n</think>\n\nANSWER: 5", "ANSWER: 5"),
        ("\n<think>One.</think>ANSWER: 5", "ANSWER: 5"),
        ("One.\n\nTwo.\n</think>\n\nANSWER: 5", "ANSWER: 5"),  # the opening tag is in the prompt
        ("[THINK]One.\n\n[/THINK]ANSWER: 5", "ANSWER: 5"),
        (f"{HARMONY_REASONING}ANSWER: 5", "ANSWER: 5"),
        ("<think>\nOne.\n\nTwo.", ""),
        ("<think>\nOne.\n</think>\n\n", ""),
        (HARMONY_REASONING.partition("<|end|>")[0], ""),
    ],
)
def test_answer_begins_after_the_reasoning(text: str, answer: str) -> None:
    assert text[find_answer_start(text) :] == answer


@pytest.mark.parametrize(
    ("text", "cut_text"),
    [
        ("SOLUTION: 2\nANSWER: 5\n\nAnd so on", "SOLUTION: 2\nANSWER: 5"),
        ("\n\nANSWER: 5", ""),
        ("<think>1.\n\nProblem: 2.</think>\n\nANSWER: 5\nProblem: 6", "<think>1.\n\nProblem: 2.</think>\n\nANSWER: 5"),
        ("One.\n\nTwo.</think>\n\nANSWER: 5\n\nMore", "One.\n\nTwo.</think>\n\nANSWER: 5"),
        ("<think>One.\n\nTwo.\nProblem: 3", "<think>One.\n\nTwo.\nProblem: 3"),
        (f"{HARMONY_REASONING}ANSWER: 5\n\nMore", f"{HARMONY_REASONING}ANSWER: 5"),
        ("ANSWER: 5\n\n<think>hm</think>more", "ANSWER: 5"),
        ("## SOLUTION\n\n2\n## ANSWER\n\n5\n\nAnd so on", "## SOLUTION\n\n2\n## ANSWER\n\n5"),
        ("# 1\nProblem: 2", "# 1"),
    ],
)  # fmt: skip
def test_stop_strings_end_only_the_answer(text: str, cut_text: str) -> None:
    assert cut_answer(text, STOP_STRINGS) == cut_text
    assert cut_answer(text, ()) == text


@pytest.mark.parametrize(
    ("text", "finish", "lacks_answer"),
    [
        (with_reasoning("One.\n\nTwo", ""), "length", True),
        (with_reasoning("One.\n\nTwo", ""), "stop", True),
        ("<think>\nOne", "length", True),
        ("", "length", True),  # the server counts the reasoning tokens but does not send the reasoning
        ("", "stop", False),
        ("   \n", "length", False),  # white space is not reasoning
        ("ANSWER: 5", "length", False),
        (with_reasoning("One.", "ANSWER: 5"), "length", False),
    ],
)
def test_reply_that_ended_before_its_answer_is_recognised(text: str, finish: str, lacks_answer: bool) -> None:
    assert ends_in_reasoning(text, finish) is lacks_answer


def test_prompt_that_opens_the_reasoning_is_recognised() -> None:
    assert find_opening_tag("<|Assistant|><think>\n") == "<think>\n"
    assert find_opening_tag("<|im_start|>assistant\n<think>\n\n</think>\n\n") == ""
    assert find_opening_tag("What does <think> mean?<|im_start|>assistant\n") == ""
