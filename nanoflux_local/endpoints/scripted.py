"""The packaged fake model, whose replies depend only on the request. Tests, documentation and the TUI's guided tour use
it.

It answers in every role. At fixed rates, it writes unparsable replies, near-duplicates, verdicts with low confidence
and wrong answers.
"""

import asyncio
import random
import re
from collections.abc import Callable

import numpy as np

from nanoflux_local.endpoints.context import Context
from nanoflux_local.endpoints.scripted_documents import (
    write_document_answer,
    write_document_attack,
    write_document_premises,
)
from nanoflux_local.records import (
    ChatReply,
    ChatRequest,
    EmbedReply,
    EmbedRequest,
    Identity,
    Vector,
    derive_seed,
)

Script = Callable[[str, random.Random], str]
"""Writes the reply to a prompt, with a random generator that depends only on the request."""
DIMENSIONS = 64
"""The number of elements of the fake embedder's vectors."""


class ScriptedEndpoint:
    """A chat endpoint that answers after a delay of `delay_s` seconds on average. Reply and delay depend only on the
    request.
    """

    repeatable = True
    context = Context()
    capacity = 1024

    def __init__(self, model: str, delay_s: float = 0.0, script: Script | None = None) -> None:
        self.identity = Identity("scripted", model, revision="1")
        self._delay_s = delay_s
        self._script = script or write_reply

    async def chat(self, request: ChatRequest) -> ChatReply:
        rng = random.Random(derive_seed(request.key(), "script"))
        await asyncio.sleep(self._delay_s * 2 * rng.random())
        prompt = request.messages[-1].content
        text = self._script(prompt, rng)
        return ChatReply(text, "stop", len(prompt.split()), len(text.split()), self._delay_s)

    def count_tokens(self, text: str) -> int:
        return len(text.split())

    async def close(self) -> None:
        return


class HashingEmbedder:
    """An embedder that hashes words into unit vectors of shape (64,), so that texts that share words are similar."""

    def __init__(self, model: str) -> None:
        self.identity = Identity("scripted", model, revision="1")

    async def embed(self, request: EmbedRequest) -> EmbedReply:
        return EmbedReply.of(self.vector(request.text))

    def vector(self, text: str) -> Vector:
        """The vector of a text: each word adds 1 to, or subtracts 1 from, the element that its hash selects."""
        vector = np.zeros(DIMENSIONS, dtype=np.float32)
        for word in re.findall(r"\w+", text.lower()):
            word_hash = derive_seed("word", word)
            vector[word_hash % DIMENSIONS] += 1.0 if word_hash & 1024 else -1.0  # a bit that does not affect the index
        vector[0] += 1e-3  # so that a text without words does not become a zero vector
        return np.asarray(vector / np.linalg.norm(vector), dtype=np.float32)

    async def close(self) -> None:
        return


def write_reply(prompt: str, rng: random.Random) -> str:
    """The default script. It infers the role from the sections that the prompt requests."""
    if rng.random() < 0.04:
        return rng.choice(["I would rather not say.", "ANSWER:", "<think>where was I"])
    if "ORGANIZATION:" in prompt:
        criteria = ("ORGANIZATION", "TRANSITIONS", "VERIFICATION", "ELABORATION", "CLARITY")
        ratings = [f"{criterion}: {rng.randint(1, 5)}" for criterion in criteria]
        return "\n".join([*ratings, "EXPLANATION: by what is written."])
    if "QUERIES:" in prompt:
        queries = "NONE" if rng.random() < 0.2 else f"{rng.choice(_OBJECTS)}\n{rng.choice(_VERBS)}"
        return f"QUERIES:\n{queries}"
    if "CONTRADICTION:" in prompt:
        return _write_premises(prompt, rng)
    if "CITATIONS:" in prompt:
        return write_document_attack(prompt, rng)
    if "UNSUPPORTED:" in prompt:
        return write_document_premises(prompt, rng)
    if "Passage 1" in prompt and "ANSWER:" in prompt and "Question:" in prompt:
        return write_document_answer(prompt)
    if "# VARIABLES" in prompt or "Python program" in prompt:
        return _write_program(prompt, rng)
    if "VALID or INVALID" in prompt:
        return _write_judgement(rng, "VALID", "INVALID", 0.85, "VERIFICATION: each step was done again.")
    if "CORRECT or INCORRECT" in prompt:
        return _write_evaluation(prompt, rng)
    if "QUESTION:" in prompt:
        return _write_attack(prompt, rng)
    return _write_defence(prompt, rng)


_OBJECTS = [
    "apples", "books", "coins", "doors", "engines", "flutes", "gloves", "hats", "jars", "kites", "lamps", "maps",
]  # fmt: skip
_PEOPLE = ["Ada", "Bo", "Cem", "Dina", "Edo", "Fay", "Gil", "Hana", "Ivo", "Jo", "Kim", "Lou"]
_VERBS = ["counts", "sorts", "packs", "sells", "lends", "paints", "stacks", "weighs"]


def _write_attack(prompt: str, rng: random.Random) -> str:
    """A word problem. One in ten has one of four fixed wordings, so that near-duplicates occur."""
    wording_rng = random.Random(rng.randrange(4)) if rng.random() < 0.1 else rng
    counted_object, kept_object = wording_rng.sample(_OBJECTS, 2)
    name, verb = wording_rng.choice(_PEOPLE), wording_rng.choice(_VERBS)
    boxes, per_box, gift = rng.randrange(3, 40), rng.randrange(3, 40), rng.randrange(1, 9)
    question = (
        f"{name} {verb} {boxes} boxes of {per_box} {counted_object} and gives {gift} to a friend who keeps"
        f" {kept_object}. How many {counted_object} are left?"
    )
    total = boxes * per_box
    answer = f"{total - gift}" if "option letter" not in prompt else wording_rng.choice("ABCD")
    return (
        f"QUESTION: {question}\n"
        f"SOLUTION: {boxes} * {per_box} = {total}; {total} - {gift} = {total - gift}.\n"
        f"ANSWER: {answer}\nREFLECTION: the gift is easy to miss."
    )


def _write_defence(prompt: str, rng: random.Random) -> str:
    """A defence whose answer is right two times in three. Half of the solutions are worded differently from the
    attacker's.
    """
    numbers = [int(number) for number in re.findall(r"\b\d+\b", prompt.split("Problem:")[-1])[:3]]
    boxes, per_box, gift = [*numbers, 2, 3, 1][:3]  # the fixed numbers replace those that the problem lacks
    answer = boxes * per_box - gift + (rng.randrange(1, 9) if rng.random() < 0.33 else 0)
    steps = rng.choice([
        f"{boxes} * {per_box} = {boxes * per_box}; {boxes * per_box} - {gift} = {answer}.",
        f"Taking one box away at a time and then the gift, everything that stays comes to {answer}.",
    ])  # fmt: skip
    stated_answer = rng.choice("ABCD") if "option letter" in prompt else str(answer)
    return f"ANALYSIS: count what is left.\nSOLUTION: {steps}\nANSWER: {stated_answer}"


def _write_evaluation(prompt: str, rng: random.Random) -> str:
    """A judgement of a defence: correct if its answer is the reference answer."""
    reference_match = re.search(r"Reference answer: (.*)", prompt)
    answer_match = re.search(r"Its answer: (.*)", prompt)
    is_right = (
        reference_match is not None
        and answer_match is not None
        and reference_match[1].strip() == answer_match[1].strip()
    )
    quality = "SOUND" if is_right else "UNSOUND"
    middle_sections = f"REASONING QUALITY: {quality}, as the steps show.\nCALCULATION ACCURACY: redone."
    return _write_judgement(rng, "CORRECT", "INCORRECT", 1.0 if is_right else 0.0, middle_sections)


def _write_program(prompt: str, rng: random.Random) -> str:
    """A program for the calculation in `_write_attack`. One program in eight forgets the gift, and one in eight
    calculates nothing.
    """
    numbers = re.findall(r"\b\d+\b", prompt.split("Problem:")[-1])[:3]
    rows, each, lost = [*numbers, "2", "3", "1"][:3]  # the fixed numbers replace those that the problem lacks
    left_expression = rng.choice(["total", *["total - lost"] * 7])
    steps = f"# STEPS\ntotal = rows * each\nleft = {left_expression}\n# CHECK\nanswer = left\n"
    program = f"# VARIABLES\nrows, each, lost = {rows}, {each}, {lost}\n{steps}"
    if rng.random() >= 0.875:
        program = "print(42)"
    return f"CODE:\n```python\n{program}\n```"


def _write_premises(prompt: str, rng: random.Random) -> str:
    """A reply that quotes the problem's first sentence. One reply in eight misquotes it, and one in eight reports a
    missing fact.
    """
    statement = prompt.split("Problem:")[-1].strip().partition(".")[0]
    draw = rng.randrange(8)
    quotation = f"Nobody {statement}" if draw == 0 else statement
    missing_fact = "how many boxes there are" if draw == 1 else "NONE"
    return f'ASKED: what is left\nGIVEN: "{quotation}"\nMISSING: {missing_fact}\nCONTRADICTION: NONE'


def _write_judgement(rng: random.Random, yes: str, no: str, yes_probability: float, middle_sections: str) -> str:
    """A reply of the judge. Its decision is `yes` with probability `yes_probability`; one reply in ten has a low
    confidence.
    """
    confidence = rng.choice([0.6, 0.8]) if rng.random() < 0.1 else 0.97
    decision = yes if rng.random() < yes_probability else no
    return (
        f"ANALYSIS: read twice.\n{middle_sections}\nDECISION: {decision}\n"
        f"CONFIDENCE: {confidence}\nEXPLANATION: that is what the steps give."
    )
