"""Shares processor cores: limits how long the threads of a matrix multiplication spin while they wait for each other.

By default, threads spin for a millisecond or more. If another process (the sandbox, a second model, a training run)
needs a core, a spinning thread blocks the very thread that it waits for, and decoding becomes more than ten times
slower. A short spin is nearly as fast as the default on an otherwise idle machine: 57 ms per step, against 51 ms with
the default and 72 to 83 ms without spinning (`bench/in_process.py --spin` measures the default).
"""

import os

SPIN_ITERATIONS = "5000"
"""How long a thread of GNU OpenMP spins before it sleeps."""


def share_cores() -> None:
    """Make waiting threads sleep after a short spin, unless the environment sets how they wait. Call this before torch
    is first imported.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_ITERATIONS)
