"""Share the processor: limit how long the threads of a matrix product spin while they wait for each other.

By default they spin for a millisecond and more. If anything else (the sandbox, a second model, a training) needs a
core, a spinning thread keeps the thread that it waits for from running, and decoding becomes more than ten times
slower. A short spin keeps most of the speed of an otherwise idle machine: 51 ms a step with the default, 57 with this
setting, 72 to 83 without spinning (`bench/in_process.py --spin` measures the default).
"""

import os


def share_cores() -> None:
    """Make waiting threads sleep soon. Call before torch is first imported; the user's own setting is kept."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "5000")
