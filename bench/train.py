"""Compares the training speed of our loop, a plain PEFT loop and, if it is installed, TRL's SFTTrainer.

    python bench/train.py [MODEL_FOLDER] [--examples 200] [--threads 2] [--arm ours --arm plain …]

All arms have the same base, rows, LoRA settings, precision and steps. Each runs in a separate process, so that its
peak memory can be measured. Padding does not count as tokens. If other programs share the cores, pass --threads 1
and compare CPU seconds. At the end, the script prints the ratios of tokens per second of wall time and of peak memory.

TRL pins different versions of our dependencies, so its arms run in the virtual environment below if it exists, else in
the current one:

    python3 -m venv .nanoflux/trl-venv
    .nanoflux/trl-venv/bin/pip install torch==2.13.0 trl==1.16.0 datasets==5.2.0 peft==0.21.2 transformers==5.23.0
"""

import argparse
import json
import math
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nanoflux_local.train.data import Codec, EncodedExample, TrainingExample
from nanoflux_local.train.rows import read_rows, write_rows

ROOT = Path(__file__).parents[1]
TRL_PYTHON = ROOT / ".nanoflux" / "trl-venv" / "bin" / "python"
TRAIN, HELD_OUT = "train.jsonl", "held-out.jsonl"
"""The names of the files with the rows."""
HELD_OUT_ROWS = 24
MAX_LENGTH = 512
"""The maximum number of tokens of a row."""


def write_data(count: int, folder: Path) -> None:
    """Write word problems of the starter domain, about 260 tokens and 50 label tokens each: `count` problems
    instantiated from the train templates, and `HELD_OUT_ROWS` from the dev templates, on which no arm trains.
    """
    from nanoflux_local.domains.own import load_domain
    from nanoflux_local.domains.starter.templates import load_templates
    from nanoflux_local.records import derive_seed
    from nanoflux_local.seeds.benchmarks.starter import make_starter_items
    from nanoflux_local.seeds.source import instantiate
    from nanoflux_local.train.conversation import build_training_example

    templates = [template for template in load_templates() if template.split == "train"]
    train_items = []
    for index in range(count):  # the templates take turns
        number, position = divmod(index, len(templates))
        template = templates[position]
        rng = random.Random(derive_seed("bench", template.id, number))
        train_items.append(instantiate(template, rng, number))
    held_out_items = make_starter_items("dev")[:HELD_OUT_ROWS]
    domain = load_domain("starter")
    for name, items in ((TRAIN, train_items), (HELD_OUT, held_out_items)):
        rows = [
            build_training_example(domain, domain.budgets, item.question, item.solution, item.answer, item.id)
            for item in items
        ]
        write_rows(folder / name, rows)


ArmResult = tuple[Callable[[], Any], dict[str, Any]]
"""The result of an arm: a function that loads its trained model, and its figures by name. `loop_s` is the time of the
training loop alone.
"""


def train_with_our_loop(base: Path, rows: Sequence[TrainingExample], out: Path, threads: int) -> ArmResult:
    """Train with the training loop of this project."""
    from nanoflux_local.train.lora import train
    from nanoflux_local.train.settings import TrainSettings

    settings = TrainSettings(epochs=1, val_fraction=0, threads=threads, checkpoint_every=10**6)
    start = read_clocks()
    result = train(settings, rows, (), base, out)
    figures = measure_since(start) | {"loop_s": result.seconds, "last_losses": mean(result.train_losses[-10:])}
    return lambda: load_with_adapter(base, out / "adapter"), figures


def load_with_adapter(base: Path, adapter: Path) -> Any:
    """The base model with an adapter in PEFT's format."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype="bfloat16")
    return PeftModel.from_pretrained(model, adapter)


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def train_with_plain_peft(base: Path, rows: Sequence[TrainingExample], _out: Path, threads: int) -> ArmResult:
    """Train with a short loop and unmodified PEFT. Rows are padded to `MAX_LENGTH` with a mask, and logits are computed
    for every position.
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from torch.nn import functional as F
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    start = read_clocks()
    base_model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    model = get_peft_model(base_model, LoraConfig(**make_lora_settings()))
    codec = Codec.load(base)
    encoded = [codec.encode(row, number, MAX_LENGTH) for number, row in enumerate(rows)]
    random.Random(0).shuffle(encoded)
    trained_weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained_weights, lr=2e-4, weight_decay=0.0)
    steps = math.ceil(len(encoded) / 4)
    losses = []
    loop_start = time.perf_counter()
    model.train()
    for step in range(steps):
        ids, mask, labels = pad_rows(encoded[4 * step : 4 * step + 4])
        optimizer.param_groups[0]["lr"] = 2e-4 * (1 - step / steps)
        logits = model(input_ids=ids, attention_mask=mask).logits.float()
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
        loss.backward()
        losses.append(float(loss))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    figures = measure_since(start) | {"loop_s": time.perf_counter() - loop_start, "last_losses": mean(losses[-10:])}
    return lambda: model, figures


def train_with_trl(base: Path, rows: Sequence[TrainingExample], out: Path, threads: int, packing: bool) -> ArmResult:
    """Train with TRL's SFTTrainer. If `packing` is true, several rows share one sequence."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    torch.set_num_threads(threads)
    start = read_clocks()
    conversations = []
    for row in rows:
        prompt = [{"role": message.role, "content": message.content} for message in row.prompt]
        completion = [{"role": "assistant", "content": row.completion}]
        conversations.append({"prompt": prompt, "completion": completion})
    config = SFTConfig(
        output_dir=str(out),
        per_device_train_batch_size=4,
        num_train_epochs=1,
        learning_rate=2e-4,
        lr_scheduler_type="linear",
        max_length=MAX_LENGTH,
        completion_only_loss=True,
        packing=packing,
        use_cpu=not torch.cuda.is_available(),
        bf16=True,
        gradient_checkpointing=False,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        logging_steps=1,
        dataloader_pin_memory=False,
    )
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16),
        args=config,
        train_dataset=Dataset.from_list(conversations),
        processing_class=AutoTokenizer.from_pretrained(base),
        peft_config=LoraConfig(**make_lora_settings()),
    )
    loop_start = time.perf_counter()
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    figures = measure_since(start) | {"loop_s": time.perf_counter() - loop_start, "last_losses": mean(losses[-10:])}
    return lambda: trainer.model, figures | {"steps": trainer.state.global_step}


def make_lora_settings() -> dict[str, Any]:
    """The arguments for PEFT's LoraConfig that give the same LoRA as our default settings."""
    return {
        "task_type": "CAUSAL_LM",
        "r": 8,
        "lora_alpha": 32,
        "lora_dropout": 0.05,
        "target_modules": "all-linear",
    }


def pad_rows(rows: Sequence[EncodedExample]) -> tuple[Any, Any, Any]:
    """The token ids, attention mask and labels of a batch, each of shape (rows, `MAX_LENGTH`)."""
    import torch

    ids = torch.zeros(len(rows), MAX_LENGTH, dtype=torch.long)
    mask = torch.zeros_like(ids)
    labels = torch.full_like(ids, -100)
    for number, row in enumerate(rows):
        completion = slice(row.prompt_length, len(row.ids))
        ids[number, : len(row.ids)] = torch.tensor(row.ids)
        mask[number, : len(row.ids)] = 1
        labels[number, completion] = ids[number, completion]
    return ids, mask, labels


ARMS: dict[str, Callable[..., ArmResult]] = {
    "ours": train_with_our_loop,
    "plain": train_with_plain_peft,
    "trl": lambda base, rows, out, threads: train_with_trl(base, rows, out, threads, packing=False),
    "trl-packed": lambda base, rows, out, threads: train_with_trl(base, rows, out, threads, packing=True),
}
"""The compared ways to train, by name."""


def read_clocks() -> tuple[float, float]:
    """The wall time, and the CPU time of this process, in seconds."""
    return time.perf_counter(), time.process_time()


def measure_since(start: tuple[float, float]) -> dict[str, float]:
    """The wall seconds and the CPU seconds since `start`, a value of `read_clocks`."""
    wall, cpu = read_clocks()
    return {"wall_s": wall - start[0], "cpu_s": cpu - start[1]}


def measure_held_out_loss(model: Any, base: Path, held_out: Sequence[TrainingExample]) -> float:
    """The loss on the held-out rows in nats per label token. It is measured in the same way for every arm, one row at a
    time.
    """
    import torch
    from torch.nn import functional as F

    codec = Codec.load(base)
    loss_sum = 0.0
    label_count = 0
    model.eval()
    for number, example in enumerate(held_out):
        row = codec.encode(example, number, MAX_LENGTH)
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([row.ids])).logits[0, row.prompt_length - 1 : -1].float()
        labels = torch.tensor(row.ids[row.prompt_length :])
        loss_sum += float(F.cross_entropy(logits, labels, reduction="sum"))
        label_count += row.label_count
    return loss_sum / label_count


def run_arm(arm: str, base: Path, data: Path, threads: int) -> dict[str, Any]:
    """Train one arm in this process. Returns its figures with the loss on the held-out rows."""
    rows = read_rows(data / TRAIN)
    held_out = read_rows(data / HELD_OUT)
    codec = Codec.load(base)
    tokens = sum(len(codec.encode(row, number, MAX_LENGTH).ids) for number, row in enumerate(rows))
    with tempfile.TemporaryDirectory() as out:
        load_model, figures = ARMS[arm](base, rows, Path(out), threads)
        peak_bytes = read_peak_bytes()
        held_out_loss = measure_held_out_loss(load_model(), base, held_out)
    speed = {"arm": arm, "tokens": tokens, "tokens_per_s": tokens / figures["loop_s"], "peak_bytes": peak_bytes}
    return {**speed, **figures, "held_out_loss": held_out_loss}


def read_peak_bytes() -> int:
    """The peak memory of this process. Unlike `getrusage`, this excludes the parent's peak, which a child inherits."""
    match = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    return int(match[1]) * 1024 if match else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    home = Path(os.environ.get("NANOFLUX_HOME") or ROOT / ".nanoflux" / "test-home")
    default_base = home / "weights" / "smollm2-135m"
    parser.add_argument("base", type=Path, nargs="?", default=default_base, help="folder of the model to train")
    parser.add_argument("--examples", type=int, default=200, help="training rows")
    parser.add_argument("--threads", type=int, default=2, help="threads that torch uses")
    parser.add_argument("--arm", action="append", choices=list(ARMS), help="arm to measure; repeatable (default: all)")
    parser.add_argument(
        "--data",
        dest="data_dir",
        type=Path,
        help="directory with the rows; runs the first --arm in this process (used by the parent process)",
    )
    options = parser.parse_args()
    if options.data_dir:
        print("RESULT " + json.dumps(run_arm(options.arm[0], options.base, options.data_dir, options.threads)))
        return
    with tempfile.TemporaryDirectory() as data_dir:
        write_data(options.examples, Path(data_dir))
        all_results = [measure(arm, options, data_dir) for arm in options.arm or ARMS]
    results = [result for result in all_results if result is not None]
    if results:
        first_result, *other_results = results
        for result in other_results:
            print_comparison(first_result, result)


def print_comparison(first: dict[str, Any], second: dict[str, Any]) -> None:
    """Print the figures of the first arm relative to those of the second."""
    speed_ratio = first["tokens_per_s"] / second["tokens_per_s"]
    memory_ratio = first["peak_bytes"] / second["peak_bytes"]
    loss_difference = first["held_out_loss"] - second["held_out_loss"]
    print(
        f"{first['arm']} / {second['arm']}: {speed_ratio:.2f} times the tokens/s, {memory_ratio:.2f} times the memory, "
        f"held-out loss {loss_difference:+.4f}"
    )


def measure(arm: str, options: argparse.Namespace, data: str) -> dict[str, Any] | None:
    """Run one arm in a separate process. If that fails, for instance because TRL is missing, print the reason to stderr
    and return None.
    """
    arguments = ["--data", data, "--arm", arm, "--threads", str(options.threads)]
    python = str(TRL_PYTHON) if arm.startswith("trl") and TRL_PYTHON.exists() else sys.executable
    command = [python, __file__, str(options.base), *arguments]
    python_path = os.pathsep.join(str(ROOT / folder) for folder in ("", "models", "sandbox"))
    environment = {**os.environ, "PYTHONPATH": python_path}
    completed = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    result_lines = [line for line in completed.stdout.splitlines() if line.startswith("RESULT ")]
    if not result_lines:
        error_lines = completed.stderr.strip().splitlines()
        print(f"{arm}: not measured: {error_lines[-1] if error_lines else '?'}", file=sys.stderr)
        return None
    result: dict[str, Any] = json.loads(result_lines[0].removeprefix("RESULT "))
    print(json.dumps(result), flush=True)
    return result


if __name__ == "__main__":
    main()
