"""MedQA: US medical licensing examinations, with four or five options."""

from collections.abc import Mapping
from typing import Any

from nanoflux_local.seeds.benchmarks.base import Benchmark, Format, HubDataset
from nanoflux_local.seeds.rows import BadRowError, ParsedRow, make_choice_row, read_required_text


def parse_row(row: Mapping[str, Any], file: str) -> ParsedRow:
    """Parse {question, options, answer_idx, answer}. The options are an object with letters as keys, or a list of
    {key: letter, value: text}; `answer_idx` is the letter of the answer.
    """
    del file
    options = row.get("options")
    if isinstance(options, list):
        options = {entry.get("key"): entry.get("value") for entry in options if isinstance(entry, dict)}
    if not isinstance(options, dict) or list(options) not in (list("ABCD"), list("ABCDE")):
        raise BadRowError("key 'options' does not contain four or five options under A, B, C …")
    if not all(isinstance(text, str) for text in options.values()):
        raise BadRowError("key 'options' contains an option that is not a string")
    return make_choice_row(read_required_text(row, "question"), options, read_required_text(row, "answer_idx"))


BENCHMARK = Benchmark(
    name="medqa",
    format=Format(parse_row, official_splits=True),
    hub=HubDataset("GBaker/MedQA-USMLE-4-options"),
    licence="MIT",
    counts={"test": 1273},
    domains=("multimedqa",),
)
