"""Refreshes on a busy machine: the pause after an expensive refresh is bounded, and an outdated screen says so."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from textual.app import ComposeResult
from textual.widgets import Static

from nanoflux_local.paths import Home
from nanoflux_tui.app import MAX_REFRESH_PAUSE_S
from nanoflux_tui.base import STALE_S, BaseScreen

Drive = Callable[..., None]


class CountingScreen(BaseScreen):
    """Counts its refreshes; each takes `busy_s` of CPU time and then waits for `gate`."""

    def __init__(self, busy_s: float = 0.0) -> None:
        super().__init__()
        self.busy_s, self.count, self.gate = busy_s, 0, asyncio.Event()
        self.gate.set()

    def compose_body(self) -> ComposeResult:
        yield Static("body")

    async def load(self) -> None:
        end = time.process_time() + self.busy_s
        while time.process_time() < end:
            await asyncio.sleep(0)
        await self.gate.wait()
        self.count += 1


def test_pause_after_an_expensive_refresh_is_bounded(drive: Drive, home: Home) -> None:
    """Without the bound, each refresh that takes 0.6 s of CPU time would be followed by a pause of 40 s."""
    screen = CountingScreen(busy_s=0.6)

    async def flow(driver: Any) -> None:
        driver.app.push_screen(screen)
        await driver.wait_until(lambda: screen.count >= 1)
        first_count = screen.count
        await driver.wait_until(lambda: screen.count >= first_count + 3)  # within the minute that a driver waits

    assert MAX_REFRESH_PAUSE_S < STALE_S
    drive(home, flow)


def test_outdated_screen_shows_the_time_of_its_content(drive: Drive, home: Home) -> None:
    screen = CountingScreen()

    async def flow(driver: Any) -> None:
        driver.app.push_screen(screen)
        await driver.wait_until(lambda: screen.count >= 1)
        screen.gate.clear()
        await driver.wait_for("◷ As of ")
        screen.gate.set()
        await driver.wait_until(lambda: "◷ As of " not in driver.text)

    drive(home, flow, size=(80, 24))
