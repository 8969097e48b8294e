"""HealthSearchQA: health questions that people ask a search engine, without answers."""

from collections.abc import Mapping
from typing import Any

from nanoflux_local.seeds.benchmarks.base import Benchmark, Format, HubDataset
from nanoflux_local.seeds.rows import BadRowError, BlankRowError, ParsedRow


def parse_row(row: Mapping[str, Any], file: str) -> ParsedRow:
    """Parse {Question}. Many questions begin with a stray comma, and the last quarter of the official file's rows is
    blank.
    """
    del file
    value = row.get("Question", row.get("question"))
    if value is not None and not isinstance(value, str):
        raise BadRowError("key 'Question' is not a string")
    question = (value or "").lstrip(" ,\t\n").strip()
    if not question:
        raise BlankRowError
    return ParsedRow(question, "")


BENCHMARK = Benchmark(
    name="healthsearchqa",
    format=Format(parse_row),
    hub=HubDataset("katielink/healthsearchqa"),
    counts={"": 3173},
    domains=("multimedqa",),
)
