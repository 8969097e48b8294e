"""The provider's message is read from error bodies in many formats, shortened, and redacted."""

import json
from typing import Any

import pytest

from nanoflux_local.endpoints.remote.error_body import MAX_MESSAGE_CHARS, parse_error, read_error
from nanoflux_local.redaction import register_secret

SEED_ERROR = [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs are not permitted", "input": 7}]
"""FastAPI's list of errors if the parameter `seed` is not permitted."""


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"error": {"message": "no", "code": "x"}}, "no"),
        ({"error": "no such model"}, "no such model"),
        ({"error": {"message": None, "type": "server_error"}}, ""),
        ({"detail": "Not Found"}, "Not Found"),
        ({"detail": SEED_ERROR}, "body.seed: Extra inputs are not permitted"),
        ({"object": "error", "message": {"detail": SEED_ERROR}}, "body.seed: Extra inputs are not permitted"),
        ({"object": "error", "message": "too long", "code": 400}, "too long"),
        ([{"error": {"code": 400, "message": "Unknown name \"seed\"", "status": "INVALID_ARGUMENT"}}],
         "Unknown name \"seed\""),
        ({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, "Overloaded"),
        ({"error_code": "BAD_REQUEST", "message": "bad"}, "bad"),
        ({"error": "Unauthorized", "message": "expired token"}, "expired token"),
        ({"statusCode": 404, "message": "Resource not found"}, "Resource not found"),
        ({"Message": "throttled"}, "throttled"),
        ({"title": "Bad gateway"}, "Bad gateway"),
        ({"error": {"message": "Provider returned error", "code": 400,
                    "metadata": {"raw": "{\"error\": {\"message\": \"seed too large\"}}", "provider_name": "P"}}},
         "Provider returned error; seed too large"),
        ({"error": {"message": "{'error': 'a text of Python'}"}}, "{'error': 'a text of Python'}"),
        ({}, ""), ([], ""), (None, ""), (7, ""), ({"error": {"message": ["a", "b"]}}, "a; b"),
    ],
)  # fmt: skip
def test_read_error_returns_the_providers_message(body: Any, message: str) -> None:
    assert read_error(json.dumps(body).encode()).message == message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html><head><title>413 Request  Entity &amp; more</title></head><body>x</body></html>",
         "413 Request Entity & more"),
        (b"<html><h1>Sign <b>in</b></h1></html>", "Sign in"),
        (b"upstream connect error\n", "upstream connect error"),
        (b"", ""),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"[" * 90_000, "[" * MAX_MESSAGE_CHARS + "…"),
    ],
    ids=["title", "heading", "plain", "nothing", "bytes", "deep"],
)  # fmt: skip
def test_read_error_accepts_text_that_is_not_json(content: bytes, message: str) -> None:
    assert read_error(content).message == message


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"error": {"message": "x", "code": 429}}, 429),
        ({"error": {"message": "x", "code": "502"}}, 502),
        ({"error": {"message": "x", "code": "insufficient_quota"}}, 429),
        ({"error": {"message": "x", "code": "rate_limit_exceeded"}}, 429),
        ({"error": {"type": "overloaded_error"}}, 529),
        ({"error": {"type": "api_error"}}, 500),
        ({"code": "server_error"}, 500),
        ({"code": "invalid_prompt"}, 400),
        ({"error": {"type": "authentication_error"}}, 401),
        ({"error": "overheated"}, 500),
        ({"error": {"code": 10**30}}, 500),
    ],
)
def test_error_body_maps_to_a_status(body: Any, status: int) -> None:
    assert parse_error(body).status == status


def test_parse_error_reads_parameters_and_codes_and_redacts_secrets() -> None:
    assert parse_error({"detail": SEED_ERROR}).params == ("body", "seed")
    refusal = parse_error({"error": {"message": "no", "param": "max_tokens", "code": "Unsupported_Parameter"}})
    assert (refusal.params, refusal.codes) == (("max_tokens",), ("unsupported_parameter",))
    register_secret("tiny-little-secret")
    error_with_secret = parse_error({"error": {"message": "x" * (MAX_MESSAGE_CHARS - 4) + "tiny-little-secret"}})
    assert "tiny" not in error_with_secret.message and len(error_with_secret.message) <= MAX_MESSAGE_CHARS + 1
