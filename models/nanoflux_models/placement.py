"""Placement: decides which GPU each model runs on, and which share of the GPU's memory it gets.

All figures are computed from manifests; none is measured, and no server is started. A server needs memory for its
weights, the KV cache of its concurrent requests, adapters if it accepts any, and `OVERHEAD_GIB` on each GPU. If the
models do not all fit on the GPUs at the same time, each with the KV cache of a few requests, they take turns: some
sleep while others run. If they do not fit even then, the placement is a refusal that states what would fit.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

LIMIT = 0.92
"""The share of a GPU's memory that all its servers together may claim; the driver and other processes get the rest."""
CUDA_GIB = 0.6
"""The GiB on each GPU of a server for CUDA's context and libraries."""
ACTIVATIONS_GIB = 0.5
"""The GiB on each GPU of a server for the activations of a step of 2,048 tokens."""
GRAPHS_GIB = 0.4
"""The GiB on each GPU of a server for CUDA graphs."""
OVERHEAD_GIB = CUDA_GIB + ACTIVATIONS_GIB + GRAPHS_GIB
"""The GiB that a server needs on each GPU besides weights, KV cache and adapters."""
TOLERANCE = 1e-9
"""Shares that differ by less than this are equal."""
ASLEEP_GIB = 1.0
"""The GiB that the CUDA context of a sleeping server takes on its GPU."""
MIN_REQUESTS = 4
"""Models run on the same GPU at the same time only if each has memory for this many requests of full length."""
BATCH_TOKENS = 4096
"""The number of a request's tokens that vLLM may store beyond a sliding window: two unfinished steps of 2,048."""
WIDTHS = (1, 2, 4, 8)
"""The numbers of GPUs over which one copy of a model may be split."""
MAX_ADVISED_GPUS = 8
"""The largest number of GPUs that a refusal suggests."""
ADVISED_WEIGHTS_FACTOR = 1.2
"""A refusal suggests a smaller model if its weights, times this factor, fit on the largest GPU."""


@dataclass(frozen=True, slots=True)
class Demand:
    """The memory that one server needs.

    `kv_gib` is the KV cache of all `sequences` concurrent requests, and `lora_gib` the buffers for adapters. `width` is
    the minimum number of GPUs per copy, and `copies` the number of complete copies (vLLM's data parallelism). Demands
    with the same `shares` take turns on the same GPUs.
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
        """The KV cache of one full-length request."""
        return self.kv_gib / self.sequences

    @property
    def with_few_requests(self) -> "Demand":
        """This demand, reduced to at most `MIN_REQUESTS` requests: the least memory of a server that runs next to
        others.
        """
        return self._with_sequences(min(MIN_REQUESTS, self.sequences))

    @property
    def with_one_request(self) -> "Demand":
        """This demand, reduced to one request: the least memory that suffices to serve the model."""
        return self._with_sequences(1)

    def _with_sequences(self, sequences: int) -> "Demand":
        """This demand with another number of concurrent requests."""
        return replace(self, sequences=sequences, kv_gib=self.request_gib * sequences)

    def compute_share(self, width: int, gpu_gib: float) -> float:
        """The share that the server needs of the memory of each GPU, rounded up to a hundredth, if a copy is split over
        `width` GPUs of `gpu_gib` GiB.
        """
        needed_gib = (self.weights_gib + self.kv_gib + self.lora_gib) / width + OVERHEAD_GIB
        return math.ceil(needed_gib / gpu_gib * 100 - TOLERANCE) / 100

    def compute_cache_gib(self, utilisation: float, width: int, gpu_gib: float) -> float:
        """The GiB that remain for the KV cache, on all GPUs of one copy together, if the server gets the share
        `utilisation` of each GPU.
        """
        return max(0.0, (utilisation * gpu_gib - OVERHEAD_GIB) * width - self.weights_gib - self.lora_gib)


@dataclass(frozen=True, slots=True)
class Server:
    """A placed model: the indices of its GPUs, its share of each GPU's memory (vLLM's `gpu_memory_utilization`), and
    its sleep group (`shares`, "" for none).

    `tensor` is the number of GPUs that share each layer. `kv_gib` is the size of the KV cache, which holds `requests`
    full-length requests; vLLM queues further requests. `overhead_gib` is reserved on each GPU.
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
class Placement:
    """Either the placed servers, or a refusal with what `would_fit` instead. `ram_gib` is the main memory that sleeping
    models need.
    """

    servers: tuple[Server, ...] = ()
    refusal: str = ""
    would_fit: tuple[str, ...] = ()
    ram_gib: float = 0.0

    @property
    def fits(self) -> bool:
        """Whether all models were placed."""
        return not self.refusal


def compute_kv_gib(
    bytes_per_token: int, sequences: int, context: int, sliding_bytes_per_token: int = 0, sliding_window: int = 0
) -> float:
    """The GiB of KV cache for `sequences` requests of `context` tokens.

    Of each token's bytes, `sliding_bytes_per_token` belong to layers that attend only to the last `sliding_window`
    tokens.
    """
    sliding_tokens = min(context, sliding_window + BATCH_TOKENS) if sliding_window else context
    full_bytes = (bytes_per_token - sliding_bytes_per_token) * context
    return sequences * (full_bytes + sliding_bytes_per_token * sliding_tokens) / 2**30


def place_models(
    demands: Sequence[Demand],
    gpus: Sequence[float],
    smaller_models: Mapping[str, float] | None = None,
    fill_gpus: bool = False,
) -> Placement:
    """Place every demand on `gpus` (the GiB of each).

    If all models fit at the same time, they run together; otherwise they take turns. If they do not fit even then, the
    placement is a refusal.

    Servers get memory for all their requests, or for as many as fit. With `fill_gpus`, the rest of each GPU is also
    distributed to its servers. `smaller_models` are other models, with the GiB of their weights, that a refusal may
    suggest. A GPU of 0 GiB, whose size is unknown, remains empty; the other GPUs keep their indices.
    """
    largest_first = sorted(demands, key=lambda demand: (-demand.weights_gib - demand.kv_gib, demand.name))
    indices = [index for index, gib in enumerate(gpus) if gib]
    gpu_sizes = [gpus[index] for index in indices]
    placed_servers = _place_demands(largest_first, gpu_sizes)
    if placed_servers is None:
        return _build_refusal(largest_first, gpu_sizes, smaller_models or {})
    demand_by_name = {demand.name: demand for demand in demands}
    enlarged_servers = _distribute_rest(placed_servers, demand_by_name, gpu_sizes, fill_gpus)
    servers = [replace(server, gpus=tuple(indices[gpu] for gpu in server.gpus)) for server in enlarged_servers]
    weights_by_name = {demand.name: demand.weights_gib * demand.copies for demand in demands}
    return Placement(
        tuple(_add_capacity(server, demand_by_name[server.name], gpus) for server in servers),
        ram_gib=sum(weights_by_name[server.name] for server in servers if server.shares),
    )


def _place_demands(demands: Sequence[Demand], gpus: Sequence[float]) -> list[Server] | None:
    """Place all demands so that they run at the same time, else in turns. Return None if they do not fit even then."""
    servers = _place_together(_group_by_shares(demands), gpus)
    return _place_in_turns(demands, gpus) if servers is None else servers


def _group_by_shares(demands: Sequence[Demand]) -> list[list[Demand]]:
    """Group the demands that must be on the same GPUs, since they have the same `shares`. Other demands form groups of
    one.
    """
    groups: dict[str, list[Demand]] = {}
    for demand in demands:
        groups.setdefault(_name_group(demand), []).append(demand)
    return list(groups.values())


def _name_group(model: Demand | Server) -> str:
    """The name of the group of a model: that of its `shares`, or one for this model alone."""
    return f"shares {model.shares}" if model.shares else f"model {model.name}"


def _place_together(groups: Sequence[Sequence[Demand]], gpus: Sequence[float]) -> list[Server] | None:
    """Place all groups of demands so that no group waits for another: in the given order, each on the emptiest GPUs.
    Within a group, one model is awake at a time. Return None if a group does not fit.
    """
    free_shares = [LIMIT] * len(gpus)
    placed_servers: list[Server] = []
    for group in groups:
        option = next(_list_options(group, gpus, free_shares), None)
        if option is None:
            return None
        claim, servers = option
        for gpu in servers[0].gpus:
            free_shares[gpu] -= claim
        placed_servers += servers
    return placed_servers


def _list_options(
    group: Sequence[Demand], gpus: Sequence[float], free_shares: Sequence[float]
) -> Iterator[tuple[float, list[Server]]]:
    """Yield the options for placing one group, beginning with the fewest GPUs. An option is the share of each GPU that
    the group claims, and the group's servers.

    If the free memory does not hold a few requests of each model, the group claims whole GPUs, without other models.
    """
    copies = max(demand.copies for demand in group)
    gpus_by_free_memory = sorted(range(len(gpus)), key=lambda gpu: (-free_shares[gpu] * gpus[gpu], gpu))
    for width in _list_widths(group):
        emptiest_gpus = gpus_by_free_memory[: width * copies]
        if len(emptiest_gpus) < width * copies:
            break
        smallest_gib = min(gpus[gpu] for gpu in emptiest_gpus)
        free_share = min(free_shares[gpu] for gpu in emptiest_gpus)
        asleep_share = ASLEEP_GIB * (len(group) - 1) / smallest_gib
        demands_with_few = [demand.with_few_requests for demand in group]
        demands_with_one = [demand.with_one_request for demand in group]
        share_for_few = max(demand.compute_share(width, smallest_gib) for demand in demands_with_few) + asleep_share
        share_for_one = max(demand.compute_share(width, smallest_gib) for demand in demands_with_one) + asleep_share
        gpus_are_empty = free_share + TOLERANCE >= LIMIT
        if share_for_few <= free_share + TOLERANCE:
            yield share_for_few, _make_servers(demands_with_few, emptiest_gpus, width, smallest_gib)
        elif gpus_are_empty and share_for_one <= LIMIT:
            yield LIMIT, _make_servers(demands_with_one, emptiest_gpus, width, smallest_gib)


def _make_servers(group: Sequence[Demand], gpus: Sequence[int], width: int, smallest_gib: float) -> list[Server]:
    """The servers of a group of demands on `gpus`, whose smallest GPU has `smallest_gib`."""
    sleep_group = group[0].shares if len(group) > 1 else ""
    indices = tuple(sorted(gpus))
    return [
        Server(demand.name, indices, demand.compute_share(width, smallest_gib), width, demand.kv_gib, sleep_group)
        for demand in group
    ]


def _list_widths(group: Sequence[Demand]) -> list[int]:
    """The numbers of GPUs per copy to try: all of `WIDTHS`, unless a demand of the group sets a number above 1."""
    width = max(demand.width for demand in group)
    return [width] if width > 1 else list(WIDTHS)


def _place_in_turns(demands: Sequence[Demand], gpus: Sequence[float]) -> list[Server] | None:
    """Place servers that take turns, with as few as possible on each GPU, since a server with fewer neighbours gets
    more of the GPU. Return None if the demands do not fit.
    """
    for max_neighbours in range(1, len(demands)):
        servers = _place_with_neighbours(demands, gpus, max_neighbours)
        if servers is not None:
            return _group_by_gpu(servers, len(gpus))
    return None


def _place_with_neighbours(
    demands: Sequence[Demand], gpus: Sequence[float], max_neighbours: int
) -> list[Server] | None:
    """Place each server next to at most `max_neighbours` sleeping servers, on the GPUs with the fewest servers. Return
    None if a server does not fit.
    """
    placed_servers: list[Server] = []
    server_counts = [0] * len(gpus)
    limits = [LIMIT - ASLEEP_GIB * max_neighbours / size for size in gpus]
    for demand in demands:
        server = _place_on_emptiest(demand, gpus, server_counts, limits)
        if server is None:
            return None
        placed_servers.append(server)
        for gpu in server.gpus:
            server_counts[gpu] += 1
    return placed_servers if max(server_counts) <= max_neighbours + 1 else None


def _place_on_emptiest(
    demand: Demand, gpus: Sequence[float], server_counts: Sequence[int], limits: Sequence[float]
) -> Server | None:
    """Place a server on as few GPUs as suffice, those with the fewest servers. `limits` are the shares of each GPU that
    the server may claim. Return None if no number of GPUs suffices.
    """
    gpus_by_server_count = sorted(range(len(gpus)), key=lambda gpu: (server_counts[gpu], gpu))
    for width in _list_widths([demand]):
        chosen_gpus = gpus_by_server_count[: width * demand.copies]
        if len(chosen_gpus) < width * demand.copies:
            continue
        smallest_gib = min(gpus[gpu] for gpu in chosen_gpus)
        (server,) = _make_servers([demand.with_one_request], chosen_gpus, width, smallest_gib)
        if all(server.utilisation <= limits[gpu] + TOLERANCE for gpu in chosen_gpus):
            return server
    return None


def _group_by_gpu(servers: Sequence[Server], gpu_count: int) -> list[Server]:
    """Put servers that share a GPU, directly or through other servers, into one sleep group, named after its first GPU.

    Servers without neighbours get no group.
    """
    group_of_gpu = list(range(gpu_count))
    for _ in range(gpu_count):  # each pass extends a group by one neighbour; a chain has at most `gpu_count` GPUs
        for server in servers:
            lowest_group = min(group_of_gpu[gpu] for gpu in server.gpus)
            for gpu in server.gpus:
                group_of_gpu[gpu] = lowest_group
    group_numbers = [group_of_gpu[server.gpus[0]] for server in servers]
    grouped_servers = []
    for server, number in zip(servers, group_numbers, strict=True):
        has_neighbours = group_numbers.count(number) > 1
        grouped_servers.append(replace(server, shares=f"gpu{number}" if has_neighbours else ""))
    return grouped_servers


def _distribute_rest(
    servers: Sequence[Server], demands: Mapping[str, Demand], gpus: Sequence[float], fill_gpus: bool
) -> list[Server]:
    """Distribute the unclaimed memory of each GPU equally among the servers that are awake together. A server gets at
    most what all its requests need, or its full part if `fill_gpus` is set.
    """
    awake_groups: list[list[list[Server]]] = []  # the groups on each GPU
    spare_shares: list[float] = []  # the unclaimed share of each GPU
    for gpu, size in enumerate(gpus):
        groups = _group_awake([server for server in servers if gpu in server.gpus])
        claimed_share = sum(_compute_claim(group) + ASLEEP_GIB * (len(group) - 1) / size for group in groups)
        awake_groups.append(groups)
        spare_shares.append(LIMIT - claimed_share)
    enlarged_servers = []
    for server in servers:
        possible_shares = []
        for gpu in server.gpus:
            group = next(group for group in awake_groups[gpu] if server in group)
            possible_shares.append(_compute_claim(group) + spare_shares[gpu] / len(awake_groups[gpu]))
        share = min(possible_shares)
        if not fill_gpus:
            smallest_gib = min(gpus[gpu] for gpu in server.gpus)
            share = min(share, demands[server.name].compute_share(server.tensor, smallest_gib))
        share = math.floor(share * 100 + 1e-6) / 100  # rounded down to a hundredth
        enlarged_servers.append(replace(server, utilisation=max(server.utilisation, share)))
    return enlarged_servers


def _compute_claim(group: Sequence[Server]) -> float:
    """The share of a GPU that a group claims: that of its largest server, since only one is awake at a time."""
    return max(server.utilisation for server in group)


def _group_awake(servers: Sequence[Server]) -> list[list[Server]]:
    """Group the servers on one GPU so that one server of each group is awake at a time."""
    groups: dict[str, list[Server]] = {}
    for server in servers:
        groups.setdefault(_name_group(server), []).append(server)
    return list(groups.values())


def _add_capacity(server: Server, demand: Demand, gpus: Sequence[float]) -> Server:
    """Add to a server the size of the KV cache in its share, and the number of requests that this cache holds."""
    smallest_gib = min(gpus[gpu] for gpu in server.gpus)
    cache_gib = demand.compute_cache_gib(server.utilisation, server.tensor, smallest_gib)
    requests_per_copy = int(cache_gib / demand.request_gib + TOLERANCE) if demand.kv_gib else demand.sequences
    return replace(
        server,
        kv_gib=round(cache_gib, 2),
        requests=requests_per_copy * demand.copies,
        weights_gib=demand.weights_gib,
        lora_gib=round(demand.lora_gib, 2),
    )


def _build_refusal(demands: Sequence[Demand], gpus: Sequence[float], smaller_models: Mapping[str, float]) -> Placement:
    """The refusal of demands that do not fit: it states what each model needs, and which machines and smaller models
    would fit.
    """
    machine = f"GPUs of {', '.join(f'{size:g}' for size in gpus)} GiB" if gpus else "a machine without GPUs"
    needs: list[str] = []
    for demand in demands:
        needed_gib = demand.weights_gib + demand.request_gib + demand.lora_gib + OVERHEAD_GIB
        needs.append(f"{demand.name} needs {needed_gib:.1f} GiB")
    advice = []
    if gpus:
        largest_gib = max(gpus)
        for count in range(len(gpus) + 1, MAX_ADVISED_GPUS + 1):
            if _place_demands(demands, [largest_gib] * count) is not None:
                advice.append(f"{count} GPUs of {largest_gib:g} GiB")
                break
        free_gib = largest_gib * LIMIT - OVERHEAD_GIB - ASLEEP_GIB * (len(demands) - 1)
        fitting_models = sorted(
            name for name, weights_gib in smaller_models.items() if weights_gib * ADVISED_WEIGHTS_FACTOR < free_gib
        )
        if fitting_models:
            advice.append(f"a smaller model: {', '.join(fitting_models)}")
    advice.append("fewer concurrent requests, or a shorter context")
    return Placement(refusal=f"these models do not fit on {machine}: {'; '.join(needs)}", would_fit=tuple(advice))
