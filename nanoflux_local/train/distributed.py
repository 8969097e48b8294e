"""Trains one adapter in several processes, on one machine or many, as `accelerate launch` starts them.

Gradients and losses are summed over the process group, and its main process decides when to write checkpoints and when
to stop. Every process holds the whole base and trains on a share of each batch's rows, so settings have the same
meaning for any number of processes. A single process needs no communication and does not import accelerate.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Value = TypeVar("Value")


def count_processes() -> int:
    """How many processes train together, according to the launcher's environment variables; 1 without a launcher."""
    if "LOCAL_RANK" not in os.environ:
        return 1
    return int(os.environ.get("WORLD_SIZE") or 1)


def is_main_process() -> bool:
    """Whether this process writes to the ledger and the terminal: a single process, or rank 0 of a group."""
    return count_processes() == 1 or int(os.environ.get("RANK") or 0) == 0


class ProcessGroup:
    """The processes that train together; this base class is a group of one process."""

    rank, size = 0, 1
    device: "torch.device | None" = None

    def select_own_share(self, items: Sequence[Value]) -> Sequence[Value]:
        """The items that this process works on: every `size`-th item, starting at the process's rank."""
        return items[self.rank :: self.size]

    def list_shares(self, items: Sequence[Value]) -> list[Sequence[Value]]:
        """The shares of all processes, without empty ones."""
        shares = [items[rank :: self.size] for rank in range(self.size)]
        return [share for share in shares if share]

    def sum_values(self, value: float) -> float:
        """The sum of the values of all processes."""
        return value

    def sum_gradients(self, parameters: Sequence["Tensor"]) -> None:
        """Replace every parameter's gradient with its sum over all processes."""

    def broadcast(self, make: Callable[[], Value]) -> Value:
        """Call `make` in the main process and return the result in all processes."""
        return make()


class _AccelerateGroup(ProcessGroup):
    """A group of several processes, connected by accelerate."""

    def __init__(self, on_cpu: bool) -> None:
        from accelerate import PartialState

        state = PartialState(cpu=on_cpu)
        self.rank, self.size, self.device = state.process_index, state.num_processes, state.device

    def sum_values(self, value: float) -> float:
        import torch
        from accelerate.utils import reduce

        return float(reduce(torch.tensor(value, dtype=torch.float64, device=self.device), "sum"))

    def sum_gradients(self, parameters: Sequence["Tensor"]) -> None:
        """Sum all gradients in a single all-reduce, because there are many small parameters."""
        import torch
        from accelerate.utils import reduce

        gradients = [
            torch.zeros_like(parameter) if parameter.grad is None else parameter.grad for parameter in parameters
        ]
        flat_sums = reduce(torch.cat([gradient.flatten() for gradient in gradients]), "sum")
        gradient_sums = flat_sums.split([parameter.numel() for parameter in parameters])
        for parameter, gradient_sum in zip(parameters, gradient_sums, strict=True):
            parameter.grad = gradient_sum.view_as(parameter)

    def broadcast(self, make: Callable[[], Value]) -> Value:
        from accelerate.utils import broadcast_object_list

        shared: list[Value | None] = [make() if self.rank == 0 else None]
        broadcast_object_list(shared)
        return shared[0]  # type: ignore[return-value]


@contextmanager
def join_process_group(on_cpu: bool) -> Iterator[ProcessGroup]:
    """Join the process group for the duration of the block. `on_cpu` keeps accelerate from using a GPU."""
    if count_processes() == 1:
        yield ProcessGroup()
        return
    from accelerate import PartialState

    try:
        yield _AccelerateGroup(on_cpu)
    finally:
        PartialState().destroy_process_group()
