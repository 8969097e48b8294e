"""LiveQA (TREC 2017, medical): consumers' questions with reference answers."""

from collections.abc import Mapping
from typing import Any

from nanoflux_local.seeds.benchmarks.base import Benchmark, Format
from nanoflux_local.seeds.rows import BadRowError, ParsedRow


def parse_row(row: Mapping[str, Any], file: str) -> ParsedRow:
    """Parse an NLM-QUESTION element. Its subject and message form the question, or else the NIST paraphrase does; its
    reference answers together form the answer.
    """
    del file
    element = row[""]
    texts = [(element.findtext(f".//{tag}") or "").strip() for tag in ("SUBJECT", "MESSAGE")]
    paraphrase = (element.findtext(".//NIST-PARAPHRASE") or "").strip()
    question = "\n".join(filter(None, texts)) or paraphrase
    if not question:
        raise BadRowError("neither SUBJECT nor MESSAGE has text")
    answers = [" ".join((answer.text or "").split()) for answer in element.iter("ANSWER")]
    if not any(answers):
        raise BadRowError("there is no reference answer")
    return ParsedRow(question, "\n\n".join(filter(None, answers)), id=element.get("qid") or "")


BENCHMARK = Benchmark(
    name="liveqa",
    format=Format(parse_row, row_element="NLM-QUESTION"),
    homepage="github.com/abachaa/LiveQA_MedicalTask_TREC2017",
    counts={"": 104},
    domains=("multimedqa",),
)
