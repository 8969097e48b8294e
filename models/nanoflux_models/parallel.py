"""From a manifest's `parallel` table to the flags of vLLM's server. Starts nothing and looks at no GPU."""

from nanoflux_models.manifest import Parallel


def parallel_flags(parallel: Parallel) -> tuple[str, ...]:
    """vLLM's own flags. Sizes of one are its defaults and are left out; over several nodes Ray is the executor."""
    sizes = {"tensor": parallel.tensor, "pipeline": parallel.pipeline, "data": parallel.data}
    flags = [part for name, size in sizes.items() if size > 1 for part in (f"--{name}-parallel-size", str(size))]
    if parallel.nodes > 1:
        flags += ["--distributed-executor-backend", "ray"]
        if parallel.data > 1:  # copies too are then placed by Ray; without it each node needs a command of its own
            flags += ["--data-parallel-backend", "ray"]
    return tuple(flags)
