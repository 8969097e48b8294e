"""An experiment is killed and resumed, leaves out impossible cells, and chooses conditions on dev items only."""

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
from nanoflux_local.seeds.benchmarks.starter_easy import make_easy_items


def test_resumed_experiment_repeats_no_finished_cell(resumed_experiment, plan: GridPlan) -> None:
    home, finished_before = resumed_experiment
    assert {"generate", "base-0", "random-0"} <= finished_before.keys() and "run-0" not in finished_before
    with LedgerView(home.ledger) as view:
        finished_after = {
            row["id"]: row["at"] for row in view.rows("SELECT id, at FROM cells WHERE experiment = ?", plan.id)
        }
        assert {cell: finished_after[cell] for cell in finished_before} == finished_before
        runs = view.row("SELECT count(*) AS n FROM runs")
        assert runs is not None and runs["n"] == 1
        assert find_experiment(view, "small").status == "done"


def test_table_has_every_condition_with_intervals_and_tests(resumed_experiment) -> None:
    home, _ = resumed_experiment
    results = load_results(home, "small").to_json()
    entries = {entry["condition"]: entry for entry in results["conditions"]}
    assert set(entries) == {"base", "random", "run", "run-2", "run-99"}
    for name in ("base", "random", "run", "run-2"):
        accuracy = entries[name]["test"]["starter-easy"]
        assert accuracy["n"] == 3 and accuracy["ci95"][0] <= accuracy["mean"] <= accuracy["ci95"][1]
    assert entries["run"]["seeds"] == [0, 1] and entries["base"]["seeds"] == [0]
    assert entries["run"]["rows"] == entries["random"]["rows"] == 3, "the control has a different number of examples"
    assert entries["run-2"]["rows"] == 2
    pairs = {(pair["a"], pair["b"]) for pair in results["pairs"]}
    assert pairs == {("base", "run"), ("random", "run")}
    assert all(
        {"mcnemar_p", "holm_p", "bootstrap_p", "ci95", "minimum_detectable"} <= pair.keys() for pair in results["pairs"]
    )
    assert results["cells_left"] == []


def test_impossible_conditions_are_left_out_with_the_reason(resumed_experiment) -> None:
    home, _ = resumed_experiment
    left_out = load_results(home, "small").to_json()["left_out"]
    assert set(left_out) == {"run-99-0", "run-99-1"}
    assert all("99 examples are requested, but only 3" in reason for reason in left_out.values())


def test_condition_is_chosen_on_dev_items_only(resumed_experiment) -> None:
    home, _ = resumed_experiment
    choice = load_results(home, "small").to_json()["chosen"]
    assert choice["condition"] == "run-2", "the chosen condition is not one of the sizes"
    dev_ids, test_ids = ({item.id for item in make_easy_items(split)[:3]} for split in ("dev", "test"))
    assert not dev_ids & test_ids
    with LedgerView(home.ledger) as view:
        for split, ids in (("dev", dev_ids), ("test", test_ids)):
            rows = view.rows(
                "SELECT DISTINCT item FROM evaluation_items JOIN evaluations ON evaluations.id = evaluation"
                " WHERE split = ?",
                split,
            )
            assert {row["item"] for row in rows} == ids


def test_each_seed_trains_an_adapter_and_generation_cost_is_separate(resumed_experiment) -> None:
    home, _ = resumed_experiment
    entries = {entry["condition"]: entry for entry in load_results(home, "small").to_json()["conditions"]}
    run = entries["run"]
    assert len(set(run["trainings"])) == len(set(run["adapters"])) == 2
    assert run["flops"]["6nd"] > 0 and run["flops"]["measured"] > 0
    assert run["generation"]["tokens"] > 0
    assert run["generation"]["unknown"] == ["arbiter", "duelist-a", "duelist-b"], "scripted models have no known size"


def test_example_lineage_lists_the_trainings(resumed_experiment) -> None:
    home, _ = resumed_experiment
    entries = {entry["condition"]: entry for entry in load_results(home, "small").to_json()["conditions"]}
    with LedgerView(home.ledger) as view:
        ids = [row["id"] for row in view.rows("SELECT id FROM examples ORDER BY turn")]
        trainings_by_example = [
            {training.id for training in trace_lineage(home, view, example).trainings} for example in ids
        ]
    assert len(ids) == 3 and all(set(entries["run"]["trainings"]) <= trainings for trainings in trainings_by_example)
    example_counts = [
        sum(training in trainings for trainings in trainings_by_example) for training in entries["run-2"]["trainings"]
    ]
    assert example_counts == [2, 2], "each training of run-2 must use two of the three examples"


def test_rerun_retries_only_the_cells_that_were_left_out(resumed_experiment, plan: GridPlan, monkeypatch) -> None:
    home, _ = resumed_experiment
    trained_conditions: list[str] = []

    def train_condition(home, plan, condition, seed, on_step):
        trained_conditions.append(condition.name)
        raise NothingMatchedError("99 examples are requested, but only 3 match the other conditions", "")

    monkeypatch.setattr(train, "train_condition", train_condition)
    run_remaining_cells(home, create_experiment(home, plan), LocalWorkers(home))
    assert trained_conditions == ["run-99", "run-99"]
    (entry,) = list_experiments(home)
    assert entry.state.status == "done" and entry.cells == {"done": 8, "left out": 2}


def test_failed_cell_is_reported_and_retried_while_others_finish(create_home, plan: GridPlan, monkeypatch) -> None:
    home = create_home()
    monkeypatch.setattr(cells, "generate_run", lambda *_: "no run")
    monkeypatch.setattr(train, "find_runs", lambda *_: {"0": "no run"})
    failing_cells = ["random-1"]

    def train_condition(home, plan, condition, seed, on_step):
        if f"{condition.name}-{seed}" in failing_cells:
            raise NanofluxError("the disk is full\nand more", "make room")
        return {"adapter": ""}

    async def evaluate_split(*_):
        return "e"

    monkeypatch.setattr(train, "train_condition", train_condition)
    monkeypatch.setattr(train, "_evaluate_split", evaluate_split)
    with pytest.raises(NanofluxError, match="1 cell failed: random-1: the disk is full\n  →"):
        run_remaining_cells(home, create_experiment(home, plan), LocalWorkers(home))
    with LedgerView(home.ledger) as view:
        states = {cell: entry.status for cell, entry in load_cells(view, plan.id).items()}
        assert find_experiment(view, plan.id).status == "failed"
    assert states.pop("random-1") == "failed" and set(states.values()) == {"done"}
    failing_cells.clear()
    run_remaining_cells(home, create_experiment(home, plan), LocalWorkers(home))
    with LedgerView(home.ledger) as view:
        assert find_experiment(view, plan.id).status == "done"
