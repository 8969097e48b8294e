"""How the sections of a reply are read: what opens a section, what is ignored, and which replies are unreadable."""

import json

import pytest

from nanoflux_local.reasoning import strip_reasoning
from nanoflux_local.roles.sections import Unparsed, read_sections

NAMES = ("ANALYSIS", "SOLUTION", "ANSWER")
SECTIONS = {"ANALYSIS": "a", "SOLUTION": "s", "ANSWER": "4"}
"""The sections that the replies of the first test contain."""


@pytest.mark.parametrize(
    "text",
    [
        "ANALYSIS: a\nSOLUTION: s\nANSWER: 4",
        "analysis: a\nSolution: s\nanswer: 4",
        "ANSWER: 4\nANALYSIS: a\nSOLUTION: s",
        "# ANALYSIS: a\n## Solution: s\n### ANSWER: 4",
        "**ANALYSIS**: a\n**SOLUTION:** s\n** ANSWER ** : 4",
        "## **ANALYSIS:**\na\n## **SOLUTION:**\ns\n## **ANSWER:**\n4\n",
        "1. ANALYSIS: a\n2) SOLUTION: s\n3. **ANSWER:** 4",
        "> ANALYSIS: a\n>SOLUTION: s\n> ANSWER: 4",
        "ANALYSIS:\n\n  a\n\nSOLUTION:\ns\n\nANSWER:\n\n4\n\n",
        "ANALYSIS: a\r\nSOLUTION: s\r\nANSWER: 4\r\n",
        "   ANALYSIS  :  a\n\tSOLUTION\t:\ts\nANSWER:4",
        "Sure! Here it is.\nMy thoughts: none.\nANALYSIS: a\nSOLUTION: s\nANSWER: 4",
        "<think>ANSWER: 5</think>\nANALYSIS: a\nSOLUTION: s\nANSWER: 4",
        "<THINKING>\nANSWER: 5\n</THINKING>ANALYSIS: a\n<reasoning>x</reasoning>SOLUTION: s\nANSWER: 4",
        "ANSWER: 5\n</think>\nANALYSIS: a\nSOLUTION: s\nANSWER: 4",
        "ANALYSIS: a\nSOLUTION: s\nANSWER: 4\n<think>ANSWER: 5",
        "## ANALYSIS\n\na\n\n## SOLUTION\n\ns\n\n## ANSWER\n\n4",
        "**ANALYSIS**\na\n**Solution**\ns\n**Answer**\n4",
        "## **Analysis**\na\n### Solution ###\ns\n# _Answer_\n4",
        "ANALYSIS\na\nSOLUTION\ns\nANSWER\n4",
        "1. ANALYSIS\na\n2. **Solution**\ns\n**3. Answer**\n4",
        "ANALYSIS\r\na\r\n## SOLUTION\r\ns\r\n**ANSWER**\r\n4\r\n",
        "ANALYSIS：a\n**SOLUTION**：s\n**ANSWER：** 4",
        "**1. ANALYSIS:** a\n**2. SOLUTION**: s\n### 3. ANSWER:\n4",
        "```\nANALYSIS: a\nSOLUTION: s\nANSWER: 4\n```",
        "```markdown\nANALYSIS: a\nSOLUTION: s\nANSWER: 4",
        "```json\n" + json.dumps(SECTIONS, indent=1) + "\n```",
        "~~~\r\nANALYSIS: a\r\nSOLUTION: s\r\nANSWER: 4\r\n~~~\r\n",
        "Here is the object:\n```json\n" + json.dumps(SECTIONS) + "\n```\nThat is all.",
        "[THINK]Maybe\nANSWER: 17\n[/THINK]ANALYSIS: a\nSOLUTION: s\nANSWER: 4",
        "◁think▷ANSWER: 17◁/think▷\nANALYSIS: a\nSOLUTION: s\nANSWER: 4",
        "<|channel|>analysis<|message|>ANSWER: 17<|end|><|start|>assistant<|channel|>final<|message|>"
        "ANALYSIS: a\nSOLUTION: s\nANSWER: 4<|return|>",
        "analysisMaybe\nANSWER: 17assistantfinalANALYSIS: a\nSOLUTION: s\nANSWER: 4",
        "ANALYSIS: a\nSOLUTION: s\nANSWER: 4<|im_end|>\n<|im_start|>user\nANSWER: 5",
        "ANALYSIS: a\nSOLUTION: s\nANSWER: 4\n\nHuman: more\nAssistant: x\nANSWER: 5",
        "<|im_start|>assistant\nANALYSIS: a\nSOLUTION: s\nANSWER: 4",
        json.dumps({**SECTIONS, "more": "x"}),
        json.dumps({"Analysis": " a ", "solution": "s", "answer": 4}, indent=2),
        "<think>{}</think>\n" + json.dumps(SECTIONS),
    ],
)
def test_sections_are_read_from_replies_in_many_formats(text):
    assert read_sections(text, NAMES, once=("ANSWER",)) == SECTIONS


@pytest.mark.parametrize("spelling", ["KNOWLEDGE_MAP", "KNOWLEDGE MAP", "knowledge_map", "**Knowledge  Map**"])
@pytest.mark.parametrize("name", ["KNOWLEDGE_MAP", "KNOWLEDGE MAP"])
def test_section_name_of_two_words_is_read_in_any_spelling(spelling, name):
    assert read_sections(f"{spelling}: x", (name,)) == {name: "x"}
    assert read_sections(json.dumps({spelling.strip("*"): "x"}), (name,)) == {name: "x"}


@pytest.mark.parametrize(
    "line",
    [
        "so the ANSWER: 5 is wrong",
        "The answer: 5 would be too small",
        "my-ANSWER: 5",
        "ANSWERS: 5",
        "ANSWER 5",
        "ANSWER (final): 5",
        "`ANSWER`: 5",
        "- ANSWER: 5",
    ],
)
def test_section_name_in_running_text_opens_no_section(line):
    text = f"ANALYSIS: a\nSOLUTION: s\n{line}\nANSWER: 4"
    assert read_sections(text, NAMES, once=("ANSWER",)) == {**SECTIONS, "SOLUTION": f"s\n{line}"}


@pytest.mark.parametrize(
    ("text", "missing_names"),
    [
        ("", "ANALYSIS, SOLUTION, ANSWER"),
        ("I would rather not say.", "ANALYSIS, SOLUTION, ANSWER"),
        ("ANALYSIS: a\nANSWER: 4", "SOLUTION"),
        ("ANALYSIS: a\nSOLUTION:\nANSWER: 4", "SOLUTION"),
        ("ANALYSIS: a\nSOLUTION: **\nANSWER: 4", "SOLUTION"),
        ("ANALYSIS: a\nSOLUTION: s\nANSWER:", "ANSWER"),
        ("ANALYSIS: a\nSOLUTION: s\n### ANSWER 4", "ANSWER"),
        ("ANALYSIS: a\nSOLUTION: s\nAnswer\n4", "ANSWER"),
        ("ANALYSIS: a\nSOLUTION: s\nthe **ANSWER**\n4", "ANSWER"),
        ("[THINK]ANALYSIS: a\nSOLUTION: s\nANSWER: 4", "ANALYSIS, SOLUTION, ANSWER"),
        ("<|channel|>analysis<|message|>ANALYSIS: a\nSOLUTION: s\nANSWER: 4", "ANALYSIS, SOLUTION, ANSWER"),
        ("<think>ANALYSIS: a\nSOLUTION: s\nANSWER: 4", "ANALYSIS, SOLUTION, ANSWER"),
        ("ANALYSIS: a\nSOLUTION: s\nANSWER: 4\n</think>", "ANALYSIS, SOLUTION, ANSWER"),
        (json.dumps({"ANALYSIS": "a", "SOLUTION": None, "ANSWER": "4"}), "SOLUTION"),
        (json.dumps({"ANALYSIS": "a", "SOLUTION": " ", "ANSWER": "4"}), "SOLUTION"),
        ('{"ANALYSIS": "a", "SOLUTION": "s"', "ANALYSIS, SOLUTION, ANSWER"),
        ("[1, 2]", "ANALYSIS, SOLUTION, ANSWER"),
        ("42", "ANALYSIS, SOLUTION, ANSWER"),
        ("null", "ANALYSIS, SOLUTION, ANSWER"),
        ('"ANSWER"', "ANALYSIS, SOLUTION, ANSWER"),
        ('{"ANALYSIS": ' + "[" * 100_000, "ANALYSIS, SOLUTION, ANSWER"),
        ("ANALYSİS: a\nSOLUTION: s\nANSWER: 4", "ANALYSIS"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_reply_without_a_section_is_unparsed_and_names_it(text, missing_names):
    assert read_sections(text, NAMES) == Unparsed(f"missing section {missing_names}")


def test_first_text_of_a_repeated_section_is_read():
    text = "ANALYSIS: a\nSOLUTION: s\nSOLUTION: t\nANSWER: 4"
    assert read_sections(text, NAMES, once=("ANSWER",)) == SECTIONS


@pytest.mark.parametrize("repeated_answer", ["4", " 4. ", "**4**", "`4`", "4\n"])
def test_repeated_equal_answer_is_read(repeated_answer):
    text = f"ANALYSIS: a\nSOLUTION: s\nANSWER: 4\nANSWER: {repeated_answer}"
    assert read_sections(text, NAMES, once=("ANSWER",)) == SECTIONS


@pytest.mark.parametrize(
    "text",
    [
        "ANALYSIS: a\nSOLUTION: s\nANSWER: 4\nANSWER: 5",
        "ANSWER: 5\nANALYSIS: a\nSOLUTION: s\n**Answer:** 4",
        "ANALYSIS: a\nSOLUTION: s\nANSWER: 4\nANSWER:",
        '{"ANALYSIS": "a", "SOLUTION": "s", "ANSWER": "4", "ANSWER": "5"}',
        '{"ANALYSIS": "a", "SOLUTION": "s", "ANSWER": "4", "answer": "5"}',
    ],
)
def test_contradictory_answers_are_unparsed(text):
    unparsed = Unparsed("section ANSWER is given twice with different texts")
    assert read_sections(text, NAMES, once=("ANSWER",)) == unparsed


def test_invented_next_problem_is_ignored():
    text = "ANALYSIS: a\nSOLUTION: s\nANSWER: 4\n\nProblem: another\nSOLUTION: t\nANSWER: 5"
    assert read_sections(text, ("SOLUTION", "ANSWER"), once=("ANSWER",)) == {"SOLUTION": "s", "ANSWER": "4"}


def test_problem_label_in_prose_stays_in_its_section():
    text = "ANALYSIS: a\nSOLUTION: s\nProblem: the units differ\nANSWER: 4"
    assert read_sections(text, NAMES) == {**SECTIONS, "SOLUTION": "s\nProblem: the units differ"}


@pytest.mark.parametrize("line", ["**Answer**", "## Answer", "ANSWER"])
def test_heading_without_colon_is_text_if_other_headings_have_colons(line):
    text = f"ANALYSIS: a\nSOLUTION: s\n{line}\n5\nANSWER: 4"
    assert read_sections(text, NAMES, once=("ANSWER",)) == {**SECTIONS, "SOLUTION": f"s\n{line}\n5"}


def test_code_fence_inside_a_reply_is_kept():
    text = "```\nANALYSIS: a\n```\nSOLUTION: s\n```\nx\n```\nANSWER: 4"
    assert read_sections(text, ("SOLUTION",)) == {"SOLUTION": "s\n```\nx\n```\nANSWER: 4"}


def test_lone_surrogate_in_a_section_is_replaced():
    assert read_sections("ANALYSIS: a\nSOLUTION: \ud800s\nANSWER: 4", NAMES) == {**SECTIONS, "SOLUTION": "?s"}


@pytest.mark.parametrize(
    ("text", "visible_text"),
    [
        ("a <think>b</think> c", "a  c"),
        ("<think>a</think>b<think>c</think>d", "bd"),
        ("<think>a</reasoning>b", ""),
        ("a<think>b", "a"),
        ("b</think>c", "c"),
        ("b</reasoning>c<think>d</think>e", "ce"),
        ("<Think>\n\n</tHINK>x", "x"),
        ("<thinker>x", "<thinker>x"),
        ("[THINK]a[/THINK]b", "b"),
        ("[THINK]a", ""),
        ("a[/THINK]b", "b"),
        ("<thought>a</thought>b", "b"),
        ("◁think▷a◁/think▷b", "b"),
        ("<|begin_of_thought|>a<|end_of_thought|>b", "b"),
        ("<|START_THINKING|>a<|END_THINKING|>b", "b"),
        ("<seed:think>a</seed:think>b", "b"),
        (
            "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>b<|return|>",
            "b<|return|>",
        ),
        ("<|channel|>commentary to=python <|constrain|>json<|message|>{}<|call|><|channel|>final<|message|>b", "b"),
        ("<|channel|>final <|constrain|>json<|message|>b", "b"),
        ("<|channel|>analysis<|message|>a", ""),
        ("analysisWe see.assistantfinalb", "b"),
        ("analysis: a", "analysis: a"),
        ("2 < 3 and 3 > 2", "2 < 3 and 3 > 2"),
    ],
)
def test_reasoning_is_stripped(text, visible_text):
    assert strip_reasoning(text) == visible_text
