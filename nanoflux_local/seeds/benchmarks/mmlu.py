"""MMLU's medical subjects: multiple-choice questions with four options."""

from collections.abc import Mapping
from typing import Any

from nanoflux_local.seeds.benchmarks.base import Benchmark, Format, HubDataset
from nanoflux_local.seeds.rows import BadRowError, ParsedRow, make_choice_row, read_optional_text, read_required_text

SUBJECTS = (
    "anatomy", "clinical_knowledge", "college_biology", "college_medicine", "medical_genetics", "professional_medicine",
)  # fmt: skip


def parse_row(row: Mapping[str, Any], file: str) -> ParsedRow:
    """Parse a row of an official CSV file (question, four options, letter; the file's name contains the subject), or
    a row from the hub: {question, subject, choices, answer: index from 0 to 3}.
    """
    subject = read_optional_text(row, "subject") or next((name for name in SUBJECTS if name in file), "")
    if subject not in SUBJECTS:
        raise BadRowError(f"{subject or file!r} names none of the subjects {', '.join(SUBJECTS)}")
    choices, answer = row.get("choices"), row.get("answer")
    if choices is None:
        choices = [read_required_text(row, letter) for letter in "ABCD"]
        answer = read_required_text(row, "answer")
    elif isinstance(answer, int) and 0 <= answer < 4:
        answer = "ABCD"[answer]
    if not isinstance(choices, list) or len(choices) != 4 or not all(isinstance(text, str) for text in choices):
        raise BadRowError("key 'choices' does not contain four strings")
    options = dict(zip("ABCD", choices, strict=True))
    return make_choice_row(read_required_text(row, "question"), options, str(answer).strip(), group=subject)


BENCHMARK = Benchmark(
    name="mmlu",
    format=Format(parse_row, official_splits=True, columns=("question", "A", "B", "C", "D", "answer")),
    hub=HubDataset("cais/mmlu", tuple(f"{subject}/*.parquet" for subject in SUBJECTS)),
    licence="MIT",
    counts={"test": 1089},
    domains=("multimedqa",),
)
