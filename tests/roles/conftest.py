"""Fixtures for the tests of roles: a call that answers from a script and records the requests."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import pytest

from nanoflux_local.records import ChatReply, ChatRequest, CutReply, CutRequest, Identity, Sampling
from nanoflux_local.roles.base import Player

Script = Iterable[str] | Callable[[ChatRequest], str]
"""The texts of the replies in order, or a function that gives the text of the reply to a request."""


@dataclass
class ScriptedCall:
    """Answers chat requests from a script, and requests to truncate a text as if each word were a token. Records all
    requests.
    """

    script: Script
    requests: list[ChatRequest] = field(default_factory=list)
    cut_requests: list[CutRequest] = field(default_factory=list)

    def __post_init__(self) -> None:
        if callable(self.script):
            self._write_reply = self.script
        else:
            texts = iter(self.script)
            self._write_reply = lambda _request: next(texts)

    async def __call__(self, request):
        if isinstance(request, CutRequest):
            self.cut_requests.append(request)
            return CutReply(" ".join(request.text.split()[: request.budget]), exact=True)
        assert isinstance(request, ChatRequest)
        self.requests.append(request)
        return ChatReply(self._write_reply(request), "stop")

    @property
    def prompts(self) -> list[str]:
        """The last message of each chat request."""
        return [request.messages[-1].content for request in self.requests]


@pytest.fixture
def script_call():
    """The class `ScriptedCall`: a test passes it a script and gets a call."""
    return ScriptedCall


@pytest.fixture
def player() -> Player:
    """A player with a scripted endpoint, for any role."""
    return Player("duelist", Identity("scripted", "duelist"), Sampling(0.7, 0.95, 256))
