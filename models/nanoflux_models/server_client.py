"""A client of one vLLM server for everything except chat: health, adapters, sleep mode and metrics.

The client's calls block, and go directly to loopback even if a proxy is configured. It neither starts nor stops
processes.
"""

import json
import re
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from nanoflux_models.errors import ServerError, ServerRefusedError

QUICK_TIMEOUT_S = 5.0
"""The timeout of short requests, in seconds."""
LOAD_TIMEOUT_S = 300.0
"""The timeout of completions, and of loading an adapter, in seconds."""
SLEEP_TIMEOUT_S = 600.0
"""The timeout of falling asleep and of waking up, in seconds."""
LOG_FIX = "read the server's log with `nanoflux models logs NAME`; `nanoflux models ps` lists the names"
"""The fix for a failed request. A client knows only the server's address, not its name."""
_DIRECT_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Sends requests without a proxy."""


class ServerClient:
    """A client of the server at `url`, which ends in /v1."""

    def __init__(self, url: str) -> None:
        self._root = url.removesuffix("/v1")

    def is_healthy(self) -> bool:
        """Whether the server and its engine respond."""
        try:
            self._send("GET", "/health", None, QUICK_TIMEOUT_S)
        except ServerError:
            return False
        return True

    def list_models(self) -> list[str]:
        """The names of the models that requests can use: the base model and each loaded adapter."""
        response = json.loads(self._send("GET", "/v1/models", None, QUICK_TIMEOUT_S))
        return [str(model["id"]) for model in response["data"]]

    def load_adapter(self, name: str, folder: Path) -> None:
        """Load an adapter under `name`, its content hash; do nothing if it is already loaded.

        A content hash never names two adapters, so no response can come from the prefix cache of another adapter.

        Raises:
            ServerRefusedError: vLLM refuses the adapter; the message contains the reason.
        """
        if name in self.list_models():
            return
        body = {"lora_name": name, "lora_path": str(folder.resolve())}
        try:
            self._send("POST", "/v1/load_lora_adapter", body, LOAD_TIMEOUT_S)
        except ServerError as error:
            if not isinstance(error.__cause__, urllib.error.HTTPError):
                raise
            fix = "train an adapter of layers that vLLM serves (target_modules), or evaluate this one with --via merged"
            raise ServerRefusedError(f"vLLM refuses adapter {name[:12]}: {error.message}", fix) from error

    def unload_adapter(self, name: str, drain_s: float = LOAD_TIMEOUT_S) -> None:
        """Unload an adapter once it has no request in flight; do nothing if it is not loaded.

        Raises:
            ServerError: requests for the adapter were still in flight after `drain_s`.
        """
        deadline = time.monotonic() + drain_s
        while self.is_busy(name):
            if time.monotonic() > deadline:
                problem = f"{self._root}: adapter {name[:16]} still has requests in flight after {drain_s:g} s"
                raise ServerError(problem, "wait for these requests, then unload the adapter again")
            time.sleep(0.1)
        if name in self.list_models():
            self._send("POST", "/v1/unload_lora_adapter", {"lora_name": name}, LOAD_TIMEOUT_S)

    def swap_adapter(self, old: str, new: str, folder: Path) -> None:
        """Load `new`, wait for the requests for `old`, then unload `old`, so that one of the two is always loaded."""
        self.load_adapter(new, folder)
        if old != new:
            self.unload_adapter(old)

    def is_busy(self, adapter: str) -> bool:
        """Whether requests for an adapter are running or waiting, according to the server's newest metrics."""
        lines = self._send("GET", "/metrics", None, QUICK_TIMEOUT_S).decode().splitlines()
        count_lines = [line for line in lines if re.match(r"vllm:num_requests_(running|waiting)\{", line)]
        request_count = sum(_read_metric(line) for line in count_lines)
        adapter_lines = [line for line in lines if line.startswith("vllm:lora_requests_info{")]
        if not adapter_lines or not request_count:
            return False
        newest_line = max(adapter_lines, key=_read_metric)  # the value is the time of the measurement
        adapters_in_use = re.findall(r'(?:running|waiting)_lora_adapters="([^"]*)"', newest_line)
        return adapter in ",".join(adapters_in_use).split(",")

    def sleep(self, level: int = 1, accepts_adapters: bool = True) -> None:
        """Free the GPU: at level 1, the weights move to the machine's memory, and the KV cache is dropped.

        Raises:
            ServerError: `level` is 2, which drops the weights, and the server accepts adapters: when it wakes, vLLM
                restores neither the adapters nor their layers (vllm#39934).
        """
        if level > 1 and accepts_adapters:
            problem = f"{self._root}: at sleep level {level}, the server would lose the adapters"
            raise ServerError(problem, "let the server sleep at level 1, or start a server that accepts no adapters")
        self._send("POST", f"/sleep?level={level}", None, SLEEP_TIMEOUT_S)

    def wake(self) -> None:
        """Wake the server: move the weights back to the GPU."""
        self._send("POST", "/wake_up", None, SLEEP_TIMEOUT_S)

    def is_asleep(self) -> bool:
        """Whether the server is in sleep mode."""
        return bool(json.loads(self._send("GET", "/is_sleeping", None, QUICK_TIMEOUT_S))["is_sleeping"])

    def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        """Send one request to `/v1/completions`; return the response."""
        response: dict[str, Any] = json.loads(self._send("POST", "/v1/completions", body, LOAD_TIMEOUT_S))
        return response

    def _send(self, method: str, path: str, body: dict[str, Any] | None, timeout_s: float) -> bytes:
        """Send one request and return the body of the response.

        Raises:
            ServerError: the server answers with an error, or does not answer within `timeout_s`.
        """
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._root + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with _DIRECT_OPENER.open(request, timeout=timeout_s) as response:
                return bytes(response.read())
        except urllib.error.HTTPError as error:
            reason = _read_reason(error.read())
            raise ServerError(f"{self._root}{path} answered {error.code}: {reason}", LOG_FIX) from error
        except (OSError, ValueError) as error:
            raise ServerError(f"{self._root}{path} does not answer: {error}", LOG_FIX) from error


def _read_metric(line: str) -> float:
    """The value at the end of a line of Prometheus metrics."""
    return float(line.rsplit(" ", 1)[1])


def _read_reason(body: bytes) -> str:
    """vLLM's message in the body of an error; the beginning of the body if it contains no message."""
    try:
        document = json.loads(body)
        error = document.get("error", document)  # older versions of vLLM have no inner "error"
        return str(error["message"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return body.decode(errors="replace")[:500]
