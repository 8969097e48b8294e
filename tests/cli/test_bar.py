"""Progress without a terminal: one line for every tenth of the work, in each step."""

import pytest

from nanoflux_local.cli.common import Bar


def test_bar_reports_every_tenth_of_each_step(capsys: pytest.CaptureFixture[str]) -> None:
    bar = Bar("series")
    for step, total in (("examples", 20), ("steps", 4)):
        for done in range(1, total + 1):
            bar.show(done, total, step)
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "examples" in line] == [
        "series 1/20 examples", *(f"series {done}/20 examples" for done in range(2, 21, 2))
    ]  # fmt: skip
    assert [line for line in lines if "steps" in line] == [f"series {done}/4 steps" for done in range(1, 5)]
