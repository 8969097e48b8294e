"""PubMedQA: questions about an abstract, answered by yes, no or maybe."""

from collections.abc import Mapping
from typing import Any

from nanoflux_local.seeds.benchmarks.base import Benchmark, Format, HubDataset
from nanoflux_local.seeds.rows import BadRowError, ParsedRow, make_choice_row, read_optional_text, read_required_text

OPTIONS = {"A": "yes", "B": "no", "C": "maybe"}


def parse_row(row: Mapping[str, Any], file: str) -> ParsedRow:
    """Parse an entry of the official file (an object with upper-case keys, under its PubMed id), an entry of the
    official file of test labels (a word under its PubMed id), or a row from the hub (lower-case keys).
    """
    del file
    pmid = row.get("", row.get("pubid"))
    if pmid is None:
        raise BadRowError("key 'pubid' is missing")
    if set(row) == {"", "value"}:
        return ParsedRow("", _read_letter(row, "value"), id=str(pmid), split="test")
    context = row.get("CONTEXTS", row.get("context"))
    texts = context.get("contexts") if isinstance(context, dict) else context
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise BadRowError("neither 'CONTEXTS' nor 'context' contains a list of strings")
    question = "\n\n".join([*(text.strip() for text in texts), read_required_text(row, "QUESTION", "question")])
    solution = read_optional_text(row, "LONG_ANSWER", "long_answer")
    return make_choice_row(question, OPTIONS, _read_letter(row, "final_decision"), solution=solution, id=str(pmid))


def _read_letter(row: Mapping[str, Any], key: str) -> str:
    """The letter of the option whose word is the value of `key`."""
    word = read_required_text(row, key).casefold()
    letter = next((letter for letter, option in OPTIONS.items() if option == word), None)
    if letter is None:
        raise BadRowError(f"key {key!r} is {word!r}, not yes, no or maybe")
    return letter


BENCHMARK = Benchmark(
    name="pubmedqa",
    format=Format(parse_row),
    hub=HubDataset("qiaojin/PubMedQA", ("pqa_labeled/*.parquet",)),
    licence="MIT",
    counts={"": 1000},
    domains=("multimedqa",),
)
