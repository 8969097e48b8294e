"""MedMCQA: Indian medical entrance examinations, with four options."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from nanoflux_local.seeds.benchmarks.base import Benchmark, Format, HubDataset
from nanoflux_local.seeds.rows import BadRowError, ParsedRow, read_optional_text, read_required_text


def parse_row(row: Mapping[str, Any], file: str) -> ParsedRow:
    """Parse {question, opa, opb, opc, opd, cop, exp, id}. `cop` is the number of the correct option, and `exp` the
    explanation. The row's answer is `cop` until `settle_answers` replaces it with a letter.
    """
    del file
    options = {letter: read_required_text(row, f"op{letter.lower()}") for letter in "ABCD"}
    cop = row.get("cop")
    if not isinstance(cop, int) or isinstance(cop, bool):
        raise BadRowError("key 'cop' is missing or is not an integer")
    if not 0 <= cop <= 4:
        raise BadRowError(f"key 'cop' is {cop}, which is not an option: the benchmark's test file has no answers")
    question, solution = read_required_text(row, "question"), read_optional_text(row, "exp")
    return ParsedRow(question, str(cop), solution, options=options, id=read_required_text(row, "id"))


def settle_answers(rows: Sequence[ParsedRow], file: str) -> list[ParsedRow]:
    """Replace each `cop` with a letter. `cop` counts from 1 in the official files and from 0 on the hub. A 4 in any row
    means that the file counts from 1, and a 0 that it counts from 0. If no row has either, a JSON file is assumed to be
    official, and any other file to come from the hub.

    Raises:
        BadRowError: the file has both a 0 and a 4.
    """
    cops = {row.answer for row in rows}
    if {"0", "4"} <= cops:
        raise BadRowError("key 'cop' counts from 0 in some rows and from 1 in others")
    is_json = file.endswith((".json", ".jsonl"))
    lowest_cop = 1 if "4" in cops or ("0" not in cops and is_json) else 0
    return [replace(row, answer="ABCD"[int(row.answer) - lowest_cop]) for row in rows]


BENCHMARK = Benchmark(
    name="medmcqa",
    format=Format(parse_row, official_splits=True, finish_file=settle_answers),
    hub=HubDataset("openlifescienceai/medmcqa", ("data/train-*", "data/validation-*")),  # the test split has no labels
    licence="MIT (its page on the hub says Apache-2.0)",
    counts={"dev": 4183},
    domains=("multimedqa",),
)
