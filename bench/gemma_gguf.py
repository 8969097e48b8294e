"""Imports a pretrained Gemma from a GGUF file, with a chat template; trains, merges and evaluates it.

    python bench/gemma_gguf.py PATH/gemma3-270m-q4_k_m.gguf [--rows 20] [--epochs 3] [--limit 5] [--home FOLDER]

Without the file the script ends with a message, since the weights cannot be shipped. A pretrained model has no chat
template, so the import sets TEMPLATE. The script prints the losses, the strict accuracy before and after training, and
the seconds of each step.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

TEMPLATE = """\
{{ bos_token }}{% for message in messages %}
{%- if message['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{{- '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\\n' }}
{{- message['content'] | trim + '<end_of_turn>\\n' }}
{%- endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}
"""
"""A chat template without a system role, like that of the instruct models."""
NAME = "gemma3-270m"
"""The name under which the model is imported."""


def write_training_rows(path: Path, count: int) -> None:
    """Write training rows from the starter domain's easy benchmark, each of about 80 tokens."""
    from nanoflux_local.seeds.benchmarks.starter_easy import make_easy_items

    lines = []
    for item in make_easy_items("train")[:count]:
        row = {"prompt": item.question, "completion": f"SOLUTION: {item.solution}\nANSWER: {item.answer}"}
        lines.append(json.dumps(row) + "\n")
    path.write_text("".join(lines), "utf-8")


class Steps:
    """Runs commands in one home, and records the seconds of each in `seconds`, by the name of the step."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.seconds: dict[str, float] = {}

    def run(self, name: str, *words: str) -> str:
        """Run one command as the step `name`; return its output. If the command fails, the script ends."""
        command = [sys.executable, "-P", "-m", "nanoflux_local.cli", "--home", str(self.home), *words]
        start = time.monotonic()
        result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        self.seconds[name] = round(time.monotonic() - start, 1)
        if result.returncode:
            sys.exit(f"{name} failed with exit code {result.returncode}: nanoflux {' '.join(words)}")
        print(f"{name}: {self.seconds[name]} s", flush=True)
        return result.stdout

    def evaluate(self, name: str, model: str, limit: int) -> dict[str, Any]:
        """Evaluate a model on `limit` items of the easy benchmark. Returns the number of items, the model's strict
        accuracy, and its unscored replies.
        """
        words = ("--data", "starter-easy", "--domain", "starter", "--limit", str(limit), "--runs", "1")
        document = json.loads(self.run(name, "eval", "--model", model, *words, "--temperature", "0", "--json"))
        return {"n": document["n"], "strict": document["strict"]["mean"], "unscored": document["unscored"]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gguf", nargs="?", type=Path, help="the model's GGUF file")
    parser.add_argument("--rows", type=int, default=20, help="training rows")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--limit", type=int, default=5, help="items to evaluate")
    parser.add_argument("--home", type=Path, help="directory of the home, which is kept (default: a temporary one)")
    options = parser.parse_args()
    if options.gguf is None or not options.gguf.exists():
        reason = f"There is no file {options.gguf}" if options.gguf else "No file was given"
        print(f"{reason}. Pass the path of {NAME}'s GGUF file. Nothing was measured.")
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        steps = Steps(options.home or Path(scratch) / "home")
        print(json.dumps(measure(steps, options, Path(scratch)), indent=2))
    return 0


def measure(steps: Steps, options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Run all steps in order. Returns the figures by name."""
    rows = scratch / "rows.jsonl"
    template = scratch / "template.jinja"
    write_training_rows(rows, options.rows)
    template.write_text(TEMPLATE, "utf-8")
    steps.run("import", "models", "import", str(options.gguf), "--name", NAME, "--chat-template", str(template))
    figures_before = steps.evaluate("eval before", NAME, options.limit)
    settings = ("--set", f"epochs={options.epochs}", "--set", "max_length=160", "--set", "dtype=float32")
    training = json.loads(steps.run("train", "train", "--data", str(rows), "--base", NAME, *settings, "--json"))
    merged_model = scratch / "merged"
    steps.run("merge", "adapters", "merge", training["adapter"], "-o", str(merged_model))
    steps.run("import merged", "models", "import", str(merged_model), "--name", f"{NAME}-tuned")
    figures_after = steps.evaluate("eval after", f"{NAME}-tuned", options.limit)
    training_figures = {
        key: training[key]
        for key in ("examples", "steps", "train_loss", "initial_val_loss", "val_losses", "tokens_per_s")
    }
    return {"train": training_figures, "before": figures_before, "after": figures_after, "seconds": steps.seconds}


if __name__ == "__main__":
    raise SystemExit(main())
