"""Compares two checkouts: CPU seconds and imported modules of `--help`, `run start`, `eval` and `train`.

    git worktree add /tmp/before COMMIT
    python bench/checkouts.py /tmp/before [--rounds 7] [--only help --only train]

Each command runs alternately from the two checkouts, in the same environment and in a new home. The script prints the
medians of the CPU seconds (of the process and its children) and the median of the paired ratios; CPU seconds depend
less on other load than wall time does. The run and the evaluation use scripted models; the training is one epoch on a
tiny base model that the script creates.
"""

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

PROJECT = Path(__file__).parents[1]
PACKAGES = ("", "models", "sandbox", "tui")
"""The folders of a checkout that contain its Python packages."""
HEAVY_LIBRARIES = {"torch", "transformers", "peft", "numpy", "scipy", "pydantic", "sqlite_utils", "openai", "textual"}
"""Libraries that take long to import; the script reports which of them a command imports."""
LIST_MODULES_PROGRAM = """
import json, sys
from nanoflux_local.cli.main import main
try:
    main(sys.argv[1:])
finally:
    names = sorted(sys.modules)
    print("MODULES " + json.dumps([len(names), sorted({name.partition(".")[0] for name in names})]), file=sys.stderr)
"""
"""A program that runs a command, and then prints the number of modules that it imported, and their packages."""
COMMANDS: dict[str, tuple[str, ...]] = {
    "help": ("--help",),
    "run help": ("run", "start", "--help"),
    "run start": ("run", "start", "--domain", "starter-genetics", "--profile", "scripted", "--examples", "20",
                  "--max-turns", "40", "--set", "seeds.min=2"),
    "eval": ("eval", "--profile", "scripted", "--endpoint", "arbiter", "--data", "starter-easy", "--domain", "starter",
             "--limit", "20", "--runs", "1"),
    "train": ("train", "--data", "{rows}", "--base", "tiny", "--set", "epochs=1", "--set", "threads=1"),
}  # fmt: skip
"""The compared commands, by name. `{rows}` is replaced by a file of training rows."""


def build_environment(checkout: Path, home: Path) -> dict[str, str]:
    """The environment variables with which a command runs from `checkout` and uses `home`."""
    path = os.pathsep.join(str(checkout / package) for package in PACKAGES)
    return {**os.environ, "PYTHONPATH": path, "NANOFLUX_HOME": str(home), "NANOFLUX_OFFLINE": "1"}


def run_command(checkout: Path, home: Path, words: tuple[str, ...]) -> tuple[float, int, set[str]]:
    """Run a command from a checkout. Returns its CPU seconds, the number of modules that it imported, and the heavy
    libraries among them.
    """
    usage_before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = subprocess.run(
        [sys.executable, "-P", "-c", LIST_MODULES_PROGRAM, *words],
        env=build_environment(checkout, home), capture_output=True, text=True, check=False,
    )  # fmt: skip
    usage_after = resource.getrusage(resource.RUSAGE_CHILDREN)
    lines = [line for line in result.stderr.splitlines() if line.startswith("MODULES ")]
    if result.returncode or not lines:
        raise SystemExit(f"{checkout}: {' '.join(words)} ended with {result.returncode}: {result.stderr[-2000:]}")
    count, names = json.loads(lines[-1].removeprefix("MODULES "))
    user_s = usage_after.ru_utime - usage_before.ru_utime
    system_s = usage_after.ru_stime - usage_before.ru_stime
    return user_s + system_s, count, HEAVY_LIBRARIES & set(names)


def make_base(folder: Path) -> Path:
    """The folder of the tiny base model that the tests use; it is created on the first call."""
    base = folder / "base"
    if not base.exists():
        code = (
            f"import sys; sys.path.insert(0, {str(PROJECT / 'tests')!r}); from pathlib import Path; import conftest; "
            f"conftest.make_base(Path({str(base)!r}))"
        )
        command = [sys.executable, "-P", "-c", code]
        subprocess.run(command, env=build_environment(PROJECT, folder), check=True, capture_output=True)
    return base


def write_training_rows(path: Path) -> None:
    """Write 24 additions as training rows."""
    lines = []
    for number in range(24):
        other_number = random.Random(number).randrange(90)
        row = {"prompt": f"{other_number} + {number}?", "completion": str(other_number + number)}
        lines.append(json.dumps(row) + "\n")
    path.write_text("".join(lines))


def measure(earlier_checkout: Path, name: str, rounds: int, folder: Path) -> dict[str, object]:
    """Run one command alternately from the two checkouts. The measurements of the first round are discarded."""
    rows = folder / "rows.jsonl"
    write_training_rows(rows)
    words = tuple(word.format(rows=rows) for word in COMMANDS[name])
    seconds: dict[Path, list[float]] = {earlier_checkout: [], PROJECT: []}
    modules: dict[Path, tuple[int, set[str]]] = {}
    for round_number in range(rounds + 1):
        order = (earlier_checkout, PROJECT) if round_number % 2 else (PROJECT, earlier_checkout)
        for checkout in order:
            with tempfile.TemporaryDirectory(dir=folder) as home:
                if name == "train":
                    run_command(checkout, Path(home), ("models", "import", str(make_base(folder)), "--name", "tiny"))
                cpu_s, module_count, heavy = run_command(checkout, Path(home), words)
            modules[checkout] = (module_count, heavy)
            if round_number > 0:
                seconds[checkout].append(cpu_s)
    seconds_before, seconds_now = seconds[earlier_checkout], seconds[PROJECT]
    ratios = [now_s / before_s for before_s, now_s in zip(seconds_before, seconds_now, strict=True)]
    return {
        "command": name,
        "before_s": round(statistics.median(seconds_before), 3),
        "now_s": round(statistics.median(seconds_now), 3),
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 2) for ratio in ratios],
        "modules": [modules[earlier_checkout][0], modules[PROJECT][0]],
        "heavy": [sorted(modules[earlier_checkout][1]), sorted(modules[PROJECT][1])],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, nargs="?", help="a checkout of an earlier commit")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", action="append", choices=list(COMMANDS))
    options = parser.parse_args()
    if options.before is None:
        print("skipped: pass the folder of an earlier checkout to compare with")
        return
    with tempfile.TemporaryDirectory() as folder:
        for name in options.only or COMMANDS:
            print(json.dumps(measure(options.before.resolve(), name, options.rounds, Path(folder))), flush=True)


if __name__ == "__main__":
    main()
