"""A defender whose endpoint goes on with begun replies is asked section by section."""

from collections.abc import Callable
from typing import Any

import pytest

from nanoflux_local.domains.own import load_domain
from nanoflux_local.records import ChatReply, ChatRequest, Identity, Sampling
from nanoflux_local.roles.base import Draw, Player
from nanoflux_local.roles.defender import Defender
from nanoflux_local.roles.sections import Unparsed
from nanoflux_local.transcript import Defence

DOMAIN = load_domain("gsmhard")
BUDGETS = {"ANALYSIS": 8, "SOLUTION": 16, "ANSWER": 4}


def defender() -> Defender:
    player = Player("small", Identity("in_process", "small"), Sampling(0.3, 0.95, 999, ("\nProblem:",)))
    return Defender(DOMAIN, player, BUDGETS, retries=2)


def script(asked: list[ChatRequest], texts: list[str], finish: str = "stop") -> Callable[..., Any]:
    async def call(request: ChatRequest) -> ChatReply:
        asked.append(request)
        return ChatReply(texts.pop(0), finish)  # type: ignore[arg-type]

    return call


async def test_each_section_is_begun_bounded_and_stopped_by_the_next() -> None:
    asked: list[ChatRequest] = []
    found = await defender().defend("How many?", Draw(1, 2, 0), script(asked, [" count", " 2 + 2 = 4", " 4"]))
    assert found == Defence("2 + 2 = 4", "4", "count")
    begun = [request.messages[-1] for request in asked]
    assert [message.role for message in begun] == ["assistant"] * 3
    assert [message.content for message in begun] == [
        "ANALYSIS:",
        "ANALYSIS: count\nSOLUTION:",
        "ANALYSIS: count\nSOLUTION: 2 + 2 = 4\nANSWER:",
    ]
    assert [request.sampling.max_tokens for request in asked] == [8, 16, 4]
    assert [request.sampling.stop[:-1] for request in asked] == [("\nSOLUTION:", "\nANSWER:"), ("\nANSWER:",), ("\n",)]
    assert all(request.sampling.stop[-1] == "\nProblem:" for request in asked)
    assert len({request.seed for request in asked}) == 3


async def test_a_section_that_ran_to_its_budget_is_marked() -> None:
    found = await defender().defend("How many?", Draw(1, 2, 0), script([], ["a", "b", "c"], finish="length"))
    assert isinstance(found, Defence)
    assert found.cut == ("ANALYSIS", "SOLUTION", "ANSWER")


async def test_an_empty_section_is_asked_again_with_another_seed() -> None:
    asked: list[ChatRequest] = []
    found = await defender().defend("How many?", Draw(1, 2, 0), script(asked, ["count", " \n", "steps", "4"]))
    assert found == Defence("steps", "4", "count")
    assert asked[1].messages == asked[2].messages and asked[1].seed != asked[2].seed


@pytest.mark.parametrize("told", [[], ["count"], ["count", "steps"]])
async def test_a_section_that_stays_empty_is_no_reply(told: list[str]) -> None:
    found = await defender().defend("How many?", Draw(1, 2, 0), script([], [*told, "", "<think>hm", "\n"]))
    assert found == Unparsed(f"section {DOMAIN.sections.defender[len(told)]}: nothing was written")
