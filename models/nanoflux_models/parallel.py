"""From a manifest's `parallel` table to the flags of vLLM's server. Starts nothing and looks at no GPU."""

from nanoflux_models.manifest import Parallel


def parallel_flags(parallel: Parallel, node: int = 0) -> tuple[str, ...]:
    """vLLM's own flags for the machine of number `node`. Sizes of one are its defaults and are left out.

    Over several machines either Ray is the executor, which starts what the others need, or vLLM itself (`backend =
    "mp"`), and each machine is given its number; all but the first run without an API server (`--headless`).
    """
    sizes = {"tensor": parallel.tensor, "pipeline": parallel.pipeline, "data": parallel.data}
    flags = [part for name, size in sizes.items() if size > 1 for part in (f"--{name}-parallel-size", str(size))]
    if parallel.nodes > 1 and parallel.backend == "ray":
        flags += ["--distributed-executor-backend", "ray"]
        if parallel.data > 1:  # copies too are then placed by Ray; without it each node needs a command of its own
            flags += ["--data-parallel-backend", "ray"]
    elif parallel.nodes > 1:
        flags += ["--nnodes", str(parallel.nodes), "--node-rank", str(node), "--master-addr", parallel.master]
        flags += ["--headless"] if node else []
    return tuple(flags)
