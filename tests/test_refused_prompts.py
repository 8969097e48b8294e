"""Prompts that a server refuses permanently: a run continues without them, at any concurrency, and does not send them
again.
"""

import asyncio
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from nanoflux_local.endpoints.fake_server import EMBEDDINGS, REQUEST_READERS, FakeServer, send_response
from nanoflux_local.endpoints.faults import ClassifiedFault
from nanoflux_local.endpoints.remote.refusals import FILTERED, REJECTED, TOO_LONG, find_refusal_cause
from nanoflux_local.errors import EndpointRefusedError, NanofluxError, UnreadableReplyError
from nanoflux_local.ledger.verify import verify_run
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.records import FaultKind
from nanoflux_local.run import configs, runs
from nanoflux_local.run.engine import RunProgress

OVERFLOW_MESSAGE = "This model's maximum context length is 4096 tokens. However, you requested 4321 tokens."


class RefusingServer(FakeServer):
    """A server that refuses `share` percent of all prompts and `text_share` percent of all texts to embed, chosen by
    their hashes, and all prompts and texts that contain `phrase`. Counts the refused requests.
    """

    def __init__(self, share: int = 0, text_share: int = 0, phrase: str = "") -> None:
        super().__init__()
        self.share, self.text_share, self.phrase = share, text_share, phrase
        self.refused_count = 0

    async def serve_request(self, path: str, body: bytes, reader: Any, writer: Any) -> None:
        if path not in REQUEST_READERS and path != EMBEDDINGS:
            return await super().serve_request(path, body, reader, writer)
        request = json.loads(body)
        if path == EMBEDDINGS:
            text, share = request["input"], self.text_share
        else:
            text, share = REQUEST_READERS[path](request).prompt, self.share
        percentile = int(hashlib.sha256(text.encode()).hexdigest(), 16) % 100
        has_refused_phrase = bool(self.phrase) and self.phrase in text
        if percentile >= share and not has_refused_phrase:
            return await super().serve_request(path, body, reader, writer)
        self.refused_count += 1
        return send_response(
            writer, 400, {"error": {"message": OVERFLOW_MESSAGE, "code": 400, "type": "BadRequestError"}}
        )


def start_run(home: Home, url: str, **settings: Any) -> str:
    """Start a run whose three models are on one server, each with a different protocol, and return the run's id."""
    endpoint = {"url": url, "timeout_s": 30.0}
    endpoints: dict[str, Any] = {
        "duelist-a": {**endpoint, "interface": "openai_chat"},
        "duelist-b": {**endpoint, "interface": "openai_responses"},
        "arbiter": {**endpoint, "interface": "anthropic_messages"},
        **settings.pop("endpoints", {}),
    }
    values = {"endpoints": endpoints, "seed": 7, "target": 10_000, "reply_tokens": 200, "max_turns": 40, **settings}
    return asyncio.run(runs.start(home.prepare(), configs.resolve("starter-genetics", "scripted", values, home)))


def execute(home: Home, run: str, **options: Any) -> dict[str, Any]:
    """Execute a run to its end, and return its state."""
    asyncio.run(runs.execute(home, run, **options))
    return read_state(home, run)


def read_state(home: Home, run: str) -> dict[str, Any]:
    """The summary of a run, the reasons for its failures, and the problems that its verification finds."""
    with LedgerView(home.ledger) as view:
        return {
            **view.summarize_run(run).to_json(),
            **view.failure_reasons(run),
            "problems": list(verify_run(view, run)),
        }


def stop_after(turn_count: int) -> Any:
    """A progress callback that ends the run with an error after this number of turns."""

    def on_progress(progress: RunProgress) -> None:
        if progress.turns == turn_count:
            raise NanofluxError("stopped by the test")

    return on_progress


def test_refused_prompts_end_only_their_attempts_and_the_dataset_is_equal_at_any_concurrency(
    tmp_path: Path, fake_server
) -> None:
    url, server = fake_server(server=RefusingServer(share=8))
    home = Home(tmp_path / "sequential")
    run = start_run(home, url, concurrency=1)
    sequential = execute(home, run)
    assert (sequential["status"], sequential["turns"], sequential["problems"]) == ("done", 40, [])
    assert sequential["kept"] > 3
    assert sequential["funnel"]["failed"] >= sum(sequential["refused"].values()) > 2
    assert set(sequential["refused"]) <= {
        f"{step}: {TOO_LONG}" for step in ("attack", "validation", "defence", "evaluation")
    }
    assert len(sequential["refused"]) > 1, "only one step was refused, so the others were not tested"
    with LedgerView(home.ledger) as view:
        records = view.turn_records(run)
    reasons = [attempt.reason for record in records for attempt in record.attempts if attempt.refused]
    assert all("answered 400: This model's maximum context length is 4096" in reason for reason in reasons)
    refused_count = server.refused_count
    assert asyncio.run(runs.replay(home, run)).same
    assert server.refused_count == refused_count, "the replay sent a refused prompt to the server again"

    home = Home(tmp_path / "concurrent")
    run = start_run(home, url, concurrency=8)
    with pytest.raises(NanofluxError, match="stopped by the test"):
        execute(home, run, on_progress=stop_after(9))
    concurrent = execute(home, run)
    for key in ("digest", "funnel", "refused", "unread", "kept", "turns", "problems"):
        assert concurrent[key] == sequential[key]
    with LedgerView(home.ledger) as view:
        assert view.turn_records(run) == records
    assert asyncio.run(runs.replay(home, run)).same


def test_text_refused_by_the_embedder_fails_only_its_turn(tmp_path: Path, fake_server) -> None:
    url, _ = fake_server(server=RefusingServer(text_share=15))
    embedder = {"hashing": {"interface": "openai_embeddings", "url": url}}
    states = []
    for concurrency in (1, 8):
        home = Home(tmp_path / str(concurrency))
        run = start_run(home, url, concurrency=concurrency, endpoints=embedder)
        states.append(execute(home, run))
        assert asyncio.run(runs.replay(home, run)).same
    sequential, concurrent = states
    assert list(sequential["refused"]) == [f"embedding: {TOO_LONG}"] and sequential["kept"] > 3
    assert 3 < sum(sequential["refused"].values()) <= sequential["funnel"]["failed"]
    for key in ("digest", "funnel"):
        assert sequential[key] == concurrent[key]


@pytest.mark.parametrize("concurrency", [1, 8])
def test_server_that_refuses_every_prompt_fails_the_run_early(tmp_path: Path, fake_server, concurrency: int) -> None:
    url, server = fake_server(server=RefusingServer(share=100))
    home = Home(tmp_path)
    run = start_run(home, url, concurrency=concurrency, max_turns=12)
    with pytest.raises(EndpointRefusedError, match=r"has answered nothing and refuses every prompt: answered 400"):
        execute(home, run)
    failed = read_state(home, run)
    assert failed["status"] == "failed" and "maximum context length" in failed["message"]
    assert failed["calls"]["made"] <= 4, "too many refusals by a server that has answered nothing were stored"
    server.share = 0
    resumed = execute(home, run)
    assert resumed["status"] == "done" and resumed["turns"] == 12
    assert sum(resumed["refused"].values()) <= 4


def test_run_pauses_if_all_prompts_of_one_step_are_refused(tmp_path: Path, fake_server) -> None:
    """Only the prompts for evaluations are refused; attacks, validations and defences are answered."""
    turns_at_pause = []
    for concurrency in (1, 8):
        url, _ = fake_server(server=RefusingServer(phrase="REASONING QUALITY"))
        home = Home(tmp_path / str(concurrency))
        run = start_run(home, url, concurrency=concurrency, pause_after_unread=5)
        with pytest.raises(
            UnreadableReplyError, match="5 consecutive attempts got no readable reply at the evaluation from arbiter"
        ):
            execute(home, run)
        paused = read_state(home, run)
        assert paused["status"] == "paused" and paused["refused"] == {f"evaluation: {TOO_LONG}": 5}
        turns_at_pause.append(paused["turns"])
        with pytest.raises(UnreadableReplyError, match="10 consecutive attempts"):
            execute(home, run)
    assert turns_at_pause[0] == turns_at_pause[1]


@pytest.mark.parametrize(
    ("status", "message", "codes", "cause"),
    [
        # The prompt is too long: vLLM, llama.cpp (current and earlier), TGI, Anthropic, OpenAI, Gemini, Groq, nginx.
        (400, OVERFLOW_MESSAGE, ("badrequesterror", "400"), TOO_LONG),
        (400, "the request exceeds the available context size", ("exceed_context_size_error",), TOO_LONG),
        (500, "the request exceeds the available context size. try increasing it", ("500",), TOO_LONG),
        (422, "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000", (), TOO_LONG),
        (400, "prompt is too long: 203456 tokens > 200000 maximum", ("invalid_request_error",), TOO_LONG),
        (413, "Request exceeds the maximum size", ("request_too_large",), TOO_LONG),
        (400, "Your input exceeds the context window of this model.", ("context_length_exceeded",), TOO_LONG),
        (400, "The input token count (1050000) exceeds the maximum number of tokens allowed (1048576).", (), TOO_LONG),
        (413, "Request too large for model `x` on tokens per minute (TPM): Limit 6000, Requested 8191", (), TOO_LONG),
        (429, "Request too large for gpt-4: Limit 10000, Requested 12000. The input or output tokens must be reduced"
              " in order to run successfully.", ("rate_limit_exceeded",), TOO_LONG),
        (413, "413 Request Entity Too Large", (), TOO_LONG),
        # A content filter refuses the prompt: Azure, OpenAI, OpenRouter, Alibaba.
        (400, "The response was filtered due to the prompt triggering Azure OpenAI's content management policy.",
         ("responsibleaipolicyviolation", "content_filter"), FILTERED),
        (400, "Invalid prompt: your prompt was flagged as potentially violating our usage policy.",
         ("invalid_prompt",), FILTERED),
        (403, "Your input was flagged by moderation", ("403",), FILTERED),
        (400, "Output data may contain inappropriate content.", ("data_inspection_failed",), FILTERED),
        # The server rejects the prompt for another reason.
        (400, "messages: roles must alternate", (), REJECTED),
        # The server would refuse every prompt, so the error does not concern this one.
        (400, "Your credit balance is too low to access the Anthropic API.", ("invalid_request_error",), ""),
        (400, "API key not valid. Please pass a valid API key.", ("invalid_argument",), ""),
        (400, "Invalid model name passed in model=x. Call `/v1/models` to view available models", (), ""),
        (400, "The model `x` does not exist", ("model_not_found",), ""),
        (401, "Incorrect API key provided", ("invalid_api_key",), ""),
        (402, "Insufficient Balance", (), ""),
        (403, "Your account is not allowed to use this model", ("permission_error",), ""),
        (404, "model \"x\" not found, try pulling it first", (), ""),
        (429, "You exceeded your current quota", ("insufficient_quota",), ""),
        (429, "Rate limit reached: tokens per minute (TPM): Limit 100000", ("rate_limit_exceeded",), ""),
        (500, "CUDA out of memory", (), ""),
        (503, "Loading model", (), ""),
    ],
)  # fmt: skip
def test_refusal_cause_is_read_from_each_providers_message(
    status: int, message: str, codes: tuple[str, ...], cause: str
) -> None:
    kind: FaultKind | None = "server_error" if status >= 500 else None
    assert find_refusal_cause(ClassifiedFault(kind, "", status=status, codes=codes, server_message=message)) == cause
