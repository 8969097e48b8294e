"""A pretrained Gemma from a GGUF, through the whole path: import with a chat template, train, merge, evaluate.

    python bench/gemma_gguf.py PATH/gemma3-270m-q4_k_m.gguf [--rows 40] [--epochs 2] [--limit 20] [--home FOLDER]

Without the file it says so and ends: the weights are nobody's to ship here. A pretrained model has no chat template, so
one is given to it at import. Prints the losses, the strict marks before and after, and the seconds of each step.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from nanoflux_local.train.rows import write_rows

TEMPLATE = """\
{{ bos_token }}{% for message in messages %}
{%- if message['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{{- '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\\n' }}
{{- message['content'] | trim + '<end_of_turn>\\n' }}
{%- endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}
"""
NAME = "gemma3-270m"


def write_training_rows(path: Path, count: int) -> None:
    """Items of the starter domain's easy benchmark, with the prompts that an evaluation asks them with."""
    from nanoflux_local.domains.own import load_domain
    from nanoflux_local.seeds.benchmarks import easy_items
    from nanoflux_local.trainings import training_example

    domain = load_domain("starter")
    items = easy_items("train")[:count]
    write_rows(path, [training_example(domain, domain.budgets, i.question, i.solution, i.answer, i.id) for i in items])


class Steps:
    """Runs commands of the product in one home, and keeps how long each took."""

    def __init__(self, home: Path) -> None:
        self.home, self.seconds = home, dict[str, float]()

    def run(self, name: str, *words: str) -> str:
        command = [sys.executable, "-P", "-m", "nanoflux_local.cli", "--home", str(self.home), *words]
        started = time.monotonic()
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        self.seconds[name] = round(time.monotonic() - started, 1)
        if done.returncode:
            sys.exit(f"{name} failed with exit code {done.returncode}: nanoflux {' '.join(words)}")
        print(f"{name}: {self.seconds[name]} s", flush=True)
        return done.stdout

    def evaluate(self, name: str, model: str, limit: int) -> dict[str, Any]:
        words = ("--data", "starter-easy", "--domain", "starter", "--limit", str(limit), "--runs", "1")
        document = json.loads(self.run(name, "eval", "--model", model, *words, "--temperature", "0", "--json"))
        return {"n": document["n"], "strict": document["strict"]["mean"], "unscored": document["unscored"]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gguf", nargs="?", type=Path, default=Path(f"/tmp/weights/{NAME}-q4_k_m.gguf"))
    parser.add_argument("--rows", type=int, default=40)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--limit", type=int, default=20)
    parser.add_argument("--home", type=Path, help="Keep the home here, and continue with what it has.")
    given = parser.parse_args()
    if not given.gguf.exists():
        print(f"{given.gguf} is not here; name the GGUF of {NAME}. Nothing was measured.")
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        steps = Steps(given.home or Path(scratch) / "home")
        print(json.dumps(measure(steps, given, Path(scratch)), indent=2))
    return 0


def measure(steps: Steps, given: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """All steps in order; the figures by name."""
    rows, template = scratch / "rows.jsonl", scratch / "template.jinja"
    write_training_rows(rows, given.rows)
    template.write_text(TEMPLATE, "utf-8")
    steps.run("import", "models", "import", str(given.gguf), "--name", NAME, "--chat-template", str(template))
    before = steps.evaluate("eval before", NAME, given.limit)
    settings = ("--set", f"epochs={given.epochs}", "--set", "max_length=384")
    trained = json.loads(steps.run("train", "train", "--data", str(rows), "--base", NAME, *settings, "--json"))
    merged = scratch / "merged"
    steps.run("merge", "adapters", "merge", trained["adapter"], "-o", str(merged))
    steps.run("import merged", "models", "import", str(merged), "--name", f"{NAME}-tuned")
    after = steps.evaluate("eval after", f"{NAME}-tuned", given.limit)
    figures = {key: trained[key] for key in ("examples", "steps", "train_loss", "val_loss", "tokens_per_s")}
    return {"train": figures, "before": before, "after": after, "seconds": steps.seconds}


if __name__ == "__main__":
    raise SystemExit(main())
