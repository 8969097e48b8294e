"""Checks that TRL can train on a run's preference pairs: exports them with `--format preference`, and takes two steps
with TRL's DPOTrainer.

    python bench/trl_dpo.py [--environment DIR] [--model DIR]

TRL is not a dependency of the project, so the script creates an environment for it. An environment in DIR is kept and
reused. The pairs come from a run of the scripted profile in a temporary home. `--model` is a folder in transformers'
format; without it the installed smollm2-135m is trained.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

from nanoflux_local.paths import Home, default_home
from nanoflux_models.weights import weights_dir

PACKAGES = ("torch==2.13.0", "trl==1.16.0", "peft", "datasets")
"""The packages of TRL's environment."""
STEPS = 2
"""The number of optimizer steps."""
TRAINING_SCRIPT = """
import json, sys
from datasets import load_dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer

pairs, model, out, steps = sys.argv[1:]
dataset = load_dataset("json", data_files=pairs, split="train").select_columns(["prompt", "chosen", "rejected"])
settings = DPOConfig(
    output_dir=out, max_steps=int(steps), per_device_train_batch_size=2, max_length=1024, use_cpu=True, bf16=False,
    logging_steps=1, report_to=[], save_strategy="no", seed=0,
)
trainer = DPOTrainer(
    model=AutoModelForCausalLM.from_pretrained(model), args=settings, train_dataset=dataset,
    processing_class=AutoTokenizer.from_pretrained(model), peft_config=LoraConfig(r=8, task_type="CAUSAL_LM"),
)
trainer.train()
steps = [entry for entry in trainer.state.log_history if "loss" in entry]
print(json.dumps({"pairs": len(dataset), "losses": [entry["loss"] for entry in steps]}))
"""
"""The program that TRL's environment runs. It trains a model on a file of pairs, and prints the losses as JSON."""


def export_pairs(home: Path) -> Path:
    """Execute a scripted run in `home` and export its preference pairs. Returns the exported file."""
    nanoflux = [sys.executable, "-m", "nanoflux_local.cli", "--home", str(home)]
    start_run = ["run", "start", "--domain", "starter", "--profile", "scripted", "--examples", "12", "--seed", "7"]
    subprocess.run([*nanoflux, *start_run, "--name", "pairs"], check=True)
    path = home / "pairs.jsonl"
    subprocess.run([*nanoflux, "export", "pairs", "--format", "preference", "-o", str(path)], check=True)
    return path


def prepare_environment(folder: Path) -> Path:
    """The interpreter of the environment in `folder`, which is created if TRL is missing."""
    python = folder / "bin" / "python"
    has_trl = (
        python.exists()
        and subprocess.run([python, "-c", "import trl"], capture_output=True, check=False).returncode == 0
    )
    if not has_trl:
        venv.EnvBuilder(with_pip=True).create(folder)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
    return python


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environment", type=Path, help="directory of TRL's environment [default: a temporary one]")
    parser.add_argument("--model", type=Path, help="model to train [default: smollm2-135m of this home]")
    options = parser.parse_args()
    model = options.model or weights_dir("smollm2-135m", Home(default_home()).root)
    with tempfile.TemporaryDirectory() as scratch:
        python = prepare_environment(options.environment or Path(scratch) / "environment")
        pairs = export_pairs(Path(scratch) / "home")
        start = time.monotonic()
        command = [python, "-c", TRAINING_SCRIPT, pairs, model, Path(scratch) / "out", str(STEPS)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        result = json.loads(output.splitlines()[-1])
    assert len(result["losses"]) == STEPS, result
    print(json.dumps({**result, "seconds": round(time.monotonic() - start, 1)}))


if __name__ == "__main__":
    main()
