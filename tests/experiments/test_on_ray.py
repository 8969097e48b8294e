"""A Ray cluster of two nodes on one machine gives the local table, even if one node is killed during the run."""

import json
from pathlib import Path

import pytest

from nanoflux_local.experiments.experiment import create, run_remaining_cells
from nanoflux_local.experiments.grid import Cell, GridPlan
from nanoflux_local.experiments.results import load_results

ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")
NODE = {"num_cpus": 1, "object_store_memory": 80_000_000}


@pytest.fixture
def cluster():
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    yield made
    ray.shutdown()
    made.shutdown()


def table(contents: dict) -> str:
    """Everything that was measured, without names of evaluations and times."""
    conditions = [
        {
            "condition": entry["condition"],
            "rows": entry.get("rows"),
            "tokens": entry.get("tokens"),
            "test": {data: {**accuracy, "evaluations": 0} for data, accuracy in entry["test"].items()},
        }
        for entry in contents["conditions"]
    ]
    return json.dumps([conditions, contents["pairs"], contents["left_out"]], indent=1, sort_keys=True)


def test_cell_of_a_lost_node_is_repeated_with_equal_results(
    new_lab, killed, plan: GridPlan, cluster, hostile_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And Ray's workers execute nothing of the folder that the experiment was started in."""
    from nanoflux_local.experiments.on_ray import OnRay

    monkeypatch.chdir(hostile_folder)
    lost = cluster.add_node(**NODE)
    home = new_lab()
    workers = OnRay(home, cluster.address)
    ended: list[str] = []

    def on_cell(cell: Cell, status: str) -> None:
        ended.append(cell.id)
        if cell.id.startswith("random"):  # its other cells are under way
            cluster.remove_node(lost, allow_graceful=False) if lost in cluster.worker_nodes else None

    run_remaining_cells(home, create(home, plan), workers, on_cell)
    workers.close()
    assert lost not in cluster.worker_nodes and sorted(ended) == sorted(cell.id for cell in plan.cells)
    assert table(load_results(home, "small").to_json()) == table(load_results(killed[0], "small").to_json())
