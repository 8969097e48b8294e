"""Compares the sandbox with its targets and with starting a new interpreter: `python bench/sandbox.py [CALLS]`.

The output is one JSON document. The targets hold on an idle machine; on a busy machine, compare with `fresh_python`.
"""

import json
import statistics
import subprocess
import sys
import time

from nanoflux_sandbox import commands

_FRESH_SCRIPT = "import numpy, sympy\nprint(1)"


def _time_fresh_python(runs: int = 5) -> float:
    """Median milliseconds of a new interpreter that imports numpy and sympy: the cost of a call without forks."""
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", _FRESH_SCRIPT], check=True, capture_output=True)
        times.append((time.perf_counter() - start) * 1000)
    return round(statistics.median(times), 1)


def main() -> int:
    """Print the figures. Returns 0 if every target is met, else 1."""
    calls = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    figures = {**commands.bench(calls), "fresh_python": _time_fresh_python()}
    print(json.dumps(figures, indent=2))
    return 0 if all(figures["met"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
