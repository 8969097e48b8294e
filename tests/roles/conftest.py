"""Shared by the roles' tests: a call that answers from a script and records the requests."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import pytest

from nanoflux_local.records import ChatReply, ChatRequest, CutReply, CutRequest, Identity, Sampling
from nanoflux_local.roles.base import Player

Script = Iterable[str] | Callable[[ChatRequest], str]


@dataclass
class ScriptedCall:
    """Answers chat requests with the script's texts in order (or by a function), cuts texts by words, records both."""

    script: Script
    asked: list[ChatRequest] = field(default_factory=list)
    cuts: list[CutRequest] = field(default_factory=list)

    def __post_init__(self) -> None:
        texts = None if callable(self.script) else iter(self.script)
        self._next = self.script if texts is None else lambda _: next(texts)

    async def __call__(self, request):
        if isinstance(request, CutRequest):
            self.cuts.append(request)
            return CutReply(" ".join(request.text.split()[: request.budget]), exact=True)
        assert isinstance(request, ChatRequest)
        self.asked.append(request)
        return ChatReply(self._next(request), "stop")

    @property
    def prompts(self) -> list[str]:
        return [request.messages[-1].content for request in self.asked]


@pytest.fixture
def scripted():
    return ScriptedCall


@pytest.fixture
def player() -> Player:
    return Player("duelist", Identity("scripted", "duelist"), Sampling(0.7, 0.95, 256))
