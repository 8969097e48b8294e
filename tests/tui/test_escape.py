"""The module that shortens the delay of the Escape key works with the installed version of Textual."""

import inspect
import selectors
from typing import Any

import pytest
from textual.drivers import linux_driver

from nanoflux_tui.escape import POLL_S, shorten_escape_delay


def test_textual_reads_keys_through_the_replaced_selector(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if a new version of Textual reads keys in a different way: the delay would then be long again."""
    assert "selectors.SelectSelector()" in inspect.getsource(linux_driver)
    monkeypatch.setenv("ESCDELAY", "25")  # otherwise `shorten_escape_delay` would set it for later tests
    timeouts: list[float | None] = []
    monkeypatch.setattr(linux_driver, "selectors", selectors)

    def record_timeout(_: selectors.SelectSelector, timeout: float | None = None) -> list[Any]:
        timeouts.append(timeout)
        return []

    monkeypatch.setattr(selectors.SelectSelector, "select", record_timeout)
    shorten_escape_delay()
    selector = linux_driver.selectors.SelectSelector()
    assert isinstance(selector, selectors.SelectSelector)
    for timeout in (0.1, 0, None):
        assert selector.select(timeout) == []
    assert timeouts == [POLL_S, 0, None]
