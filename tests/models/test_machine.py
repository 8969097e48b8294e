"""A machine's gauges, read from files in the format of Linux's /proc and from this machine."""

from pathlib import Path

from nanoflux_models.machine import MachineMeter

MEMINFO = "MemTotal:       1000 kB\nMemFree:         100 kB\nMemAvailable:    250 kB\nHugePages_Total:       0\n"
"""Contents of /proc/meminfo that state a use of 750 of 1,000 KiB."""


def write_ticks(proc: Path, user: int, idle: int) -> None:
    """Write the file `stat` with the ticks of all CPUs: `user` + 50 busy ticks, and `idle` idle ticks."""
    (proc / "stat").write_text(f"cpu  {user} 0 50 {idle} 0 0 0 0 0 0\ncpu0 1 2 3 4\n")


def test_gauges_report_memory_disk_and_cpu_use_since_the_previous_reading(tmp_path: Path) -> None:
    write_ticks(tmp_path, 100, 850)
    (tmp_path / "meminfo").write_text(MEMINFO)
    meter = MachineMeter(tmp_path, tmp_path)
    gauges = meter.read()
    assert gauges.busy is None and (gauges.memory_used, gauges.memory_total) == (750 * 1024, 1000 * 1024)
    assert 0 < gauges.disk_used < gauges.disk_total
    write_ticks(tmp_path, 130, 920)
    assert meter.read().busy == 0.3  # 30 of 100 ticks


def test_gauges_are_empty_without_proc_files(tmp_path: Path) -> None:
    gauges = MachineMeter(tmp_path / "missing", tmp_path).read()
    assert (gauges.busy, gauges.memory_total, gauges.disk_total) == (None, 0, 0) and gauges.cores >= 1


def test_gauges_of_this_machine_are_plausible(tmp_path: Path) -> None:
    gauges = MachineMeter(tmp_path).read()
    assert 0 < gauges.memory_used < gauges.memory_total
