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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--rows", type=int, nargs="+", default=[4, 8, 16, 32])
    parser.add_argument("--dtype", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--tokens", type=int, default=32)
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
                prefill, step = time_decoding(options.weights, dtype, rows, rows_in_use, options.tokens)
                speed_cell = f"{generate_speed:14.0f}" if rows_in_use == rows else ""
                step_ms, tokens_per_s = step * 1e3, rows_in_use / step
                print(
                    f"{dtype:>9} {rows:4} {rows_in_use:6} {prefill:13.3f} {step_ms:8.1f} "
                    f"{tokens_per_s:6.0f} {speed_cell}"
                )


def time_decoding(weights: Path, dtype: str, rows: int, rows_in_use: int, tokens: int) -> tuple[float, float]:
    """Median seconds of a prefill and of a decoding step."""
    from nanoflux_local.endpoints.local.decoder import Decoder

    decoder = Decoder(weights, None, rows, "cpu", dtype)
    prefills, steps = [], []
    for row in range(rows_in_use):
        started = time.perf_counter()
        decoder.prefill(row, [5 + (position * row) % 999 for position in range(PROMPT_TOKENS)], PROMPT_TOKENS + tokens)
        prefills.append(time.perf_counter() - started)
    for _ in range(tokens):
        started = time.perf_counter()
        decoder.step([9] * rows)
        steps.append(time.perf_counter() - started)
    return statistics.median(prefills), statistics.median(steps)


def time_generate(weights: Path, dtype: str, rows: int, tokens: int) -> float:
    """Tokens/s of transformers' `generate`, without the prefill."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(str(weights), dtype=getattr(torch, dtype)).eval()
    ids = torch.tensor([[5 + (position * row) % 999 for position in range(PROMPT_TOKENS)] for row in range(rows)])
    seconds = []
    for count in (1, tokens + 1):
        started = time.perf_counter()
        model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False,
                       min_new_tokens=count, max_new_tokens=count, pad_token_id=2)  # fmt: skip
        seconds.append(time.perf_counter() - started)
    return rows * tokens / (seconds[1] - seconds[0])


if __name__ == "__main__":
    main()
