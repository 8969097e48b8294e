"""The examples of docs/extending.md are executed: each is one new module, and nothing else is touched."""

import asyncio
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import nanoflux_local.roles.checks as checks
from nanoflux_local import binding, runs
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.roles.checks.base import check_kinds
from nanoflux_local.trial import trial_result

PAGE = (Path(__file__).parents[2] / "docs" / "extending.md").read_text("utf-8")


def example(heading: str) -> str:
    """The first Python block below a heading of the page."""
    match = re.search(rf"^## {re.escape(heading)}$.*?```python\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE)
    assert match is not None
    return match[1]


@pytest.fixture
def unit_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The page's check, as a module of the package."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "units.py").write_text(example("A check"), "utf-8")
    monkeypatch.setattr(checks, "__path__", [*checks.__path__, str(tmp_path / "modules")])
    check_kinds.cache_clear()
    yield
    check_kinds.cache_clear()
    sys.modules.pop("nanoflux_local.roles.checks.units", None)


@pytest.mark.usefixtures("unit_check")
def test_check_is_one_new_module(tmp_path: Path) -> None:
    home = Home(tmp_path / "home").prepare()
    judge = {"checks": ["units", "code"], "trial": 2}
    config = binding.resolve("starter", "scripted", {"target": 2, "seed": 5, "max_turns": 8, "judge": judge}, home)
    run = asyncio.run(runs.start(home, config))
    asyncio.run(runs.carry_on(home, run))
    with LedgerView(home.ledger) as view:
        verdicts = [a.validation for record in view.turn_records(run) for a in record.attempts if a.validation]
        trial = trial_result(view, run)
    assert verdicts and all(verdict.finding("units") and verdict.finding("code") for verdict in verdicts)
    assert trial is not None and set(trial["checks"]) <= {"units", "code"}
    assert asyncio.run(runs.replay(home, run))["same"]


def test_unknown_check_is_refused_with_the_names(tmp_path: Path) -> None:
    home = Home(tmp_path / "home").prepare()
    config = binding.resolve("starter", "scripted", {"judge": {"checks": ["unit"]}}, home)
    with pytest.raises(Exception, match=r"judge\.checks: there is no check 'unit'"):
        asyncio.run(runs.start(home, config))
