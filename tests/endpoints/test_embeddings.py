"""The embeddings client normalises vectors, retries unusable responses, and quotes the server's message in errors."""

import asyncio
import json
from typing import Any

import numpy as np
import pytest

from nanoflux_local.endpoints.faults import reporting_faults
from nanoflux_local.endpoints.remote import retries
from nanoflux_local.endpoints.remote.embeddings import ServedEmbedder
from nanoflux_local.errors import ConfigError, EndpointError
from nanoflux_local.records import EmbedReply, EmbedRequest, Fault


def make_response(numbers: Any, **fields: Any) -> dict[str, Any]:
    """A server's response with the embedding `numbers` and additional `fields`."""
    return {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": numbers}],
        "model": "m",
        **fields,
    }


def embed(url: str) -> EmbedReply:
    """Request the embedding of one text from the server at `url`."""

    async def send() -> EmbedReply:
        embedder = ServedEmbedder("m", [url])
        try:
            return await embedder.embed(EmbedRequest(embedder.identity, "text"))
        finally:
            await embedder.close()

    return asyncio.run(send())


@pytest.mark.parametrize(
    "body",
    [
        make_response([3.0, 4.0], usage={"prompt_tokens": 1, "total_tokens": 1}),
        make_response([3, 4], usage=None),
        b"\xef\xbb\xbf" + json.dumps(make_response([3, 4])).encode(),
        b"\n\n: keep-alive\n\n" + json.dumps(make_response([3e100, 4e100])).encode(),
    ],
    ids=["plain", "integers", "byte order mark", "keep-alive and large"],
)
def test_embedding_is_normalised_to_unit_length(server: Any, body: Any) -> None:
    server.answer((200, body))
    assert np.allclose(embed(server.url).vector, [0.6, 0.8])


@pytest.mark.parametrize(
    ("status", "body", "kind", "message_part"),
    [
        (
            200,
            {"error": {"message": "Provider returned error", "code": 502}},
            "server_error",
            "Provider returned error",
        ),
        (200, {"data": None, "error": {"message": "slow down", "code": "rate_limit_exceeded"}}, "rate_limited", "slow"),
        (503, {"error": "Model is loading"}, "server_error", "Model is loading"),
        (200, make_response([]), "garbled", "without an embedding"),
        (200, make_response([0, 0]), "garbled", "not a nonzero vector"),
        (200, b'{"data": [{"embedding": [NaN, 1]}]}', "garbled", "not a nonzero vector"),
        (200, make_response(["a"]), "garbled", "not a list of numbers"),
        (200, make_response([[1, 2], [3, 4]]), "garbled", "not a nonzero vector"),
        (200, b"[" * 100_000, "garbled", "nested too deeply"),
        (200, b"<html><title>Sign in</title>", "garbled", "Sign in"),
    ],
)
def test_unusable_embedding_is_retried(server: Any, status: int, body: Any, kind: str, message_part: str) -> None:
    faults: list[Fault] = []
    server.answer((status, body), (200, make_response([3, 4])))
    with reporting_faults(faults.append):
        assert np.allclose(embed(server.url).vector, [0.6, 0.8])
    assert [fault.kind for fault in faults] == [kind] and message_part in faults[0].message


@pytest.mark.parametrize(
    ("status", "body", "message_part"),
    [
        (400, {"error": {"message": "maximum context length is 8192 tokens"}}, "maximum context length"),
        (200, {"error": {"message": "flagged", "code": 403}}, "flagged"),
        (422, {"detail": [{"loc": ["body", "input"], "msg": "Input should be a valid string"}]}, "body.input: Input"),
    ],
)
def test_refused_text_is_reported_with_the_servers_message(
    server: Any, status: int, body: Any, message_part: str
) -> None:
    server.answer((status, body))
    with pytest.raises(EndpointError) as error:
        embed(server.url)
    assert message_part in str(error.value) and len(server.bodies) == 1


def test_request_fails_if_every_attempt_gets_an_unusable_embedding(
    server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "ATTEMPTS", 2)
    server.answer((200, {}))
    with pytest.raises(EndpointError, match="without an embedding"):
        embed(server.url)
    assert len(server.bodies) == 2


@pytest.mark.parametrize("url", ["http://127.0.0.1:99999/v1", "http://127.0.0.1:80/v1/embeddings"])
def test_embedder_url_with_a_route_or_an_invalid_port_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=r"no valid port|ends in /embeddings"):
        ServedEmbedder("m", [url])
