"""An experiment resumes after a kill, leaves out impossible cells, and chooses a condition on dev items only."""

from typing import Any

import pytest

from nanoflux_local.errors import NanofluxError, NothingMatchedError
from nanoflux_local.examples.lineage import trace_lineage
from nanoflux_local.experiments import cells
from nanoflux_local.experiments.experiment import (
    LocalWorkers,
    create_experiment,
    find_experiment,
    list_experiments,
    load_cells,
    run_remaining_cells,
)
from nanoflux_local.experiments.grid import GridPlan
from nanoflux_local.experiments.kinds import train
from nanoflux_local.experiments.results import load_results
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.seeds.benchmarks.starter_easy import make_easy_items


def test_resumed_experiment_repeats_no_finished_cell(resumed_experiment, plan: GridPlan) -> None:
    home, times_before_kill = resumed_experiment
    assert {"generate", "base-0", "random-0"} <= times_before_kill.keys() and "run-0" not in times_before_kill
    with LedgerView(home.ledger) as view:
        rows = view.rows("SELECT id, at FROM cells WHERE experiment = ?", plan.id)
        times_at_end = {row["id"]: row["at"] for row in rows}
        assert {cell: times_at_end[cell] for cell in times_before_kill} == times_before_kill
        run_count = view.row("SELECT count(*) AS n FROM runs")
        assert run_count is not None and run_count["n"] == 1
        assert find_experiment(view, "small").status == "done"


def test_results_have_every_condition_with_intervals_and_tests(resumed_experiment) -> None:
    home, _ = resumed_experiment
    results = load_results(home, "small").to_json()
    entries = load_entries(home)
    assert set(entries) == {"base", "random", "run", "run-2", "run-99"}
    for name in ("base", "random", "run", "run-2"):
        accuracy = entries[name]["test"]["starter-easy"]
        assert accuracy["n"] == 3 and accuracy["ci95"][0] <= accuracy["mean"] <= accuracy["ci95"][1]
    assert entries["run"]["seeds"] == [0, 1] and entries["base"]["seeds"] == [0]
    assert entries["run"]["rows"] == entries["random"]["rows"] == 3, "the control has a different number of examples"
    assert entries["run-2"]["rows"] == 2
    assert {(pair["a"], pair["b"]) for pair in results["pairs"]} == {("base", "run"), ("random", "run")}
    for pair in results["pairs"]:
        assert {"mcnemar_p", "holm_p", "bootstrap_p", "ci95", "minimum_detectable"} <= pair.keys()
    assert results["cells_left"] == []


def test_impossible_conditions_are_left_out_with_the_reason(resumed_experiment) -> None:
    home, _ = resumed_experiment
    left_out = load_results(home, "small").to_json()["left_out"]
    assert set(left_out) == {"run-99-0", "run-99-1"}
    assert all("99 examples are requested, but only 3" in reason for reason in left_out.values())


def test_condition_is_chosen_on_dev_items_only(resumed_experiment) -> None:
    home, _ = resumed_experiment
    chosen_condition = load_results(home, "small").to_json()["chosen"]["condition"]
    assert chosen_condition == "run-2", "the chosen condition is not one of the sizes"
    ids_by_split = {}
    for split in ("dev", "test"):
        ids_by_split[split] = {item.id for item in make_easy_items(split)[:3]}
    assert not ids_by_split["dev"] & ids_by_split["test"]
    with LedgerView(home.ledger) as view:
        for split, item_ids in ids_by_split.items():
            rows = view.rows(
                "SELECT DISTINCT item FROM evaluation_items JOIN evaluations ON evaluations.id = evaluation"
                " WHERE split = ?",
                split,
            )
            assert {row["item"] for row in rows} == item_ids


def load_entries(home: Home) -> dict[str, dict[str, Any]]:
    """The entry of each condition in the experiment's results, by the condition's name."""
    return {entry["condition"]: entry for entry in load_results(home, "small").to_json()["conditions"]}


def test_condition_has_an_adapter_per_training_seed_and_a_generation_cost(resumed_experiment) -> None:
    home, _ = resumed_experiment
    entry = load_entries(home)["run"]
    assert len(set(entry["trainings"])) == len(set(entry["adapters"])) == 2
    assert entry["flops"]["6nd"] > 0 and entry["flops"]["measured"] > 0
    assert entry["generation"]["tokens"] > 0
    assert entry["generation"]["unknown"] == ["arbiter", "duelist-a", "duelist-b"], (
        "scripted models have no parameters, so their FLOPs must be unknown"
    )


def test_example_lineage_lists_the_training_runs(resumed_experiment) -> None:
    home, _ = resumed_experiment
    entries = load_entries(home)
    with LedgerView(home.ledger) as view:
        example_ids = [row["id"] for row in view.rows("SELECT id FROM examples ORDER BY turn")]
        lineages = [trace_lineage(home, view, example_id) for example_id in example_ids]
    trainings_by_example = [{training.id for training in lineage.trainings} for lineage in lineages]
    assert len(example_ids) == 3
    assert all(set(entries["run"]["trainings"]) <= trainings for trainings in trainings_by_example)
    for training in entries["run-2"]["trainings"]:
        example_count = sum(training in trainings for trainings in trainings_by_example)
        assert example_count == 2, "each training run of run-2 must use two of the three examples"


def test_rerun_retries_only_the_cells_that_were_left_out(resumed_experiment, plan: GridPlan, monkeypatch) -> None:
    home, _ = resumed_experiment
    retried_conditions: list[str] = []

    def record_and_refuse(home, plan, condition, seed, on_step):
        retried_conditions.append(condition.name)
        raise NothingMatchedError("99 examples are requested, but only 3 match the other conditions", "")

    monkeypatch.setattr(train, "train_condition", record_and_refuse)
    run_remaining_cells(home, create_experiment(home, plan), LocalWorkers(home))
    assert retried_conditions == ["run-99", "run-99"], "the cell of each training seed must be retried once"
    (entry,) = list_experiments(home)
    assert entry.state.status == "done" and entry.cells == {"done": 8, "left out": 2}


def test_failed_cell_is_reported_and_retried_while_others_finish(create_home, plan: GridPlan, monkeypatch) -> None:
    home = create_home()
    monkeypatch.setattr(cells, "generate_run", lambda *_: "no run")
    monkeypatch.setattr(train, "find_runs", lambda *_: {"0": "no run"})
    failing_cells = ["random-1"]

    def fail_or_skip_training(home, plan, condition, seed, on_step):
        if f"{condition.name}-{seed}" in failing_cells:
            raise NanofluxError("the disk is full\nand more", "make room")
        return {"adapter": ""}

    async def skip_evaluation(*_):
        return "evaluation-id"

    monkeypatch.setattr(train, "train_condition", fail_or_skip_training)
    monkeypatch.setattr(train, "_evaluate_split", skip_evaluation)
    with pytest.raises(NanofluxError, match="1 cell failed: random-1: the disk is full\n  →"):
        run_remaining_cells(home, create_experiment(home, plan), LocalWorkers(home))
    with LedgerView(home.ledger) as view:
        status_by_cell = {cell_id: cell.status for cell_id, cell in load_cells(view, plan.id).items()}
        assert find_experiment(view, plan.id).status == "failed"
    assert status_by_cell.pop("random-1") == "failed" and set(status_by_cell.values()) == {"done"}
    failing_cells.clear()
    run_remaining_cells(home, create_experiment(home, plan), LocalWorkers(home))
    with LedgerView(home.ledger) as view:
        assert find_experiment(view, plan.id).status == "done"
