"""Measures the decoding speed of the in-process endpoint for several numbers of rows, with one and with all rows in
use, and the speed of transformers' `generate`.

    python bench/in_process.py WEIGHTS_DIR [--rows 4 8 16 32] [--dtype bfloat16 float32] [--tokens 32]

All measurements alternate within one run, so that their ratios hold even on a busy machine.
"""

import argparse
import statistics
import time
from pathlib import Path

from nanoflux_local.endpoints.local.cores import share_cores
from nanoflux_models.offline import go_offline

PROMPT_TOKENS = 160
"""The number of tokens of each prompt."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", type=Path, help="folder of an installed model")
    parser.add_argument("--rows", type=int, nargs="+", default=[4, 8, 16, 32], help="rows of the endpoint's batch")
    parser.add_argument("--dtype", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--tokens", type=int, default=32, help="tokens of each reply")
    parser.add_argument("--spin", action="store_true", help="let waiting threads spin, which is torch's default")
    options = parser.parse_args()
    go_offline()
    if not options.spin:
        share_cores()
    print("    dtype rows in use prefill s/row  step ms  tok/s generate tok/s")
    for dtype in options.dtype:
        for rows in options.rows:
            generate_speed = time_generate(options.weights, dtype, rows, options.tokens)
            for rows_in_use in (1, rows):
                prefill_s, step_s = time_decoding(options.weights, dtype, rows, rows_in_use, options.tokens)
                generate_cell = f"{generate_speed:14.0f}" if rows_in_use == rows else ""
                tokens_per_s = rows_in_use / step_s
                print(
                    f"{dtype:>9} {rows:4} {rows_in_use:6} {prefill_s:13.3f} {step_s * 1e3:8.1f} "
                    f"{tokens_per_s:6.0f} {generate_cell}"
                )


def time_decoding(weights: Path, dtype: str, rows: int, rows_in_use: int, tokens: int) -> tuple[float, float]:
    """Median seconds of the prefill of a row, and of a decoding step of the in-process endpoint."""
    from nanoflux_local.endpoints.local.decoder import Decoder

    decoder = Decoder(weights, None, rows, "cpu", dtype)
    prefill_times = []
    step_times = []
    for row in range(rows_in_use):
        start = time.perf_counter()
        decoder.prefill(row, make_prompt(row), PROMPT_TOKENS + tokens)
        prefill_times.append(time.perf_counter() - start)
    next_token_ids = [9] * rows  # any token; the speed does not depend on it
    for _ in range(tokens):
        start = time.perf_counter()
        decoder.step(next_token_ids)
        step_times.append(time.perf_counter() - start)
    return statistics.median(prefill_times), statistics.median(step_times)


def make_prompt(row: int) -> list[int]:
    """`PROMPT_TOKENS` arbitrary token ids, which differ from row to row."""
    return [5 + (position * row) % 999 for position in range(PROMPT_TOKENS)]


def time_generate(weights: Path, dtype: str, rows: int, tokens: int) -> float:
    """Tokens/s of transformers' `generate`, without the prefill: the time of a one-token reply is subtracted."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(str(weights), dtype=getattr(torch, dtype)).eval()
    ids = torch.tensor([make_prompt(row) for row in range(rows)])
    seconds = []
    for count in (1, tokens + 1):
        start = time.perf_counter()
        model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False,
                       min_new_tokens=count, max_new_tokens=count, pad_token_id=2)  # fmt: skip
        seconds.append(time.perf_counter() - start)
    return rows * tokens / (seconds[1] - seconds[0])


if __name__ == "__main__":
    main()
