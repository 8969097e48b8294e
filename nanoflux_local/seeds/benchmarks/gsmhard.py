"""GSM-Hard: GSM8K's test questions with large numbers, each with a program that computes the answer."""

import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from nanoflux_local.answers import answer_number
from nanoflux_local.seeds.benchmarks.base import Benchmark, Format, HubDataset
from nanoflux_local.seeds.rows import BadRowError, ParsedRow, read_required_text

MAX_TARGET = 1e300
"""Rows with a larger target are refused."""


def parse_row(row: Mapping[str, Any], file: str) -> ParsedRow:
    """Parse {input: question, code: a function solution(), target: number}."""
    del file
    question, code, target = read_required_text(row, "input"), read_required_text(row, "code"), row.get("target")
    if not isinstance(target, int | float | Decimal) or isinstance(target, bool):
        raise BadRowError("key 'target' is missing or is not a number")
    try:
        number = float(target)
    except OverflowError:  # an integer of more than 308 digits
        number = math.inf
    if abs(number) >= MAX_TARGET or math.isnan(number):
        raise BadRowError("key 'target' is too large to compare, or is not a number")
    return ParsedRow(question, answer_number(number), program=f"{code}\n\nprint(repr(solution()))\n")


BENCHMARK = Benchmark(
    name="gsmhard",
    format=Format(parse_row),
    hub=HubDataset("reasoning-machines/gsm-hard"),
    licence="MIT (according to its page on the hub)",
    counts={"": 1319},
    domains=("gsmhard", "gsmhard-short"),
)
