"""Builds the flags of vLLM's server for a manifest's `parallel` table."""

from nanoflux_models.manifest import Parallel


def build_parallel_flags(parallel: Parallel, node: int = 0) -> tuple[str, ...]:
    """The flags for machine number `node`. Sizes of 1 are vLLM's defaults and are left out.

    With several machines, either Ray starts the workers on all of them, or vLLM is started on each (`backend = "mp"`)
    with the machine's number; then all machines but the first run without an API server (`--headless`).
    """
    flags: list[str] = []
    for name, size in (("tensor", parallel.tensor), ("pipeline", parallel.pipeline), ("data", parallel.data)):
        flags += [f"--{name}-parallel-size", str(size)] if size > 1 else []
    if parallel.nodes > 1 and parallel.backend == "ray":
        flags += ["--distributed-executor-backend", "ray"]
        if parallel.data > 1:  # so that Ray also places the copies; otherwise each node needs a separate command
            flags += ["--data-parallel-backend", "ray"]
    elif parallel.nodes > 1:
        flags += ["--nnodes", str(parallel.nodes), "--node-rank", str(node), "--master-addr", parallel.master]
        flags += ["--headless"] if node else []
    return tuple(flags)
