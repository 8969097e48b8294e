"""Several processes that train one adapter together, on one machine or many, as `accelerate launch` starts them.

Owns what they exchange: gradients and losses are added up; the first process's checkpoint and wish to stop hold for
all. Every process holds the whole base and takes its share of each batch's rows, so settings mean the same for any
number of processes. Where a program was started alone, nothing is imported and nothing exchanged.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Item = TypeVar("Item")


def size() -> int:
    """How many processes train together, as the launcher tells each of them; 1 where there was none."""
    return int(os.environ.get("WORLD_SIZE") or 1) if "LOCAL_RANK" in os.environ else 1


def follows() -> bool:
    """Whether this process trains beside a first one, which alone writes."""
    return size() > 1 and int(os.environ.get("RANK") or 0) > 0


class Team:
    """This process among all; alone until `joined` says otherwise."""

    rank, size = 0, 1
    device: "torch.device | None" = None

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """What this process takes of them; all take some while there are enough."""
        return items[self.rank :: self.size]

    def shares(self, items: Sequence[Item]) -> list[Sequence[Item]]:
        """Everybody's, without the empty ones."""
        return [share for rank in range(self.size) if (share := items[rank :: self.size])]

    def total(self, value: float) -> float:
        """The sum of everybody's."""
        return value

    def add_gradients(self, weights: Sequence["Tensor"]) -> None:
        """Every weight's gradient becomes the sum of everybody's."""

    def from_first(self, make: Callable[[], Item]) -> Item:
        """What the first process makes, for all."""
        return make()


class _Joined(Team):
    """A process among several."""

    def __init__(self, on_cpu: bool) -> None:
        from accelerate import PartialState

        state = PartialState(cpu=on_cpu)
        self.rank, self.size, self.device = state.process_index, state.num_processes, state.device

    def total(self, value: float) -> float:
        import torch
        from accelerate.utils import reduce

        return float(reduce(torch.tensor(value, dtype=torch.float64, device=self.device), "sum"))

    def add_gradients(self, weights: Sequence["Tensor"]) -> None:
        """In one message, since the weights are many and small."""
        import torch
        from accelerate.utils import reduce

        mine = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in weights]
        added = reduce(torch.cat([gradient.flatten() for gradient in mine]), "sum")
        for weight, part in zip(weights, added.split([weight.numel() for weight in weights]), strict=True):
            weight.grad = part.view_as(weight)

    def from_first(self, make: Callable[[], Item]) -> Item:
        from accelerate.utils import broadcast_object_list

        found: list[Item | None] = [make() if self.rank == 0 else None]
        broadcast_object_list(found)
        return found[0]  # type: ignore[return-value]


@contextmanager
def joined(on_cpu: bool) -> Iterator[Team]:
    """The team of this process while it trains."""
    if size() == 1:
        yield Team()
        return
    from accelerate import PartialState

    try:
        yield _Joined(on_cpu)
    finally:
        PartialState().destroy_process_group()
