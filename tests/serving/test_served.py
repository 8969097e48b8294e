"""A real vLLM started by `models serve`: its replies, a run over it, and adapters loaded at run time."""

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
from nanoflux_models.offline import GUARDED
from nanoflux_models.probe import encode_chats, reply_greedily, score_with_peft
from nanoflux_models.server_client import ServerClient
from nanoflux_models.supervisor import find_free_port, list_server_processes

pytestmark = pytest.mark.real_model
Command = Callable[..., CompletedProcess[str]]
THROUGH = """
title = "The base alone"
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
LEAN = ("--arg=--enforce-eager", "--arg=--max-num-seqs=8")  # a server is used again where its arguments are these


def test_server_is_listed_with_its_log_and_listens_on_loopback_only(served: dict[str, Any], command: Command) -> None:
    result = json.loads(command(served["home"], served["python"], "models", "ps", "--json").stdout)
    assert [(entry["server"], entry["state"], entry["pid"]) for entry in result] == [
        ("smollm2-135m", "ready", served["pid"])
    ]
    shown = command(served["home"], served["python"], "models", "logs", "smollm2-135m", "--lines", "3")
    assert len(shown.stdout.splitlines()) == 3
    port, loopback = f"{served['port']:04X}", "0100007F"
    listening = [line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines()[1:] if " 0A " in line]
    assert [address for address in listening if address.endswith(f":{port}")] == [f"{loopback}:{port}"]
    again = command(served["home"], served["python"], "models", "serve", "smollm2-135m")
    assert again.returncode == 3 and "already running" in again.stderr


def ask_twice(client: type[ServedEndpoint], url: str, tokens: int) -> list[ChatReply]:
    """The same request twice."""
    endpoint = client("smollm2-135m", url)
    messages = (Message("system", "Answer in one sentence."), Message("user", "Name the capital of France."))
    request = ChatRequest(endpoint.identity, messages, Sampling(max_tokens=tokens))

    async def ask() -> list[ChatReply]:
        try:
            return [await endpoint.chat(request) for _ in range(2)]
        finally:
            await endpoint.close()

    return asyncio.run(ask())


def test_processes_of_a_running_server_are_guarded(served: dict[str, Any]) -> None:
    family = list_server_processes(server_record.read_records(served["home"])[0])
    assert len(family) >= 3
    for each in family:
        environment = Path(f"/proc/{each.pid}/environ").read_bytes().decode().split("\0")
        assert any(line.startswith(f"PYTHONPATH={GUARDED}") for line in environment), each


def test_both_clients_get_the_same_reply_from_a_server(served: dict[str, Any]) -> None:
    """Greedy, so that both protocols give the same reply except for its duration."""
    for tokens, finish in ((60, "stop"), (3, "length")):
        result = [
            replace(reply, seconds=0.0)
            for client in (OpenAIChatEndpoint, AnthropicMessagesEndpoint)
            for reply in ask_twice(client, served["url"], tokens)
        ]
        assert len(set(result)) == 1, result
        assert result[0].finish == finish and result[0].prompt_tokens > 10
        assert 0 < result[0].completion_tokens <= tokens
        assert tokens == 3 or "Paris" in result[0].text


def test_seeded_requests_longer_than_one_step_are_answered(served: dict[str, Any]) -> None:
    """On a CPU, a seeded request with chunked prefill crashes vLLM's engine ("Generator does not use offset")."""
    endpoint = OpenAIChatEndpoint("smollm2-135m", served["url"])
    long = Message("user", "How many apples are in the basket? " * 100)

    async def ask() -> list[ChatReply]:
        sampling = Sampling(temperature=0.7, max_tokens=4)
        requests = [ChatRequest(endpoint.identity, (long,), sampling, seed=number) for number in range(8)]
        try:
            return await asyncio.gather(*map(endpoint.chat, requests))
        finally:
            await endpoint.close()

    replies = asyncio.run(ask())
    assert all(reply.prompt_tokens > 700 and reply.finish == "length" for reply in replies)


RUN = ("run", "start", "--domain", "starter", "--examples", "3", "--seed", "3", "--json")


def test_run_uses_a_served_model(served: dict[str, Any], command: Command) -> None:
    profile = str(Path(__file__).with_name("served.toml"))
    done = command(served["home"], served["python"], *RUN, "--profile", profile, "--concurrency", "4")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["status"], result["kept"], result["repeatable"]) == ("done", 3, False)
    assert result["usage"]["completion_tokens"] > 0
    verified = command(served["home"], served["python"], "run", "verify", result["run"])
    assert verified.returncode == 0, verified.stderr
    listed = json.loads(command(served["home"], served["python"], "models", "ps", "--json").stdout)
    assert [entry["pid"] for entry in listed] == [served["pid"]], "the run result the server and left it running"


def test_trained_lora_is_loaded_at_run_time_and_passes_its_probe(
    served: dict[str, Any], adapter: str, command: Command
) -> None:
    done = command(served["home"], served["python"], "models", "probe", adapter[:12], "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["passed"] and result["difference"] > 0.1 and result["agreement"] > 0.8
    client = ServerClient(served["url"])
    assert adapter in client.list_models() and not client.is_busy(adapter)
    shown = json.loads(command(served["home"], served["python"], "adapters", "show", adapter[:12], "--json").stdout)
    assert (shown["probe"]["passed"], shown["probe"]["agreement"]) == (True, result["agreement"])


EQUAL, NEAR_TIE, WRITTEN = 0.8, 0.5, 24
"""docs/how-to/adapters.md: the least share of equal texts; the most nats by which PEFT may prefer its own choice to
the server's token; tokens of a text at most."""
END = 2
"""SmolLM2's end of turn."""


def test_server_and_peft_give_the_same_greedy_replies(served: dict[str, Any], adapter: str, smollm2_dir: Path) -> None:
    """Twenty prompts, half of them of the kind that the adapter was trained on."""
    client, folder = ServerClient(served["url"]), served["home"] / "adapters" / adapter
    client.load_adapter(adapter, folder)
    questions = [f"What is {n} and {n}?" for n in range(10)] + [
        item.question for item in make_starter_items("dev")[:10]
    ]
    prompts = encode_chats(smollm2_dir, questions)
    texts = [reply_greedily(client, adapter, ids, WRITTEN) for ids in prompts]
    texts = [text[: text.index(END) + 1] if END in text else text for text in texts]
    assert len({tuple(text) for text in texts}) > 10, "twenty texts, not one for all"
    gaps = [
        next((gap for _, gap in scores if gap > 0), 0.0)
        for scores in score_with_peft(smollm2_dir, folder, prompts, texts)
    ]
    result = f"{gaps.count(0.0)} of {len(gaps)} equal; where the others part: {[round(gap, 3) for gap in gaps if gap]}"
    print(result)
    assert gaps.count(0.0) >= EQUAL * len(gaps) and max(gaps) <= NEAR_TIE, result


def test_swap_adapter_waits_for_requests_in_flight(served: dict[str, Any], adapter: str, zeroed: str) -> None:
    client = ServerClient(served["url"])
    folder = served["home"] / "adapters"
    client.load_adapter(adapter, folder / adapter)
    body = {"model": adapter, "prompt": [7, 11, 13], "max_tokens": 200, "temperature": 0, "ignore_eos": True}
    with ThreadPoolExecutor(1) as pool:
        ask_twice = pool.submit(client.complete, body)
        while not client.is_busy(adapter) and not ask_twice.done():
            time.sleep(0.02)
        client.swap_adapter(adapter, zeroed, folder / zeroed)
        assert ask_twice.done() and ask_twice.result()["usage"]["completion_tokens"] == 200, "it was let finish"
    assert zeroed in client.list_models() and adapter not in client.list_models()
    client.swap_adapter(zeroed, adapter, folder / adapter)
    assert adapter in client.list_models() and zeroed not in client.list_models()


def test_adapter_without_effect_is_refused_by_probe_and_eval(
    served: dict[str, Any], zeroed: str, command: Command
) -> None:
    probed = command(served["home"], served["python"], "models", "probe", zeroed, "--json")
    assert probed.returncode == 3 and json.loads(probed.stdout)["difference"] < 1e-3
    assert "it has no effect" in probed.stderr
    words = ("eval", "--model", "smollm2-135m", "--adapter", zeroed, "--data", "starter-easy", "--limit", "2")
    for via in ("vllm", "merged", "in_process"):
        more = ("--arg=--enforce-eager", "--arg=--max-num-seqs=8") if via == "vllm" else ()
        done = command(
            served["home"], served["python"], *words, "--runs", "1", "--temperature", "0", "--via", via, *more
        )
        assert done.returncode == 3 and "has no effect" in done.stderr, done.stderr


def test_evaluation_uses_a_served_model(served: dict[str, Any], adapter: str, command: Command) -> None:
    words = ("eval", "--model", "smollm2-135m", "--adapter", adapter, "--data", "starter-easy", "--limit", "2")
    more = ("--runs", "1", "--temperature", "0", "--via", "vllm", *LEAN)
    done = command(served["home"], served["python"], *words, *more, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["n"] == 2 and result["adapter"] == adapter and result["unscored"] == 0


def test_evaluation_via_merged_uses_a_merged_copy(served: dict[str, Any], adapter: str, command: Command) -> None:
    words = ("eval", "--model", "smollm2-135m", "--adapter", adapter, "--data", "starter-easy", "--limit", "2")
    more = ("--runs", "1", "--temperature", "0", "--via", "merged", *LEAN)
    done = command(served["home"], served["python"], *words, *more, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["n"], result["model"], result["adapter"], result["unscored"]) == (2, "smollm2-135m", adapter, 0)
    with LedgerView(served["home"] / "ledger.db") as view:
        ask_twice = [json.loads(row["request"])["endpoint"] for row in
                 view.rows("SELECT request FROM calls WHERE run = ?", result["eval"])]  # fmt: skip
    assert len(ask_twice) == 2 and all(each["variant"].endswith(" merged") for each in ask_twice)
    assert list((served["home"] / "merged").iterdir()) == [], "the copy is gone"
    listed = json.loads(command(served["home"], served["python"], "models", "ps", "--json").stdout)
    assert [entry["pid"] for entry in listed] == [served["pid"]], "its own server has ended"


def test_experiment_uses_a_served_model(served: dict[str, Any], command: Command, tmp_path: Path) -> None:
    grid = tmp_path / "through.toml"
    grid.write_text(THROUGH)
    done = command(served["home"], served["python"], "experiment", "run", str(grid), "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    (evaluation,) = result["conditions"][0]["test"]["starter-easy"]["evaluations"]
    assert result["cells_left"] == []
    with LedgerView(Path(served["home"]) / "ledger.db") as view:
        ask_twice = list(view.rows("SELECT request FROM calls WHERE run = ?", evaluation))
    assert len(ask_twice) == 2 and {json.loads(row["request"])["endpoint"]["interface"] for row in ask_twice} == {
        "vllm"
    }


def test_models_stop_leaves_no_process_and_a_free_port(served: dict[str, Any], command: Command) -> None:
    """The last test of this file: the shared server and its engine are gone when the command returns."""
    record = server_record.read_records(served["home"])[0]
    family = list_server_processes(record)
    assert len(family) >= 3 and all(each.alive for each in family)
    done = command(served["home"], served["python"], "models", "stop", "smollm2-135m", "--json")
    assert done.returncode == 0, done.stderr
    assert not any(each.alive for each in family) and list_server_processes(record) == []
    assert server_record.read_records(served["home"]) == [] and find_free_port(record.port) == record.port
    assert json.loads(command(served["home"], served["python"], "models", "ps", "--json").stdout) == []
