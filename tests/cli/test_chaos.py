"""bench/chaos.py with few failures: after each kind of failure, a run produces the dataset of an undisturbed run."""

import importlib
from pathlib import Path
from types import ModuleType

import pytest

BENCH = Path(__file__).parents[2] / "bench"
FAULTS_PER_RUN = 2
"""The number of times that the tested failure occurs in a run."""


@pytest.fixture(scope="module")
def chaos() -> ModuleType:
    """The benchmark bench/chaos.py as a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCH)
        return importlib.import_module("chaos")


@pytest.fixture(scope="module")
def matrix(chaos: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> object:
    """The benchmark's `Matrix`, which disturbs runs and compares each with an undisturbed run. Replies are delayed, so
    that a run is still in progress even if the process that disturbs it starts late on a busy machine.
    """
    folder = tmp_path_factory.mktemp("chaos")
    return chaos.Matrix(folder, turns=30, times=FAULTS_PER_RUN, kills=FAULTS_PER_RUN, seed=0, delay=0.1)


@pytest.mark.parametrize("failure", ["kill_in_transaction", "cut_power", "fill_disk", "jump_clock", "start_workers"])
def test_run_after_failures_produces_the_undisturbed_dataset(
    chaos: ModuleType, matrix: object, failure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # `fill_disk` then limits the size of files instead of mounting a small disk, which needs privileges.
    monkeypatch.setattr(chaos, "_mount", lambda *_: False)
    cause_failure = getattr(matrix, failure)
    result = matrix.measure_failure(failure, cause_failure)  # type: ignore[attr-defined]
    assert result.times >= 1 and result.has_same_digest and result.wrong == []
