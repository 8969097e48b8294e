"""Measures our client against a real vLLM: tokens/s at 1, 8 and 32 concurrent requests, compared with OpenAI's SDK.

    python bench/pool.py [--rounds 4] [--tokens 64] [--width 32 …]      # needs `make vllm`

Client and SDK send the same greedy requests to one server. They alternate, in reversed order from round to round, so
that other load affects both. The result is the ratio of their speeds, which must be at least 0.95.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from nanoflux_local.endpoints.remote.openai_chat import OpenAIChatEndpoint
from nanoflux_local.records import ChatRequest, Message, Sampling

PROJECT = Path(__file__).parents[1]
MODEL = "smollm2-135m"
WIDTHS = (1, 8, 32)
"""The numbers of concurrent requests at which the speed is measured."""
MIN_RATIO = 0.95
"""The smallest ratio of our client's speed to the SDK's with which the benchmark passes."""
SendQuestion = Callable[[str, int], Awaitable[int]]
"""Sends a question with a seed, and returns the number of completion tokens."""


def run_command(home: Path, *words: str) -> dict[str, Any]:
    """Run a command of NanoFlux with `--json`. Returns the document that it prints."""
    command = [sys.executable, "-m", "nanoflux_local.cli", *words, "--json"]
    vllm_python = str(PROJECT / ".venv-vllm/bin/python")
    environment = {"NANOFLUX_VLLM_PYTHON": vllm_python, **os.environ, "NANOFLUX_HOME": str(home)}
    result = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True)
    document: dict[str, Any] = json.loads(result.stdout)
    return document


async def measure_speed(ask: SendQuestion, width: int, round_number: int) -> float:
    """Measure the tokens/s of `4 * width` requests (at least 8), of which `width` are concurrent. The questions of each
    round are different, so that no prompt is cached.
    """
    slots = asyncio.Semaphore(width)

    async def ask_question(question: int) -> int:
        async with slots:
            return await ask(f"Tell me a story about the number {question}.", question)

    first_question = 1000 * round_number
    questions = range(first_question, first_question + max(8, 4 * width))
    start = time.perf_counter()
    completion_tokens = await asyncio.gather(*map(ask_question, questions))
    return sum(completion_tokens) / (time.perf_counter() - start)


async def measure(url: str, widths: Sequence[int], rounds: int, tokens: int) -> dict[int, dict[str, float]]:
    """The median tokens/s of the SDK and of our client, and the median of their paired ratios, by width."""
    import openai

    sdk_client = openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0)
    pool = OpenAIChatEndpoint(MODEL, url, capacity=max(WIDTHS))

    async def ask_by_sdk(text: str, seed: int) -> int:
        messages: Any = [{"role": "user", "content": text}]
        response = await sdk_client.chat.completions.create(
            model=MODEL, messages=messages, temperature=0.0, max_tokens=tokens, seed=seed
        )
        return response.usage.completion_tokens if response.usage else 0

    async def ask_by_pool(text: str, seed: int) -> int:
        sampling = Sampling(max_tokens=tokens)
        reply = await pool.chat(ChatRequest(pool.identity, (Message("user", text),), sampling, seed))
        return reply.completion_tokens

    figures: dict[int, dict[str, float]] = {}
    for width in widths:
        speeds: dict[SendQuestion, list[float]] = {ask_by_sdk: [], ask_by_pool: []}
        for round_number in range(rounds + 1):
            order = (ask_by_sdk, ask_by_pool) if round_number % 2 else (ask_by_pool, ask_by_sdk)
            for ask in order:
                speed = await measure_speed(ask, width, round_number)
                if round_number > 0:  # round 0 warms up
                    speeds[ask].append(speed)
        sdk_speeds = speeds[ask_by_sdk]
        pool_speeds = speeds[ask_by_pool]
        ratios = [pool_speed / sdk_speed for sdk_speed, pool_speed in zip(sdk_speeds, pool_speeds, strict=True)]
        figures[width] = {
            "sdk": statistics.median(sdk_speeds),
            "pool": statistics.median(pool_speeds),
            "ratio": statistics.median(ratios),
        }
    await pool.close()
    await sdk_client.close()
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4, help="pairs of series at each width (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=64, help="maximum tokens of a reply (default: %(default)s)")
    parser.add_argument(
        "--width", type=int, action="append", help=f"concurrent requests; repeatable (default: {WIDTHS})"
    )
    options = parser.parse_args()
    weights = Path(os.environ.get("NANOFLUX_HOME", PROJECT / ".nanoflux/test-home")) / "weights"
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        (home / "weights").symlink_to(weights.resolve())
        serve_options = ("--context", "2048", "--arg=--enforce-eager", f"--arg=--max-num-seqs={max(WIDTHS)}")
        url = run_command(home, "models", "serve", MODEL, *serve_options)["url"]
        try:
            figures_by_width = asyncio.run(measure(url, options.width or WIDTHS, options.rounds, options.tokens))
        finally:
            run_command(home, "models", "stop", "--all")
    for width, figures in figures_by_width.items():
        print(f"{width:3d} concurrent: {figures['sdk']:7.1f} tokens/s by the SDK, {figures['pool']:7.1f} by the pool, "
              f"ratio {figures['ratio']:.3f}")  # fmt: skip
    return 0 if all(figures["ratio"] >= MIN_RATIO for figures in figures_by_width.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
