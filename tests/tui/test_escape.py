"""Escape: the application's way of reading it still reaches the library's."""

import inspect
import selectors

import pytest
from textual.drivers import linux_driver

from nanoflux_tui.escape import LOOK_S, answer_soon


def test_the_library_reads_keys_through_what_is_put_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """A version that reads them otherwise fails here, and Escape is slow again."""
    assert "selectors.SelectSelector()" in inspect.getsource(linux_driver)
    monkeypatch.setenv("ESCDELAY", "25")  # as it is set, so that nothing of this stays
    waited: list[float | None] = []
    monkeypatch.setattr(linux_driver, "selectors", selectors)
    monkeypatch.setattr(selectors.SelectSelector, "select", lambda self, timeout=None: waited.append(timeout) or [])
    answer_soon()
    reading = linux_driver.selectors.SelectSelector()
    assert isinstance(reading, selectors.SelectSelector)
    for timeout in (0.1, 0, None):
        assert reading.select(timeout) == []
    assert waited == [LOOK_S, 0, None]
