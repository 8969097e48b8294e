"""GSM8K: grade-school word problems with worked solutions."""

import re
from collections.abc import Mapping
from typing import Any

from nanoflux_local.answers import answer_number, read_number
from nanoflux_local.seeds.benchmarks.base import Benchmark, Format, HubDataset
from nanoflux_local.seeds.rows import BadRowError, ParsedRow, read_required_text


def parse_row(row: Mapping[str, Any], file: str) -> ParsedRow:
    """Parse {question, answer: solution, "####" and the number}. Calculator annotations such as <<3*4=12>> are removed
    from the solution.
    """
    del file
    question = read_required_text(row, "question")
    solution, separator, number = read_required_text(row, "answer").rpartition("####")
    value = read_number(number.strip()) if separator else None
    if value is None:
        raise BadRowError("key 'answer' does not end in #### and a number")
    return ParsedRow(question, answer_number(value), re.sub(r"<<[^<>]*>>", "", solution).strip())


BENCHMARK = Benchmark(
    name="gsm8k",
    format=Format(parse_row, official_splits=True, carves_dev=True),
    hub=HubDataset("openai/gsm8k", ("main/*.parquet",)),
    licence="MIT",
    counts={"train": 7473, "test": 1319},
)
