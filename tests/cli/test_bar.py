"""Without a terminal, the progress bar prints a line for every tenth of the work, with the rate and the time left once
they can be estimated.
"""

import pytest

from nanoflux_local.cli.bar import Bar
from nanoflux_local.rate import RateMeter, format_rate


class Clock:
    """A clock that a test sets: `now_s` is the time in seconds."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_bar_prints_a_line_for_every_tenth_of_each_task(capsys: pytest.CaptureFixture[str]) -> None:
    bar = Bar("series", clock=Clock())
    for note, total in (("examples", 20), ("steps", 4)):
        for done in range(1, total + 1):
            bar.show(done, total, note)
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "examples" in line] == [
        "series 1/20 examples", *(f"series {count}/20 examples" for count in range(2, 21, 2))
    ]  # fmt: skip
    assert [line for line in lines if "steps" in line] == [f"series {count}/4 steps" for count in range(1, 5)]


def test_bar_shows_the_rate_and_the_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    bar = Bar("training", "steps", clock=clock)
    for done in range(11):
        bar.show(done, 100, "loss 1.0")
        clock.now_s += 4
    assert capsys.readouterr().err.splitlines() == [
        "training 0/100 steps, loss 1.0",
        "training 10/100 steps, loss 1.0, 4 s each, 6 min left",
    ]


def test_bar_prints_a_line_after_a_long_silence(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    bar = Bar("downloading", "MiB", line_interval_s=5.0, clock=clock)
    for done in (0, 1, 2, 30):
        bar.show(done, 1000)
        clock.now_s += 3
    assert capsys.readouterr().err.splitlines() == [
        "downloading 0/1000 MiB",
        "downloading 2/1000 MiB, 0.3 MiB/s, 50 min left",
    ]


def test_rate_meter_starts_again_with_a_new_task() -> None:
    clock = Clock()
    meter = RateMeter(clock)
    assert meter.report(5, 10) is None, "a rate was reported before any time was measured"
    clock.now_s += 1
    assert meter.report(7, 10) is None, "a rate was reported after only one second"
    clock.now_s += 3
    assert meter.report(9, 10) == 1.0
    assert meter.report(0, 10) is None, "the rate of the earlier task was reported for the new task"
    assert format_rate(None, 5) == "" and format_rate(1.0, 0, "steps") == "1.0 steps/s"
