"""MedicationQA: consumers' questions about medications, with answers from reference pages."""

from collections.abc import Mapping
from typing import Any

from nanoflux_local.seeds.benchmarks.base import Benchmark, Format
from nanoflux_local.seeds.rows import ParsedRow, read_required_text


def parse_row(row: Mapping[str, Any], file: str) -> ParsedRow:
    """Parse the workbook's columns Question and Answer."""
    del file
    return ParsedRow(read_required_text(row, "Question", "question"), read_required_text(row, "Answer", "answer"))


BENCHMARK = Benchmark(
    name="medicationqa",
    format=Format(parse_row),
    homepage="github.com/abachaa/Medication_QA_MedInfo2019",
    counts={"": 690},
    domains=("multimedqa",),
)
