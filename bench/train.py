"""Compares the training speed of our loop, a plain PEFT loop and, if it is installed, TRL's SFTTrainer.

    python bench/train.py [MODEL_FOLDER] [--examples 200] [--threads 2] [--arm ours --arm plain …]

All arms have the same base, rows, LoRA settings, precision and steps. Each runs in a separate process, so that its
peak memory can be measured. Padding does not count as tokens. If other programs share the cores, pass --threads 1
and compare CPU seconds. The ratios at the end are of tokens per second of wall time, and of peak memory.

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
HELD_OUT_ROWS = 24


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
    rounds = math.ceil(count / len(templates))
    draws = [(template, number) for number in range(rounds) for template in templates][:count]
    train_items = [
        instantiate(template, random.Random(derive_seed("bench", template.id, number)), number)
        for template, number in draws
    ]
    domain = load_domain("starter")
    for name, items in ((TRAIN, train_items), (HELD_OUT, make_starter_items("dev")[:HELD_OUT_ROWS])):
        rows = [
            build_training_example(domain, domain.budgets, item.question, item.solution, item.answer, item.id)
            for item in items
        ]
        write_rows(folder / name, rows)


ArmResult = tuple[Callable[[], Any], dict[str, Any]]
"""The result of an arm: a function that loads its trained model, and its figures; `loop_s` is the time of the training
loop alone.
"""


def train_with_our_loop(base: Path, rows: Sequence[TrainingExample], out: Path, threads: int) -> ArmResult:
    from nanoflux_local.train.lora import train
    from nanoflux_local.train.settings import TrainSettings

    settings = TrainSettings(epochs=1, val_fraction=0, threads=threads, checkpoint_every=10**6)
    start = clock()
    result = train(settings, rows, (), base, out)
    figures = measure_since(start) | {"loop_s": result.seconds, "last_losses": mean(result.train_losses[-10:])}
    return lambda: load_with_adapter(base, out / "adapter"), figures


def load_with_adapter(base: Path, adapter: Path) -> Any:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype="bfloat16")
    return PeftModel.from_pretrained(model, adapter)


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def train_with_plain_peft(base: Path, rows: Sequence[TrainingExample], _out: Path, threads: int) -> ArmResult:
    """A short script: unmodified PEFT, rows padded to 512 with a mask, logits for every position."""
    import torch
    from peft import LoraConfig, get_peft_model
    from torch.nn import functional as F
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    start = clock()
    base_model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    model = get_peft_model(base_model, LoraConfig(**lora_settings()))
    codec = Codec.load(base)
    encoded = [codec.encode(row, number, 512) for number, row in enumerate(rows)]
    random.Random(0).shuffle(encoded)
    optimizer = torch.optim.AdamW(
        [weight for weight in model.parameters() if weight.requires_grad], lr=2e-4, weight_decay=0.0
    )
    steps, losses = math.ceil(len(encoded) / 4), []
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
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    torch.set_num_threads(threads)
    start = clock()
    conversations = [
        {
            "prompt": [{"role": message.role, "content": message.content} for message in row.prompt],
            "completion": [{"role": "assistant", "content": row.completion}],
        }
        for row in rows
    ]
    config = SFTConfig(
        output_dir=str(out),
        per_device_train_batch_size=4,
        num_train_epochs=1,
        learning_rate=2e-4,
        lr_scheduler_type="linear",
        max_length=512,
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
        peft_config=LoraConfig(**lora_settings()),
    )
    loop_start = time.perf_counter()
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    figures = measure_since(start) | {"loop_s": time.perf_counter() - loop_start, "last_losses": mean(losses[-10:])}
    return lambda: trainer.model, figures | {"steps": trainer.state.global_step}


def lora_settings() -> dict[str, Any]:
    return {
        "task_type": "CAUSAL_LM",
        "r": 8,
        "lora_alpha": 32,
        "lora_dropout": 0.05,
        "target_modules": "all-linear",
    }


def pad_rows(rows: Sequence[EncodedExample], length: int = 512) -> tuple[Any, Any, Any]:
    """Token ids, attention mask and labels, each of shape (rows, 512)."""
    import torch

    ids = torch.zeros(len(rows), length, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for number, row in enumerate(rows):
        ids[number, : len(row.ids)] = torch.tensor(row.ids)
        mask[number, : len(row.ids)] = 1
        labels[number, row.prompt_length : len(row.ids)] = ids[number, row.prompt_length : len(row.ids)]
    return ids, mask, labels


ARMS: dict[str, Callable[..., ArmResult]] = {
    "ours": train_with_our_loop,
    "plain": train_with_plain_peft,
    "trl": lambda base, rows, out, threads: train_with_trl(base, rows, out, threads, packing=False),
    "trl-packed": lambda base, rows, out, threads: train_with_trl(base, rows, out, threads, packing=True),
}


def clock() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def measure_since(start: tuple[float, float]) -> dict[str, float]:
    wall, cpu = clock()
    return {"wall_s": wall - start[0], "cpu_s": cpu - start[1]}


def measure_held_out_loss(model: Any, base: Path, held_out: Sequence[TrainingExample]) -> float:
    """The loss in nats per label token, one row at a time, measured in the same way for every arm."""
    import torch
    from torch.nn import functional as F

    codec, loss_sum, label_count = Codec.load(base), 0.0, 0
    model.eval()
    for number, example in enumerate(held_out):
        row = codec.encode(example, number, 512)
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([row.ids])).logits[0, row.prompt_length - 1 : -1].float()
        loss_sum += float(F.cross_entropy(logits, torch.tensor(row.ids[row.prompt_length :]), reduction="sum"))
        label_count += row.label_count
    return loss_sum / label_count


def run_arm(arm: str, base: Path, data: Path, threads: int) -> dict[str, Any]:
    """Train one arm in this process. Returns its figures with the loss on the held-out rows."""
    rows, held_out, codec = read_rows(data / TRAIN), read_rows(data / HELD_OUT), Codec.load(base)
    tokens = sum(len(codec.encode(row, number, 512).ids) for number, row in enumerate(rows))
    with tempfile.TemporaryDirectory() as out:
        load_model, figures = ARMS[arm](base, rows, Path(out), threads)
        peak = read_peak_bytes()
        loss = measure_held_out_loss(load_model(), base, held_out)
    return (
        {"arm": arm, "tokens": tokens, "tokens_per_s": tokens / figures["loop_s"], "peak_bytes": peak}
        | figures
        | {"held_out_loss": loss}
    )


def read_peak_bytes() -> int:
    """The peak memory of this process. Unlike `getrusage`, this excludes the parent's peak, which a child inherits."""
    match = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    return int(match[1]) * 1024 if match else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default_base = (
        Path(os.environ.get("NANOFLUX_HOME") or ROOT / ".nanoflux" / "test-home") / "weights" / "smollm2-135m"
    )
    parser.add_argument("base", type=Path, nargs="?", default=default_base)
    parser.add_argument("--examples", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--arm", action="append", choices=list(ARMS))
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
    for result in results[1:]:
        speed, memory = (results[0][key] / result[key] for key in ("tokens_per_s", "peak_bytes"))
        difference = results[0]["held_out_loss"] - result["held_out_loss"]
        ratios = f"{speed:.2f} times the tokens/s, {memory:.2f} times the memory, held-out loss {difference:+.4f}"
        print(f"{results[0]['arm']} / {result['arm']}: {ratios}")


def measure(arm: str, options: argparse.Namespace, data: str) -> dict[str, Any] | None:
    """Run one arm in a separate process. If that fails, for instance because TRL is missing, print the reason to stderr
    and return None.
    """
    arguments = ["--data", data, "--arm", arm, "--threads", str(options.threads)]
    python = str(TRL_PYTHON) if arm.startswith("trl") and TRL_PYTHON.exists() else sys.executable
    completed = subprocess.run(
        [python, __file__, str(options.base), *arguments],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(str(ROOT / folder) for folder in ("", "models", "sandbox"))},
        capture_output=True,
        text=True,
        check=False,
    )
    result_lines = [
        line.removeprefix("RESULT ") for line in completed.stdout.splitlines() if line.startswith("RESULT ")
    ]
    if not result_lines:
        error_lines = completed.stderr.strip().splitlines()
        print(f"{arm}: not measured: {error_lines[-1] if error_lines else '?'}", file=sys.stderr)
        return None
    result: dict[str, Any] = json.loads(result_lines[0])
    print(json.dumps(result), flush=True)
    return result


if __name__ == "__main__":
    main()
