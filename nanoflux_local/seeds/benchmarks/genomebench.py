"""Genome-Bench: multiple-choice questions about genome editing, from a discussion forum."""

import re
from collections.abc import Mapping
from typing import Any

from nanoflux_local.seeds.benchmarks.base import Benchmark, Format, HubDataset
from nanoflux_local.seeds.rows import BadRowError, ParsedRow, read_required_text

_OPTIONS_LINE = re.compile(r"please choose one of the following options:?", re.IGNORECASE)
_OPTION = re.compile(r"(?:^|[\s,;])([a-e])\.\s*(.*?)(?=(?:[\s,;]+[a-e]\.\s)|\Z)", re.DOTALL)
_ANSWER = re.compile(r"<answer>\s*([a-e])\b.*?</answer>", re.DOTALL | re.IGNORECASE)
_EXPLANATION = re.compile(r"<explanation>(.*?)</explanation>", re.DOTALL | re.IGNORECASE)


def parse_row(row: Mapping[str, Any], file: str) -> ParsedRow:
    """Parse {question: text, a line that announces the options, and options a. to e.; answer: <explanation>text
    </explanation><answer>letter</answer>}.
    """
    del file
    question, *options_texts = _OPTIONS_LINE.split(read_required_text(row, "question"), maxsplit=1)
    lettered_texts = _OPTION.findall(options_texts[0]) if options_texts else []
    if [letter for letter, _ in lettered_texts] != list("abcde"):
        raise BadRowError("key 'question' does not list five options a. to e.")
    answer_text = read_required_text(row, "answer")
    answer_match, explanation_match = _ANSWER.search(answer_text), _EXPLANATION.search(answer_text)
    if answer_match is None:
        raise BadRowError("key 'answer' has no <answer> with a letter")
    options = {letter.upper(): text.strip().strip(' "“”').strip() for letter, text in lettered_texts}
    solution = explanation_match[1].strip() if explanation_match else ""
    return ParsedRow(question.strip(), answer_match[1].upper(), solution, options=options)


BENCHMARK = Benchmark(
    name="genomebench",
    format=Format(parse_row, official_splits=True, carves_dev=True),
    hub=HubDataset("Mingyin0312/Genome-Bench", revision="bfa17fbb35fe6b75d80d77d2308081d309ba618e"),
    counts={"train": 2671, "test": 661},
    domains=("genomebench",),
)
