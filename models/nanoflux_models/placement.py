"""Placement: which model goes on which GPU, with what share of its memory. Pure arithmetic; starts nothing.

All figures are computed from manifests, none is measured. A server needs its weights, room for the keys and values of
the requests that it answers at once, and `OVERHEAD_GIB` on each GPU for CUDA, activations and graphs. Refuses to
place what does not fit, and says what would.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

LIMIT = 0.92
"""The most of a GPU that all its servers together may claim; the rest is the driver's and other processes'."""
OVERHEAD_GIB = 1.5
ASLEEP_GIB = 1.0
"""What a sleeping server keeps on its GPU: its CUDA context."""
WIDTHS = (1, 2, 4, 8)


@dataclass(frozen=True, slots=True)
class Demand:
    """One server to place. `kv_gib` is for all its requests together; `width` is the fewest GPUs it is spread over,
    `copies` how many whole copies lie side by side (vLLM's data parallelism)."""

    name: str
    weights_gib: float
    kv_gib: float
    width: int = 1
    copies: int = 1

    def share(self, width: int, gpu_gib: float) -> float:
        """The fraction of each of `width` GPUs, rounded up to a hundredth."""
        need = (self.weights_gib + self.kv_gib) / width + OVERHEAD_GIB
        return math.ceil(need / gpu_gib * 100 - 1e-9) / 100


@dataclass(frozen=True, slots=True)
class Server:
    """A placed model: its GPUs by index, its share of each (`gpu_memory_utilization`), and whom it takes turns with."""

    name: str
    gpus: tuple[int, ...]
    utilisation: float
    tensor: int
    kv_gib: float
    shares: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """Servers, or why there are none. `ram_gib` is what sleeping models keep in the machine's memory."""

    servers: tuple[Server, ...] = ()
    refusal: str = ""
    would_fit: tuple[str, ...] = ()
    ram_gib: float = 0.0

    @property
    def fits(self) -> bool:
        return not self.refusal


def kv_gib(bytes_per_token: int, sequences: int, context: int) -> float:
    """GiB of keys and values for so many requests of so many tokens."""
    return bytes_per_token * sequences * context / 2**30


def plan(demands: Sequence[Demand], gpus: Sequence[float], smaller: Mapping[str, float] | None = None) -> Plan:
    """Place every demand on `gpus` (GiB each): all at once where they fit, else taking turns, else a refusal.

    A GPU of 0 GiB, whose size is not known, gets nothing; the others keep their numbers.
    `smaller` are other models (GiB of weights) that a refusal may suggest.
    """
    ordered = sorted(demands, key=lambda demand: (-demand.weights_gib - demand.kv_gib, demand.name))
    numbers = [number for number, gib in enumerate(gpus) if gib]
    sizes = [gpus[number] for number in numbers]
    servers = _servers(ordered, sizes)
    if servers is None:
        return _refused(ordered, sizes, smaller or {})
    weights = {demand.name: demand.weights_gib * demand.copies for demand in demands}
    servers = [replace(server, gpus=tuple(numbers[gpu] for gpu in server.gpus)) for server in servers]
    return Plan(tuple(servers), ram_gib=sum(weights[server.name] for server in servers if server.shares))


def _servers(demands: Sequence[Demand], gpus: Sequence[float]) -> list[Server] | None:
    together = _side_by_side(demands, gpus)
    return _in_turns(demands, gpus) if together is None else together


def _side_by_side(demands: Sequence[Demand], gpus: Sequence[float]) -> list[Server] | None:
    """First fit decreasing, on the emptiest GPUs."""
    free = [LIMIT] * len(gpus)
    placed = []
    for demand in demands:
        server = next(_fitting(demand, gpus, free), None)
        if server is None:
            return None
        for gpu in server.gpus:
            free[gpu] -= server.utilisation
        placed.append(server)
    return placed


def _fitting(demand: Demand, gpus: Sequence[float], free: Sequence[float]) -> Iterator[Server]:
    """Ways to place a demand, over as few GPUs as possible first."""
    for width in _widths(demand):
        emptiest = sorted(range(len(gpus)), key=lambda gpu: (-free[gpu] * gpus[gpu], gpu))[: width * demand.copies]
        if len(emptiest) < width * demand.copies:
            break
        share = demand.share(width, min(gpus[gpu] for gpu in emptiest))
        if all(share <= free[gpu] + 1e-9 for gpu in emptiest):
            yield Server(demand.name, tuple(sorted(emptiest)), share, width, demand.kv_gib)


def _widths(demand: Demand) -> list[int]:
    return [demand.width] if demand.width > 1 else list(WIDTHS)


def _in_turns(demands: Sequence[Demand], gpus: Sequence[float]) -> list[Server] | None:
    """Some take turns, on each GPU as few as will do: a server that shares its GPU with fewer has more of it."""
    for neighbours in range(1, len(demands)):
        placed = _each_alone(demands, gpus, neighbours)
        if placed is not None:
            return _grouped(placed, len(gpus))
    return None


def _each_alone(demands: Sequence[Demand], gpus: Sequence[float], neighbours: int) -> list[Server] | None:
    """Each server as if alone but for so many that sleep, on the GPUs with fewest; None where more would meet."""
    crowd, placed = [0] * len(gpus), []
    room = [LIMIT - ASLEEP_GIB * neighbours / size for size in gpus]
    for demand in demands:
        options = [
            server
            for width in _widths(demand)
            for chosen in [sorted(range(len(gpus)), key=lambda gpu: (crowd[gpu], gpu))[: width * demand.copies]]
            if len(chosen) == width * demand.copies
            for server in _fitting(
                replace(demand, width=width), gpus, [room[gpu] if gpu in chosen else 0.0 for gpu in range(len(gpus))]
            )
        ]
        if not options:
            return None
        placed.append(options[0])
        for gpu in options[0].gpus:
            crowd[gpu] += 1
    return placed if max(crowd) <= neighbours + 1 else None


def _grouped(servers: Sequence[Server], gpus: int) -> list[Server]:
    """Servers that meet on a GPU, directly or through others, share one group named after its first GPU."""
    group = list(range(gpus))
    for server in list(servers) * gpus:  # so often that a chain of neighbours ends in one group
        lowest = min(group[gpu] for gpu in server.gpus)
        for gpu in server.gpus:
            group[gpu] = lowest
    names = [group[server.gpus[0]] for server in servers]
    return [
        replace(server, shares=f"gpu{name}" if names.count(name) > 1 else "")
        for server, name in zip(servers, names, strict=True)
    ]


def _refused(demands: Sequence[Demand], gpus: Sequence[float], smaller: Mapping[str, float]) -> Plan:
    sizes = ", ".join(f"{size:g}" for size in gpus)
    told = "; ".join(
        f"{demand.name} needs {demand.weights_gib + demand.kv_gib + OVERHEAD_GIB:.1f} GiB" for demand in demands
    )
    advice = []
    if gpus:
        largest = max(gpus)
        for count in range(len(gpus) + 1, 9):
            if _servers(demands, [largest] * count) is not None:
                advice.append(f"{count} GPUs of {largest:g} GiB")
                break
        room = largest * LIMIT - OVERHEAD_GIB - ASLEEP_GIB * (len(demands) - 1)
        names = sorted(name for name, weights in smaller.items() if weights * 1.2 < room)
        advice += [f"a smaller model: {', '.join(names)}"] if names else []
    advice.append("fewer or shorter requests at once: --sequences, --context")
    return Plan(refusal=f"these models do not fit GPUs of {sizes or 'no'} GiB: {told}", would_fit=tuple(advice))
