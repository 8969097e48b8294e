"""`bench/power_cut.py` simulates power cuts while a run commits. It finds that no committed row is lost, and it detects
a loss that a test causes.
"""

import importlib.util
import random
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCH_FILE = Path(__file__).parents[2] / "bench" / "power_cut.py"


@pytest.fixture(scope="module")
def power_cut_bench() -> ModuleType:
    """The module `bench/power_cut.py`, which no package contains."""
    spec = importlib.util.spec_from_file_location("bench_power_cut", BENCH_FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look up their module there
    spec.loader.exec_module(module)
    return module


def test_reported_rows_survive_a_power_cut_and_a_kill_inside_a_transaction(power_cut_bench: ModuleType) -> None:
    report = power_cut_bench.measure(cuts=6, inside=2, turns=10, seed=0)
    assert report["wrong"] == []
    assert report["copies"] == 6 and report["turns_at_the_cut"]["most"] > 0


def test_bench_detects_a_disk_that_lost_flushed_writes(power_cut_bench: ModuleType, tmp_path: Path) -> None:
    """The test truncates the write-ahead log of a copy, as if the disk had lost writes that it had flushed. A power cut
    alone cannot cause this, so the benchmark must report it.
    """
    digest = power_cut_bench.finish(tmp_path / "plain", 10)
    copies = power_cut_bench.cut_copies(tmp_path / "run", 10, 8, random.Random(0), tmp_path)
    copies_with_log = [(copy, shown) for copy, shown in copies if (copy / "ledger.db-wal").exists() and shown.calls]
    assert copies_with_log, "no copy was made after a call was shown and before the log was written back"
    copy, shown = min(copies_with_log, key=lambda copy_and_shown: copy_and_shown[1].calls)
    log = copy / "ledger.db-wal"
    log.write_bytes(log.read_bytes()[: power_cut_bench.LOG_HEADER])
    problems = power_cut_bench.find_problems(copy, shown, digest, 10)
    assert any("were shown" in line or "is gone" in line for line in problems), (shown, problems)
