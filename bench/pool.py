"""What our client costs over a real vLLM: tokens a second at 1, 8 and 32 requests at once, against the raw SDK's.

    python bench/pool.py [--rounds 4] [--tokens 64] [--width 32 …]      # needs `make vllm`

Both ask the same greedy questions of one server, in turns whose order is reversed from round to round, so that a
machine that slows down slows both. The figure is the ratio; 0.95 is the least that is accepted.
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
LEAST = 0.95
Ask = Callable[[str, int], Awaitable[int]]
"""Sends a question, seeded, and gives how many tokens were written."""


def command(home: Path, *words: str) -> dict[str, Any]:
    environment = {
        "NANOFLUX_VLLM_PYTHON": str(PROJECT / ".venv-vllm/bin/python"),
        **os.environ,
        "NANOFLUX_HOME": str(home),
    }
    done = subprocess.run(
        [sys.executable, "-m", "nanoflux_local.cli", *words, "--json"],
        env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout)
    return found


async def speed(ask: Ask, width: int, number: int) -> float:
    """Tokens a second of four times `width` requests, `width` at once; `number` tells this series from others."""
    room = asyncio.Semaphore(width)

    async def one(question: int) -> int:
        async with room:
            return await ask(f"Tell me a story about the number {question}.", question)

    began = time.perf_counter()
    written = await asyncio.gather(*(one(1000 * number + question) for question in range(max(8, 4 * width))))
    return sum(written) / (time.perf_counter() - began)


async def measured(url: str, widths: Sequence[int], rounds: int, tokens: int) -> dict[int, dict[str, float]]:
    import openai

    raw = openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0)
    pool = OpenAIChatEndpoint(MODEL, url, capacity=max(WIDTHS))

    async def by_sdk(text: str, seed: int) -> int:
        messages: Any = [{"role": "user", "content": text}]
        reply = await raw.chat.completions.create(
            model=MODEL, messages=messages, temperature=0.0, max_tokens=tokens, seed=seed
        )
        return reply.usage.completion_tokens if reply.usage else 0

    async def by_pool(text: str, seed: int) -> int:
        sampling = Sampling(max_tokens=tokens)
        return (await pool.chat(ChatRequest(pool.identity, (Message("user", text),), sampling, seed))).completion_tokens

    found: dict[int, dict[str, float]] = {}
    for width in widths:
        speeds: dict[Ask, list[float]] = {by_sdk: [], by_pool: []}
        for number in range(rounds + 1):  # the first is for warming up
            for ask in (by_sdk, by_pool) if number % 2 else (by_pool, by_sdk):
                one = await speed(ask, width, number)
                speeds[ask] += [one] if number else []
        sdk, ours = (statistics.median(speeds[ask]) for ask in (by_sdk, by_pool))
        ratio = statistics.median(b / a for a, b in zip(*speeds.values(), strict=True))
        found[width] = {"sdk": sdk, "pool": ours, "ratio": ratio}
    await pool.close()
    await raw.close()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4, help="pairs of series at each width (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=64, help="tokens of a reply at most (default: %(default)s)")
    parser.add_argument("--width", type=int, action="append", help=f"requests at once (default: {WIDTHS})")
    given = parser.parse_args()
    weights = Path(os.environ.get("NANOFLUX_HOME", PROJECT / ".nanoflux/test-home")) / "weights"
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        (home / "weights").symlink_to(weights.resolve())
        lean = ("--context", "2048", "--arg=--enforce-eager", f"--arg=--max-num-seqs={max(WIDTHS)}")
        url = command(home, "models", "serve", MODEL, *lean)["url"]
        try:
            found = asyncio.run(measured(url, given.width or WIDTHS, given.rounds, given.tokens))
        finally:
            command(home, "models", "stop", "--all")
    for width, figures in found.items():
        print(f"{width:3d} at once: {figures['sdk']:7.1f} tokens/s by the SDK, {figures['pool']:7.1f} by the pool, "
              f"ratio {figures['ratio']:.3f}")  # fmt: skip
    return 0 if all(figures["ratio"] >= LEAST for figures in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
