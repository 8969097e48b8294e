"""The restatement check recognises questions that repeat a seed; the judge is not asked about such a question."""

import numpy as np
import pytest

from nanoflux_local.config import JudgeRules
from nanoflux_local.domains.own import load_domain
from nanoflux_local.errors import PromptRefusedError
from nanoflux_local.records import ChatReply, EmbedReply, EmbedRequest, Identity
from nanoflux_local.roles.base import Draw
from nanoflux_local.roles.checking import CheckingJudge
from nanoflux_local.roles.checks.restated import MIN_WORD_OVERLAP, RestatedCheck, measure_word_overlap
from nanoflux_local.roles.judge import ModelJudge
from nanoflux_local.transcript import Attack, Finding, Seed

EMBEDDER = Identity("embedder", "e")
DRAW = Draw(run_seed=1, turn=2, attempt=3)
SEEDS = (
    Seed(
        "oreos", "x", "James has 3 more than 2 times the number of Oreos Jordan has. How many does Jordan have?", "11"
    ),
    Seed("juniors", "x", "There are 500 students in a school. 40 percent are juniors. How many are juniors?", "200"),
)
VALID_REPLY = "ANALYSIS: a\nVERIFICATION: v\nDECISION: VALID\nCONFIDENCE: 0.95\nEXPLANATION: so"
"""The reply of a judge that accepts an attack."""
REFUSED_TEXT = 2.0
"""Stands for the cosine of a text that the embedder refuses."""


class FakeCall:
    """Embeds each text as a unit vector with a given cosine to the vector of the question (0.1 by default), and answers
    every prompt with `VALID_REPLY`.
    """

    def __init__(self, question: str, cosines: dict[str, float]) -> None:
        self.cosines = {question: 1.0, **cosines}
        self.embed_requests: list[EmbedRequest] = []
        self.prompts: list[str] = []

    async def __call__(self, request):
        if isinstance(request, EmbedRequest):
            self.embed_requests.append(request)
            cosine = self.cosines.get(request.text, 0.1)
            if cosine == REFUSED_TEXT:
                raise PromptRefusedError("context", "too long")
            return EmbedReply.of(np.array([cosine, (1 - cosine**2) ** 0.5], dtype=np.float32))
        self.prompts.append(request.messages[-1].content)
        return ChatReply(VALID_REPLY, "stop")


def make_check() -> RestatedCheck:
    """A restatement check with a similarity threshold of 0.85."""
    return RestatedCheck(EMBEDDER, threshold=0.85)


async def examine(question: str, cosines: dict[str, float] | None = None) -> Finding:
    """The finding about a question built from the two seeds. `cosines` maps texts to their cosine with the question."""
    call = FakeCall(question, cosines if cosines is not None else {})
    return await make_check().examine(Attack(question, "s", "1"), DRAW, call, SEEDS)


@pytest.mark.parametrize(
    "question",
    [
        SEEDS[0].question,
        SEEDS[0].question.upper().replace("?", " ?"),
        SEEDS[0].question.replace("3", "1,250.5").replace("2", "17"),
        SEEDS[0].question.replace("How many", "Tell me how many"),
    ],
)
async def test_question_with_the_words_of_a_seed_is_contradicted(question):
    finding = await examine(question)
    assert (finding.check, finding.conclusion) == ("restated", "contradicts")
    assert "seed oreos" in finding.reason
    assert [(exhibit.text, exhibit.detail) for exhibit in finding.evidence] == [(SEEDS[0].question, "seed oreos")]


async def test_question_with_an_embedding_similar_to_that_of_a_seed_is_contradicted():
    question = "Jordan owns some biscuits, and James owns twice that and three. What is Jordan's count?"
    finding = await examine(question, {SEEDS[0].question: 0.9, SEEDS[1].question: 0.2})
    assert finding.conclusion == "contradicts" and finding.reason == "its similarity to seed oreos is 0.900"
    finding = await examine(question, {SEEDS[0].question: 0.8, SEEDS[1].question: 0.2})
    assert finding.conclusion == "supports" and finding.reason == "its similarity to seed oreos is 0.800"


async def test_question_stitched_from_several_seeds_is_not_a_restatement():
    stitched_question = f"{SEEDS[0].question} Call that number X. {SEEDS[1].question.replace('500', 'X times 10')}"
    assert (await examine(stitched_question)).conclusion == "supports"


async def test_question_without_seeds_is_not_checked():
    call = FakeCall("Q?", {})
    finding = await make_check().examine(Attack("Q?", "s", "1"), DRAW, call)
    assert (finding.conclusion, finding.reason) == ("not checked", "the question has no seeds")
    assert not call.embed_requests


async def test_question_is_not_checked_if_the_embedder_refuses_a_seed():
    finding = await examine("Another question entirely?", {SEEDS[1].question: REFUSED_TEXT})
    assert (finding.conclusion, finding.reason) == ("not checked", "the embedder refuses a text: context: too long")


def test_word_overlap_limit_separates_restatements_from_similar_questions():
    """The first pair is one story with different numbers, the second pair two similar stories."""
    same_story = "James has 7 more than 4 times the number of Oreos Jordan has. How many does James have?"
    assert measure_word_overlap(SEEDS[0].question, same_story) > MIN_WORD_OVERLAP
    juniors = "There are 500 students in a local high school. 40 percent are juniors. How many juniors are in sports?"
    pet_owners = (
        "There are 400 students in a local high school. 1/5 of the freshmen own a pet. How many do not own a pet?"
    )
    assert 0.4 < measure_word_overlap(juniors, pet_owners) < MIN_WORD_OVERLAP


async def test_restated_question_is_rejected_before_the_judge_is_asked(player):
    judge = CheckingJudge(ModelJudge(load_domain("gsmhard"), player, JudgeRules(), 0), (make_check(),))
    attack = Attack(SEEDS[0].question, "s", "1")
    call = FakeCall(SEEDS[0].question, {})
    verdict = await judge.validate(attack, DRAW, call, seeds=SEEDS)
    assert (verdict.positive, verdict.asked, call.prompts) == (False, 0, [])
    assert verdict.explanation.startswith("[it restates a seed] ") and "seed oreos" in verdict.explanation
    verdict_without_seeds = await judge.validate(attack, DRAW, call)
    assert verdict_without_seeds.positive
    assert verdict_without_seeds.finding("restated").conclusion == "not checked"
    assert len(call.prompts) == 1
