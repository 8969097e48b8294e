"""Partial evaluations fail with their first cause, are resumed by the same command, and are not compared."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

ANSWER = "ANSWER: 7"
ITEMS, RUNS = 12, 2
QUOTA = (429, "You exceeded your current quota", "insufficient_quota")
TOO_LONG = (400, "This model's maximum context length is 4096 tokens, 5000 were requested", "context_length_exceeded")
KEY = (401, "Incorrect API key provided", "invalid_api_key")
PROFILE = """
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
    """A chat server on loopback that answers every request until `refuse(number, body)` names a refusal."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self.asked = 0
        self.refuse: Callable[[int, str], tuple[int, str, str] | None] = lambda *_: None


class Handler(BaseHTTPRequestHandler):
    server: Provider

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.server.asked += 1
        refusal = self.server.refuse(self.server.asked, body)
        reply: dict[str, Any] = {
            "id": "1", "object": "chat.completion", "created": 1, "model": "m",
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": ANSWER}}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6},
        }  # fmt: skip
        if refusal:
            reply = {"error": {"message": refusal[1], "type": refusal[2], "code": refusal[2], "param": None}}
        data = json.dumps(reply).encode()
        self.send_response(refusal[0] if refusal else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def evaluate(provider: Provider, tmp_path: Path, called: Callable) -> Callable[..., Any]:
    """`evaluate("a")`: the model of that name on the provider, one request at a time unless `capacity` says more."""

    def run(name: str = "a", *words: str, capacity: int = 1) -> Any:
        profile = tmp_path / f"{name}.toml"
        profile.write_text(PROFILE.format(name=name, url=provider.url, capacity=capacity))
        chosen = ("--profile", str(profile), "--endpoint", name, "--data", "starter-easy")
        return called(tmp_path / "home", "eval", *chosen, "--limit", str(ITEMS), "--runs", str(RUNS), *words)

    return run


def test_eval_with_exhausted_quota_fails_and_resumes(
    provider: Provider, evaluate: Callable, called: Callable, tmp_path: Path
) -> None:
    provider.refuse = lambda number, _: QUOTA if number > 5 else None
    partial = evaluate("a", "--json")
    assert partial.code == 1 and "Traceback" not in partial.err
    result = partial.json
    assert (result["n"], result["items"], result["unscored"]) == (5, ITEMS, ITEMS * RUNS - 5)
    assert sum(entry["count"] for entry in result["unscored_reasons"]) == result["unscored"]
    assert "exceeded your current quota" in result["unscored_reasons"][0]["reason"]
    assert "exceeded your current quota" in partial.err and "same command again" in partial.err
    assert provider.asked == 5 + 1, "it stops at the refusal"
    shown = evaluate("a")
    assert shown.code == 1 and f"of {ITEMS} items scored" in shown.out and "current quota" in shown.out

    provider.refuse = lambda *_: None
    whole = evaluate("b", "--json").json
    compared = called(tmp_path / "home", "compare", result["eval"], whole["eval"])
    assert compared.code == 3 and "is partial" in compared.err and "current quota" in compared.err
    partly = called(tmp_path / "home", "compare", result["eval"], whole["eval"], "--partial", "--json").json["pairs"][0]
    assert (partly["n"], partly["left_out"]) == (5, ITEMS - 5)

    asked = provider.asked
    resumed = evaluate("a", "--json")
    assert resumed.code == 0 and (resumed.json["n"], resumed.json["unscored"]) == (ITEMS, 0)
    assert provider.asked - asked == ITEMS * RUNS - 5 and resumed.json["eval"] == result["eval"]
    assert called(tmp_path / "home", "compare", result["eval"], whole["eval"]).code == 0


def test_eval_stops_at_once_on_a_wrong_key(provider: Provider, evaluate: Callable) -> None:
    provider.refuse = lambda *_: KEY
    ended = evaluate()
    assert ended.code == 1 and ended.out == ""
    assert "Incorrect API key provided" in ended.err and "endpoint's log" not in ended.err
    assert "same command again" in ended.err and provider.asked == 1


def test_refused_prompt_leaves_only_its_item_unscored(provider: Provider, evaluate: Callable) -> None:
    numbers: dict[str, int] = {}

    def refuse(_: int, body: str) -> tuple[int, str, str] | None:
        question = json.loads(body)["messages"][-1]["content"]
        return TOO_LONG if numbers.setdefault(question, len(numbers)) == 1 else None

    provider.refuse = refuse
    ended = evaluate("a", "--json")
    assert ended.code == 1 and (ended.json["n"], ended.json["unscored"]) == (ITEMS - 1, RUNS)
    (reason,) = ended.json["unscored_reasons"]
    assert reason["refused"] and reason["count"] == RUNS, reason
