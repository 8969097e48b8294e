"""Placement: nothing is claimed twice, everything is placed once, and a refusal says what would fit."""

import itertools
from collections import Counter

import pytest

from nanoflux_models.manifest import Parallel
from nanoflux_models.parallel import parallel_flags
from nanoflux_models.placement import ASLEEP_GIB, LIMIT, Demand, Plan, kv_gib, plan

SIZES = (0.5, 8.0, 18.0, 27.5, 60.0)


def check(found: Plan, demands: list[Demand], gpus: list[float]) -> None:
    assert Counter(server.name for server in found.servers) == Counter(demand.name for demand in demands)
    for gpu, size in enumerate(gpus):
        here = [server for server in found.servers if gpu in server.gpus]
        groups = {server.shares for server in here}
        if groups == {""} or not here:
            assert sum(server.utilisation for server in here) <= LIMIT + 1e-6
        else:
            assert len(groups) == 1  # whoever takes turns on a GPU takes turns with all that are there
            awake = max(server.utilisation for server in here)
            assert awake + ASLEEP_GIB * (len(here) - 1) / size <= LIMIT + 1e-6


@pytest.mark.parametrize("gpus", [[24.0], [40.0], [80.0], [40.0] * 2, [40.0] * 4, [24.0, 80.0], [16.0] * 8])
def test_every_model_is_placed_once_and_no_gpu_is_overfull(gpus: list[float]) -> None:
    fitted = 0
    for weights in itertools.combinations_with_replacement(SIZES, 3):
        demands = [Demand(f"m{number}", gib, gib / 8 + 1) for number, gib in enumerate(weights)]
        found = plan(demands, gpus)
        if found.fits:
            fitted += 1
            check(found, demands, gpus)
        else:
            assert not found.servers and found.would_fit and "do not fit" in found.refusal
    assert fitted


def test_gpu_of_unknown_size_gets_nothing_and_the_others_keep_their_numbers() -> None:
    demands = [Demand("a", 20.0, 1.0), Demand("b", 20.0, 1.0)]
    found = plan(demands, [0.0, 80.0, 0.0, 80.0])
    assert found.fits and {gpu for server in found.servers for gpu in server.gpus} <= {1, 3}
    assert not plan(demands, [0.0]).fits


def test_as_few_as_will_do_take_turns() -> None:
    """The largest fits beside one that sleeps, not beside two: it shares with the smallest, and nobody is spread."""
    found = plan([Demand("large", 27.5, 6), Demand("middle", 18, 8), Demand("small", 8, 4.2)], [40.0, 40.0])
    assert {server.name: (server.gpus, server.shares) for server in found.servers} == {
        "large": ((0,), "gpu0"), "middle": ((1,), ""), "small": ((0,), "gpu0"),
    }  # fmt: skip


def test_copies_and_a_stated_width_take_their_gpus() -> None:
    found = plan([Demand("wide", 40, 8, width=2, copies=2)], [40.0] * 4)
    assert found.servers[0].gpus == (0, 1, 2, 3) and found.servers[0].tensor == 2
    assert not plan([Demand("wide", 40, 8, width=2, copies=2)], [40.0] * 3).fits


def test_keys_and_values_of_eight_long_requests() -> None:
    assert kv_gib(262_144, 8, 4096) == 8.0


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
def test_parallel_table_becomes_the_flags_of_vllm(parallel: Parallel, flags: str) -> None:
    assert " ".join(parallel_flags(parallel)) == flags


def test_gpus_that_cannot_be_spread_evenly_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot be spread evenly"):
        Parallel(tensor=3, nodes=2)
