"""Formats: what one row of each benchmark means, in its official layout and in that of the model hub.

A row becomes an `Item`, or says why it cannot. Owns no file and no split beyond what a row itself says.
"""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from nanoflux_local.answers import answer_number, exact_number, read_number

LARGEST_TARGET = 1e300
LETTERS = "ABCDE"
PUBMEDQA_OPTIONS = {"A": "yes", "B": "no", "C": "maybe"}
MMLU_SUBJECTS = (
    "anatomy", "clinical_knowledge", "college_biology", "college_medicine", "medical_genetics", "professional_medicine",
)  # fmt: skip


class BadRowError(Exception):
    """A row that is not what its benchmark's rows are; its text is the reason."""


class BlankRowError(Exception):
    """A row that holds nothing: counted, and no fault."""


@dataclass(frozen=True, slots=True)
class Item:
    """What a row says. `id` is the benchmark's own, "" where rows have none; `group` a part of the benchmark.

    An item without a question is a mark: it says that the item of that id is in `split` and has that answer.
    """

    question: str
    answer: str
    solution: str = ""
    program: str = ""
    options: dict[str, str] = field(default_factory=dict)
    id: str = ""
    group: str = ""
    split: str = ""


@dataclass(frozen=True, slots=True)
class Format:
    """How a benchmark's rows are read.

    `official` says that its files are splits of their own, told by their names; `carves` that these have no dev
    split, so that one is taken from train.
    """

    convert: Callable[[Mapping[str, Any], str], Item]
    official: bool = False
    carves: bool = False
    columns: tuple[str, ...] = ()
    element: str = ""
    settle: Callable[[Sequence[Item], str], list[Item]] | None = None
    """What can only be said of an item once all of its file were seen."""


def _text(row: Mapping[str, Any], *names: str) -> str:
    """The text under the first of `names` that the row has, stripped.

    Raises:
        BadRowError: none is there, or it is no text, or empty.
    """
    name = next((name for name in names if name in row), names[0])
    value = row.get(name)
    if not isinstance(value, str):
        raise BadRowError(f"key {name!r} is missing or not of its kind")
    if not value.strip():
        raise BadRowError(f"key {name!r} is empty")
    return value.strip()


def _optional(row: Mapping[str, Any], *names: str) -> str:
    value = next((row[name] for name in names if row.get(name) is not None), "")
    return str(value).strip()


def gsmhard(row: Mapping[str, Any], file: str) -> Item:
    """{input: text, code: a function solution(), target: number}."""
    del file
    question, code, target = _text(row, "input"), _text(row, "code"), row.get("target")
    if not isinstance(target, int | float) or isinstance(target, bool):
        raise BadRowError("key 'target' is missing or not of its kind")
    if abs(target) >= LARGEST_TARGET or target != target:
        raise BadRowError("key 'target' is no number that can be compared")
    return Item(question, answer_number(float(target)), program=f"{code}\n\nprint(repr(solution()))\n")


def gsm8k(row: Mapping[str, Any], file: str) -> Item:
    """{question, answer: solution, "####", number}; the calculator's marks <<…>> are no part of the solution."""
    del file
    question = _text(row, "question")
    solution, mark, number = _text(row, "answer").rpartition("####")
    value = read_number(number.strip()) if mark else None
    if value is None:
        raise BadRowError("key 'answer' does not end in #### and a number")
    return Item(question, answer_number(value), re.sub(r"<<[^<>]*>>", "", solution).strip())


_GENOME_OPTIONS = re.compile(r"please choose one of the following options:?", re.IGNORECASE)
_GENOME_OPTION = re.compile(r"(?:^|[\s,;])([a-e])\.\s*(.*?)(?=(?:[\s,;]+[a-e]\.\s)|\Z)", re.DOTALL)


def genomebench(row: Mapping[str, Any], file: str) -> Item:
    """{question with its options inline, answer: <explanation>…</explanation><answer>letter</answer>}."""
    del file
    parts = _GENOME_OPTIONS.split(_text(row, "question"), maxsplit=1)
    found = _GENOME_OPTION.findall(parts[-1]) if len(parts) == 2 else []
    if [letter for letter, _ in found] != list("abcde"):
        raise BadRowError("key 'question' does not list five options a. to e.")
    reply = _text(row, "answer")
    chosen = re.search(r"<answer>\s*([a-e])\b.*?</answer>", reply, re.DOTALL | re.IGNORECASE)
    if chosen is None:
        raise BadRowError("key 'answer' has no <answer> with a letter")
    why = re.search(r"<explanation>(.*?)</explanation>", reply, re.DOTALL | re.IGNORECASE)
    options = {letter.upper(): text.strip().strip(' "“”').strip() for letter, text in found}
    return Item(parts[0].strip(), chosen[1].upper(), why[1].strip() if why else "", options=options)


def _choice(question: str, options: Mapping[str, str], answer: str, **more: Any) -> Item:
    if answer not in options:
        raise BadRowError(f"the answer {answer!r} is none of the options {', '.join(options)}")
    return Item(question, answer, options=dict(options), **more)


def medqa(row: Mapping[str, Any], file: str) -> Item:
    """{question, options: letter → text (or a list of {key, value}), answer_idx: letter, answer: its text}."""
    del file
    options = row.get("options")
    if isinstance(options, list):
        options = {entry.get("key"): entry.get("value") for entry in options if isinstance(entry, dict)}
    if not isinstance(options, dict) or list(options) != list(LETTERS[: len(options)]) or len(options) not in (4, 5):
        raise BadRowError("key 'options' does not hold four or five texts under A, B, C …")
    if not all(isinstance(text, str) for text in options.values()):
        raise BadRowError("key 'options' holds what is no text")
    return _choice(_text(row, "question"), options, _text(row, "answer_idx"))


def medmcqa(row: Mapping[str, Any], file: str) -> Item:
    """{question, opa … opd, cop, exp, id}. `cop` stands as the answer until `settle_cop` has seen all of a file."""
    del file
    options = {letter: _text(row, f"op{letter.lower()}") for letter in "ABCD"}
    cop = row.get("cop")
    if not isinstance(cop, int) or isinstance(cop, bool):
        raise BadRowError("key 'cop' is missing or not of its kind")
    if not 0 <= cop <= 4:
        raise BadRowError(f"key 'cop' is {cop}, which is no option: the benchmark's test file carries no answers")
    return Item(_text(row, "question"), str(cop), _optional(row, "exp"), options=options, id=_text(row, "id"))


def settle_cop(items: Sequence[Item], file: str) -> list[Item]:
    """`cop` counts from 1 in the official files and from 0 on the hub: a 4 or a 0 tells, else the file's layout.

    Raises:
        BadRowError: the file holds both.
    """
    found = {item.answer for item in items}
    if {"0", "4"} <= found:
        raise BadRowError("key 'cop' counts from 0 in some rows and from 1 in others")
    first = 1 if "4" in found or ("0" not in found and file.endswith((".json", ".jsonl"))) else 0
    return [replace(item, answer="ABCD"[int(item.answer) - first]) for item in items]


def pubmedqa(row: Mapping[str, Any], file: str) -> Item:
    """The official object (pmid → upper-case keys), its file of test labels, or the hub's columns."""
    del file
    own = row.get("", row.get("pubid"))
    if own is None:
        raise BadRowError("no key 'pubid'")
    if set(row) == {"", "value"}:
        return Item("", _yes_no(row, "value"), id=str(own), split="test")
    context = row.get("CONTEXTS", row.get("context"))
    texts = context.get("contexts") if isinstance(context, dict) else context
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise BadRowError("no list of texts under 'CONTEXTS' or 'context'")
    question = "\n\n".join([*(text.strip() for text in texts), _text(row, "QUESTION", "question")])
    answer, long = _yes_no(row, "final_decision"), _optional(row, "LONG_ANSWER", "long_answer")
    return _choice(question, PUBMEDQA_OPTIONS, answer, solution=long, id=str(own))


def _yes_no(row: Mapping[str, Any], key: str) -> str:
    word = _text(row, key).casefold()
    letter = next((letter for letter, option in PUBMEDQA_OPTIONS.items() if option == word), None)
    if letter is None:
        raise BadRowError(f"key {key!r} is {word!r}, not yes, no or maybe")
    return letter


def mmlu(row: Mapping[str, Any], file: str) -> Item:
    """The official CSV (question, four options, letter), or the hub's {question, subject, choices, answer: 0-3}."""
    subject = _optional(row, "subject") or next((name for name in MMLU_SUBJECTS if name in file), "")
    if subject not in MMLU_SUBJECTS:
        raise BadRowError(f"{subject or file!r} names none of the subjects {', '.join(MMLU_SUBJECTS)}")
    choices, answer = row.get("choices"), row.get("answer")
    if choices is None:
        choices = [_text(row, letter) for letter in "ABCD"]
        answer = _text(row, "answer")
    elif isinstance(answer, int) and 0 <= answer < 4:
        answer = "ABCD"[answer]
    if not isinstance(choices, list) or len(choices) != 4 or not all(isinstance(text, str) for text in choices):
        raise BadRowError("key 'choices' does not hold four texts")
    return _choice(
        _text(row, "question"), dict(zip("ABCD", choices, strict=True)), str(answer).strip(), group=subject
    )  # fmt: skip


def liveqa(row: Mapping[str, Any], file: str) -> Item:
    """An NLM-QUESTION: subject and message are the question; its reference answers follow each other in `answer`."""
    del file
    found = row[""]
    words = [(found.findtext(f".//{tag}") or "").strip() for tag in ("SUBJECT", "MESSAGE")]
    question = "\n".join(word for word in words if word) or (found.findtext(".//NIST-PARAPHRASE") or "").strip()
    if not question:
        raise BadRowError("neither SUBJECT nor MESSAGE has text")
    answers = [" ".join((answer.text or "").split()) for answer in found.iter("ANSWER")]
    if not any(answers):
        raise BadRowError("no reference answer")
    return Item(question, "\n\n".join(filter(None, answers)), id=found.get("qid") or "")


def medicationqa(row: Mapping[str, Any], file: str) -> Item:
    """The workbook's columns: Question, Answer, and where the answer was found."""
    del file
    return Item(_text(row, "Question", "question"), _text(row, "Answer", "answer"))


def healthsearchqa(row: Mapping[str, Any], file: str) -> Item:
    """{Question}, without an answer; many begin with a stray comma, and the last quarter is blank."""
    del file
    value = row.get("Question", row.get("question"))
    if value is not None and not isinstance(value, str):
        raise BadRowError("key 'Question' is not of its kind")
    question = (value or "").lstrip(" ,\t\n").strip()
    if not question:
        raise BlankRowError
    return Item(question, "")


OWN_LETTERS = "ABCDEFGHIJ"
OWN_KEYS = ("question", "answer", "solution", "program", "options", "id", "split")


def own(row: Mapping[str, Any], file: str) -> Item:
    """Own data (docs/how-to/domains.md): a question, an answer and any other key of `OWN_KEYS`."""
    del file
    given = {key: value for key, value in row.items() if value is not None and value != ""}
    foreign = next((key for key in given if key not in (*OWN_KEYS, *OWN_LETTERS)), None)
    if foreign is not None:
        raise BadRowError(f"unknown key {foreign!r}; own data has {', '.join(OWN_KEYS)}, or options in columns A to J")
    options = _own_options(given)
    given["answer"] = _own_answer(given.get("answer"), bool(options))
    split = _optional(given, "split")
    if split not in ("", "train", "dev", "test"):
        raise BadRowError(f"key 'split' is {split!r}, not train, dev or test")
    question, answer = _text(given, "question"), _text(given, "answer")
    if options and answer not in options:
        raise BadRowError(f"the answer {answer!r} is none of the options {', '.join(options)}")
    solution, program = (_text(given, key) if key in given else "" for key in ("solution", "program"))
    return Item(question, answer, solution, program, options, id=_optional(given, "id"), split=split)


def _own_answer(answer: Any, chosen: bool) -> Any:
    """The answer with every digit of a number; `chosen`: it is an option's letter. A text's own spelling stays.

    Raises:
        BadRowError: it is NaN, infinite, or beyond what a double holds.
    """
    if isinstance(answer, int | float | Decimal) and not isinstance(answer, bool):
        try:
            return exact_number(answer)
        except (ValueError, OverflowError):
            raise BadRowError("key 'answer' is not a finite number below 1e308") from None
    if isinstance(answer, str) and not chosen and not math.isfinite(as_number(answer) or 0):
        raise BadRowError(f"key 'answer' is {answer.strip()[:20]!r}, not a finite number below 1e308")
    return answer


def as_number(text: str) -> float | None:
    """The number that a text is as a whole, NaN and infinities included; None for any other text."""
    try:
        return float(text)
    except ValueError:
        return None


def _own_options(row: Mapping[str, Any]) -> dict[str, str]:
    """The options under one key, as a table or as JSON in a cell, or in columns A, B, C …"""
    options = row.get("options", {letter: str(row[letter]) for letter in OWN_LETTERS if letter in row})
    if isinstance(options, str):
        try:
            options = json.loads(options)
        except (ValueError, RecursionError):
            raise BadRowError("""key 'options' is not JSON like {"A": "…", "B": "…"}""") from None
    if not isinstance(options, dict):
        raise BadRowError("key 'options' is not a table of letters and texts")
    options = {letter: text for letter, text in options.items() if text is not None}  # columns have them all
    in_order = list(options) == list(OWN_LETTERS[: len(options)])
    if not in_order or not all(isinstance(each, str) for each in options.values()):
        raise BadRowError("key 'options' does not hold texts under A, B, C …")
    return options


OWN = Format(own, official=True)
"""Of every benchmark that has no name here: a user's own."""
FORMATS: dict[str, Format] = {
    "gsmhard": Format(gsmhard),
    "gsm8k": Format(gsm8k, official=True, carves=True),
    "genomebench": Format(genomebench, official=True, carves=True),
    "medqa": Format(medqa, official=True),
    "medmcqa": Format(medmcqa, official=True, settle=settle_cop),
    "pubmedqa": Format(pubmedqa),
    "mmlu": Format(mmlu, official=True, columns=("question", "A", "B", "C", "D", "answer")),
    "liveqa": Format(liveqa, element="NLM-QUESTION"),
    "medicationqa": Format(medicationqa),
    "healthsearchqa": Format(healthsearchqa),
}
