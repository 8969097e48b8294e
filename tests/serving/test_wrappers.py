"""A real vLLM serves stand-ins for two models of the A100 profiles: a multimodal model, of which it loads only the
language model, and a mixture of experts.
"""

import json
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nanoflux_models.architecture import has_experts, is_wrapper
from nanoflux_models.stand_ins import FAMILIES, make_stand_in
from nanoflux_models.stand_ins.gpt_oss import read_harmony_vocabulary
from nanoflux_models.weights import import_path, weights_dir

GEMMA = "own-gemma"
"""The name of the multimodal model. It is not in the catalog, so it is served with the manifest that the import
writes.
"""
GPT_OSS = "gpt-oss-20b"
TEXTS = ["What is the number? QUESTION: SOLUTION: ANSWER: 12"] * 3
"""The texts on which the stand-ins' tokenizers are trained."""
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII="
"""A PNG image of one pixel in base64."""
SERVER_OPTIONS = ("--arg=--enforce-eager", "--arg=--max-num-seqs=4", "--context", "512")
"""Options that let a server start quickly and save memory."""


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory: pytest.TempPathFactory, vllm_python: str) -> Path:
    """A home with the stand-ins GEMMA and GPT_OSS."""
    folder = tmp_path_factory.mktemp("stand-ins")
    gemma_weights = make_stand_in(FAMILIES["Gemma3ForConditionalGeneration"], folder / "gemma", TEXTS)
    import_path(gemma_weights, GEMMA, folder / "home")
    vocabulary = read_harmony_vocabulary(Path(vllm_python))
    gpt_oss_weights = make_stand_in(FAMILIES["GptOssForCausalLM"], folder / "oss", TEXTS, vocabulary)
    import_path(gpt_oss_weights, GPT_OSS, folder / "home")
    return folder / "home"


@pytest.fixture
def serve(stand_ins: Path, vllm_python: str, command: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """A function `serve(NAME, …)` that starts a server. It returns the server's JSON, or the process if it failed.

    The servers are stopped after the test.
    """

    def start(name: str, *options: str, python: str = vllm_python) -> Any:
        process = command(stand_ins, python, "models", "serve", name, *SERVER_OPTIONS, *options, "--json", timeout=500)
        return process if process.returncode else json.loads(process.stdout)

    try:
        yield start
    finally:
        command(stand_ins, vllm_python, "models", "stop", "--all")


def ask(url: str, model: str, content: Any = "What is the number?") -> dict[str, Any]:
    """The first choice in the response to a greedy request with this content."""
    message = {"role": "user", "content": content}
    body = {"model": model, "messages": [message], "max_tokens": 8, "temperature": 0, "ignore_eos": True}
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/chat/completions", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=120) as response:
        choice: dict[str, Any] = json.load(response)["choices"][0]
    return choice


def test_multimodal_model_is_served_as_its_language_model(
    serve: Callable[..., Any], stand_ins: Path, tmp_path: Path
) -> None:
    assert is_wrapper(weights_dir(GEMMA, stand_ins)) and not has_experts(weights_dir(GEMMA, stand_ins))
    server = serve(GEMMA)
    choice = ask(server["url"], GEMMA)
    assert choice["finish_reason"] == "length" and choice["message"]["content"]
    log = Path(server["log"]).read_text()
    assert "/v1/load_lora_adapter" in log, "the server cannot load adapters"
    assert "api_server` is deprecated" not in log and "command is deprecated" not in log
    pixel = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}
    with pytest.raises(urllib.error.HTTPError, match="400"):  # no vision tower is loaded
        ask(server["url"], GEMMA, [pixel, {"type": "text", "text": "What is it?"}])


def test_mixture_of_experts_is_served_without_adapter_buffers(serve: Callable[..., Any], stand_ins: Path) -> None:
    """With adapter buffers, vLLM for CPUs crashes on the first request to a mixture of experts."""
    assert has_experts(weights_dir(GPT_OSS, stand_ins)) and not is_wrapper(weights_dir(GPT_OSS, stand_ins))
    server = serve(GPT_OSS)
    choice = ask(server["url"], GPT_OSS)
    assert choice["finish_reason"] == "length"
    assert "/v1/load_lora_adapter" not in Path(server["log"]).read_text()


def test_error_on_serving_a_multimodal_model_without_torchvision_names_the_module(
    serve: Callable[..., Any], tmp_path: Path, vllm_python: str
) -> None:
    (tmp_path / "torchvision.py").write_text("raise ModuleNotFoundError(\"No module named 'torchvision'\")\n")
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\nPYTHONPATH='{tmp_path}':\"$PYTHONPATH\" exec '{vllm_python}' \"$@\"\n")
    python.chmod(0o700)
    process = serve(GEMMA, python=os.fspath(python))
    assert process.returncode == 1 and "the Python module torchvision is missing" in process.stderr, process.stderr
    assert "make vllm" in process.stderr and "know the model's architecture" not in process.stderr
