"""Refreshes on a busy machine: the pause after an expensive refresh is bounded, and a screen with old content shows the
time of that content.
"""

import asyncio
import json
import os
import time
from collections.abc import Callable
from typing import Any

import pytest
from textual.app import ComposeResult
from textual.widgets import Static

from nanoflux_local.errors import LedgerError
from nanoflux_local.experiments.results import load_results
from nanoflux_local.jobs import RUN, Job, boot_id, hold_lock
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.run.forecast import Forecast, Span
from nanoflux_tui.app import MAX_REFRESH_PAUSE_S
from nanoflux_tui.base import STALE_S, BaseScreen
from nanoflux_tui.commands import CommandResult, CommandRunner
from nanoflux_tui.reader import LedgerReader
from nanoflux_tui.screens.calls import CallsScreen
from nanoflux_tui.screens.experiment import ExperimentScreen
from nanoflux_tui.screens.models import ModelsScreen
from nanoflux_tui.screens.run import DatedForecast, format_forecast

Drive = Callable[..., None]
FindRun = Callable[[Home, str], str]
EXPERIMENT = "table1-tiny-01234567"
"""The id of the experiment in the home."""


class CountingScreen(BaseScreen):
    """A screen that counts its refreshes. Each refresh takes `busy_s` seconds of CPU time and then waits until
    `refresh_may_end` is set.
    """

    def __init__(self, busy_s: float = 0.0) -> None:
        super().__init__()
        self.busy_s, self.refresh_count, self.refresh_may_end = busy_s, 0, asyncio.Event()
        self.refresh_may_end.set()

    def compose_body(self) -> ComposeResult:
        yield Static("body")

    async def load(self) -> None:
        end_cpu_s = time.process_time() + self.busy_s
        while time.process_time() < end_cpu_s:
            await asyncio.sleep(0)
        await self.refresh_may_end.wait()
        self.refresh_count += 1


def test_pause_after_an_expensive_refresh_is_bounded(drive: Drive, home: Home) -> None:
    """Each refresh takes 0.6 s of CPU time; without the bound, a pause of 40 s would follow."""
    screen = CountingScreen(busy_s=0.6)

    async def flow(driver: Any) -> None:
        driver.app.push_screen(screen)
        await driver.wait_until(lambda: screen.refresh_count >= 1)
        first_count = screen.refresh_count
        # Three more refreshes within the driver's timeout of a minute.
        await driver.wait_until(lambda: screen.refresh_count >= first_count + 3)

    assert MAX_REFRESH_PAUSE_S < STALE_S
    drive(home, flow)


def test_screen_shows_that_it_is_loading_until_its_first_read(
    drive: Drive, home: Home, find_run: FindRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads_may_start = asyncio.Event()
    original_read = LedgerReader.read

    async def read_late(reader: LedgerReader, query: Callable[[LedgerView], Any]) -> Any:
        await reads_may_start.wait()
        return await original_read(reader, query)

    monkeypatch.setattr(LedgerReader, "read", read_late)
    run = find_run(home, "first")

    async def flow(driver: Any) -> None:
        for digit, empty_message in (
            ("3", "No training runs yet"),
            ("4", "No evaluations yet"),
            ("6", "No experiments yet"),
        ):
            await driver.press(digit)
            await driver.wait_for("loading…")
            assert empty_message not in driver.text
        driver.app.push_screen(CallsScreen(run, 0, 0))
        await driver.wait_for("prompt", "loading…")
        assert "used no call" not in driver.text
        reads_may_start.set()
        await driver.wait_for("turn 0, attempt 0: ")
        await driver.press("3")
        await driver.wait_for("train-0123456789ab", "train loss")
        assert "loading…" not in driver.text

    drive(home, flow, size=(120, 40))


def test_outdated_screen_shows_the_time_of_its_content(drive: Drive, home: Home) -> None:
    screen = CountingScreen()

    async def flow(driver: Any) -> None:
        driver.app.push_screen(screen)
        await driver.wait_until(lambda: screen.refresh_count >= 1)
        screen.refresh_may_end.clear()
        await driver.wait_for("◷ As of ")
        screen.refresh_may_end.set()
        await driver.wait_until(lambda: "◷ As of " not in driver.text)

    drive(home, flow, size=(80, 24))


def test_read_version_changes_when_a_worker_ends_without_writing(home: Home, find_run: FindRun) -> None:
    """A killed worker does not write to the ledger, so only its lock shows that it has ended."""
    job = Job(RUN, find_run(home, "first"))
    with Ledger(home.ledger) as ledger:
        ledger.start_execution("run", job.id, os.getpid(), boot_id(), "runs")
    reader = LedgerReader(home)
    with hold_lock(home, job):
        version_with_worker = asyncio.run(reader.read_version())
        assert asyncio.run(reader.read_version()) == version_with_worker
    assert asyncio.run(reader.read_version()) != version_with_worker
    reader.close()


def test_screen_shows_its_age_after_a_failed_refresh(drive: Drive, home: Home) -> None:
    class FailingScreen(CountingScreen):
        async def load(self) -> None:
            await super().load()
            if self.refresh_count > 1:
                raise LedgerError("the ledger is locked", "wait")

    async def flow(driver: Any) -> None:
        screen = FailingScreen()
        driver.app.push_screen(screen)
        await driver.wait_until(lambda: screen.refresh_count > 1)
        await driver.wait_for("the ledger is locked", "◷ As of ")

    drive(home, flow, size=(80, 24))


def test_unchanged_ledger_makes_a_screen_current_unless_it_is_the_models_screen(drive: Drive, home: Home) -> None:
    """The models screen shows the machine's gauges, which change without the ledger."""

    async def mark_current(driver: Any) -> float:
        """Mark the visible screen as current once it has loaded; return by how much its age decreases."""
        screen = driver.app.screen
        await driver.wait_until(lambda: screen.has_loaded)
        age_s = screen.content_age_s
        screen.mark_current()
        return float(age_s - screen.content_age_s)

    async def flow(driver: Any) -> None:
        driver.app.push_screen(CountingScreen())
        await driver.wait_until(lambda: isinstance(driver.app.screen, CountingScreen))
        assert await mark_current(driver) > 0
        await driver.press("5")
        await driver.wait_until(lambda: isinstance(driver.app.screen, ModelsScreen))
        assert await mark_current(driver) <= 0

    drive(home, flow)


def test_experiment_shows_the_time_of_its_results_while_newer_ones_are_computed(
    drive: Drive, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = load_results(home, EXPERIMENT).to_json()
    computation_count = 0

    async def compute_results(*_: object, **__: object) -> CommandResult:
        """Stands in for `experiment show`; the second computation never ends."""
        nonlocal computation_count
        computation_count += 1
        if computation_count > 1:
            await asyncio.Event().wait()
        return CommandResult(0, json.dumps(results), "")

    monkeypatch.setattr(CommandRunner, "run", compute_results)

    async def flow(driver: Any) -> None:
        driver.app.push_screen(ExperimentScreen(EXPERIMENT))
        await driver.wait_for("Paired tests")
        assert "◷ As of " not in driver.text
        with Ledger(home.ledger) as ledger:
            ledger.set_cell(EXPERIMENT, "full-0", "failed", "the disk is full")
        await driver.wait_for("◷ As of ", "computing newer results")

    drive(home, flow, size=(80, 24))


def test_old_forecast_shows_its_time_once_more_turns_are_committed() -> None:
    span = Span(10.0, 8.0, 12.0)
    forecast = Forecast(36.0, "", 0.9, 1.0, span, span, span, span)
    dated_forecast = DatedForecast(forecast, turns=3, computed_s=time.monotonic() - 2 * STALE_S, clock_time="12:34:56")
    assert "as of" not in format_forecast(dated_forecast, turns=3)
    assert format_forecast(dated_forecast, turns=4).endswith("(as of 12:34:56)")
