"""Runs whose servers fail in every way: faults are counted and charged to the budget, and do not change the dataset."""

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nanoflux_local.endpoints.chaos import INJECTED_FAULTS, Chaos
from nanoflux_local.endpoints.remote import replicas, retries
from nanoflux_local.errors import BudgetError, EndpointError
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.run import configs, runs

PRICE = {"prompt": 1000, "completion": 1000}
"""Dollars per million tokens, so high that a few calls exhaust a budget of some dollars."""


@pytest.fixture(autouse=True)
def short_retry_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "BASE_S", 0.002)
    monkeypatch.setattr(retries, "MAX_PAUSE_S", 0.02)


def make_endpoints(url: str, **settings: Any) -> dict[str, Any]:
    """The endpoints of the three models of the scripted profile, all on one server, each with a different protocol."""
    endpoint = {"url": url, "timeout_s": 2.0, **settings}
    return {
        "duelist-a": {**endpoint, "interface": "openai_chat"},
        "duelist-b": {**endpoint, "interface": "openai_responses"},
        "arbiter": {**endpoint, "interface": "anthropic_messages"},
    }


def start(home: Home, endpoints: dict[str, Any], **settings: Any) -> str:
    """Start a run with these endpoints and settings, and return its id."""
    values = {"endpoints": endpoints, "seed": 7, "target": 10_000, "reply_tokens": 200, "pause_when_saturated": 0}
    config = configs.resolve("starter-genetics", "scripted", {**values, **settings}, home)
    return asyncio.run(runs.start(home.prepare(), config))


def execute(home: Home, endpoints: dict[str, Any], **settings: Any) -> dict[str, Any]:
    """Start a run, execute it to its end, and return its summary."""
    run = start(home, endpoints, **settings)
    asyncio.run(runs.execute(home, run))
    return read_summary(home, run)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Any:
    """A function that runs a command in this process, and returns its exit code and its output."""
    from nanoflux_local.cli.main import main

    def run_command(home: Path, *arguments: str) -> SimpleNamespace:
        monkeypatch.setenv("NANOFLUX_HOME", str(home))
        with pytest.raises(SystemExit) as exit_info:
            main(list(arguments))
        out, err = capfd.readouterr()
        return SimpleNamespace(code=int(exit_info.value.code or 0), out=out, err=err)

    return run_command


def read_summary(home: Home, run: str) -> dict[str, Any]:
    with LedgerView(home.ledger) as view:
        return view.summarize_run(run).to_json()


def test_faults_in_forty_percent_of_requests_do_not_change_the_dataset(tmp_path: Path, fake_server) -> None:
    healthy_url, _ = fake_server()
    rates = {**dict.fromkeys(INJECTED_FAULTS, 0.078), "stall": 0.01}
    faulty_url, server = fake_server(Chaos(rates, seed=3, reasoning_share=0.3, retry_after_s=0.01))
    expected = execute(Home(tmp_path / "healthy"), make_endpoints(healthy_url), max_turns=200, concurrency=16)
    result = execute(Home(tmp_path / "faulty"), make_endpoints(faulty_url), max_turns=200, concurrency=16)
    assert (result["digest"], result["funnel"]) == (expected["digest"], expected["funnel"])
    assert result["kept"] > 20 and result["turns"] == 200
    injected_counts, reported_counts = server.chaos.fault_counts, result["faults"]
    assert sum(injected_counts.values()) > 0.3 * server.requests
    # Every fault that reached a client is counted under its kind; a stall is counted as a timeout. Up to 16 faults, the
    # concurrency of the run, may have reached no client before the run ended. A slow client may also time out before
    # it receives a fault of another kind.
    assert all(0 < reported_counts[kind] <= injected_counts[kind] for kind in INJECTED_FAULTS if kind != "stall")
    assert 0 < injected_counts["stall"] <= reported_counts["timeout"] + 16
    assert sum(reported_counts.values()) >= sum(injected_counts.values()) - 16


def test_faults_are_counted_stored_and_shown(tmp_path: Path, fake_server, command) -> None:
    rates = dict.fromkeys(("rate_limited", "server_error", "reset", "garbled", "empty"), 0.08)
    url, server = fake_server(Chaos(rates, seed=5, retry_after_s=0.01))  # type: ignore[arg-type]
    home = Home(tmp_path)
    endpoints = make_endpoints(url, timeout_s=60.0)
    endpoints["hashing"] = {"url": url, "interface": "openai_embeddings"}
    result = execute(home, endpoints, max_turns=6, concurrency=1)
    assert result["faults"] == dict(server.chaos.fault_counts) and len(result["faults"]) >= 4
    json_output = command(home.root, "run", "show", result["run"], "--json").out
    assert json.loads(json_output)["faults"] == result["faults"]
    output = command(home.root, "run", "show", result["run"]).out
    assert all(f"fault: {kind.replace('_', ' ')}" in output for kind in result["faults"])
    with LedgerView(home.ledger) as view:
        raw_replies = [row["raw"] for row in view.rows("SELECT raw FROM faults WHERE kind = 'garbled'")]
        roles = {row["role"] for row in view.rows("SELECT role FROM faults")}
    assert any(raw_replies), "no garbled reply was stored"
    assert {"attacker", "defender", "judge"} & roles


def test_structured_replies_are_read_like_replies_with_headings(tmp_path: Path, fake_server) -> None:
    """With `structured`, prompts ask for a JSON object, and most replies are one. Up to three may be unreadable."""
    url, _ = fake_server()
    home = Home(tmp_path)
    result = execute(home, make_endpoints(url, structured=True), max_turns=12, concurrency=4)
    assert result["kept"] > 0 and result["funnel"]["unparsed"] <= 3
    with LedgerView(home.ledger) as view:
        rows = list(view.rows("SELECT request, reply FROM calls WHERE kind = 'chat'"))
    requests = [json.loads(row["request"]) for row in rows]
    texts = [json.loads(row["reply"])["text"] for row in rows]
    assert all(request["sections"] and request["endpoint"]["variant"] == "structured" for request in requests)
    assert sum(text.startswith("{") for text in texts) > len(texts) / 2


def test_restart_of_a_replica_does_not_change_the_dataset(tmp_path: Path, fake_server, monkeypatch) -> None:
    monkeypatch.setattr(replicas, "BACKOFF_S", 0.05)
    healthy_url, _ = fake_server()
    expected = execute(Home(tmp_path / "one server"), make_endpoints(healthy_url), max_turns=30, concurrency=8)
    restarted_url, restarted_server = fake_server()
    steady_url, steady_server = fake_server()
    home = Home(tmp_path / "two servers")
    endpoints = {
        name: {**endpoint, "url": "", "urls": [restarted_url, steady_url]}
        for name, endpoint in make_endpoints(healthy_url).items()
    }
    # At a higher concurrency, all turns would be committed together.
    run = start(home, endpoints, max_turns=30, concurrency=2)

    def stop_and_restart(progress: Any) -> None:
        if progress.turns == 5:
            fake_server.stop(restarted_server)
        if progress.turns == 15:
            fake_server.restart(restarted_server, restarted_url)

    asyncio.run(runs.execute(home, run, stop_and_restart))
    result = read_summary(home, run)
    assert result["digest"] == expected["digest"]
    assert set(result["faults"]) <= {"unreachable", "reset", "timeout"} and result["faults"]
    assert min(restarted_server.requests, steady_server.requests) > 10


# Budgets


def test_failed_requests_count_against_the_budget_and_the_run_resumes(tmp_path: Path, fake_server) -> None:
    url, server = fake_server(Chaos({"reset": 1.0}))
    home = Home(tmp_path)
    run = start(home, make_endpoints(url, price=PRICE), max_turns=3, concurrency=1, budget={"usd": 30.0})
    with pytest.raises(BudgetError, match=r"budget\.usd = 30"):
        asyncio.run(runs.execute(home, run))
    paused = read_summary(home, run)
    assert paused["status"] == "paused" and paused["calls"]["made"] == 0
    assert 1 <= paused["faults"]["reset"] == server.requests < 12
    assert 0 < paused["lost"]["usd"] <= 30.0 and paused["lost"]["tokens"] > 0
    with pytest.raises(BudgetError):  # the cost of failed requests is stored, so a resumed run cannot spend more
        asyncio.run(runs.execute(home, run))
    assert server.requests == paused["faults"]["reset"]
    server.chaos.rates.clear()
    runs.change(home, run, {"budget": {"usd": 1000.0}})
    asyncio.run(runs.execute(home, run))
    assert read_summary(home, run)["status"] == "done"


def test_token_budget_of_a_role_counts_its_failed_requests_and_no_other_role(tmp_path: Path, fake_server) -> None:
    url, _ = fake_server(Chaos({"garbled": 0.5}, seed=1))
    home = Home(tmp_path)
    budget = {"roles": {"judge": {"tokens": 40_000}}}
    run = start(home, make_endpoints(url), max_turns=400, concurrency=1, budget=budget)
    with pytest.raises(BudgetError, match=r"roles\.judge\.tokens"):
        asyncio.run(runs.execute(home, run))
    with LedgerView(home.ledger) as view:
        rows = view.rows("SELECT role, sum(tokens) AS n FROM (SELECT role, tokens FROM faults UNION ALL SELECT role,"
                         " prompt_tokens + completion_tokens AS tokens FROM calls) GROUP BY role")  # fmt: skip
        tokens_by_role = {row["role"]: row["n"] for row in rows}
    total_tokens = sum(tokens_by_role[role] for role in ("attacker", "defender", "judge"))
    assert 0 < tokens_by_role["judge"] <= 40_000 < total_tokens, "the tokens of other roles counted too"


# API keys

CANARY = "sk-canary-7f3a9b2c4d5e6f70"
"""The API key of these tests. It must appear in no file and no output."""
ECHOES = {
    "refused": [(401, {"error": {"message": f"Incorrect API key provided: {CANARY}"}})],
    "failing": [(500, {"error": {"message": f"header was Bearer {CANARY}"}})],
    "busy, no credit": [(429, {"error": {"message": CANARY, "code": "insufficient_quota", "type": CANARY}})],
    "page": [(200, f"<html>{CANARY}</html>".encode())],
    "half a reply": [(200, json.dumps({"choices": [{"message": {"content": CANARY}}]}).encode()[:-5])],
    "odd shape": [(200, {CANARY: CANARY})],
    "redirect": [(307, {"error": CANARY})],
    "as the reply": [(200, {
        "choices": [{"message": {"content": CANARY}, "finish_reason": "stop"}], "status": "completed",
        "output": [{"type": "message", "content": [{"type": "output_text", "text": CANARY}]}],
        "content": [{"type": "text", "text": CANARY}], "stop_reason": "end_turn", "data": [{"embedding": [1.0]}],
    })],
}  # fmt: skip
"""Responses that repeat the API key, by their kind: the status and the body of each."""


@pytest.mark.parametrize("key_source", ["variable", "file"])
@pytest.mark.parametrize("echo_kind", ECHOES)
@pytest.mark.parametrize("interface", ["openai_chat", "openai_responses", "anthropic_messages", "openai_embeddings"])
def test_api_key_is_stored_nowhere_when_a_server_repeats_it(
    interface: str, echo_kind: str, key_source: str, server, tmp_path: Path, monkeypatch, caplog, command
) -> None:
    if key_source == "file" and echo_kind not in ("refused", "as the reply"):
        pytest.skip("the source of a key does not affect how it is masked")
    if interface == "anthropic_messages" and echo_kind == "busy, no credit":
        pytest.skip("this interface never reports missing credit with status 429")
    caplog.set_level("DEBUG")
    monkeypatch.setattr(retries, "ATTEMPTS", 2)
    monkeypatch.setattr(retries, "EMPTY_ATTEMPTS", 2)
    key_path = tmp_path / "private" / "key"
    key_path.parent.mkdir()
    key_path.write_text(CANARY + "\n")
    key_path.chmod(0o600)
    monkeypatch.setenv("SOME_KEY", CANARY)
    key_setting = {"key_env": "SOME_KEY"} if key_source == "variable" else {"key_file": str(key_path)}
    server.answer(*ECHOES[echo_kind])
    server.more_headers = {"x-your-key": CANARY, "Location": f"{server.url}/{CANARY}", "Retry-After": "0"}
    home = Home(tmp_path / "home").prepare()
    endpoint = {"interface": interface, "url": server.url, **key_setting}
    names = ["hashing"] if interface == "openai_embeddings" else ["duelist-a", "duelist-b", "arbiter"]
    settings = {"endpoints": dict.fromkeys(names, endpoint), "max_turns": 1, "concurrency": 2}
    run = asyncio.run(runs.start(home, configs.resolve("starter-genetics", "scripted", settings, home)))
    resumed = command(home.root, "run", "resume", run)
    # The run succeeds only with the readable embedding: no other response can be read as a reply with sections.
    is_readable = echo_kind == "as the reply" and interface == "openai_embeddings"
    assert resumed.code == (0 if is_readable else 1), resumed.err
    assert any(CANARY in str(headers) for headers in server.headers), "the key did not reach the server"
    assert CANARY not in resumed.out + resumed.err + caplog.text
    shown = command(home.root, "run", "show", run, "--json")
    assert CANARY not in shown.out + shown.err
    command(home.root, "report", run, "-o", str(home.root / "report"))
    for file in home.root.rglob("*"):
        assert file.is_dir() or CANARY.encode() not in file.read_bytes(), file


def test_error_of_an_endpoint_contains_no_api_key_and_no_chained_exception(server, monkeypatch) -> None:
    """A traceback also prints chained exceptions, so it is not enough to mask the key in the message."""
    import traceback

    from nanoflux_local.config import EndpointConfig
    from nanoflux_local.endpoints.build import build_endpoint
    from nanoflux_local.records import ChatRequest, Message

    monkeypatch.setenv("SOME_KEY", CANARY)
    monkeypatch.setattr(retries, "ATTEMPTS", 1)
    for interface in ("openai_chat", "openai_responses", "anthropic_messages"):
        for answer in (ECHOES["refused"], ECHOES["failing"], ECHOES["page"]):
            server.answer(*answer)
            config = EndpointConfig(interface=interface, model="m", url=server.url, key_env="SOME_KEY")
            endpoint = build_endpoint("x", config, Home(Path("nowhere")))

            async def send_request(endpoint=endpoint) -> None:
                try:
                    await endpoint.chat(ChatRequest(endpoint.identity, (Message("user", "hi"),)))
                finally:
                    await endpoint.close()

            with pytest.raises(EndpointError) as error:
                asyncio.run(send_request())
            assert error.value.__cause__ is None and error.value.__context__ is None
            assert CANARY not in "".join(traceback.format_exception(error.value))
            assert CANARY not in repr(vars(endpoint)) + repr(endpoint) + repr(vars(endpoint.service))
