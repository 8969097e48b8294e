"""The restatement check: a question that repeats one of the seeds it was built from is rejected before it is judged.

Novelty compares a question only with earlier questions, so it lets a copied seed pass. This check compares a question
with its seeds by words and by embedding. It cannot check a trial's questions: they are benchmark items without seeds.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import ClassVar

from nanoflux_local.config import JudgeRules
from nanoflux_local.errors import PromptRefusedError
from nanoflux_local.ledger.calls import Call
from nanoflux_local.records import EmbedRequest, Identity, Vector, similarity
from nanoflux_local.roles.base import Draw
from nanoflux_local.roles.checks.base import EMBEDDER, Check, CheckContext, CheckStage
from nanoflux_local.transcript import Attack, Conclusion, Exhibit, Finding, Seed

MIN_WORD_OVERLAP = 0.8
"""A question restates a seed if at least this share of their words occurs in both in the same order. All numbers count
as the same word, because a seed with different numbers is not a new question. GSM-Hard differs from GSM8K only in its
numbers: each of 300 pairs scores at least 0.97. Of 600 GSM8K questions, 99% score below 0.55 with the most similar of
1,500 other questions.
"""
_WORD = re.compile(r"\d[\d,.]*\d|\w+")


@dataclass(frozen=True, slots=True)
class RestatedCheck:
    """Compares a question with its seeds: the word overlap is limited by `MIN_WORD_OVERLAP`, the similarity of the
    embeddings by `threshold` (θq).
    """

    name: ClassVar[str] = "restated"
    title: ClassVar[str] = "restatement check"
    stage: ClassVar[CheckStage] = "screens"
    tools: ClassVar[tuple[str, ...]] = ()
    objection: ClassVar[str] = "it restates a seed"
    asks_solvers: ClassVar[bool] = False

    embedder: Identity
    threshold: float

    @classmethod
    def build(cls, context: CheckContext) -> "RestatedCheck":
        return cls(context.find_tool(EMBEDDER, "checks", '["restated"]'), context.config.novelty.question)

    @classmethod
    def count_calls(cls, rules: JudgeRules) -> Mapping[str, int]:
        del rules
        return {"embed": 2}

    async def examine(self, attack: Attack, draw: Draw, call: Call, seeds: tuple[Seed, ...] = ()) -> Finding:
        """Contradict a question that repeats a seed. The most similar seed is the evidence."""
        del draw  # nothing is sampled
        if not seeds:
            return Finding(self.name, "not checked", "the question has no seeds")
        overlaps = [(measure_word_overlap(attack.question, seed.question), seed) for seed in seeds]
        share, closest = max(overlaps, key=_get_score)
        if share >= MIN_WORD_OVERLAP:
            reason = f"{share:.0%} of its words are those of seed {closest.id} in the same order, numbers not compared"
            return self._make_finding("contradicts", reason, closest)
        try:
            question_vector = await self._embed(attack.question, call)
            seed_vectors = [await self._embed(seed.question, call) for seed in seeds]
        except PromptRefusedError as error:
            return self._make_finding("not checked", f"the embedder refuses a text: {error.message}", closest)
        cosines = [similarity(question_vector, seed_vector) for seed_vector in seed_vectors]
        cosine, nearest = max(zip(cosines, seeds, strict=True), key=_get_score)
        reason = f"its similarity to seed {nearest.id} is {cosine:.3f}"
        return self._make_finding("contradicts" if cosine > self.threshold else "supports", reason, nearest)

    async def _embed(self, text: str, call: Call) -> Vector:
        reply = await call(EmbedRequest(self.embedder, text))
        return reply.vector

    def _make_finding(self, conclusion: Conclusion, reason: str, seed: Seed) -> Finding:
        """The finding of this check, with the seed as evidence."""
        return Finding(self.name, conclusion, reason, (Exhibit("quotation", seed.question, detail=f"seed {seed.id}"),))


def measure_word_overlap(text: str, other_text: str) -> float:
    """The share of words that two texts have in the same order, from 0 to 1. All numbers count as one word."""
    return SequenceMatcher(None, _split_words(text), _split_words(other_text), autojunk=False).ratio()


def _split_words(text: str) -> list[str]:
    """The words of a text in lower case, with "0" for each number."""
    return ["0" if word[0].isdigit() else word for word in _WORD.findall(text.casefold())]


def _get_score(scored_seed: tuple[float, Seed]) -> float:
    return scored_seed[0]


CHECK: type[Check] = RestatedCheck
