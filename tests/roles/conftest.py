"""Fixtures for the tests of roles: a call that answers from a script and records the requests."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import pytest

from nanoflux_local.records import ChatReply, ChatRequest, CutReply, CutRequest, Identity, Sampling
from nanoflux_local.roles.base import Player

Script = Iterable[str] | Callable[[ChatRequest], str]


@dataclass
class ScriptedCall:
    """Answers chat requests with the texts of a script in order, or by a function, and truncates texts to a number of
    words. Records all requests.
    """

    script: Script
    requests: list[ChatRequest] = field(default_factory=list)
    cut_requests: list[CutRequest] = field(default_factory=list)

    def __post_init__(self) -> None:
        texts = None if callable(self.script) else iter(self.script)
        self._next = self.script if texts is None else lambda _: next(texts)

    async def __call__(self, request):
        if isinstance(request, CutRequest):
            self.cut_requests.append(request)
            return CutReply(" ".join(request.text.split()[: request.budget]), exact=True)
        assert isinstance(request, ChatRequest)
        self.requests.append(request)
        return ChatReply(self._next(request), "stop")

    @property
    def prompts(self) -> list[str]:
        return [request.messages[-1].content for request in self.requests]


@pytest.fixture
def scripted():
    return ScriptedCall


@pytest.fixture
def player() -> Player:
    return Player("duelist", Identity("scripted", "duelist"), Sampling(0.7, 0.95, 256))
