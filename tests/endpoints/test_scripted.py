"""The replies of the scripted endpoint depend only on the request, and cause every outcome of a run."""

import asyncio
from collections import Counter

import numpy as np
import pytest

from nanoflux_local.endpoints.scripted import HashingEmbedder, ScriptedEndpoint
from nanoflux_local.records import ChatReply, ChatRequest, EmbedRequest, Message, Sampling
from nanoflux_local.roles.sections import Unparsed, read_sections

PROMPT_BY_SECTIONS = {
    ("QUESTION", "SOLUTION", "ANSWER"): "Write sections QUESTION: SOLUTION: ANSWER: with one option letter",
    ("SOLUTION", "ANSWER"): "Problem: Bo packs 3 boxes of 4 hats and gives 2 away. How many are left?",
    ("DECISION", "CONFIDENCE"): "DECISION is VALID or INVALID",
    ("REASONING QUALITY", "DECISION"): "DECISION is CORRECT or INCORRECT.\nReference answer: 4\nIts answer: 5",
}
"""One prompt each for an attack, a defence, a validation and an evaluation, by the sections of the reply."""


def make_request(endpoint: ScriptedEndpoint, text: str, seed: int = 0) -> ChatRequest:
    return ChatRequest(endpoint.identity, (Message("user", text),), Sampling(), seed)


async def collect_replies(endpoint: ScriptedEndpoint, prompt: str, count: int = 300) -> list[str]:
    """The replies to a prompt with `count` different seeds."""
    return [(await endpoint.chat(make_request(endpoint, prompt, seed))).text for seed in range(count)]


async def test_scripted_reply_depends_only_on_the_request() -> None:
    endpoint, delayed_endpoint = ScriptedEndpoint("m"), ScriptedEndpoint("m", delay_s=0.001)
    requests = [make_request(endpoint, prompt, seed) for prompt in PROMPT_BY_SECTIONS.values() for seed in range(10)]
    texts = [(await endpoint.chat(request)).text for request in requests]
    delayed_replies = await asyncio.gather(*(delayed_endpoint.chat(request) for request in reversed(requests)))
    assert texts == [reply.text for reply in reversed(delayed_replies)]
    assert len(set(texts)) > len(texts) / 3, "replies to different requests are too often equal"
    other_model = ScriptedEndpoint("n")
    assert (await other_model.chat(make_request(other_model, PROMPT_BY_SECTIONS["SOLUTION", "ANSWER"]))).text


async def test_scripted_delay_does_not_change_the_identity() -> None:
    assert ScriptedEndpoint("m", delay_s=0.5).identity == ScriptedEndpoint("m").identity
    assert ScriptedEndpoint("m").identity != ScriptedEndpoint("n").identity


@pytest.mark.parametrize(
    ("sections", "prompt"), PROMPT_BY_SECTIONS.items(), ids=["attack", "defence", "validation", "evaluation"]
)
async def test_few_scripted_replies_cannot_be_parsed(sections: tuple[str, ...], prompt: str) -> None:
    texts = await collect_replies(ScriptedEndpoint("m"), prompt)
    unparsed_count = sum(isinstance(read_sections(text, sections), Unparsed) for text in texts)
    assert 3 <= unparsed_count <= 30


async def test_script_produces_every_outcome_of_a_run() -> None:
    """The questions include near-duplicates, and the verdicts include rejections and low confidence."""
    endpoint = ScriptedEndpoint("m")
    attacks = await collect_replies(endpoint, PROMPT_BY_SECTIONS["QUESTION", "SOLUTION", "ANSWER"])
    question_openings = Counter(text.partition("QUESTION: ")[2].partition(" boxes")[0] for text in attacks)
    # The most common "opening" may be the empty text of replies without a question.
    _, (_second_opening, second_count) = question_openings.most_common(2)
    assert second_count > 1, "the questions are not similar often enough"
    assert {text.partition("ANSWER: ")[2][:1] for text in attacks} >= set("ABCD")
    verdicts = await collect_replies(endpoint, PROMPT_BY_SECTIONS["DECISION", "CONFIDENCE"])
    assert sum("DECISION: INVALID" in text for text in verdicts) in range(15, 90)
    assert sum("CONFIDENCE: 0.97" not in text for text in verdicts) in range(15, 90)
    verdicts_on_wrong_answers = await collect_replies(endpoint, PROMPT_BY_SECTIONS["REASONING QUALITY", "DECISION"])
    assert not any("DECISION: CORRECT" in text for text in verdicts_on_wrong_answers)


async def test_scripted_endpoint_counts_words_as_tokens() -> None:
    endpoint = ScriptedEndpoint("m", script=lambda prompt, rng: "three words here")
    reply = await endpoint.chat(make_request(endpoint, "two words"))
    assert reply == ChatReply("three words here", "stop", prompt_tokens=2, completion_tokens=3, seconds=0.0)
    assert endpoint.count_tokens("a b  c\n") == 3
    await endpoint.close()
    await endpoint.close()


async def test_hashing_embedder_gives_similar_unit_vectors_to_texts_with_shared_words() -> None:
    embedder = HashingEmbedder("h")
    texts = ["three apples and a pear", "a pear and three apples!", "tax law", "", "\ud800"]
    vectors = [(await embedder.embed(EmbedRequest(embedder.identity, text))).vector for text in texts]
    assert all(np.linalg.norm(vector) == pytest.approx(1, abs=1e-6) for vector in vectors)
    assert vectors[0] @ vectors[1] == pytest.approx(1, abs=1e-5) and vectors[0] @ vectors[2] < 0.8
    repeated = await HashingEmbedder("h").embed(EmbedRequest(embedder.identity, texts[0]))
    assert np.array_equal(repeated.vector, vectors[0])
