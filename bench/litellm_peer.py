"""Tests the remote clients against an independent server: LiteLLM's proxy, which answers all three protocols.

    python bench/litellm_peer.py [--venv DIR]

The script creates an environment with `litellm[proxy]` unless DIR has one, starts the proxy on loopback with mock
models, and sends a request to each model through each client. The models give good, truncated and empty replies, tool
calls and every kind of error, and some refuse parameters. Then the script executes a whole run over the three
protocols, with scripted replies behind the proxy. It prints one line for each request, and exits with 1 if an outcome
is wrong. If the package cannot be installed, the script reports this and exits with 0.
"""

import argparse
import asyncio
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from nanoflux_local.endpoints.fake_server import FakeServer
from nanoflux_local.endpoints.faults import reporting_faults
from nanoflux_local.endpoints.remote.anthropic_messages import AnthropicMessagesEndpoint
from nanoflux_local.endpoints.remote.openai_chat import OpenAIChatEndpoint
from nanoflux_local.endpoints.remote.openai_responses import OpenAIResponsesEndpoint
from nanoflux_local.endpoints.remote.served import ServedEndpoint
from nanoflux_local.errors import EndpointError
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.records import ChatRequest, Fault, Message, Sampling
from nanoflux_local.run import configs, runs
from nanoflux_models import guard

VERSION = "1.106.12"
"""The version of LiteLLM that is installed."""
START_TIMEOUT_S = 120.0
"""Seconds that the proxy may take to start."""
KEY_VARIABLE = "PEER_KEY"
"""The environment variable with the proxy's key, drawn for each start; the proxy refuses to start without one."""
CLIENTS: tuple[type[ServedEndpoint], ...] = (OpenAIChatEndpoint, OpenAIResponsesEndpoint, AnthropicMessagesEndpoint)
"""The tested clients, one for each protocol."""
TOOL_CALLS = [{"id": "t", "type": "function", "function": {"name": "python", "arguments": "{}"}}]
MOCKED_MODELS = {
    "gpt": "openai/gpt-4o",
    "reasoner": "openai/o3-mini",
    "claude": "anthropic/claude-sonnet-4-5",
    "bedrock": "bedrock/us.anthropic.claude-sonnet-4-5-20250929-v1:0",
    "mistral": "mistral/mistral-large-latest",
    "gemini": "gemini/gemini-2.5-flash",
}
"""Models with mocked replies; the proxy's checks of their parameters are real."""


def make_chat_reply(content: str | None, finish: str, **message_fields: Any) -> tuple[int, dict[str, Any]]:
    """The status and body of a chat completion; `message_fields` are added to its message."""
    message = {"role": "assistant", "content": content, **message_fields}
    return 200, {
        "id": "c", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [{"index": 0, "finish_reason": finish, "message": message}],
        "usage": {"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15},
    }  # fmt: skip


def make_error_reply(status: int, message: str, **error_fields: Any) -> tuple[int, dict[str, Any]]:
    """The status and body of an error; `error_fields` are added to the error."""
    return status, {"error": {"message": message, **error_fields}}


TOO_LONG = "This model's maximum context length is 4096 tokens. However, you requested 4321 tokens."
UPSTREAM_REPLIES: dict[str, tuple[tuple[int, dict[str, Any]], str]] = {
    "truncated": (make_chat_reply("ANSW", "length"), "replied"),
    "truncated-empty": (make_chat_reply(None, "length"), "replied"),
    "reasoning": (make_chat_reply("ANSWER: 18", "stop", reasoning_content="hm"), "replied"),
    "empty": (make_chat_reply(None, "stop"), "empty"),
    "tool": (make_chat_reply(None, "tool_calls", tool_calls=TOOL_CALLS), "refused"),
    "busy": (make_error_reply(429, "Rate limit reached", code="rate_limit_exceeded"), "rate_limited"),
    "too-long": (make_error_reply(400, TOO_LONG, code="context_length_exceeded"), "refused"),
    "broken": (make_error_reply(500, "out of memory", type="server_error"), "server_error"),
    "no-key": (make_error_reply(401, "Incorrect API key provided", code="invalid_api_key"), "refused"),
}
"""For each model of the chat server behind the proxy: the status and body of its response, and the expected outcome of
a request to this model."""


class _FirstFaultError(EndpointError):
    """Ends a call at its first fault, so that nothing is retried."""


def make_environment(folder: Path) -> str:
    """Install the proxy into `folder`. Returns the reason if that is impossible, else ""."""
    if (folder / "bin" / "litellm").exists():
        return ""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    command = [str(folder / "bin" / "pip"), "install", "-q", "--only-binary=:all:", f"litellm[proxy]=={VERSION}"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode == 0:
        return ""
    error_lines = [line for line in result.stderr.splitlines() if line.startswith("ERROR")]
    return error_lines[-1] if error_lines else f"pip ended with {result.returncode}"


class Upstream(BaseHTTPRequestHandler):
    """A chat server whose answer depends only on the name of the requested model."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        is_chat = self.path.endswith("/chat/completions")
        status, reply = (
            UPSTREAM_REPLIES[body["model"]][0] if is_chat else make_error_reply(404, f"no such path: {self.path}")
        )
        content = json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        return


def find_free_port() -> int:
    """A port on loopback that no process uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _build_model_entry(name: str, model: str, base_url: str, **parameters: str) -> dict[str, Any]:
    """One model in the proxy's configuration: its name, LiteLLM's name for it, and the server behind it."""
    litellm_params = {"model": model, "api_key": "none", "api_base": base_url, **parameters}
    return {"model_name": name, "litellm_params": litellm_params}


@contextmanager
def start_proxy(venv: Path, folder: Path, upstream_url: str, scripted_url: str) -> Iterator[str]:
    """Start the proxy; yields its address."""
    unused_url = "http://127.0.0.1:9"  # if a mocked request is sent nevertheless, it stays on this machine
    models = [_build_model_entry("scripted", "openai/scripted", scripted_url)]
    for name, model in MOCKED_MODELS.items():
        models.append(_build_model_entry(name, model, unused_url, mock_response="ANSWER: 18"))
    for name in UPSTREAM_REPLIES:
        models.append(_build_model_entry(name, f"together_ai/{name}", upstream_url))
    settings = {
        "model_list": models,
        "litellm_settings": {"num_retries": 0, "telemetry": False},
        "router_settings": {"disable_cooldowns": True},
    }
    config = folder / "config.yaml"
    config.write_text(json.dumps(settings))  # JSON is also YAML
    port = find_free_port()
    command = [str(venv / "bin" / "litellm"), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    environment = {
        "PATH": f"{venv / 'bin'}:{os.environ['PATH']}", "HOME": str(folder), "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_TELEMETRY": "False", "NO_PROXY": "*", "PYTHONSAFEPATH": "1",
        "LITELLM_MASTER_KEY": os.environ[KEY_VARIABLE],
    }  # fmt: skip
    log = (folder / "proxy.log").open("w")
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health/liveliness", timeout=2)
                break
            except OSError as error:
                if process.poll() is not None or time.monotonic() > deadline:
                    tail = (folder / "proxy.log").read_text()[-2000:]
                    raise SystemExit(f"the proxy did not start: {tail}") from error
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(30)
        log.close()


async def send_request(client: type[ServedEndpoint], name: str, url: str) -> tuple[str, str]:
    """Send one request to the model `name` through a client. Returns the outcome, and a description of the reply or
    fault.
    """
    endpoint = client(name, url, KEY_VARIABLE)
    adjusted_parameters: list[str] = []

    def record_fault(fault: Fault) -> None:
        """Record a parameter that the client adjusted; end the call at any other fault."""
        if fault.kind == "refused_parameter":
            adjustment = fault.message.partition("as with ")[2].partition(", which")[0]
            adjusted_parameters.append(adjustment)
        else:
            raise _FirstFaultError(f"{fault.kind}|{fault.message}")

    messages = (Message("system", "Be terse."), Message("user", "What is 3 * 6?"))
    request = ChatRequest(endpoint.identity, messages, Sampling(0.7, 0.95, 64, ("\n\n",)), 2**62 + 1)
    with reporting_faults(record_fault):
        try:
            reply = await endpoint.chat(request)
        except _FirstFaultError as fault:
            kind, _, message = fault.message.partition("|")
            return kind, message
        except EndpointError as error:
            return "refused", error.message.removeprefix(url).strip()
        finally:
            await endpoint.close()
    counts = f"{reply.prompt_tokens}+{reply.completion_tokens} tokens"
    return "replied", " ".join([repr(reply.text), reply.finish, counts, *adjusted_parameters])


async def ask_all(url: str) -> int:
    """Send a request to every model through every client. Returns the number of wrong outcomes."""
    expected_outcomes = dict.fromkeys(MOCKED_MODELS, "replied")
    expected_outcomes |= {name: expected for name, (_, expected) in UPSTREAM_REPLIES.items()}
    wrong_count = 0
    for name, expected in expected_outcomes.items():
        for client in CLIENTS:
            outcome, message = await send_request(client, name, url)
            correction = ""
            if outcome != expected:
                wrong_count += 1
                correction = f"   <- should be {expected}"
            print(f"{name:15} {client.interface:20} {outcome:13} {message[:160]}{correction}", flush=True)
    return wrong_count


def execute_run(url: str, folder: Path) -> str:
    """Execute a run whose roles use the three protocols of the proxy. Returns its status."""
    home = Home(folder / "home").prepare()
    roles = dict(zip(("attacker", "defender", "judge"), CLIENTS, strict=True))
    endpoints = {
        role: {
            "interface": client.interface,
            "model": "scripted",
            "url": url,
            "key_env": KEY_VARIABLE,
            "revision": role,
        }
        for role, client in roles.items()
    }
    role_settings = {role: {"endpoint": role, "sampling": {"temperature": 0.7}} for role in roles}
    settings = {"endpoints": endpoints, "roles": role_settings, "target": 3, "max_turns": 40}
    config = configs.resolve("starter", "scripted", settings, home)
    run = asyncio.run(runs.start(home, config))
    asyncio.run(runs.execute(home, run))
    with LedgerView(home.ledger) as view:
        summary = view.summarize_run(run).to_json()
    print(f"run: {summary['status']}, {summary['kept']} kept in {summary['turns']} turns, faults {summary['faults']}")
    return str(summary["status"])


@contextmanager
def start_scripted_upstream() -> Iterator[str]:
    """Start the product's fake server in a separate process; yields its address."""
    command = [sys.executable, "-P", "-m", FakeServer.__module__]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait(30)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venv", type=Path, help="the environment of the proxy, created if it does not exist")
    options = parser.parse_args()
    guard.install()
    os.environ[KEY_VARIABLE] = f"sk-{secrets.token_hex(16)}"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        venv = options.venv or folder / "venv"
        reason = make_environment(venv)
        if reason:
            print(f"skipped: litellm[proxy]=={VERSION} cannot be installed here: {reason}")
            return
        upstream_server = ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
        threading.Thread(target=upstream_server.serve_forever, daemon=True).start()
        upstream_url = f"http://127.0.0.1:{upstream_server.server_port}/v1"
        with start_scripted_upstream() as scripted_url, start_proxy(venv, folder, upstream_url, scripted_url) as url:
            wrong_count = asyncio.run(ask_all(url))
            status = execute_run(url, folder)
    sys.exit(1 if wrong_count or status != "done" else 0)


if __name__ == "__main__":
    main()
