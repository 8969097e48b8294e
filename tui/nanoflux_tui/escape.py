"""Shortens the delay with which Textual reports the Escape key.

The byte of the Escape key also starts the sequences of other keys, so Textual waits ESCDELAY milliseconds for the rest
of a sequence. But Textual checks only ten times a second whether that time has passed. The selector in this module
makes it check every `POLL_S`. If a later version of Textual reads keys in a different way, this module has no effect.
"""

import os
import selectors
from types import SimpleNamespace

POLL_S = 0.02
"""The maximum number of seconds between two checks of the time."""


class _ShortWaitSelector(selectors.SelectSelector):
    """A selector that replaces every timeout with `POLL_S`, except 0 (do not wait) and None (wait for the next key)."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return super().select(POLL_S if timeout else timeout)


def shorten_escape_delay() -> None:
    """Shorten the delay in applications that are imported and started after this call, on Unix terminals."""
    os.environ.setdefault("ESCDELAY", "25")
    from textual.drivers import linux_driver

    replacement = SimpleNamespace(SelectSelector=_ShortWaitSelector, EVENT_READ=selectors.EVENT_READ)
    setattr(linux_driver, "selectors", replacement)  # noqa: B010 - replaces a name in Textual's module
