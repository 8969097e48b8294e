"""Share the processor: how long the threads of a matrix product wait for each other before they sleep.

By default they spin for a millisecond and more. As soon as anything else (the sandbox, a second model, a training)
wants a core, a thread that spins keeps the one that it waits for from running, and decoding slows down ten times and
worse. A short spin keeps most of the speed of an otherwise idle machine: 51 ms a step with the default, 57 with this,
72 to 83 without spinning (`bench/in_process.py --spin` measures the default).
"""

import os


def share_cores() -> None:
    """Let waiting threads sleep soon. Works only before torch is first imported; a user's own setting is kept."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "5000")
