"""Measures the sandbox, and compares it with its targets and with the start of a new interpreter.

    python bench/sandbox.py [CALLS]

The output is one JSON document. The targets apply to an idle machine; on a busy machine, compare with `fresh_python`.
"""

import json
import statistics
import subprocess
import sys
import time

from nanoflux_sandbox import commands

_SCRIPT = "import numpy, sympy\nprint(1)"
"""The program that a new interpreter executes."""


def _measure_new_interpreter(runs: int = 5) -> float:
    """Median milliseconds of a new interpreter that imports numpy and sympy, which every call would cost if the sandbox
    did not fork a process with both.
    """
    times_ms = []
    for _ in range(runs):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", _SCRIPT], check=True, capture_output=True)
        times_ms.append((time.perf_counter() - start) * 1000)
    return round(statistics.median(times_ms), 1)


def main() -> int:
    """Print the figures. Returns 0 if every target is met, else 1."""
    calls = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    figures = {**commands.bench(calls), "fresh_python": _measure_new_interpreter()}
    print(json.dumps(figures, indent=2))
    return 0 if all(figures["met"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
