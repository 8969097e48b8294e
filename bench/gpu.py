"""Measures Gemma 3 4B on a GPU (the in-process endpoint, LoRA and QLoRA training), and the novelty index on the CPU.

    python bench/gpu.py [--size true|tiny] [--limit-s 480] [--rows 32] [--examples 64]

The model has the published sizes and random weights drawn on the GPU, so nothing is downloaded; memory and speed are
those of the real model. The output is one JSON document: tokens/s, torch's peak memory, and nvidia-smi's figures. The
novelty index uses numpy on the CPU; its query is measured while the GPU is idle. Measurements that would start in the
last quarter of the limit, or later, are reported as left out. `tiny` runs on a CPU in seconds, to test this file; its
figures are meaningless.
"""

import argparse
import asyncio
import json
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nanoflux_local.records import ChatRequest, Message, Sampling
from nanoflux_local.run.novelty import NoveltyIndex
from nanoflux_local.train.data import TrainingExample
from nanoflux_models.gpus import query_gpus
from nanoflux_models.manifest import load_manifest
from nanoflux_models.offline import go_offline
from nanoflux_models.stand_ins import find_family, make_stand_in
from nanoflux_models.weights import import_path

MODEL = "gemma-3-4b-it"
SAMPLE_S = 0.5
"""The seconds between two samples of the GPU's figures."""


@dataclass(frozen=True, slots=True)
class Size:
    """The sizes of the model and of its load.

    If `is_true_size`, the model has its published sizes; otherwise it is tiny. `rows` is the number of concurrent
    requests, each with a reply of `reply_tokens` tokens. `examples` is the number of training rows of about 400 tokens.
    The novelty index contains `questions` vectors of `dimensions` numbers.
    """

    is_true_size: bool
    rows: int
    reply_tokens: int
    examples: int
    questions: int
    dimensions: int


@dataclass(slots=True)
class Usage:
    """Samples of the first GPU during a measurement: its utilisation in percent, and its used memory in MiB."""

    utilisation: list[float] = field(default_factory=list)
    memory_mib: list[float] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The mean utilisation and the peak memory; {} without samples."""
        if not self.utilisation:
            return {}
        return {
            "gpu_utilisation_percent": round(statistics.mean(self.utilisation)),
            "gpu_memory_gib": round(max(self.memory_mib) / 1024, 1),
        }


@contextmanager
def sample_gpu() -> Iterator[Usage]:
    """Sample the first GPU in a thread until the context ends; without nvidia-smi, there are no samples."""
    usage = Usage()
    stop = threading.Event()
    nvidia_smi = shutil.which("nvidia-smi")

    def read_samples() -> None:
        while nvidia_smi and not stop.wait(SAMPLE_S):
            lines, _ = query_gpus(nvidia_smi, "utilization.gpu,memory.used")
            figures = [float(part) for part in lines[0].split(",")] if lines else []
            if len(figures) == 2:
                usage.utilisation.append(figures[0])
                usage.memory_mib.append(figures[1])

    sampler = threading.Thread(target=read_samples, daemon=True)
    sampler.start()
    try:
        yield usage
    finally:
        stop.set()
        sampler.join()


def make_model(folder: Path, home: Path, size: Size, device: str) -> dict[str, Any]:
    """Draw the weights and install them in `home`, from which the endpoint and the trainer load them. Returns the size
    of the installed files in GiB.
    """
    family = find_family(load_manifest(MODEL, folder).architecture)
    sizes = family.build_config(MODEL) if size.is_true_size else None
    texts = [f"What is {number} and {number}? ANSWER: {2 * number}" for number in range(100)]
    make_stand_in(family, folder, texts, overrides=sizes, device=device)
    installed_folder = import_path(folder, MODEL, home)
    shutil.rmtree(folder)
    installed_bytes = sum(path.stat().st_size for path in installed_folder.iterdir())
    return {"gib": round(installed_bytes / 2**30, 2)}


def measure_decoding(folder: Path, size: Size, device: str) -> dict[str, Any]:
    """Measure the tokens/s of the in-process endpoint with all its rows in use."""
    from nanoflux_local.endpoints.local.in_process import InProcessEndpoint

    async def ask_all() -> tuple[int, float]:
        """The completion tokens of all replies, and the seconds until the last of them."""
        endpoint = InProcessEndpoint(folder, rows=size.rows, device=device, system_role=False)
        prompt = "How many apples are left? " * 16
        sampling = Sampling(0.7, 0.95, size.reply_tokens)
        try:
            requests = []
            for number in range(2 * size.rows):
                message = Message("user", f"{number}: {prompt}")
                requests.append(ChatRequest(endpoint.identity, (message,), sampling, seed=number))
            await endpoint.chat(requests[0])  # loads the model
            start = time.perf_counter()
            replies = await asyncio.gather(*(endpoint.chat(request) for request in requests))
            return sum(reply.completion_tokens for reply in replies), time.perf_counter() - start
        finally:
            await endpoint.close()

    tokens, seconds = asyncio.run(ask_all())
    return {"rows": size.rows, "tokens": tokens, "tokens_per_s": round(tokens / seconds, 1)}


def measure_training(folder: Path, size: Size, device: str, qlora: bool) -> dict[str, Any]:
    """Measure the tokens/s of one epoch with the default settings and the manifest's targets."""
    from nanoflux_local.train.lora import train
    from nanoflux_local.train.settings import TrainSettings

    targets = load_manifest(MODEL, folder).lora
    assert targets is not None
    rows = []
    for number in range(size.examples):
        prompt = Message("user", f"{number} apples and {number} pears? " * 24)
        rows.append(TrainingExample((prompt,), "ANSWER: 12 " * 12, str(number)))
    settings = TrainSettings(
        epochs=1, device=device, qlora=qlora, target_modules=targets.targets, val_fraction=0.0, max_length=512
    )
    out = Path(tempfile.mkdtemp(dir=folder.parent))
    result = train(settings, rows, (), folder, out)
    return {"steps": result.steps, "tokens": result.tokens, "tokens_per_s": round(result.tokens / result.seconds, 1)}


def measure_novelty(size: Size) -> dict[str, Any]:
    """Measure the milliseconds of a query against an index of `size.questions` random unit vectors."""
    rng = np.random.default_rng(0)
    index = NoveltyIndex()
    vectors = rng.standard_normal((size.questions, size.dimensions), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    for vector in vectors:
        index.append(vector)
    history = index.history()
    times_ms = []
    for vector in vectors[:9]:
        start = time.perf_counter()
        history.nearest_similarity(vector)
        times_ms.append(1000 * (time.perf_counter() - start))
    query_ms = round(statistics.median(times_ms), 2)
    return {"questions": size.questions, "dimensions": size.dimensions, "query_ms": query_ms}


def measure(work: Callable[[], dict[str, Any]], device: str) -> dict[str, Any]:
    """Run one measurement and add its time and memory. A failure is reported, and the other measurements still run."""
    import torch

    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    with sample_gpu() as usage:
        try:
            figures = work()
        except Exception as error:  # noqa: BLE001 - any failure is a result of the benchmark
            figures = {"error": f"{type(error).__name__}: {error}"}
    if device != "cpu":
        figures["torch_peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
        torch.cuda.empty_cache()
    return {**figures, **usage.to_json(), "seconds": round(time.perf_counter() - start, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("true", "tiny"), default="true", help="size of the model and of its load")
    parser.add_argument("--limit-s", type=float, default=480.0, help="seconds after which no measurement starts")
    parser.add_argument("--rows", type=int, default=32, help="concurrent requests")
    parser.add_argument("--examples", type=int, default=64, help="training rows")
    options = parser.parse_args()
    go_offline()
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    is_true_size = options.size == "true"
    if is_true_size and device == "cpu":
        parser.exit(3, "a model of true size needs a GPU, and torch finds none: pass --size tiny\n")
    size = Size(is_true_size=False, rows=2, reply_tokens=8, examples=4, questions=1_000, dimensions=64)
    if is_true_size:
        size = Size(
            is_true_size=True, rows=options.rows, reply_tokens=128, examples=options.examples, questions=100_000,
            dimensions=1536,
        )  # fmt: skip
    start = time.monotonic()
    report: dict[str, Any] = {"model": MODEL, "size": options.size, "device": device}
    if device == "cuda":
        report["gpu"] = torch.cuda.get_device_name()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "weights" / MODEL
        parts: dict[str, Callable[[], dict[str, Any]]] = {
            "weights": lambda: make_model(Path(scratch) / "drawn", Path(scratch), size, device),
            "in_process": lambda: measure_decoding(folder, size, device),
            "lora": lambda: measure_training(folder, size, device, qlora=False),
            "qlora": lambda: measure_training(folder, size, device, qlora=True),
            "novelty": lambda: measure_novelty(size),
        }
        for name, work in parts.items():
            is_late = time.monotonic() - start > options.limit_s * 0.75  # the longest part needs less than a quarter
            if is_late:
                report[name] = {"left_out": f"{options.limit_s:g} s were nearly over"}
            else:
                report[name] = measure(work, device)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
