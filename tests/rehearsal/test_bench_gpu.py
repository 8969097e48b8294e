"""The benchmark bench/gpu.py measures every part at tiny size on a CPU; at full size, it needs a GPU."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

PROGRAM = Path(__file__).parents[2] / "bench" / "gpu.py"


def run_bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the benchmark in a new process."""
    return subprocess.run([sys.executable, str(PROGRAM), *arguments], capture_output=True, text=True, check=False)


def test_gpu_bench_measures_every_part_at_tiny_size() -> None:
    process = run_bench("--size", "tiny")
    assert process.returncode == 0, process.stderr
    report_start = process.stdout.index("{")  # after the progress lines
    report = json.loads(process.stdout[report_start:])
    for part in ("in_process", "lora", "qlora"):
        assert report[part].get("tokens_per_s", 0) > 0, report[part]
    assert report["novelty"]["query_ms"] > 0 and report["weights"]["gib"] > 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpu_bench_refuses_full_size_without_a_gpu() -> None:
    process = run_bench()
    assert process.returncode == 3 and "needs a GPU" in process.stderr
