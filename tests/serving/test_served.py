"""A real vLLM server, started by `models serve`, answers requests, serves runs and evaluations, and loads adapters."""

import asyncio
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from nanoflux_local.endpoints.remote.anthropic_messages import AnthropicMessagesEndpoint
from nanoflux_local.endpoints.remote.openai_chat import OpenAIChatEndpoint
from nanoflux_local.endpoints.remote.served import ServedEndpoint
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.records import ChatReply, ChatRequest, Message, Sampling
from nanoflux_local.seeds.benchmarks.starter import make_starter_items
from nanoflux_models import server_record
from nanoflux_models.offline import GUARD_SITE_DIR
from nanoflux_models.probe import encode_chats, reply_greedily, score_with_peft
from nanoflux_models.server_client import ServerClient
from nanoflux_models.supervisor import find_free_port, list_server_processes

pytestmark = pytest.mark.real_model
Command = Callable[..., CompletedProcess[str]]
GRID = """
title = "The base only"
question = "Does it answer?"
[[conditions]]
name = "base"
[scales.tiny]
base = "smollm2-135m"
domain = "starter"
test = ["starter-easy"]
limit = 2
via = "vllm"
args = ["--enforce-eager", "--max-num-seqs=8"]
"""
SERVER_OPTIONS = ("--arg=--enforce-eager", "--arg=--max-num-seqs=8")
"""The options of the shared server. Only commands with the same options reuse it."""


def test_server_is_listed_and_logged_and_listens_only_on_loopback(served: dict[str, Any], command: Command) -> None:
    entries = json.loads(command(served["home"], served["python"], "models", "ps", "--json").stdout)
    assert [(entry["server"], entry["state"], entry["pid"]) for entry in entries] == [
        ("smollm2-135m", "ready", served["pid"])
    ]
    logs = command(served["home"], served["python"], "models", "logs", "smollm2-135m", "--lines", "3")
    assert len(logs.stdout.splitlines()) == 3
    # In /proc/net/tcp, addresses are hexadecimal, 127.0.0.1 is 0100007F, and 0A is the state of a listening socket.
    port, loopback = f"{served['port']:04X}", "0100007F"
    socket_lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    listening_addresses = [line.split()[1] for line in socket_lines if " 0A " in line]
    assert [address for address in listening_addresses if address.endswith(f":{port}")] == [f"{loopback}:{port}"]
    second_serve = command(served["home"], served["python"], "models", "serve", "smollm2-135m")
    assert second_serve.returncode == 3 and "already running" in second_serve.stderr


def ask_twice(endpoint_class: type[ServedEndpoint], url: str, tokens: int) -> list[ChatReply]:
    """Send one greedy request twice, each time for at most `tokens` tokens; return both replies."""
    endpoint = endpoint_class("smollm2-135m", url)
    messages = (Message("system", "Answer in one sentence."), Message("user", "Name the capital of France."))
    request = ChatRequest(endpoint.identity, messages, Sampling(max_tokens=tokens))

    async def ask() -> list[ChatReply]:
        try:
            return [await endpoint.chat(request) for _ in range(2)]
        finally:
            await endpoint.close()

    return asyncio.run(ask())


def test_processes_of_a_running_server_have_the_network_guard(served: dict[str, Any]) -> None:
    processes = list_server_processes(server_record.read_records(served["home"])[0])
    assert len(processes) >= 3
    for process in processes:
        environment = Path(f"/proc/{process.pid}/environ").read_bytes().decode().split("\0")
        assert any(line.startswith(f"PYTHONPATH={GUARD_SITE_DIR}") for line in environment), process


def test_both_clients_get_the_same_reply_from_a_server(served: dict[str, Any]) -> None:
    """The request is greedy, so both protocols return the same reply, except for its duration."""
    for tokens, finish in ((60, "stop"), (3, "length")):
        replies = [
            replace(reply, seconds=0.0)
            for endpoint_class in (OpenAIChatEndpoint, AnthropicMessagesEndpoint)
            for reply in ask_twice(endpoint_class, served["url"], tokens)
        ]
        assert len(set(replies)) == 1, replies
        assert replies[0].finish == finish and replies[0].prompt_tokens > 10
        assert 0 < replies[0].completion_tokens <= tokens
        if finish == "stop":
            assert "Paris" in replies[0].text


def test_seeded_requests_longer_than_one_prefill_step_are_answered(served: dict[str, Any]) -> None:
    """On a CPU, a seeded request with chunked prefill crashes vLLM's engine ("Generator does not use offset")."""
    endpoint = OpenAIChatEndpoint("smollm2-135m", served["url"])
    long_message = Message("user", "How many apples are in the basket? " * 100)

    async def ask() -> list[ChatReply]:
        sampling = Sampling(temperature=0.7, max_tokens=4)
        requests = [ChatRequest(endpoint.identity, (long_message,), sampling, seed=number) for number in range(8)]
        try:
            return await asyncio.gather(*map(endpoint.chat, requests))
        finally:
            await endpoint.close()

    replies = asyncio.run(ask())
    assert all(reply.prompt_tokens > 700 and reply.finish == "length" for reply in replies)


# The arguments of the run, except for its profile.
RUN_ARGUMENTS = ("run", "start", "--domain", "starter", "--examples", "3", "--seed", "3", "--json")


def test_run_uses_a_served_model(served: dict[str, Any], command: Command) -> None:
    profile = str(Path(__file__).with_name("served.toml"))
    process = command(served["home"], served["python"], *RUN_ARGUMENTS, "--profile", profile, "--concurrency", "4")
    assert process.returncode == 0, process.stderr
    result = json.loads(process.stdout)
    assert (result["status"], result["kept"], result["repeatable"]) == ("done", 3, False)
    assert result["usage"]["completion_tokens"] > 0
    verified = command(served["home"], served["python"], "run", "verify", result["run"])
    assert verified.returncode == 0, verified.stderr
    listed = json.loads(command(served["home"], served["python"], "models", "ps", "--json").stdout)
    assert [entry["pid"] for entry in listed] == [served["pid"]], (
        "the run started another server, or stopped the shared one"
    )


def test_trained_adapter_is_loaded_by_a_running_server_and_passes_its_probe(
    served: dict[str, Any], adapter: str, command: Command
) -> None:
    process = command(served["home"], served["python"], "models", "probe", adapter[:12], "--json")
    assert process.returncode == 0, process.stderr
    result = json.loads(process.stdout)
    assert result["passed"] and result["difference"] > 0.1 and result["agreement"] > 0.8
    client = ServerClient(served["url"])
    assert adapter in client.list_models() and not client.is_busy(adapter)
    document = json.loads(command(served["home"], served["python"], "adapters", "show", adapter[:12], "--json").stdout)
    assert (document["probe"]["passed"], document["probe"]["agreement"]) == (True, result["agreement"])


# docs/how-to/adapters.md states the next three limits.
MIN_EQUAL_SHARE = 0.8
"""The minimum share of replies on which the server and PEFT agree."""
MAX_GAP = 0.5
"""The maximum difference, in nats, between PEFT's log-probabilities of its own choice and of the server's token."""
MAX_TOKENS = 24
"""The maximum number of tokens in a reply."""
END_OF_TURN = 2
"""The id of SmolLM2's end-of-turn token."""


def cut_at_end_of_turn(ids: list[int]) -> list[int]:
    """A reply's tokens up to its first end-of-turn token."""
    return ids[: ids.index(END_OF_TURN) + 1] if END_OF_TURN in ids else ids


def test_server_and_peft_give_the_same_greedy_replies(served: dict[str, Any], adapter: str, smollm2_dir: Path) -> None:
    """Half of the twenty prompts are similar to those on which the adapter was trained."""
    client, folder = ServerClient(served["url"]), served["home"] / "adapters" / adapter
    client.load_adapter(adapter, folder)
    trained_questions = [f"What is {number} and {number}?" for number in range(10)]
    other_questions = [item.question for item in make_starter_items("dev")[:10]]
    prompts = encode_chats(smollm2_dir, trained_questions + other_questions)
    replies = [cut_at_end_of_turn(reply_greedily(client, adapter, ids, MAX_TOKENS)) for ids in prompts]
    assert len({tuple(reply) for reply in replies}) > 10, "too many of the twenty replies are equal"
    gaps = []
    for scores in score_with_peft(smollm2_dir, folder, prompts, replies):
        token_gaps = [gap for _, gap in scores if gap > 0]
        gaps.append(token_gaps[0] if token_gaps else 0.0)
    equal_count = gaps.count(0.0)
    nonzero_gaps = [round(gap, 3) for gap in gaps if gap]
    comparison = f"{equal_count} of {len(gaps)} equal; the gaps of the others: {nonzero_gaps}"
    print(comparison)
    assert equal_count >= MIN_EQUAL_SHARE * len(gaps) and max(gaps) <= MAX_GAP, comparison


def test_swap_adapter_waits_for_requests_in_flight(served: dict[str, Any], adapter: str, zero_adapter: str) -> None:
    client = ServerClient(served["url"])
    folder = served["home"] / "adapters"
    client.load_adapter(adapter, folder / adapter)
    body = {"model": adapter, "prompt": [7, 11, 13], "max_tokens": 200, "temperature": 0, "ignore_eos": True}
    with ThreadPoolExecutor(1) as pool:
        completion = pool.submit(client.complete, body)
        while not client.is_busy(adapter) and not completion.done():
            time.sleep(0.02)
        client.swap_adapter(adapter, zero_adapter, folder / zero_adapter)
        assert completion.done(), "the adapter was unloaded during the request"
        assert completion.result()["usage"]["completion_tokens"] == 200
    assert zero_adapter in client.list_models() and adapter not in client.list_models()
    client.swap_adapter(zero_adapter, adapter, folder / adapter)
    assert adapter in client.list_models() and zero_adapter not in client.list_models()


def test_adapter_without_effect_is_refused_by_probe_and_eval(
    served: dict[str, Any], zero_adapter: str, command: Command
) -> None:
    probe_process = command(served["home"], served["python"], "models", "probe", zero_adapter, "--json")
    assert probe_process.returncode == 3 and json.loads(probe_process.stdout)["difference"] < 1e-3
    assert "it has no effect" in probe_process.stderr
    arguments = ("eval", "--model", "smollm2-135m", "--adapter", zero_adapter, "--data", "starter-easy", "--limit", "2")
    for via in ("vllm", "merged", "in_process"):
        options = SERVER_OPTIONS if via == "vllm" else ()
        process = command(
            served["home"], served["python"], *arguments, "--runs", "1", "--temperature", "0", "--via", via, *options
        )
        assert process.returncode == 3 and "has no effect" in process.stderr, process.stderr


def test_evaluation_uses_a_served_model(served: dict[str, Any], adapter: str, command: Command) -> None:
    arguments = ("eval", "--model", "smollm2-135m", "--adapter", adapter, "--data", "starter-easy", "--limit", "2")
    options = ("--runs", "1", "--temperature", "0", "--via", "vllm", *SERVER_OPTIONS)
    process = command(served["home"], served["python"], *arguments, *options, "--json")
    assert process.returncode == 0, process.stderr
    result = json.loads(process.stdout)
    assert result["n"] == 2 and result["adapter"] == adapter and result["unscored"] == 0


def test_evaluation_via_merged_uses_a_merged_copy(served: dict[str, Any], adapter: str, command: Command) -> None:
    arguments = ("eval", "--model", "smollm2-135m", "--adapter", adapter, "--data", "starter-easy", "--limit", "2")
    options = ("--runs", "1", "--temperature", "0", "--via", "merged", *SERVER_OPTIONS)
    process = command(served["home"], served["python"], *arguments, *options, "--json")
    assert process.returncode == 0, process.stderr
    result = json.loads(process.stdout)
    assert (result["n"], result["model"], result["adapter"], result["unscored"]) == (2, "smollm2-135m", adapter, 0)
    with LedgerView(served["home"] / "ledger.db") as view:
        rows = view.rows("SELECT request FROM calls WHERE run = ?", result["eval"])
        endpoints = [json.loads(row["request"])["endpoint"] for row in rows]
    assert len(endpoints) == 2 and all(endpoint["variant"].endswith(" merged") for endpoint in endpoints)
    assert list((served["home"] / "merged").iterdir()) == [], "the merged copy was not removed"
    listed = json.loads(command(served["home"], served["python"], "models", "ps", "--json").stdout)
    assert [entry["pid"] for entry in listed] == [served["pid"]], "the server of the merged copy did not end"


def test_experiment_uses_a_served_model(served: dict[str, Any], command: Command, tmp_path: Path) -> None:
    grid = tmp_path / "grid.toml"
    grid.write_text(GRID)
    process = command(served["home"], served["python"], "experiment", "run", str(grid), "--json")
    assert process.returncode == 0, process.stderr
    result = json.loads(process.stdout)
    (evaluation,) = result["conditions"][0]["test"]["starter-easy"]["evaluations"]
    assert result["cells_left"] == []
    with LedgerView(Path(served["home"]) / "ledger.db") as view:
        rows = list(view.rows("SELECT request FROM calls WHERE run = ?", evaluation))
    assert len(rows) == 2 and {json.loads(row["request"])["endpoint"]["interface"] for row in rows} == {"vllm"}


def test_models_stop_ends_all_processes_and_frees_the_port(served: dict[str, Any], command: Command) -> None:
    """Must be the last test in this file, since it stops the shared server."""
    record = server_record.read_records(served["home"])[0]
    processes = list_server_processes(record)
    assert len(processes) >= 3 and all(process.alive for process in processes)
    stop_command = command(served["home"], served["python"], "models", "stop", "smollm2-135m", "--json")
    assert stop_command.returncode == 0, stop_command.stderr
    assert not any(process.alive for process in processes) and list_server_processes(record) == []
    assert server_record.read_records(served["home"]) == [] and find_free_port(record.port) == record.port
    assert json.loads(command(served["home"], served["python"], "models", "ps", "--json").stdout) == []
