"""Partial evaluations report what stopped them, are resumed by the same command, and are not compared."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

REPLY = "ANSWER: 7"
ITEM_COUNT = 12
REPEATS = 2
"""The number of requests for each item (`--runs`)."""
Refusal = tuple[int, str, str]
"""The status, message and code with which a provider refuses a request."""
QUOTA_REFUSAL = (429, "You exceeded your current quota", "insufficient_quota")
LENGTH_REFUSAL = (
    400,
    "This model's maximum context length is 4096 tokens, 5000 were requested",
    "context_length_exceeded",
)
KEY_REFUSAL = (401, "Incorrect API key provided", "invalid_api_key")
PROFILE_TEMPLATE = """
embedder = "hashing"
[endpoints]
hashing = {{ interface = "scripted", model = "hashing" }}
{name} = {{ interface = "openai_chat", model = "{name}", url = "{url}", capacity = {capacity} }}
[roles]
attacker = {{ endpoint = "{name}" }}
defender = {{ endpoint = "{name}" }}
judge = {{ endpoint = "{name}" }}
"""


class Provider(ThreadingHTTPServer):
    """A chat server on loopback that answers each request unless `refuse(request_number, body)` returns a refusal."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self.request_count = 0
        self.refuse: Callable[[int, str], Refusal | None] = lambda *_: None


class Handler(BaseHTTPRequestHandler):
    """Answers a request, or refuses it as `Provider.refuse` says."""

    server: Provider

    def do_POST(self) -> None:
        request_body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.server.request_count += 1
        refusal = self.server.refuse(self.server.request_count, request_body)
        status = 200
        reply: dict[str, Any] = {
            "id": "1", "object": "chat.completion", "created": 1, "model": "m",
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": REPLY}}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6},
        }  # fmt: skip
        if refusal:
            status, message, code = refusal
            reply = {"error": {"message": message, "type": code, "code": code, "param": None}}
        response_body = json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(response_body)))
        self.end_headers()
        self.wfile.write(response_body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def evaluate(provider: Provider, tmp_path: Path, invoke: Callable) -> Callable[..., Any]:
    """A function that evaluates a model of the provider, with at most `capacity` requests at a time:
    `evaluate("a", "--json")`.
    """

    def run(model: str = "a", *options: str, capacity: int = 1) -> Any:
        profile = tmp_path / f"{model}.toml"
        profile.write_text(PROFILE_TEMPLATE.format(name=model, url=provider.url, capacity=capacity))
        selection = ("--profile", str(profile), "--endpoint", model, "--data", "starter-easy")
        size = ("--limit", str(ITEM_COUNT), "--runs", str(REPEATS))
        return invoke(tmp_path / "home", "eval", *selection, *size, *options)

    return run


def test_eval_with_exhausted_quota_fails_and_can_be_resumed(
    provider: Provider, evaluate: Callable, invoke: Callable, tmp_path: Path
) -> None:
    answer_count = 5
    provider.refuse = lambda request_number, _: QUOTA_REFUSAL if request_number > answer_count else None
    result = evaluate("a", "--json")
    assert result.code == 1 and "Traceback" not in result.err
    partial_evaluation = result.json
    assert (partial_evaluation["n"], partial_evaluation["items"]) == (answer_count, ITEM_COUNT)
    assert partial_evaluation["unscored"] == ITEM_COUNT * REPEATS - answer_count
    reasons = partial_evaluation["unscored_reasons"]
    assert sum(entry["count"] for entry in reasons) == partial_evaluation["unscored"]
    assert "exceeded your current quota" in reasons[0]["reason"]
    assert "exceeded your current quota" in result.err and "same command again" in result.err
    assert provider.request_count == answer_count + 1, "the evaluation did not stop at the refusal"
    repeated = evaluate("a")
    assert repeated.code == 1 and f"of {ITEM_COUNT} items scored" in repeated.out and "current quota" in repeated.out

    provider.refuse = lambda *_: None
    complete_evaluation = evaluate("b", "--json").json
    compare_command = ("compare", partial_evaluation["eval"], complete_evaluation["eval"])
    comparison = invoke(tmp_path / "home", *compare_command)
    assert comparison.code == 3 and "is partial" in comparison.err and "current quota" in comparison.err
    (partial_pair,) = invoke(tmp_path / "home", *compare_command, "--partial", "--json").json["pairs"]
    assert (partial_pair["n"], partial_pair["left_out"]) == (answer_count, ITEM_COUNT - answer_count)

    request_count_before = provider.request_count
    resumed = evaluate("a", "--json")
    assert resumed.code == 0 and (resumed.json["n"], resumed.json["unscored"]) == (ITEM_COUNT, 0)
    assert provider.request_count - request_count_before == ITEM_COUNT * REPEATS - answer_count
    assert resumed.json["eval"] == partial_evaluation["eval"]
    assert invoke(tmp_path / "home", *compare_command).code == 0


def test_eval_stops_immediately_on_an_invalid_api_key(provider: Provider, evaluate: Callable) -> None:
    provider.refuse = lambda *_: KEY_REFUSAL
    result = evaluate()
    assert result.code == 1 and result.out == ""
    assert "Incorrect API key provided" in result.err and "endpoint's log" not in result.err
    assert "same command again" in result.err and provider.request_count == 1


def test_refused_prompt_leaves_only_its_item_unscored(provider: Provider, evaluate: Callable) -> None:
    questions: list[str] = []

    def refuse_second_question(_: int, body: str) -> Refusal | None:
        question = json.loads(body)["messages"][-1]["content"]
        if question not in questions:
            questions.append(question)
        return LENGTH_REFUSAL if questions.index(question) == 1 else None

    provider.refuse = refuse_second_question
    result = evaluate("a", "--json")
    assert result.code == 1 and (result.json["n"], result.json["unscored"]) == (ITEM_COUNT - 1, REPEATS)
    (reason,) = result.json["unscored_reasons"]
    assert reason["refused"] and reason["count"] == REPEATS, reason
