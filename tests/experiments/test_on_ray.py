"""A Ray cluster of two nodes on one machine gives the same results as local workers, even if a node is killed."""

import json
from pathlib import Path

import pytest

from nanoflux_local.experiments.experiment import create_experiment, run_remaining_cells
from nanoflux_local.experiments.grid import Cell, GridPlan
from nanoflux_local.experiments.results import load_results

ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")
NODE = {"num_cpus": 1, "object_store_memory": 80_000_000}
"""The resources of a node, which suffice for one cell at a time."""


@pytest.fixture
def cluster():
    """A cluster with one node, to which tests can add nodes."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def format_results(results: dict) -> str:
    """The measurements of an experiment as text, without times and without the ids of evaluations."""
    entries = []
    for entry in results["conditions"]:
        accuracies = {data: {**accuracy, "evaluations": 0} for data, accuracy in entry["test"].items()}
        entries.append(
            {
                "condition": entry["condition"],
                "rows": entry.get("rows"),
                "tokens": entry.get("tokens"),
                "test": accuracies,
            }
        )
    return json.dumps([entries, results["pairs"], results["left_out"]], indent=1, sort_keys=True)


def test_cell_of_a_lost_node_is_repeated_with_equal_results(
    create_home, resumed_experiment, plan: GridPlan, cluster, hostile_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second node is removed once the first cell of the condition "random" is done. The experiment is started in a
    directory of hostile modules, which Ray's workers must not import.
    """
    from nanoflux_local.experiments.on_ray import RayWorkers

    monkeypatch.chdir(hostile_folder)
    lost_node = cluster.add_node(**NODE)
    home = create_home()
    workers = RayWorkers(home, cluster.address)
    finished_cells: list[str] = []

    def remove_node_once(cell: Cell, status: str) -> None:
        finished_cells.append(cell.id)
        if cell.id.startswith("random") and lost_node in cluster.worker_nodes:  # the node is running another cell
            cluster.remove_node(lost_node, allow_graceful=False)

    run_remaining_cells(home, create_experiment(home, plan), workers, remove_node_once)
    workers.close()
    assert lost_node not in cluster.worker_nodes
    assert sorted(finished_cells) == sorted(cell.id for cell in plan.cells)
    local_home, _ = resumed_experiment
    local_results = format_results(load_results(local_home, "small").to_json())
    assert format_results(load_results(home, "small").to_json()) == local_results
