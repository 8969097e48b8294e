"""Placements: every model is placed once, no GPU is overfilled, and a refusal states what would fit."""

import itertools
from collections import Counter

import pytest

from nanoflux_models.manifest import Parallel
from nanoflux_models.parallel import build_parallel_flags
from nanoflux_models.placement import ASLEEP_GIB, LIMIT, Demand, Placement, compute_kv_gib, place_models

WEIGHTS_GIB = (0.5, 8.0, 18.0, 27.5, 60.0)
"""Weights of models, from tiny to larger than most of the tested GPUs."""


def check_placement(placement: Placement, demands: list[Demand], gpus: list[float]) -> None:
    """Check that every model is placed once, and that the awake and sleeping servers of each GPU fit its memory."""
    assert Counter(server.name for server in placement.servers) == Counter(demand.name for demand in demands)
    for gpu, gpu_gib in enumerate(gpus):
        servers_on_gpu = [server for server in placement.servers if gpu in server.gpus]
        groups = {server.shares for server in servers_on_gpu}
        if groups == {""} or not servers_on_gpu:
            assert sum(server.utilisation for server in servers_on_gpu) <= LIMIT + 1e-6
        else:
            assert len(groups) == 1  # servers that take turns on a GPU are all in one group
            awake_utilisation = max(server.utilisation for server in servers_on_gpu)
            assert awake_utilisation + ASLEEP_GIB * (len(servers_on_gpu) - 1) / gpu_gib <= LIMIT + 1e-6


@pytest.mark.parametrize("gpus", [[24.0], [40.0], [80.0], [40.0] * 2, [40.0] * 4, [24.0, 80.0], [16.0] * 8])
def test_placement_places_every_model_once_and_overfills_no_gpu(gpus: list[float]) -> None:
    fitting_count = 0
    for weights in itertools.combinations_with_replacement(WEIGHTS_GIB, 3):
        demands = [
            Demand(f"m{number}", weights_gib, kv_gib=weights_gib / 8 + 1) for number, weights_gib in enumerate(weights)
        ]
        placement = place_models(demands, gpus)
        if placement.fits:
            fitting_count += 1
            check_placement(placement, demands, gpus)
        else:
            assert not placement.servers and placement.would_fit and "do not fit" in placement.refusal
    assert fitting_count


def test_placement_uses_only_gpus_of_known_size_and_keeps_gpu_indices() -> None:
    demands = [Demand("a", 20.0, 1.0), Demand("b", 20.0, 1.0)]
    placement = place_models(demands, [0.0, 80.0, 0.0, 80.0])
    assert placement.fits
    for server in placement.servers:
        assert set(server.gpus) <= {1, 3}, server
    assert not place_models(demands, [0.0]).fits


def test_placement_lets_as_few_models_as_possible_take_turns() -> None:
    """The largest model fits next to one sleeping model but not next to two, so it shares a GPU with the smallest."""
    demands = [Demand("large", 27.5, 6), Demand("middle", 18, 8), Demand("small", 8, 4.2)]
    placement = place_models(demands, [40.0, 40.0])
    assert {server.name: (server.gpus, server.shares) for server in placement.servers} == {
        "large": ((0,), "gpu0"), "middle": ((1,), ""), "small": ((0,), "gpu0"),
    }  # fmt: skip


def test_placement_gives_each_copy_its_stated_number_of_gpus() -> None:
    demands = [Demand("wide", 40, 8, width=2, copies=2)]
    placement = place_models(demands, [40.0] * 4)
    assert placement.servers[0].gpus == (0, 1, 2, 3) and placement.servers[0].tensor == 2
    assert not place_models(demands, [40.0] * 3).fits


def test_kv_gib_counts_all_tokens_of_all_requests() -> None:
    assert compute_kv_gib(bytes_per_token=262_144, sequences=8, context=4096) == 8.0


@pytest.mark.parametrize(
    ("parallel", "flags"),
    [
        (Parallel(), ""),
        (Parallel(tensor=2), "--tensor-parallel-size 2"),
        (
            Parallel(tensor=4, pipeline=2, nodes=2),
            "--tensor-parallel-size 4 --pipeline-parallel-size 2 --distributed-executor-backend ray",
        ),
        (
            Parallel(data=2, nodes=2),
            "--data-parallel-size 2 --distributed-executor-backend ray --data-parallel-backend ray",
        ),
    ],
)
def test_parallel_settings_become_vllm_flags(parallel: Parallel, flags: str) -> None:
    assert " ".join(build_parallel_flags(parallel)) == flags


def test_parallel_refuses_gpus_that_cannot_be_spread_evenly_over_nodes() -> None:
    with pytest.raises(ValueError, match="cannot be spread evenly"):
        Parallel(tensor=3, nodes=2)
