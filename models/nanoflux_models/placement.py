"""Placement: which model goes on which GPU, with what share of its memory. Pure arithmetic; starts nothing.

All figures are computed from manifests, none is measured. A server needs its weights, room for the keys and values of
the requests that it answers at once, buffers for adapters if it takes any, and `OVERHEAD_GIB` on each GPU. Models that
do not fit beside each other with room for a few requests take turns. Refuses to place what does not fit, and says what
would.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

LIMIT = 0.92
"""The most of a GPU that all its servers together may claim; the rest is the driver's and other processes'."""
CUDA_GIB, ACTIVATIONS_GIB, GRAPHS_GIB = 0.6, 0.5, 0.4
"""On each GPU of a server: CUDA's context and libraries, the activations of one step of 2,048 tokens, CUDA graphs."""
OVERHEAD_GIB = CUDA_GIB + ACTIVATIONS_GIB + GRAPHS_GIB
ASLEEP_GIB = 1.0
"""What a sleeping server keeps on its GPU: its CUDA context."""
FEWEST = 4
"""Requests of full length that a server must be able to hold beside others; otherwise models take turns."""
BATCH_TOKENS = 4096
"""Tokens of a request that vLLM may hold beyond a sliding window: two steps of 2,048 that are not settled yet."""
WIDTHS = (1, 2, 4, 8)


@dataclass(frozen=True, slots=True)
class Demand:
    """One server to place. `kv_gib` is for all its `sequences` requests together; `width` is the fewest GPUs it is
    spread over, `copies` how many whole copies lie side by side (vLLM's data parallelism), `lora_gib` its buffers for
    adapters. Demands of the same `shares` take turns on the same GPUs.
    """

    name: str
    weights_gib: float
    kv_gib: float
    width: int = 1
    copies: int = 1
    sequences: int = 1
    lora_gib: float = 0.0
    shares: str = ""

    @property
    def request_gib(self) -> float:
        """Keys and values of one request of full length."""
        return self.kv_gib / self.sequences

    @property
    def few(self) -> "Demand":
        """The same with room for the fewest requests that it may hold beside other models."""
        return self._with(min(FEWEST, self.sequences))

    @property
    def single(self) -> "Demand":
        """The same with room for one request: the least with which it can be served at all."""
        return self._with(1)

    def _with(self, sequences: int) -> "Demand":
        return replace(self, sequences=sequences, kv_gib=self.request_gib * sequences)

    def share(self, width: int, gpu_gib: float) -> float:
        """The fraction of each of `width` GPUs, rounded up to a hundredth."""
        need = (self.weights_gib + self.kv_gib + self.lora_gib) / width + OVERHEAD_GIB
        return math.ceil(need / gpu_gib * 100 - 1e-9) / 100

    def room(self, utilisation: float, width: int, gpu_gib: float) -> float:
        """GiB for keys and values that such a share leaves, over all GPUs of one copy."""
        return max(0.0, (utilisation * gpu_gib - OVERHEAD_GIB) * width - self.weights_gib - self.lora_gib)


@dataclass(frozen=True, slots=True)
class Server:
    """A placed model: its GPUs by index, its share of each (`gpu_memory_utilization`), and whom it takes turns with.

    `kv_gib` is the room for keys and values, in which `requests` of full length fit at once; vLLM queues what is
    beyond. `overhead_gib` is set aside on each GPU.
    """

    name: str
    gpus: tuple[int, ...]
    utilisation: float
    tensor: int
    kv_gib: float
    shares: str = ""
    requests: int = 0
    weights_gib: float = 0.0
    lora_gib: float = 0.0
    overhead_gib: float = OVERHEAD_GIB


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


def kv_gib(
    bytes_per_token: int, sequences: int, context: int, sliding_bytes_per_token: int = 0, sliding_window: int = 0
) -> float:
    """GiB of keys and values for so many requests of so many tokens.

    `sliding_bytes_per_token` of each token's bytes are of layers that look back no further than `sliding_window`.
    """
    kept = min(context, sliding_window + BATCH_TOKENS) if sliding_window else context
    whole = (bytes_per_token - sliding_bytes_per_token) * context
    return sequences * (whole + sliding_bytes_per_token * kept) / 2**30


def plan(
    demands: Sequence[Demand],
    gpus: Sequence[float],
    smaller: Mapping[str, float] | None = None,
    whole: bool = False,
) -> Plan:
    """Place every demand on `gpus` (GiB each): all at once if they fit, else taking turns, else a refusal.

    Servers get room for all their requests, or for as many as fit. `whole` hands out what is left of each GPU to the
    servers there. `smaller` are other models (GiB of weights) that a refusal may suggest. A GPU of 0 GiB, whose size
    is not known, gets nothing; the others keep their numbers.
    """
    ordered = sorted(demands, key=lambda demand: (-demand.weights_gib - demand.kv_gib, demand.name))
    numbers = [number for number, gib in enumerate(gpus) if gib]
    sizes = [gpus[number] for number in numbers]
    servers = _servers(ordered, sizes)
    if servers is None:
        return _build_refusal(ordered, sizes, smaller or {})
    by_name = {demand.name: demand for demand in demands}
    servers = _grow(servers, by_name, sizes, whole)
    servers = [replace(server, gpus=tuple(numbers[gpu] for gpu in server.gpus)) for server in servers]
    weights = {demand.name: demand.weights_gib * demand.copies for demand in demands}
    return Plan(
        tuple(_state_capacity(server, by_name[server.name], gpus) for server in servers),
        ram_gib=sum(weights[server.name] for server in servers if server.shares),
    )


def _servers(demands: Sequence[Demand], gpus: Sequence[float]) -> list[Server] | None:
    together = _side_by_side(_units(demands), gpus)
    return _in_turns(demands, gpus) if together is None else together


def _units(demands: Sequence[Demand]) -> list[list[Demand]]:
    """What must lie on the same GPUs, together: the demands of one `shares`, else each by itself."""
    units: dict[str, list[Demand]] = {}
    for demand in demands:
        units.setdefault((demand.shares and f"shares {demand.shares}") or f"model {demand.name}", []).append(demand)
    return list(units.values())


def _side_by_side(units: Sequence[Sequence[Demand]], gpus: Sequence[float]) -> list[Server] | None:
    """First fit decreasing, on the emptiest GPUs. Of a unit's demands one is awake at a time."""
    free = [LIMIT] * len(gpus)
    placed = []
    for unit in units:
        claim, servers = next(_fitting(unit, gpus, free), (0.0, []))
        if not servers:
            return None
        for gpu in servers[0].gpus:
            free[gpu] -= claim
        placed += servers
    return placed


def _fitting(
    unit: Sequence[Demand], gpus: Sequence[float], free: Sequence[float]
) -> Iterator[tuple[float, list[Server]]]:
    """Ways to place demands that take turns, or one by itself, over as few GPUs as possible first: the share that they
    claim, and the servers. With room for fewer than a few requests they claim GPUs that no other model has, whole.
    """
    copies = max(demand.copies for demand in unit)
    for width in _widths(unit):
        emptiest = sorted(range(len(gpus)), key=lambda gpu: (-free[gpu] * gpus[gpu], gpu))[: width * copies]
        if len(emptiest) < width * copies:
            break
        smallest = min(gpus[gpu] for gpu in emptiest)
        least = min(free[gpu] for gpu in emptiest)
        asleep = ASLEEP_GIB * (len(unit) - 1) / smallest
        few, single = (
            max(getattr(demand, size).share(width, smallest) for demand in unit) + asleep for size in ("few", "single")
        )
        if few <= least + 1e-9:
            yield few, _servers_of([demand.few for demand in unit], emptiest, width, smallest)
        elif single <= LIMIT <= least + 1e-9:
            yield LIMIT, _servers_of([demand.single for demand in unit], emptiest, width, smallest)


def _servers_of(unit: Sequence[Demand], gpus: Sequence[int], width: int, smallest: float) -> list[Server]:
    group = unit[0].shares if len(unit) > 1 else ""
    where = tuple(sorted(gpus))
    return [Server(each.name, where, each.share(width, smallest), width, each.kv_gib, group) for each in unit]


def _widths(unit: Sequence[Demand]) -> list[int]:
    stated = max(demand.width for demand in unit)
    return [stated] if stated > 1 else list(WIDTHS)


def _in_turns(demands: Sequence[Demand], gpus: Sequence[float]) -> list[Server] | None:
    """Some take turns, on each GPU as few as will do: a server that shares its GPU with fewer has more of it."""
    for neighbours in range(1, len(demands)):
        placed = _each_alone(demands, gpus, neighbours)
        if placed is not None:
            return _group_by_gpu(placed, len(gpus))
    return None


def _each_alone(demands: Sequence[Demand], gpus: Sequence[float], neighbours: int) -> list[Server] | None:
    """Each server as if alone but for so many that sleep, on the GPUs with fewest; None if more would meet."""
    crowd, placed = [0] * len(gpus), []
    room = [LIMIT - ASLEEP_GIB * neighbours / size for size in gpus]
    for demand in demands:
        options = [
            server
            for width in _widths([demand])
            for chosen in [sorted(range(len(gpus)), key=lambda gpu: (crowd[gpu], gpu))[: width * demand.copies]]
            if len(chosen) == width * demand.copies
            for server in _servers_of([demand.single], chosen, width, min(gpus[gpu] for gpu in chosen))
            if all(server.utilisation <= room[gpu] + 1e-9 for gpu in chosen)
        ]
        if not options:
            return None
        placed.append(options[0])
        for gpu in options[0].gpus:
            crowd[gpu] += 1
    return placed if max(crowd) <= neighbours + 1 else None


def _group_by_gpu(servers: Sequence[Server], gpus: int) -> list[Server]:
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


def _grow(servers: Sequence[Server], demands: Mapping[str, Demand], gpus: Sequence[float], whole: bool) -> list[Server]:
    """The servers with what is left of their GPUs, up to room for all their requests or, `whole`, all of it: each that
    can be awake beside others gets an equal part.
    """
    tenants = [_tenants([server for server in servers if gpu in server.gpus]) for gpu in range(len(gpus))]
    spare = [
        LIMIT - sum(max(s.utilisation for s in group) + ASLEEP_GIB * (len(group) - 1) / size for group in groups)
        for groups, size in zip(tenants, gpus, strict=True)
    ]
    grown = []
    for server in servers:
        parts = []
        for gpu in server.gpus:
            group = next(group for group in tenants[gpu] if server in group)
            parts.append(max(s.utilisation for s in group) + spare[gpu] / len(tenants[gpu]))
        wanted = demands[server.name].share(server.tensor, min(gpus[gpu] for gpu in server.gpus))
        share = math.floor(min(parts if whole else [*parts, wanted]) * 100 + 1e-6) / 100
        grown.append(replace(server, utilisation=max(server.utilisation, share)))
    return grown


def _tenants(servers: Sequence[Server]) -> list[list[Server]]:
    """The servers of one GPU that are awake beside each other, each with those that it takes turns with."""
    groups: dict[str, list[Server]] = {}
    for server in servers:
        groups.setdefault(f"shares {server.shares}" if server.shares else f"model {server.name}", []).append(server)
    return list(groups.values())


def _state_capacity(server: Server, demand: Demand, gpus: Sequence[float]) -> Server:
    """A server with what its share holds."""
    room = demand.room(server.utilisation, server.tensor, min(gpus[gpu] for gpu in server.gpus))
    requests = int(room / demand.request_gib + 1e-9) if demand.kv_gib else demand.sequences
    return replace(
        server,
        kv_gib=round(room, 2),
        requests=requests * demand.copies,
        weights_gib=demand.weights_gib,
        lora_gib=round(demand.lora_gib, 2),
    )


def _build_refusal(demands: Sequence[Demand], gpus: Sequence[float], smaller: Mapping[str, float]) -> Plan:
    sizes = ", ".join(f"{size:g}" for size in gpus)
    needs = "; ".join(
        f"{demand.name} needs {demand.weights_gib + demand.kv_gib + demand.lora_gib + OVERHEAD_GIB:.1f} GiB"
        for demand in (demand.single for demand in demands)
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
    return Plan(refusal=f"these models do not fit GPUs of {sizes or 'no'} GiB: {needs}", would_fit=tuple(advice))
