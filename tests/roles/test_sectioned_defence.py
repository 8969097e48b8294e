"""A defender whose endpoint supports prefilled replies is asked section by section."""

from collections.abc import Callable
from typing import Any

import pytest

from nanoflux_local.domains.own import load_domain
from nanoflux_local.records import ChatReply, ChatRequest, Identity, Sampling
from nanoflux_local.roles.base import Draw, Player
from nanoflux_local.roles.defender import Defender
from nanoflux_local.roles.sections import Unparsed
from nanoflux_local.transcript import Defence

GSMHARD = load_domain("gsmhard")
DRAW = Draw(run_seed=1, turn=2, attempt=0)
BUDGETS = {"ANALYSIS": 8, "SOLUTION": 16, "ANSWER": 4}


def make_defender() -> Defender:
    """A defender with a small model in this process."""
    player = Player("small", Identity("in_process", "small"), Sampling(0.3, 0.95, 999, ("\nProblem:",)))
    return Defender(GSMHARD, player, BUDGETS, retries=2)


def make_scripted_call(requests: list[ChatRequest], texts: list[str], finish: str = "stop") -> Callable[..., Any]:
    """A call that answers with the texts in order and appends each request to `requests`."""

    async def call(request: ChatRequest) -> ChatReply:
        requests.append(request)
        return ChatReply(texts.pop(0), finish)  # type: ignore[arg-type]

    return call


async def test_sectioned_defence_limits_the_tokens_of_each_section() -> None:
    requests: list[ChatRequest] = []
    call = make_scripted_call(requests, [" count", " 2 + 2 = 4", " 4"])
    defence = await make_defender().defend("How many?", DRAW, call)
    assert defence == Defence("2 + 2 = 4", "4", "count")
    reply_beginnings = [request.messages[-1] for request in requests]
    assert [message.role for message in reply_beginnings] == ["assistant"] * 3
    assert [message.content for message in reply_beginnings] == [
        "ANALYSIS:",
        "ANALYSIS: count\nSOLUTION:",
        "ANALYSIS: count\nSOLUTION: 2 + 2 = 4\nANSWER:",
    ]
    assert [request.sampling.max_tokens for request in requests] == [8, 16, 4]
    assert [request.sampling.stop[:-1] for request in requests] == [
        ("\nSOLUTION:", "\nANSWER:"),
        ("\nANSWER:",),
        ("\n",),
    ]
    assert all(request.sampling.stop[-1] == "\nProblem:" for request in requests)
    assert len({request.seed for request in requests}) == 3


async def test_sectioned_defence_lists_truncated_sections() -> None:
    call = make_scripted_call([], ["a", "b", "c"], finish="length")
    defence = await make_defender().defend("How many?", DRAW, call)
    assert isinstance(defence, Defence)
    assert defence.cut == ("ANALYSIS", "SOLUTION", "ANSWER")


async def test_sectioned_defence_requests_an_empty_section_again() -> None:
    requests: list[ChatRequest] = []
    call = make_scripted_call(requests, ["count", " \n", "steps", "4"])
    defence = await make_defender().defend("How many?", DRAW, call)
    assert defence == Defence("steps", "4", "count")
    assert requests[1].messages == requests[2].messages and requests[1].seed != requests[2].seed


@pytest.mark.parametrize("earlier_sections", [[], ["count"], ["count", "steps"]])
async def test_sectioned_defence_with_an_empty_section_is_unparsed(earlier_sections: list[str]) -> None:
    call = make_scripted_call([], [*earlier_sections, "", "<think>hm", "\n"])
    defence = await make_defender().defend("How many?", DRAW, call)
    empty_section = GSMHARD.sections.defender[len(earlier_sections)]
    assert defence == Unparsed(f"section {empty_section}: the reply is empty")
