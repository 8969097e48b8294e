"""A Ray cluster of two nodes on one machine gives the same results as local workers, even if a node is killed."""

import json
from pathlib import Path

import pytest

from nanoflux_local.experiments.experiment import create_experiment, run_remaining_cells
from nanoflux_local.experiments.grid import Cell, GridPlan
from nanoflux_local.experiments.results import load_results

ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")
NODE = {"num_cpus": 1, "object_store_memory": 80_000_000}


@pytest.fixture
def cluster():
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def format_results(results: dict) -> str:
    """The measurements of an experiment as text, without the ids of evaluations and times."""
    conditions = [
        {
            "condition": entry["condition"],
            "rows": entry.get("rows"),
            "tokens": entry.get("tokens"),
            "test": {data: {**accuracy, "evaluations": 0} for data, accuracy in entry["test"].items()},
        }
        for entry in results["conditions"]
    ]
    return json.dumps([conditions, results["pairs"], results["left_out"]], indent=1, sort_keys=True)


def test_cell_of_a_lost_node_is_repeated_with_equal_results(
    create_home, resumed_experiment, plan: GridPlan, cluster, hostile_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The experiment is started in a hostile directory, whose modules Ray's workers must not execute."""
    from nanoflux_local.experiments.on_ray import RayWorkers

    monkeypatch.chdir(hostile_folder)
    lost_node = cluster.add_node(**NODE)
    home = create_home()
    workers = RayWorkers(home, cluster.address)
    finished_cells: list[str] = []

    def on_cell(cell: Cell, status: str) -> None:
        finished_cells.append(cell.id)
        if (
            cell.id.startswith("random") and lost_node in cluster.worker_nodes
        ):  # other cells of the node are in progress
            cluster.remove_node(lost_node, allow_graceful=False)

    run_remaining_cells(home, create_experiment(home, plan), workers, on_cell)
    workers.close()
    assert lost_node not in cluster.worker_nodes and sorted(finished_cells) == sorted(cell.id for cell in plan.cells)
    assert format_results(load_results(home, "small").to_json()) == format_results(
        load_results(resumed_experiment[0], "small").to_json()
    )
