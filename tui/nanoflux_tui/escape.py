"""Escape, answered at once: terminals begin other keys with it, so whoever reads it waits for the rest.

Textual waits ESCDELAY milliseconds, but looks at its clock only ten times a second. Here it looks more often; where a
later version reads keys in another way, this changes nothing.
"""

import os
import selectors
from types import SimpleNamespace

LOOK_S = 0.02


class _Selector(selectors.SelectSelector):
    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return super().select(LOOK_S if timeout else timeout)


def answer_soon() -> None:
    """For applications that are imported and started after this, on terminals of Unix."""
    os.environ.setdefault("ESCDELAY", "25")
    from textual.drivers import linux_driver

    reading = SimpleNamespace(SelectSelector=_Selector, EVENT_READ=selectors.EVENT_READ)
    setattr(linux_driver, "selectors", reading)  # noqa: B010 - it is a name of their module
