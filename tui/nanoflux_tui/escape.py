"""Shortens the delay with which Textual reports the Escape key.

The sequences of other keys start with the same byte, so Textual waits ESCDELAY milliseconds for the rest of a sequence,
but it checks the time only ten times a second. The selector in this module checks more often. A later version of
Textual that reads keys in a different way is not affected.
"""

import os
import selectors
from types import SimpleNamespace

POLL_S = 0.02


class _Selector(selectors.SelectSelector):
    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return super().select(POLL_S if timeout else timeout)


def shorten_escape_delay() -> None:
    """Shorten the delay in applications that are imported and started after this call, on Unix terminals."""
    os.environ.setdefault("ESCDELAY", "25")
    from textual.drivers import linux_driver

    replacement = SimpleNamespace(SelectSelector=_Selector, EVENT_READ=selectors.EVENT_READ)
    setattr(linux_driver, "selectors", replacement)  # noqa: B010 - replaces a name in Textual's module
