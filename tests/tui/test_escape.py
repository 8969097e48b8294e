"""The shortened Escape delay applies to the installed Textual."""

import inspect
import selectors

import pytest
from textual.drivers import linux_driver

from nanoflux_tui.escape import POLL_S, shorten_escape_delay


def test_textual_reads_keys_through_the_replaced_selector(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if a new version of Textual reads keys in another way: Escape would then be slow again."""
    assert "selectors.SelectSelector()" in inspect.getsource(linux_driver)
    monkeypatch.setenv("ESCDELAY", "25")  # set here, so that monkeypatch restores it
    timeouts: list[float | None] = []
    monkeypatch.setattr(linux_driver, "selectors", selectors)
    monkeypatch.setattr(selectors.SelectSelector, "select", lambda self, timeout=None: timeouts.append(timeout) or [])
    shorten_escape_delay()
    selector = linux_driver.selectors.SelectSelector()
    assert isinstance(selector, selectors.SelectSelector)
    for timeout in (0.1, 0, None):
        assert selector.select(timeout) == []
    assert timeouts == [POLL_S, 0, None]
